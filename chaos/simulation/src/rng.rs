//! One small seeded generator (xoshiro256++, seeded by splitmix64): the only source of chance in a simulation.

use std::cell::Cell;

/// A generator behind a shared reference; every draw moves it on.
#[derive(Debug)]
pub struct Rng {
    state: Cell<[u64; 4]>,
}

impl Rng {
    /// The generator of `seed`; `stream` sets apart generators of one seed.
    #[must_use]
    pub fn new(seed: u64, stream: u64) -> Self {
        let mut x = seed ^ stream.wrapping_mul(0xA076_1D64_78BD_642F);
        let mut next = || {
            x = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut z = x;
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            z ^ (z >> 31)
        };
        Self { state: Cell::new([next(), next(), next(), next()]) }
    }

    /// The next 64 bits.
    pub fn bits(&self) -> u64 {
        let mut s = self.state.get();
        let result = s[0].wrapping_add(s[3]).rotate_left(23).wrapping_add(s[0]);
        let t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(45);
        self.state.set(s);
        result
    }

    /// A number of `low..=high`.
    pub fn range(&self, low: u64, high: u64) -> u64 {
        low + self.bits() % (high.saturating_sub(low) + 1)
    }

    /// An index below `length`, which must not be 0.
    pub fn index(&self, length: usize) -> usize {
        usize::try_from(self.bits() % length.max(1) as u64).unwrap_or(0)
    }

    /// True in `percent` of a hundred cases.
    pub fn chance(&self, percent: u64) -> bool {
        self.bits() % 100 < percent
    }

    /// One of `items`, which must not be empty.
    pub fn pick<T: Copy>(&self, items: &[T]) -> T {
        items[self.index(items.len())]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_numbers_and_another_stream_others() {
        let draw = |seed, stream| {
            let rng = Rng::new(seed, stream);
            (0..8).map(|_| rng.bits()).collect::<Vec<_>>()
        };
        assert_eq!(draw(7, 1), draw(7, 1));
        assert_ne!(draw(7, 1), draw(7, 2));
        assert_ne!(draw(7, 1), draw(8, 1));
    }

    #[test]
    fn ranges_include_both_ends_and_nothing_else() {
        let rng = Rng::new(1, 1);
        let drawn: std::collections::BTreeSet<u64> = (0..200).map(|_| rng.range(3, 6)).collect();
        assert_eq!(drawn, [3, 4, 5, 6].into());
    }
}
