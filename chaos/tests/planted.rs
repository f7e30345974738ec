//! Every planted bug of the real program is caught on real processes, and the same stories without it are clean.
//!
//! Needs the pgvigil of `cargo build --workspace`, which has fault points; the one that users build has none.

use std::time::Instant;

use clap::ValueEnum;
use pgvigil_chaos::cluster::ClusterOptions;
use pgvigil_chaos::planted::{Bug, PlantedOptions, planted};

#[test]
fn every_planted_bug_is_caught_and_nothing_without_it() {
    let options = PlantedOptions { cluster: ClusterOptions::default(), bugs: Bug::value_variants().to_vec() };
    let began = Instant::now();
    let mut say = |line: String| println!("[{:6.1} s] {line}", began.elapsed().as_secs_f64());
    let plays = planted(&options, &mut say).expect("the stories can be played");
    let bugs = plays.iter().filter(|play| play.bug.is_some()).count();
    assert_eq!(bugs, Bug::value_variants().len());
    if let Some(play) = plays.iter().find(|play| !play.is_good()) {
        let record = &play.record;
        panic!("{}: {:#?} {:#?}", record.scenario, record.failures, record.verdict);
    }
}
