//! Stands in for the crate `base2histogram`, which openraft 0.10.0-alpha.37 uses for statistics about its batches.
//!
//! Those statistics can only be read with openraft's feature `runtime-stats`, which we do not enable; openraft counts
//! all the same, several times in each turn of its loop. The original builds lookup tables for all its sixteen scales
//! at the first use: 23 MiB that stay resident in every process, more than all the rest of an idle node. This one
//! offers the same names, counts nothing and needs no memory. Remove it, and the patch in the workspace's Cargo.toml,
//! when openraft stops counting without the feature or the original builds only the scales that are used.

use std::fmt;
use std::marker::PhantomData;

/// Takes values and forgets them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histogram<T = ()> {
    _slot: PhantomData<T>,
}

impl<T> Histogram<T> {
    /// An empty histogram, as it will stay.
    #[must_use]
    pub const fn new() -> Self {
        Self { _slot: PhantomData }
    }

    /// Does nothing.
    pub const fn record(&mut self, _value: u64) {}

    /// Does nothing.
    pub const fn record_n(&mut self, _value: u64, _count: u64) {}

    /// Always zero.
    #[must_use]
    pub const fn total(&self) -> u64 {
        0
    }

    /// Percentiles of nothing.
    #[must_use]
    pub fn percentile_stats(&self) -> PercentileStats {
        PercentileStats::default()
    }
}

/// Percentiles; all zero here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PercentileStats {
    pub samples: u64,
    pub p0_1: u64,
    pub p1: u64,
    pub p5: u64,
    pub p10: u64,
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub p99_9: u64,
}

impl fmt::Display for PercentileStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[not recorded]")
    }
}

/// A chart of nothing.
#[derive(Clone, Debug, Default)]
pub struct AsciiChart;

impl AsciiChart {
    /// An empty chart, as it will stay.
    #[must_use]
    pub const fn new() -> Self {
        Self
    }

    /// Does nothing.
    #[must_use]
    pub fn add(self, _name: &str, _histogram: Histogram) -> Self {
        self
    }
}

impl fmt::Display for AsciiChart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[not recorded]")
    }
}
