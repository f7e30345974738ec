//! Reads what one node tells of its past.

use pgvigil_core::{
    cluster::State,
    command::Proposal,
    id::NodeId,
    trace::{Acted, Decided, Line},
};
use std::{collections::BTreeMap, fmt, io};

/// An entry of a node's log.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The term of the leader that wrote it.
    pub term: u64,
    /// What was proposed; `None` for an entry of Raft's own.
    pub proposal: Option<Box<Proposal>>,
}

/// A line of a journal.
#[derive(Clone, Debug)]
pub enum Note {
    /// The process began.
    Began(NodeId),
    /// It decided as leader.
    Decided(Box<Decided>),
    /// Its agent acted.
    Acted(Box<Acted>),
}

/// What one file tells.
#[derive(Clone, Debug, Default)]
pub struct Past {
    /// Where it was read, for findings.
    pub name: String,
    /// Whose store it was.
    pub store: Option<(NodeId, String)>,
    /// The state from which the entries go on, and its index.
    pub base: Option<(u64, State)>,
    /// The log by index.
    pub entries: BTreeMap<u64, Entry>,
    /// How far it was applied, and to what.
    pub applied: Option<(u64, State)>,
    /// The journal, in its order.
    pub notes: Vec<Note>,
    /// Lines that cannot be right: an index told twice.
    pub odd: Vec<String>,
}

/// A file that cannot be read.
#[derive(Debug)]
pub struct Unreadable {
    /// Which file, and the line, from 1.
    pub place: String,
    /// Why.
    pub why: String,
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.why)
    }
}

impl std::error::Error for Unreadable {}

impl Past {
    /// Takes in one line.
    pub fn take(&mut self, line: Line) {
        match line {
            Line::Store { node, store } => self.store = Some((node, store)),
            Line::Base { index, state } => self.base = Some((index, state)),
            Line::Entry { index, term, proposal } => {
                if self.entries.insert(index, Entry { term, proposal }).is_some() {
                    self.odd.push(format!("entry {index} is told twice"));
                }
            }
            Line::Applied { index, state } => self.applied = Some((index, state)),
            Line::Began { node } => self.notes.push(Note::Began(node)),
            Line::Decided(decided) => self.notes.push(Note::Decided(decided)),
            Line::Acted(acted) => self.notes.push(Note::Acted(acted)),
        }
    }
}

/// Reads one file of lines. A last line without an end is one that was being written when its process died: it is left
/// out.
pub fn read(name: &str, mut file: impl io::BufRead) -> Result<Past, Unreadable> {
    let mut past = Past { name: name.to_owned(), ..Past::default() };
    let mut text = String::new();
    for number in 1.. {
        let bad = |why: String| Unreadable { place: format!("{name}:{number}"), why };
        text.clear();
        let length = file.read_line(&mut text).map_err(|error| bad(error.to_string()))?;
        if length == 0 || !text.ends_with('\n') {
            break;
        }
        past.take(serde_json::from_str(&text).map_err(|error| bad(error.to_string()))?);
    }
    Ok(past)
}
