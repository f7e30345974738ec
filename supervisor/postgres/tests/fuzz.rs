//! Goal: nothing that PostgreSQL's files and programs may say makes us panic, and what is damaged is never taken for more
//! than it is.
//!
//! Method: proptest, on raw bytes, on text that is almost right, and on whole WAL that is right but for one thing.
//! `PROPTEST_CASES=100000` asks for more by hand.

use pgvigil_core::{id::TimelineId, lsn::Lsn, timeline::TimelineHistory};
use pgvigil_postgres::{
    ControlFile, Start, Version, WalEnd, WalError, WalFormat,
    conf_text::{assignment, conninfo, identifier, literal, parse_assignment, pass_line},
    datadir::PidFile,
    end_of_wal, history_files,
    layout::segment_name,
};
use proptest::{collection::vec, prelude::*, sample::Index};
use std::{fs, path::Path};

const CONTROL: &str = include_str!("fixtures/pg_controldata_15.txt");
const PID_FILE: &str = include_str!("fixtures/postmaster_15.pid");

/// One change to a text or to bytes.
#[derive(Clone, Debug)]
enum Edit {
    Flip(Index, u8),
    Cut(Index),
    Remove(Index, u8),
    Insert(Index, Vec<u8>),
    Twice(Index, u8),
}

fn edit() -> impl Strategy<Value = Edit> {
    let telling = prop_oneof![
        Just(b"-1".to_vec()),
        Just(b"99999999999999999999".to_vec()),
        Just(b"\n".to_vec()),
        Just(b":".to_vec()),
        Just(b"/".to_vec()),
        Just("\u{fe}\u{2028}".as_bytes().to_vec()),
        vec(any::<u8>(), 0..9),
    ];
    prop_oneof![
        (any::<Index>(), 0..8_u8).prop_map(|(at, bit)| Edit::Flip(at, bit)),
        any::<Index>().prop_map(Edit::Cut),
        (any::<Index>(), 1..40_u8).prop_map(|(at, count)| Edit::Remove(at, count)),
        (any::<Index>(), telling).prop_map(|(at, what)| Edit::Insert(at, what)),
        (any::<Index>(), 1..80_u8).prop_map(|(at, count)| Edit::Twice(at, count)),
    ]
}

fn edited(bytes: &[u8], edits: &[Edit]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for edit in edits {
        let place = |at: &Index| at.index(bytes.len() + 1);
        match edit {
            Edit::Flip(at, bit) => {
                let at = place(at);
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << bit;
                }
            }
            Edit::Cut(at) => bytes.truncate(place(at)),
            Edit::Remove(at, count) => {
                let from = place(at);
                bytes.drain(from..(from + usize::from(*count)).min(bytes.len()));
            }
            Edit::Insert(at, what) => {
                let at = place(at);
                bytes.splice(at..at, what.iter().copied());
            }
            Edit::Twice(at, count) => {
                let from = place(at);
                let part = bytes[from..(from + usize::from(*count)).min(bytes.len())].to_vec();
                bytes.splice(from..from, part);
            }
        }
    }
    bytes
}

fn text(sample: &str, edits: &[Edit]) -> String {
    String::from_utf8_lossy(&edited(sample.as_bytes(), edits)).into_owned()
}

proptest! {
    #[test]
    fn pg_controldata_and_the_pid_file(edits in vec(edit(), 0..6), raw in vec(any::<u8>(), 0..400)) {
        let _neither_panics = (ControlFile::parse(&text(CONTROL, &edits)), PidFile::parse(&text(PID_FILE, &edits)));
        let raw = String::from_utf8_lossy(&raw).into_owned();
        prop_assert!(ControlFile::parse(&raw).is_err(), "rubbish is no control file");
        let _nor = (PidFile::parse(&raw), Version::parse(&raw));
    }

    #[test]
    fn timeline_histories(
        line in vec((1..9_u32, any::<u64>()), 0..6),
        edits in vec(edit(), 0..4),
        raw in "[0-9A-F/ \t\n#x]{0,80}",
    ) {
        let (mut id, mut end) = (0, 0_u64);
        let mut good = String::new();
        for (step, more) in &line {
            id += step;
            end = end.saturating_add(more >> 8);
            good += &format!("{id}\t{}\tno recovery target specified\n", Lsn(end));
        }
        let history = TimelineHistory::parse(TimelineId(id + 1), &good).expect("it rises");
        let again = TimelineHistory::parse(TimelineId(id + 1), &history_files::render(&history)).expect("ours");
        prop_assert_eq!(&history, &again);
        for bad in [text(&good, &edits), raw] {
            let Ok(read) = TimelineHistory::parse(TimelineId(id + 1), &bad) else { continue };
            for pair in read.ancestors.windows(2) {
                prop_assert!(pair[0].timeline < pair[1].timeline && pair[0].end <= pair[1].end);
            }
            // Whatever it says, the questions asked of it have answers.
            for at in [0, 1, end, u64::MAX] {
                let owner = read.owner_of_end(Lsn(at));
                prop_assert!(owner <= read.timeline);
                let _no_panic = (read.contains(owner, Lsn(at)), read.switch_point(owner));
            }
        }
    }

    #[test]
    fn texts_for_postgresql_and_back(value in any::<String>(), raw in any::<String>(), edits in vec(edit(), 1..4)) {
        if let Ok(line) = assignment("some.name", &value) {
            prop_assert_eq!(line.matches('\n').count(), 1, "one line: {:?}", line);
            prop_assert_eq!(parse_assignment(&line), Some(("some.name".to_owned(), value.clone())));
            let _no_panic = parse_assignment(&text(&line, &edits));
        }
        let _no_panic = parse_assignment(&raw);
        if let Ok(line) = pass_line(&value, 5432, &raw, &value) {
            // No value can end its field, or the line.
            let unescaped = line.replace("\\\\", "").replace("\\:", "");
            prop_assert_eq!(unescaped.matches(':').count(), 4, "{:?}", line);
            prop_assert!(line.ends_with('\n') && line.matches('\n').count() == 1);
        }
        let quoted = identifier(&value);
        prop_assert!(quoted[1..quoted.len() - 1].replace("\"\"", "").find('"').is_none(), "{}", quoted);
        let _no_panic = (literal(&value), conninfo(&[("host", value)]));
    }
}

const SEGMENT: u64 = 1 << 20;
const PAGE: usize = 8192;
const FORMAT: WalFormat = WalFormat { segment_size: SEGMENT, magic: 0xD110, system_identifier: 7_777_777 };
const ONE: TimelineId = TimelineId(1);
/// Where the synthetic WAL begins: the second segment.
const BEGIN: u64 = SEGMENT;

/// WAL as PostgreSQL writes it, of small records, in one segment.
struct Wal {
    bytes: Vec<u8>,
    /// Where each record begins, and where the next one would.
    records: Vec<(u64, u64)>,
}

impl Wal {
    fn new() -> Self {
        let mut wal = Self { bytes: Vec::new(), records: Vec::new() };
        wal.header(0);
        wal
    }

    /// The header of the page that begins here, in which so much of a record goes on.
    fn header(&mut self, continued: usize) {
        let at = BEGIN + self.bytes.len() as u64;
        let long = self.bytes.is_empty();
        let flags = u16::from(continued > 0) | if long { 2 } else { 0 };
        self.bytes.extend(FORMAT.magic.to_le_bytes());
        self.bytes.extend(flags.to_le_bytes());
        self.bytes.extend(ONE.0.to_le_bytes());
        self.bytes.extend(at.to_le_bytes());
        self.bytes.extend(u32::try_from(continued).expect("small").to_le_bytes());
        self.bytes.extend([0; 4]);
        if long {
            self.bytes.extend(FORMAT.system_identifier.to_le_bytes());
            self.bytes.extend(u32::try_from(SEGMENT).expect("small").to_le_bytes());
            self.bytes.extend(u32::try_from(PAGE).expect("small").to_le_bytes());
        }
    }

    fn record(&mut self, data: &[u8]) {
        while !self.bytes.len().is_multiple_of(8) {
            self.bytes.push(0);
        }
        if self.bytes.len().is_multiple_of(PAGE) {
            self.header(0);
        }
        let start = BEGIN + self.bytes.len() as u64;
        let previous = self.records.last().map_or(BEGIN - 32, |(start, _)| *start);
        let mut body = vec![255, u8::try_from(data.len()).expect("a short one")];
        body.extend(data);
        let mut head = Vec::new();
        head.extend(u32::try_from(24 + body.len()).expect("small").to_le_bytes());
        head.extend(9_u32.to_le_bytes());
        head.extend(previous.to_le_bytes());
        head.extend([0, 10, 0, 0]);
        let crc = crc32c::crc32c_append(crc32c::crc32c(&body), &head);
        head.extend(crc.to_le_bytes());
        let whole = [head, body].concat();
        let mut rest = whole.as_slice();
        loop {
            let room = PAGE - self.bytes.len() % PAGE;
            let (now, later) = rest.split_at(room.min(rest.len()));
            self.bytes.extend(now);
            if later.is_empty() {
                break;
            }
            self.header(later.len());
            rest = later;
        }
        let next = (BEGIN + self.bytes.len() as u64).next_multiple_of(8);
        self.records.push((start, next));
    }

    fn write(&self, pg_wal: &Path, bytes: &[u8]) {
        let mut file = bytes.to_vec();
        file.resize(usize::try_from(SEGMENT).expect("small"), 0);
        fs::write(pg_wal.join(segment_name(ONE.0, BEGIN / SEGMENT, SEGMENT)), file).expect("written");
    }
}

fn end(pg_wal: &Path, start: Start) -> Result<WalEnd, WalError> {
    end_of_wal(pg_wal, &TimelineHistory::root(ONE), FORMAT, start)
}

fn wal(sizes: &[u8]) -> Wal {
    let mut wal = Wal::new();
    for (number, size) in sizes.iter().enumerate() {
        let byte = u8::try_from(number % 251).expect("below 251");
        wal.record(&vec![byte; usize::from(*size)]);
    }
    wal
}

proptest! {
    /// Untouched, it is read to its end. With one bit flipped, it ends before the record that has it, or further on the
    /// bit is not part of any record; with its end cut off, it ends with the last whole record. It never ends beyond.
    #[test]
    fn the_end_of_damaged_wal(
        sizes in vec(any::<u8>(), 2..400),
        at in any::<Index>(),
        bit in 0..8_u8,
        cut in any::<Index>(),
        edits in vec(edit(), 1..5),
    ) {
        let directory = tempfile::tempdir().expect("a directory");
        let wal = wal(&sizes);
        let first = Start::Record(Lsn(wal.records[0].0));
        let (_, last) = *wal.records.last().expect("some");
        wal.write(directory.path(), &wal.bytes);
        let whole = end(directory.path(), first).expect("it is good");
        prop_assert_eq!((whole.end, whole.records), (Lsn(last), sizes.len() as u64), "{}", whole.reason);

        let mut flipped = wal.bytes.clone();
        let at = at.index(flipped.len());
        flipped[at] ^= 1 << bit;
        wal.write(directory.path(), &flipped);
        let place = BEGIN + at as u64;
        let hit = wal.records.iter().find(|(start, next)| *start <= place && place < *next);
        match (end(directory.path(), first), hit) {
            (Ok(found), Some((start, next))) => {
                let padding = wal.bytes.get(at).is_some_and(|byte| *byte == 0) && found.end == Lsn(last);
                prop_assert!(found.end.0 <= *start || padding, "{} beyond {start} to {next}", found.end);
            }
            (Ok(found), None) => prop_assert!(found.end.0 <= last),
            (Err(_), _) => {}
        }

        let kept = cut.index(wal.bytes.len());
        wal.write(directory.path(), &wal.bytes[..kept]);
        let complete = wal.records.iter().take_while(|(_, next)| *next <= BEGIN + kept as u64).last();
        match (end(directory.path(), first), complete) {
            // The last record may be whole without the padding after it, or end in bytes that are 0 anyway.
            (Ok(found), Some((_, next))) => prop_assert!(found.end.0 >= *next && found.end.0 <= last),
            (Ok(found), None) => prop_assert!(found.records <= 1),
            (Err(_), complete) => prop_assert!(complete.is_none()),
        }

        wal.write(directory.path(), &edited(&wal.bytes, &edits));
        for start in [first, Start::Boundary(Lsn(last)), Start::Boundary(Lsn(wal.records[1].0)), Start::Record(Lsn(u64::MAX - 8))] {
            if let Ok(found) = end(directory.path(), start) {
                prop_assert!(found.end.0 <= BEGIN + SEGMENT, "{}", found.end);
            }
        }
    }

    #[test]
    fn rubbish_is_no_wal(raw in vec(any::<u8>(), 0..20_000), from in any::<u64>()) {
        let directory = tempfile::tempdir().expect("a directory");
        Wal::new().write(directory.path(), &raw);
        prop_assert!(end(directory.path(), Start::Record(Lsn(BEGIN + 40))).is_err());
        let _no_panic = (end(directory.path(), Start::Record(Lsn(from))), end(directory.path(), Start::Boundary(Lsn(from))));
    }
}
