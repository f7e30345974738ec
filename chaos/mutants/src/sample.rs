//! A sample that anybody can draw again.

use crate::mutate::Mutant;

/// The seed of the sample that is written down.
pub const SEED: u64 = 20_261_201;

/// `count` of them, in the order of what is drawn.
pub fn draw(mut mutants: Vec<Mutant>, count: usize, seed: u64) -> Vec<Mutant> {
    // By what a bug is and where, not by its number: most of a sample stays when other code changes.
    mutants.sort_by_cached_key(|mutant| mix(seed, &format!("{}:{}:{}", mutant.file, mutant.function, mutant.what)));
    mutants.truncate(count);
    mutants
}

/// FNV-1a, finished as in SplitMix64.
fn mix(seed: u64, text: &str) -> u64 {
    let start = seed ^ 0xCBF2_9CE4_8422_2325;
    let mut hash = text.bytes().fold(start, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3));
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    hash ^ (hash >> 31)
}
