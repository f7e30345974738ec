//! RocksDB's settings: a few megabytes of memory, few threads, nothing written while nothing changes.

use crate::schema::FAMILIES;
use rocksdb::{BlockBasedOptions, Cache, ColumnFamilyDescriptor, DBRecoveryMode, LogLevel, Options};

/// Memory for fresh writes, per column family. A log entry is well below a kilobyte, so half a megabyte holds
/// hundreds; doubling it costs memory on every node, halving it makes more and smaller files.
const WRITE_BUFFER: usize = 512 << 10;

/// Blocks of the data files kept in memory. The log's end is read from the write buffers anyway.
const BLOCK_CACHE: usize = 512 << 10;

/// When the write-ahead logs reach this, RocksDB writes out the idle families that pin them.
const MAX_WAL: u64 = 8 << 20;

/// Settings of the database. `create` permits making what is not there.
pub(crate) fn database(create: bool) -> Options {
    let mut options = Options::default();
    options.create_if_missing(create);
    options.create_missing_column_families(create);
    options.set_paranoid_checks(true);
    // An incomplete record at the very end is a write that was cut short; any other damage is an error. The default
    // would silently stop at the first damaged record and drop all that follows, votes and acknowledged entries too.
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    options.set_track_and_verify_wals_in_manifest(true);
    options.set_max_total_wal_size(MAX_WAL);
    options.set_max_background_jobs(2);
    options.set_max_open_files(64);
    options.set_table_cache_num_shard_bits(1);
    options.set_max_manifest_file_size(1 << 20);
    // Nothing periodic: an idle group must leave its disk alone.
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    options.set_log_level(LogLevel::Warn);
    options.set_keep_log_file_num(2);
    options.set_max_log_file_size(1 << 20);
    options.set_skip_stats_update_on_db_open(true);
    options
}

/// Every column family with its settings; they share one small cache.
pub(crate) fn families() -> Vec<ColumnFamilyDescriptor> {
    let cache = Cache::new_lru_cache(BLOCK_CACHE);
    FAMILIES.iter().map(|name| ColumnFamilyDescriptor::new(*name, family(&cache))).collect()
}

fn family(cache: &Cache) -> Options {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    let mut options = Options::default();
    options.set_block_based_table_factory(&table);
    options.set_write_buffer_size(WRITE_BUFFER);
    options.set_max_write_buffer_number(2);
    options.set_arena_block_size(64 << 10);
    options.set_target_file_size_base(2 << 20);
    options
}
