//! The clients of a scenario, where clients are.

use std::path::Path;

use crate::history::clock::now_us;
use crate::host::World;
use crate::workload::{Load, LoadError, LoadOptions, plain};

/// Starts them: four that name every host and do everything, and a writer and a reader for each server that speak to
/// it alone, primary or not.
pub(super) fn start(world: &World, seed: u64, history: &Path) -> Result<Load, LoadError> {
    let options = LoadOptions { seed, ..LoadOptions::new(world.cluster.dsn()) };
    let start = || Load::start(&options, now_us(), history, plain);
    match world.clients() {
        Some(netns) => netns.inside(start),
        None => start(),
    }
}
