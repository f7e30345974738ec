//! The WAL reader against PostgreSQL itself: pg_waldump on random workloads, kills and torn tails, and recovery.

mod common;

use common::{LIMIT, Node};
use pgvigil_core::{id::TimelineId, lsn::Lsn, timeline::TimelineHistory};
use pgvigil_postgres::{Start, StartAs, WalEnd, WalError, WalFormat, end_of_wal, layout::segment_name, position};
use std::{fs, os::unix::fs::FileExt, path::Path};

const PAGE: u64 = 8192;
const ONE: TimelineId = TimelineId(1);

/// A small generator, so that a failure can be repeated from its seed.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// Records of all sizes, many across pages and some across several segments, and segments left early.
async fn work(node: &Node, random: &mut Random, steps: u32) {
    let link = node.link().await;
    for _ in 0..steps {
        let sql = match random.below(12) {
            0 => "SELECT pg_switch_wal()".to_owned(),
            1 => format!("SELECT pg_logical_emit_message(false, 'x', repeat('y', {}))", random.below(3_000_000)),
            2 => "CHECKPOINT".to_owned(),
            3..=6 => format!("SELECT pg_logical_emit_message(true, 'x', repeat('y', {}))", random.below(20_000)),
            _ => format!("INSERT INTO t SELECT g, repeat('z', {}) FROM generate_series(1, 50) g", random.below(500)),
        };
        link.rows("work", &sql, LIMIT).await.unwrap();
    }
}

async fn small_segments(root: &Path) -> Node {
    let node = Node::primary_with(root, "a", &["--wal-segsize=1".to_owned()]).await;
    node.sql("CREATE TABLE t (a int, b text)").await;
    node
}

/// Kills the server in the middle of work that nobody waits for.
async fn kill_at_work(node: &Node) {
    let link = node.link().await;
    let busy = tokio::spawn(async move {
        let sql = "INSERT INTO t SELECT g, repeat('z', g % 3000) FROM generate_series(1, 1000000) g";
        link.rows("work", sql, LIMIT).await
    });
    let from: Lsn = node.sql("SELECT pg_current_wal_flush_lsn()").await.parse().unwrap();
    common::until("some WAL", async || {
        let now: Lsn = node.sql("SELECT pg_current_wal_flush_lsn()").await.parse().unwrap();
        now.bytes_since(from) > 300_000
    })
    .await;
    node.instance.fence().await.unwrap();
    assert!(busy.await.unwrap().is_err());
}

async fn known(node: &Node) -> (WalFormat, Lsn) {
    let control = node.instance.control_file().await.unwrap();
    (position::wal_format(&control, node.instance.binaries.version()).unwrap(), control.redo)
}

fn read(pg_wal: &Path, format: WalFormat, start: Start) -> Result<WalEnd, WalError> {
    end_of_wal(pg_wal, &TimelineHistory::root(ONE), format, start)
}

/// Copies the segments from `first` on that were ever written: those that were made in advance hold zeros, from which
/// `pg_waldump` may read the size of segments.
fn copy_wal(from: &Path, to: &Path, first: &str) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let is_wanted = entry.path().is_file() && entry.file_name().to_str().unwrap() >= first;
        if is_wanted && fs::read(entry.path()).unwrap().iter().take(2).any(|byte| *byte != 0) {
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

pg_test!(
    /// Random work, then SIGKILL: we and pg_waldump see the same records, and recovery ends where we said.
    the_end_is_where_postgresql_sees_it,
    async {
        let root = tempfile::tempdir().unwrap();
        let mut node = small_segments(root.path()).await;
        for seed in 1..=4 {
            let mut random = Random(0x9E37_79B9 + seed);
            work(&node, &mut random, 40).await;
            kill_at_work(&node).await;
            let (format, redo) = known(&node).await;
            let pg_wal = node.instance.layout.pg_wal();
            let ours = read(&pg_wal, format, Start::Record(redo)).unwrap();
            let (starts, words) = node.waldump(&pg_wal, ONE, redo);
            eprintln!("seed {seed}: {} records to {}; {}; {}", ours.records, ours.end, ours.reason, words.trim());
            assert_eq!(ours.last_record, starts.last().copied(), "seed {seed}");
            assert_eq!(ours.records, starts.len() as u64);
            // From any boundary on it is the same end.
            for _ in 0..30 {
                let index = usize::try_from(random.below(starts.len() as u64)).unwrap();
                let from = read(&pg_wal, format, Start::Record(starts[index])).unwrap();
                assert_eq!(from.end, ours.end);
                let boundary = read(&pg_wal, format, Start::Boundary(ours.end)).unwrap();
                assert_eq!((boundary.end, boundary.last_record), (ours.end, ours.last_record));
                if index > 0 {
                    // A record's start is the boundary of the one before, unless a page header lies between.
                    let at = starts[index];
                    let header = if at.0 % format.segment_size == 40 { 40 } else { 24 };
                    let at = if at.0 % PAGE == header { Lsn(at.0 - header) } else { at };
                    let from = read(&pg_wal, format, Start::Boundary(at)).unwrap();
                    assert_eq!((from.end, from.records), (ours.end, (starts.len() - index) as u64), "from {at}");
                }
            }
            let control = node.instance.control_file().await.unwrap();
            let position = position::of_stopped(&node.instance.layout, &control, node.instance.binaries.version());
            assert_eq!(position.unwrap().end(), ours.end);
            // A standby without upstream replays exactly that far.
            node.start(StartAs::Standby).await;
            common::until("replay", async || {
                node.sql("SELECT pg_last_wal_replay_lsn()").await.parse::<Lsn>().unwrap() >= ours.end
            })
            .await;
            assert_eq!(node.sql("SELECT pg_last_wal_replay_lsn()").await, ours.end.to_string());
            node.instance.fence().await.unwrap();
            node.start(StartAs::Primary).await;
        }
    }
);

pg_test!(
    /// Torn and overwritten tails: whatever the damage, we stop at the record at which pg_waldump stops.
    torn_tails_end_where_postgresql_ends,
    async {
        let root = tempfile::tempdir().unwrap();
        let node = small_segments(root.path()).await;
        let mut random = Random(4711);
        work(&node, &mut random, 60).await;
        node.sql("CHECKPOINT").await;
        work(&node, &mut random, 15).await;
        kill_at_work(&node).await;
        let (format, redo) = known(&node).await;
        let pg_wal = node.instance.layout.pg_wal();
        let whole = read(&pg_wal, format, Start::Record(redo)).unwrap();
        let (starts, _) = node.waldump(&pg_wal, ONE, redo);
        let second = starts[1];
        let mut compared = 0;
        for round in 0..30 {
            let copy = root.path().join(format!("copy{round}"));
            copy_wal(&pg_wal, &copy, &segment_name(1, redo.0 / format.segment_size, format.segment_size));
            let at = second.0 + random.below(whole.end.0 - second.0);
            let path = copy.join(segment_name(1, at / format.segment_size, format.segment_size));
            let Ok(file) = fs::OpenOptions::new().write(true).open(&path) else { continue };
            let offset = at % format.segment_size;
            let damage = random.below(5);
            match damage {
                0 => file.set_len(offset).unwrap(),
                1 => file.write_all_at(&vec![0; usize::try_from(format.segment_size - offset).unwrap()], offset).unwrap(),
                2 => {
                    let junk: Vec<u8> = (0..64).map(|_| u8::try_from(random.below(256)).unwrap()).collect();
                    file.write_all_at(&junk, offset.max(40).next_multiple_of(PAGE) + 48).unwrap();
                }
                3 => fs::remove_file(&path).unwrap(),
                // An older page in the place of a newer one, as after recycling.
                _ => {
                    let old = vec![0xAB; usize::try_from(PAGE).unwrap()];
                    file.write_all_at(&old, offset / PAGE * PAGE).unwrap();
                }
            }
            // Writing past the end of the segment would only make it longer, which nobody reads.
            let (theirs, words) = node.waldump(&copy, ONE, redo);
            if words.contains("WAL segment size must be") {
                // It takes the segments' size from whatever file the directory names first: one that is still all zeros tells
                // it nothing, and it reads no further.
                fs::remove_dir_all(&copy).unwrap();
                continue;
            }
            compared += 1;
            match read(&copy, format, Start::Record(redo)) {
                Ok(ours) => {
                    assert_eq!(ours.last_record, theirs.last().copied(), "round {round}, damage {damage}: {words}");
                    assert!(ours.end <= whole.end);
                }
                Err(error) => assert!(theirs.is_empty(), "round {round}, damage {damage}: {error}; {words}"),
            }
            fs::remove_dir_all(&copy).unwrap();
        }
        assert!(compared > 10, "pg_waldump read only {compared} of 30 copies");
    }
);

pg_test!(
    /// A record that a crash left unfinished is skipped the way PostgreSQL skips it, by an overwrite record.
    an_unfinished_record_is_overwritten,
    async {
        let root = tempfile::tempdir().unwrap();
        let mut node = small_segments(root.path()).await;
        node.sql("CHECKPOINT").await;
        node.sql("INSERT INTO t VALUES (1, 'x')").await;
        let from: Lsn = node.sql("SELECT pg_current_wal_insert_lsn()").await.parse().unwrap();
        node.sql("SELECT pg_logical_emit_message(true, 'x', repeat('y', 200000))").await;
        node.instance.fence().await.unwrap();
        let (format, redo) = known(&node).await;
        let pg_wal = node.instance.layout.pg_wal();
        // The first pages of the long record reached the disk, the others did not.
        for segment in from.0 / format.segment_size..=from.0 / format.segment_size + 2 {
            let path = pg_wal.join(segment_name(1, segment, format.segment_size));
            let Ok(file) = fs::OpenOptions::new().write(true).open(&path) else { continue };
            let begin = (from.0 / PAGE * PAGE + 3 * PAGE).saturating_sub(segment * format.segment_size);
            if begin == 0 {
                // pg_waldump takes any segment for a sample of the format, so an empty one must not be there.
                fs::remove_file(&path).unwrap();
                continue;
            }
            let zeros = vec![0; usize::try_from(format.segment_size.saturating_sub(begin)).unwrap()];
            file.write_all_at(&zeros, begin).unwrap();
        }
        let torn = read(&pg_wal, format, Start::Record(redo)).unwrap();
        assert!(torn.end <= Lsn(from.0 + 64) && torn.end > redo);
        node.start(StartAs::Primary).await;
        let log = node.instance.log_tail(60);
        node.sql("INSERT INTO t VALUES (2, 'y')").await;
        node.instance.fence().await.unwrap();
        // From before the crash on, as a standby would read it.
        let ours = read(&pg_wal, format, Start::Record(redo)).unwrap();
        let (theirs, words) = node.waldump(&pg_wal, ONE, redo);
        let text = node.waldump_text(&pg_wal, redo);
        assert!(text.contains("OVERWRITE_CONTRECORD"), "torn {torn:?} ours {ours:?} {words} {text} {log}");
        assert_eq!(ours.last_record, theirs.last().copied(), "{words}");
        assert!(ours.end > from);
    }
);
