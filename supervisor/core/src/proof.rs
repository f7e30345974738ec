//! Whom a proof of a rule waits for, and who has confirmed (protocol review, D3).

use crate::{id::MemberKey, lsn::Lsn};
use std::collections::{BTreeMap, BTreeSet};

/// A walsender that may release commits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProofSender {
    /// Its process.
    pub pid: i32,
    /// The name that the rule is compared with.
    pub name: String,
    /// Reported as flushed; `None` before the first report, and always for a base backup.
    pub flush: Option<Lsn>,
    /// The setting that this process holds lists it, and it has reported a flush: it may release commits.
    pub counted: bool,
}

/// The processes of `before` that may release commits by an older setting and whose standby does not have `marker` yet.
/// `names` are those of every rule that is open: one of them may not have reported yet, and be counted when it does.
///
/// A walsender looks at commits that wait only if the setting that it holds itself lists its name, and its standby has
/// reported a flush. Base backups, log receivers, clones and logical subscribers never do either, so they are nobody's
/// concern: ended for a proof, a backup of hours would be lost whenever a standby is rebooted.
#[must_use]
pub fn behind(senders: &[ProofSender], before: &BTreeSet<i32>, names: &BTreeSet<String>, marker: Lsn) -> Vec<i32> {
    let releases = |sender: &&ProofSender| sender.counted || names.contains(&sender.name);
    let old = |sender: &&ProofSender| before.contains(&sender.pid) && sender.flush.is_none_or(|flush| flush < marker);
    senders.iter().filter(old).filter(releases).map(|sender| sender.pid).collect()
}

/// Whose every walsender has reported `end`: with two of one name, the one that has it may be a copy's.
#[must_use]
pub fn flushed(senders: &[ProofSender], keys: &BTreeMap<String, &MemberKey>, end: Lsn) -> BTreeSet<MemberKey> {
    let mut least: BTreeMap<&MemberKey, Option<Lsn>> = BTreeMap::new();
    for ProofSender { name, flush, .. } in senders {
        if let Some(key) = keys.get(name) {
            least.entry(*key).and_modify(|least| *least = (*least).min(*flush)).or_insert(*flush);
        }
    }
    let have = least.into_iter().filter(|(_, flush)| flush.is_some_and(|flush| flush >= end));
    have.map(|(key, _)| key.clone()).collect()
}

#[cfg(test)]
#[path = "proof_test.rs"]
mod tests;
