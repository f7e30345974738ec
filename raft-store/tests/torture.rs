//! Goal: whatever is done to one file of a closed store, the store either opens with all that it ever reported durable,
//! or is refused with an error that says what to do. Never silently less.
//!
//! Method: stores with several write-ahead logs, data files and manifests, made by seeded random work; then, at seeded
//! places in every file: a flipped bit, a wrong byte, a zeroed or garbled sector, the end cut off, garbage appended; and
//! every file gone, or emptied. `PGVIGIL_TORTURE_SEEDS` and `PGVIGIL_TORTURE_CASES` (for each file) ask for more.

mod common;

use common::{Model, Step, append, fat_entry, perform};
use pgvigil_raft_store::open;
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// A small seeded generator (splitmix64).
struct Chance(u64);

impl Chance {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Below `end`, which must not be 0.
    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.bits() % end as u64).expect("it was a usize")
    }
}

fn asked(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).map_or(otherwise, |text| text.parse().expect("a number"))
}

/// Makes a store in `path` by random work, closes it, and returns what it held.
async fn work(path: &Path, seed: u64) -> Model {
    let mut chance = Chance(seed);
    let (mut store, closed) = open(path, 1, None).expect("an empty directory becomes a store");
    let (mut term, mut last, mut applied, mut purged) = (1, 0, 0, 0);
    perform(&mut store, Step::Vote(term)).await;
    append(&mut store, vec![fat_entry(term, 0, 10)]).await;
    for _ in 0..60 {
        match chance.below(10) {
            0 => {
                term += 1;
                perform(&mut store, Step::Vote(term)).await;
            }
            1..=5 => {
                // Fat enough that the families outgrow their write buffers at different times.
                let count = 1 + chance.below(6) as u64;
                let size = chance.below(24_000);
                append(&mut store, (last + 1..=last + count).map(|i| fat_entry(term, i, size)).collect()).await;
                last += count;
            }
            6 | 7 if last > applied => {
                applied += 1 + chance.bits() % (last - applied);
                perform(&mut store, Step::Commit(applied)).await;
                perform(&mut store, Step::Apply(applied)).await;
            }
            8 if applied > purged => {
                perform(&mut store, Step::Snapshot).await;
                purged += chance.bits() % (applied - purged);
                if purged > 0 {
                    perform(&mut store, Step::Purge(purged)).await;
                }
            }
            9 if last > applied => {
                let kept = applied + chance.bits() % (last - applied);
                perform(&mut store, Step::Truncate(kept)).await;
                last = kept;
            }
            _ => {}
        }
    }
    // Reported, and in the last write-ahead log only.
    perform(&mut store, Step::Vote(term + 1)).await;
    let model = Model::of(&mut store).await;
    drop(store);
    closed.wait().await;
    model
}

/// Every file below `path`, by its name relative to it.
fn files(path: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for folder in [path.to_owned(), path.join("db")] {
        for item in fs::read_dir(&folder).expect("readable") {
            let file = item.expect("readable").path();
            if file.is_file() {
                let name = file.strip_prefix(path).expect("it is below").to_owned();
                found.insert(name, fs::read(&file).expect("readable"));
            }
        }
    }
    found
}

/// One thing done to a file.
#[derive(Clone, Copy, Debug)]
enum Damage {
    Flip(usize),
    Byte(usize, u8),
    Zeroes(usize),
    Garbage(usize, u64),
    Cut(usize),
    Append(u64),
    Emptied,
    Gone,
}

impl Damage {
    fn random(chance: &mut Chance, length: usize) -> Self {
        let at = chance.below(length.max(1));
        match chance.below(7) {
            0 | 1 => Self::Flip(at * 8 + chance.below(8)),
            2 => Self::Byte(at, u8::try_from(chance.below(256)).expect("a byte")),
            3 => Self::Zeroes(at),
            4 => Self::Garbage(at, chance.bits()),
            5 => Self::Cut(at),
            _ => Self::Append(chance.bits()),
        }
    }

    /// The damaged content; `None` for no file at all.
    fn done_to(self, content: &[u8]) -> Option<Vec<u8>> {
        /// A disk's sector.
        const SECTOR: usize = 512;
        let mut bytes = content.to_vec();
        let sector = |at: usize| at / SECTOR * SECTOR..(at / SECTOR * SECTOR + SECTOR).min(content.len());
        match self {
            Self::Gone => return None,
            Self::Emptied => bytes.clear(),
            Self::Cut(at) => bytes.truncate(at),
            Self::Flip(bit) => {
                if let Some(byte) = bytes.get_mut(bit / 8) {
                    *byte ^= 1 << (bit % 8);
                }
            }
            Self::Byte(at, to) => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = to;
                }
            }
            Self::Zeroes(at) => bytes[sector(at)].fill(0),
            Self::Garbage(at, seed) => {
                let mut chance = Chance(seed);
                bytes[sector(at)].fill_with(|| chance.bits().to_le_bytes()[0]);
            }
            Self::Append(seed) => {
                let mut chance = Chance(seed);
                bytes.extend((0..200).map(|_| chance.bits().to_le_bytes()[0]));
            }
        }
        Some(bytes)
    }
}

/// Writes the store anew with one file damaged.
fn lay_out(target: &Path, files: &BTreeMap<PathBuf, Vec<u8>>, damaged: &Path, damage: Damage) {
    let _absent = fs::remove_dir_all(target);
    fs::create_dir_all(target.join("db")).expect("made");
    for (name, content) in files {
        let bytes = if name == damaged { damage.done_to(content) } else { Some(content.clone()) };
        if let Some(bytes) = bytes {
            fs::write(target.join(name), bytes).expect("written");
        }
    }
}

/// How a case ended.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    Whole,
    Refused,
}

/// Opens the damaged store: whole, or refused with advice. Everything else is a finding.
async fn judge(target: &Path, model: &Model) -> Result<End, String> {
    match open(target, 1, None) {
        Err(error) => {
            let said = error.full();
            if said.contains("new node id") { Ok(End::Refused) } else { Err(format!("refused without advice: {said}")) }
        }
        Ok((mut store, closed)) => {
            let found = Model::of(&mut store).await;
            drop(store);
            closed.wait().await;
            if found == *model { Ok(End::Whole) } else { Err(format!("opened with {found:?} instead of {model:?}")) }
        }
    }
}

/// What kind of file it is: its name without numbers.
fn kind(name: &Path) -> String {
    name.to_string_lossy().chars().filter(|c| !c.is_ascii_digit()).collect()
}

#[tokio::test]
async fn damage_to_any_file_is_harmless_or_refused_with_advice() {
    let seeds = asked("PGVIGIL_TORTURE_SEEDS", 3);
    let cases = asked("PGVIGIL_TORTURE_CASES", 8);
    let keep = tempfile::tempdir().expect("a temporary directory");
    let mut ends: BTreeMap<(String, End), u64> = BTreeMap::new();
    let mut findings = Vec::new();
    for seed in 1..=seeds {
        let path = keep.path().join(format!("seed{seed}"));
        let model = work(&path, seed).await;
        let files = files(&path);
        let logs = files.keys().filter(|name| name.extension().is_some_and(|e| e == "log")).count();
        let tables = files.keys().filter(|name| name.extension().is_some_and(|e| e == "sst")).count();
        println!("seed {seed}: {logs} write-ahead logs, {tables} data files, {} files", files.len());
        assert!(tables > 0, "the work must outgrow the write buffers");
        let mut chance = Chance(seed << 32);
        for (name, content) in &files {
            let mut damages = vec![Damage::Gone, Damage::Emptied];
            // The end is where a torn tail and a damaged one look alike.
            damages.extend((1..4).map(|back| Damage::Cut(content.len().saturating_sub(back * back * 7))));
            damages.extend((0..cases).map(|_| Damage::random(&mut chance, content.len())));
            for damage in damages {
                let target = keep.path().join("damaged");
                lay_out(&target, &files, name, damage);
                match judge(&target, &model).await {
                    Ok(end) => *ends.entry((kind(name), end)).or_default() += 1,
                    Err(what) => findings.push(format!("seed {seed}, {}, {damage:?}: {what}", name.display())),
                }
            }
        }
    }
    for ((kind, end), count) in &ends {
        println!("{kind:<20} {end:?} {count}");
    }
    let refused = |end: &End| ends.iter().filter(|((_, e), _)| e == end).map(|(_, count)| count).sum::<u64>();
    assert!(refused(&End::Whole) > 0 && refused(&End::Refused) > 0, "both ends are reached: {ends:?}");
    assert!(findings.is_empty(), "{} findings:\n{}", findings.len(), findings.join("\n"));
}

/// A length that a flipped bit has made too long looks like a record that was torn off. At the end of the last
/// write-ahead log the durable mark tells; of an older one, only the order of all changes does.
#[tokio::test]
async fn a_broken_record_in_an_older_write_ahead_log_is_never_taken_for_a_torn_tail() {
    let keep = tempfile::tempdir().expect("a temporary directory");
    let mut tried = 0;
    let mut findings = Vec::new();
    for seed in 1..=asked("PGVIGIL_TORTURE_SEEDS", 3) * 4 {
        let path = keep.path().join(format!("seed{seed}"));
        let model = work(&path, seed).await;
        let files = files(&path);
        let logs: Vec<&PathBuf> = files.keys().filter(|name| name.extension().is_some_and(|e| e == "log")).collect();
        let Some((_newest, older)) = logs.split_last() else { panic!("there is always one") };
        for name in older {
            let Some(header) = last_record(&files[*name]) else { continue };
            // The high byte of the length: the record now ends far beyond the file.
            let target = keep.path().join("damaged");
            lay_out(&target, &files, name, Damage::Byte(header + 5, 0x7f));
            tried += 1;
            if let Err(what) = judge(&target, &model).await {
                findings.push(format!("seed {seed}, {}: {what}", name.display()));
            }
        }
        fs::remove_dir_all(&path).expect("removed");
    }
    assert!(tried > 0, "no store had an older write-ahead log");
    println!("{tried} older write-ahead logs");
    assert!(findings.is_empty(), "{}", findings.join("\n"));
}

/// Where the last record of a write-ahead log begins: blocks of 32 KiB; checksum (4), length (2), type (1).
fn last_record(log: &[u8]) -> Option<usize> {
    const BLOCK: usize = 32 << 10;
    const HEADER: usize = 7;
    let (mut at, mut last) = (0, None);
    while at + HEADER <= log.len() {
        if BLOCK - at % BLOCK < HEADER {
            at = at / BLOCK * BLOCK + BLOCK;
            continue;
        }
        let length = usize::from(u16::from_le_bytes([log[at + 4], log[at + 5]]));
        if log[at + 6] == 0 && length == 0 {
            return last;
        }
        last = Some(at);
        at += HEADER + length;
    }
    last
}
