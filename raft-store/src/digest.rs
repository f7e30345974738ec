//! Digests of the agreed state after each log entry, to be compared across nodes.
//!
//! All nodes apply the same entries, so after the same entry they must hold the same state. Where they do not, a disk, a
//! memory or `apply` itself is broken, and a leader would decide from a state that the others do not have. Nobody can see
//! that from inside one node: every Raft message therefore carries its sender's newest digest.

use pgvigil_core::{State, cluster};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// How many entries back a digest is remembered. A peer that is further behind is compared when it has caught up.
const REMEMBERED: usize = 512;

/// The state after one entry, in short.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digest {
    /// Index of the entry.
    pub index: u64,
    /// CRC-32C and length of the state as JSON.
    pub value: u64,
}

impl Digest {
    /// The digest of `state` after the entry at `index`. `None` where the state has no JSON form, which storing it finds.
    fn of(index: u64, state: &State) -> Option<Self> {
        let bytes = serde_json::to_vec(state).ok()?;
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX) & u64::from(u32::MAX);
        Some(Self { index, value: u64::from(crc32c::crc32c(&bytes)) << 32 | length })
    }
}

/// The digests of this node, and whether another node's differed. Clones share one memory.
#[derive(Clone, Debug)]
pub struct Digests {
    recent: Arc<Mutex<VecDeque<Digest>>>,
    difference: Arc<watch::Sender<Option<String>>>,
}

impl Digests {
    pub(crate) fn new() -> Self {
        Self { recent: Arc::default(), difference: Arc::new(watch::Sender::new(None)) }
    }

    fn recent(&self) -> MutexGuard<'_, VecDeque<Digest>> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers the state after the entry at `index`.
    pub(crate) fn note(&self, index: u64, state: &State) {
        let Some(digest) = Digest::of(index, state) else { return };
        let mut recent = self.recent();
        recent.push_back(digest);
        if recent.len() > REMEMBERED {
            recent.pop_front();
        }
    }

    /// Another state took the place of the one before: nothing of the past can be compared any more.
    pub(crate) fn begin(&self, index: u64, state: &State) {
        self.recent().clear();
        self.note(index, state);
    }

    /// The newest one, to be told to others. `None` before anything was applied.
    #[must_use]
    pub fn newest(&self) -> Option<Digest> {
        self.recent().back().copied()
    }

    /// What the states of which program can be compared with: its version, and the format of the state.
    #[must_use]
    pub fn kind() -> u32 {
        let text = format!("{} {}", env!("CARGO_PKG_VERSION"), cluster::FORMAT);
        crc32c::crc32c(text.as_bytes())
    }

    /// Compares the digest of `node` with this node's own of the same entry, and remembers the first difference. `false`
    /// if they differ; what cannot be compared does not.
    pub fn compare(&self, node: u64, theirs: Digest) -> bool {
        let recent = self.recent();
        let Some(ours) = recent.iter().rev().find(|digest| digest.index == theirs.index).copied() else { return true };
        drop(recent);
        if ours.value == theirs.value {
            return true;
        }
        let text = format!(
            "node {node} holds another agreed state after log entry {} than this node (digests {:016x} and {:016x}): one of \
             the two is damaged. Find the one that differs from all others, remove it from the group and add it under a new \
             node id with an empty directory",
            ours.index, theirs.value, ours.value
        );
        self.difference.send_if_modified(|known| {
            let first = known.is_none();
            if first {
                tracing::error!("{text}");
                *known = Some(text);
            }
            first
        });
        false
    }

    /// Becomes `Some(text)` when a difference was found; it stays until the process ends.
    #[must_use]
    pub fn difference(&self) -> watch::Receiver<Option<String>> {
        self.difference.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgvigil_core::cluster::ClusterState;
    use pgvigil_core::id::ClusterId;
    use pgvigil_core::settings::Settings;

    fn state(name: &str) -> State {
        let mut state = State::default();
        let id = ClusterId::from(name);
        state.clusters.insert(id.clone(), ClusterState::new(id, Settings::default(), Default::default()));
        state
    }

    #[test]
    fn only_the_same_entry_is_compared_and_a_difference_is_kept() {
        let (ours, theirs) = (Digests::new(), Digests::new());
        for (index, name) in [(1, "a"), (2, "b"), (3, "c")] {
            ours.note(index, &state(name));
            theirs.note(index, &state(name));
        }
        assert!(ours.compare(2, theirs.newest().expect("noted")));
        theirs.note(4, &state("d"));
        assert!(ours.compare(2, theirs.newest().expect("noted")), "not applied here yet");
        assert_eq!(*ours.difference().borrow(), None);
        ours.note(4, &state("e"));
        assert!(!ours.compare(2, theirs.newest().expect("noted")));
        let said = ours.difference().borrow().clone().expect("it is said");
        assert!(said.contains("node 2") && said.contains("entry 4") && said.contains("new node id"), "{said}");
    }

    #[test]
    fn the_past_is_forgotten_when_a_snapshot_is_installed_and_when_it_is_long() {
        let digests = Digests::new();
        digests.note(5, &state("a"));
        digests.begin(9, &state("b"));
        assert!(digests.compare(2, Digest { index: 5, value: 1 }), "5 is forgotten");
        assert!(!digests.compare(2, Digest { index: 9, value: 1 }));
        for index in 10..10 + REMEMBERED as u64 {
            digests.note(index, &State::default());
        }
        assert_eq!(digests.recent().len(), REMEMBERED);
    }
}
