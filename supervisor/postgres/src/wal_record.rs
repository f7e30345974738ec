//! Reading WAL pages and records one by one, with every check that PostgreSQL's own reader makes, and one more: a
//! page's timeline must be the one that owns its first byte.
//!
//! Page: magic u16, flags u16, timeline u32, address u64, length of a continued record u32, padded to 24 bytes; the
//! first page of a segment adds system identifier u64, segment size u32, page size u32. Record: total length u32,
//! transaction u32, previous record u64, info u8, resource manager u8, 2 bytes padding, CRC-32C u32; then the data.
//! All little-endian (on the machines we run on), records aligned to 8. The same from 14 to 18.

use crate::layout::Layout;
use pgvigil_core::{id::TimelineId, lsn::Lsn, timeline::TimelineHistory};
use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

/// Bytes of a WAL page. Configurable only when PostgreSQL is compiled; checked against each segment's first page.
pub const PAGE: u64 = 8192;
/// Bytes of a page's header.
pub(crate) const SHORT_HEADER: u64 = 24;
/// Bytes of the header of a segment's first page.
pub(crate) const LONG_HEADER: u64 = 40;
const RECORD_HEADER: usize = 24;
const CRC_OFFSET: usize = 20;
const CHUNK: u64 = 32 * PAGE;

const FIRST_IS_CONTRECORD: u16 = 0x0001;
const IS_LONG: u16 = 0x0002;
const FIRST_IS_OVERWRITE_CONTRECORD: u16 = 0x0008;
const KNOWN_FLAGS: u16 = 0x000F;

const NO_SEGMENT: &str = "no such segment";

const RM_XLOG: u8 = 0;
const XLOG_SWITCH: u8 = 0x40;

/// What all WAL of one cluster has in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalFormat {
    /// Bytes per segment file.
    pub segment_size: u64,
    /// `XLOG_PAGE_MAGIC` of the major version.
    pub magic: u16,
    /// The cluster's identity.
    pub system_identifier: u64,
}

/// WAL could not be read. The end of the data is no error.
#[derive(Debug, thiserror::Error)]
pub enum WalError {
    /// An I/O error: what is beyond is not known, so no end can be named.
    #[error("cannot read WAL {}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// A segment of another cluster, or of another segment or page size.
    #[error("{} belongs to another cluster or format ({problem})", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        problem: &'static str,
    },
    /// No valid record where one is known to begin: the data is damaged, or the start was wrong.
    #[error("no valid WAL record at {at}, where one must begin: {problem}")]
    NoRecord {
        /// The place.
        at: Lsn,
        /// What was found instead.
        problem: &'static str,
    },
    /// No chain of valid records on this timeline history ends at the start, so what follows it cannot be told from
    /// stale bytes or from another timeline's WAL. Start from a known record instead.
    #[error("no record on timeline {timeline}'s history ends at {at}")]
    NotOnLine {
        /// The start.
        at: Lsn,
        /// Along which history.
        timeline: TimelineId,
    },
}

/// One valid record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// Where it begins (after a skipped, overwritten record: not where reading began).
    pub(crate) start: Lsn,
    /// Where the next one begins, not counting a page header: PostgreSQL's end position.
    pub(crate) next: Lsn,
}

/// What reading at a place gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Record(Record),
    /// The end of valid data, and why.
    End(&'static str),
}

/// How the link to the previous record is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Link {
    /// It must be exactly this.
    Exactly(Lsn),
    /// It must merely lie before the record.
    Before,
}

/// Which file is taken where the segment of a switch point exists on several timelines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Prefer {
    /// The file of the timeline that owns the bytes.
    Owner,
    /// The copy at the beginning of the newest timeline.
    Newest,
}

/// Reads pages from segment files, each fsynced before its first byte is read.
pub(crate) struct Reader<'a> {
    pg_wal: &'a Path,
    history: &'a TimelineHistory,
    format: WalFormat,
    file: Option<(PathBuf, File, u64)>,
    chunk: Vec<u8>,
    chunk_at: Option<(PathBuf, u64)>,
    pub(crate) synced: Vec<PathBuf>,
}

struct Page<'a> {
    bytes: &'a [u8],
    flags: u16,
    rem_len: u32,
    header: u64,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(pg_wal: &'a Path, history: &'a TimelineHistory, format: WalFormat) -> Self {
        Self { pg_wal, history, format, file: None, chunk: Vec::new(), chunk_at: None, synced: Vec::new() }
    }

    /// The timeline whose history is followed.
    pub(crate) const fn timeline(&self) -> TimelineId {
        self.history.timeline
    }

    /// Reads the record at `at` (the end of the record before it).
    pub(crate) fn record(&mut self, at: Lsn, link: Link, prefer: Prefer) -> Result<Found, WalError> {
        let mut at = at.0;
        // Each round begins one page further on, after a record that was overwritten by a crash.
        'restart: loop {
            let page_at = at / PAGE * PAGE;
            // A fork lies between two records: all of this one is in the files of its first byte's owner, or in copies
            // of newer timelines. An older timeline's file may hold other bytes there, from beyond its own end.
            let owner = self.history.owner_of_end(Lsn(at + 1));
            let page = match self.page(page_at, owner, prefer)? {
                Ok(page) => page,
                Err(reason) => return Ok(Found::End(reason)),
            };
            if at == page_at {
                at += page.header;
            } else if at - page_at < page.header {
                return Ok(Found::End("the position lies in a page header"));
            }
            if page.flags & FIRST_IS_CONTRECORD != 0 && at == page_at + page.header {
                return Ok(Found::End("a continued record where a new one must begin"));
            }
            let offset = usize::try_from(at - page_at).expect("an offset in a page is small");
            let total = u32_at(page.bytes, offset) as usize;
            if total < RECORD_HEADER {
                return Ok(Found::End("no record"));
            }
            let mut record = Assembly::new(total);
            record.push(&page.bytes[offset..]);
            if record.header_complete()
                && let Err(reason) = record.check_header(at, link)
            {
                // Before any further page is read: a stale length may be huge.
                return Ok(Found::End(reason));
            }
            let mut end = at + align8(total as u64);
            let mut next_page = page_at;
            while record.missing() > 0 {
                next_page += PAGE;
                let page = match self.page(next_page, owner, prefer)? {
                    Ok(page) => page,
                    Err(reason) => return Ok(Found::End(reason)),
                };
                if page.flags & FIRST_IS_OVERWRITE_CONTRECORD != 0 {
                    at = next_page;
                    continue 'restart;
                }
                if page.flags & FIRST_IS_CONTRECORD == 0 {
                    return Ok(Found::End("the rest of a record is missing"));
                }
                if page.rem_len as usize != record.missing() {
                    return Ok(Found::End("the rest of a record has the wrong length"));
                }
                let header = usize::try_from(page.header).expect("a header is small");
                let had_header = record.header_complete();
                record.push(&page.bytes[header..]);
                end = next_page + page.header + align8(u64::from(page.rem_len));
                if !had_header
                    && record.header_complete()
                    && let Err(reason) = record.check_header(at, link)
                {
                    return Ok(Found::End(reason));
                }
            }
            if !record.crc_fits() {
                return Ok(Found::End("checksum mismatch"));
            }
            if record.is_switch() {
                end = end.next_multiple_of(self.format.segment_size);
            }
            return Ok(Found::Record(Record { start: Lsn(at), next: Lsn(end) }));
        }
    }

    /// Where the last record begins that begins on or before the page of byte `at - 1`, and before `at`: found by the
    /// page headers alone, going back over pages that hold only the middle of a record (or nothing, after a segment
    /// switch). `None` when the segments end first.
    pub(crate) fn record_before(&mut self, at: Lsn, prefer: Prefer) -> Result<Option<Lsn>, WalError> {
        let mut page_at = at.0.saturating_sub(1) / PAGE * PAGE;
        loop {
            let owner = self.history.owner_of_end(at.min(Lsn(page_at + PAGE)));
            match self.page(page_at, owner, prefer)? {
                Ok(page) => {
                    let continued = page.flags & FIRST_IS_CONTRECORD != 0;
                    let skip = if continued { align8(u64::from(page.rem_len)) } else { 0 };
                    let first = page_at + page.header + skip;
                    if first < at.0 && first < page_at + PAGE {
                        return Ok(Some(Lsn(first)));
                    }
                }
                Err(NO_SEGMENT) => return Ok(None),
                Err(_) => {}
            }
            let Some(before) = page_at.checked_sub(PAGE) else { return Ok(None) };
            page_at = before;
        }
    }

    /// The page at `at` as the timeline `of` or a newer one has it, with a valid header, or why there is none.
    fn page(&mut self, at: u64, of: TimelineId, prefer: Prefer) -> Result<Result<Page<'_>, &'static str>, WalError> {
        let format = self.format;
        let owner = self.history.owner_of_end(Lsn(at + 1));
        let Some(path) = self.segment(at, of, prefer)? else { return Ok(Err(NO_SEGMENT)) };
        let Some(bytes) = self.bytes(&path, at)? else { return Ok(Err("the segment ends early")) };
        let long = at.is_multiple_of(format.segment_size);
        let flags = u16_at(bytes, 2);
        if u16_at(bytes, 0) != format.magic {
            return Ok(Err("not a WAL page of this version"));
        }
        if flags & !KNOWN_FLAGS != 0 || long != (flags & IS_LONG != 0) {
            return Ok(Err("wrong page flags"));
        }
        if u64_at(bytes, 8) != at {
            return Ok(Err("a page of an older, recycled segment"));
        }
        if long {
            let problem = if u64_at(bytes, 24) != format.system_identifier {
                Some("system identifier")
            } else if u64::from(u32_at(bytes, 32)) != format.segment_size {
                Some("segment size")
            } else if u64::from(u32_at(bytes, 36)) != PAGE {
                Some("page size")
            } else {
                None
            };
            if let Some(problem) = problem {
                return Err(WalError::Foreign { path, problem });
            }
        }
        if u32_at(bytes, 4) != owner.0 {
            return Ok(Err("a page of a timeline that does not own it"));
        }
        let header = if long { LONG_HEADER } else { SHORT_HEADER };
        Ok(Ok(Page { bytes, flags, rem_len: u32_at(bytes, 16), header }))
    }

    /// Opens the segment file for the page at `at`; `None` when no candidate exists.
    fn segment(&mut self, at: u64, owner: TimelineId, prefer: Prefer) -> Result<Option<PathBuf>, WalError> {
        let number = at / self.format.segment_size;
        let segment_end = (number + 1).saturating_mul(self.format.segment_size);
        // Files of newer timelines that begin within this segment start with a copy of their parent's bytes.
        let mut candidates: Vec<TimelineId> = self
            .timelines()
            .filter(|(timeline, begin)| *timeline == owner || (*timeline > owner && begin.0 < segment_end))
            .map(|(timeline, _)| timeline)
            .collect();
        if prefer == Prefer::Newest {
            candidates.reverse();
        }
        for timeline in candidates {
            let path = Layout::segment_file(self.pg_wal, timeline.0, number, self.format.segment_size);
            if self.file.as_ref().is_some_and(|(open, ..)| *open == path) {
                return Ok(Some(path));
            }
            let file = match File::open(&path) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(source) => return Err(WalError::Io { path, source }),
            };
            // What was written but not flushed could vanish after it was reported (history A4).
            let size = file.sync_all().and_then(|()| file.metadata()).map(|meta| meta.len());
            let size = size.map_err(|source| WalError::Io { path: path.clone(), source })?;
            if !self.synced.contains(&path) {
                self.synced.push(path.clone());
            }
            self.file = Some((path.clone(), file, size));
            return Ok(Some(path));
        }
        Ok(None)
    }

    /// Every timeline of the history with its first byte, oldest first.
    fn timelines(&self) -> impl Iterator<Item = (TimelineId, Lsn)> {
        let begins = std::iter::once(Lsn::ZERO).chain(self.history.ancestors.iter().map(|ancestor| ancestor.end));
        let all = self.history.ancestors.iter().map(|ancestor| ancestor.timeline).chain([self.history.timeline]);
        all.zip(begins)
    }

    /// One page of the open file; `None` when the file is shorter.
    fn bytes(&mut self, path: &Path, at: u64) -> Result<Option<&[u8]>, WalError> {
        let offset = at % self.format.segment_size;
        let chunk_at = offset / CHUNK * CHUNK;
        let here = self.chunk_at.as_ref().is_some_and(|(open, chunk)| open == path && *chunk == chunk_at);
        if !here {
            let (_, file, size) = self.file.as_ref().expect("the segment was opened just before");
            let length = size.saturating_sub(chunk_at).min(CHUNK);
            self.chunk_at = None;
            self.chunk.resize(usize::try_from(length).expect("a chunk is small"), 0);
            file.read_exact_at(&mut self.chunk, chunk_at)
                .map_err(|source| WalError::Io { path: path.to_owned(), source })?;
            self.chunk_at = Some((path.to_owned(), chunk_at));
        }
        let from = usize::try_from(offset - chunk_at).expect("an offset in a chunk is small");
        Ok(self.chunk.get(from..from + usize::try_from(PAGE).expect("a page is small")))
    }
}

/// A record being put together from its pieces. Only its header is kept; the data goes into the checksum.
struct Assembly {
    total: usize,
    got: usize,
    header: [u8; RECORD_HEADER],
    crc: u32,
}

impl Assembly {
    const fn new(total: usize) -> Self {
        Self { total, got: 0, header: [0; RECORD_HEADER], crc: 0 }
    }

    /// Takes as much of `bytes` as still belongs to the record.
    fn push(&mut self, bytes: &[u8]) {
        let bytes = &bytes[..bytes.len().min(self.missing())];
        let to_header = bytes.len().min(RECORD_HEADER.saturating_sub(self.got));
        self.header[self.got.min(RECORD_HEADER)..][..to_header].copy_from_slice(&bytes[..to_header]);
        self.crc = crc32c::crc32c_append(self.crc, &bytes[to_header..]);
        self.got += bytes.len();
    }

    const fn missing(&self) -> usize {
        self.total - self.got
    }

    const fn header_complete(&self) -> bool {
        self.got >= RECORD_HEADER
    }

    fn prev(&self) -> Lsn {
        Lsn(u64_at(&self.header, 8))
    }

    fn check_header(&self, at: u64, link: Link) -> Result<(), &'static str> {
        let fits = match link {
            Link::Exactly(prev) => self.prev() == prev,
            Link::Before => self.prev().0 < at,
        };
        if fits { Ok(()) } else { Err("the link to the previous record is wrong") }
    }

    /// The checksum covers the data first and then the header up to the checksum itself.
    fn crc_fits(&self) -> bool {
        crc32c::crc32c_append(self.crc, &self.header[..CRC_OFFSET]) == u32_at(&self.header, CRC_OFFSET)
    }

    /// The rest of the segment after a switch record is empty.
    const fn is_switch(&self) -> bool {
        self.header[17] == RM_XLOG && self.header[16] & 0xF0 == XLOG_SWITCH
    }
}

const fn align8(length: u64) -> u64 {
    length.next_multiple_of(8)
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}
