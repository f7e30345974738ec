//! The clients of a scenario, where clients are.

use std::path::Path;

use crate::history::clock::now_us;
use crate::host::World;
use crate::workload::{Load, LoadError, LoadOptions, Mix, plain};

/// Starts them: four that name every host and do everything, and a writer and a reader for each server that speak to
/// it alone, primary or not. `plain_only`: they only insert rows, and look for those that were acknowledged.
pub(super) fn start(world: &World, seed: u64, plain_only: bool, history: &Path) -> Result<Load, LoadError> {
    let mut options = LoadOptions { seed, ..LoadOptions::new(world.cluster.dsn()) };
    if plain_only {
        options.mix = Mix { insert: 4, lookup: 2, append: 0, register: 0, bank: 0 };
    }
    let start = || Load::start(&options, now_us(), history, plain);
    match world.clients() {
        Some(netns) => netns.inside(start),
        None => start(),
    }
}
