//! The proof that a setting is held by every walsender and confirmed by k of S (protocol review, D3). Keeps S1.
//!
//! (a) a new connection shows the setting; (b) then a marker is written; (c) every walsender that existed at (a) and may
//! release commits has itself reported flush ≥ marker, or is gone; (d) k of S have flushed all that was flushed here when
//! (c) was seen. Backups, clones and log receivers release nothing: nobody waits for them, nobody ends them.
//!
//! Not the marker alone, as the review has it: until (c) a walsender that has not reloaded may release a commit beyond
//! the marker by its own old rule, and k of the new S need not have that commit (found by the model,
//! `proof-of-marker-only`: 15 steps to a lost commit).

use super::shared::Shared;
use anyhow::{Context, bail};
use pgvigil_core::{
    command::Proof,
    id::{Epoch, MemberKey, RuleVersion},
    lsn::Lsn,
    rule::Setting,
    sync_rule::SyncRule,
};
use pgvigil_postgres::{
    Link,
    canary::marker,
    fault::{self, Bug},
    link::{fresh_value, parse},
    walsender::{Walsender, behind},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

const STATEMENT: Duration = Duration::from_secs(5);
/// How long a walsender may lag behind the marker before it is ended: its standby reconnects under the new setting.
const STUCK: Duration = Duration::from_secs(2);
/// How long one attempt waits for (c) and (d).
const ATTEMPT: Duration = Duration::from_secs(10);

/// Tries to prove `version` of `epoch`; on success the proof lies in [`Shared`] for the next report.
pub async fn prove(shared: &Arc<Shared>, epoch: Epoch, setting: &Setting, version: RuleVersion) -> anyhow::Result<()> {
    let endpoint = shared.server().endpoint.clone();
    let names = SyncRule::of(shared.agreed().as_deref(), setting, epoch).names_value();
    let shown = fresh_value(&endpoint, "synchronous_standby_names", STATEMENT).await?;
    if shown != names && !fault::planted(Bug::RuleNotInForce) {
        if let Some(in_force) = shared.lock().local.in_force.as_mut() {
            in_force.version = None;
        }
        bail!("synchronous_standby_names is {shown:?}, not {names:?}");
    }
    let link = Link::connect(&endpoint, "prove", "-c synchronous_commit=local", STATEMENT).await?;
    let doubt = shared.lock().local.rule_doubt;
    if doubt.is_open() || adopted_without_rule(shared) {
        // Backends look at a flag that the checkpointer sets after its own reload; a checkpoint asked for after (a) is
        // begun only after that reload (history A8). A commit already past the flag is older than the marker.
        link.checkpoint(Duration::from_secs(600)).await.context("the checkpointer has not taken up the setting")?;
        shared.lock().local.rule_doubt.checkpoint_followed(doubt);
    }
    let before: BTreeSet<i32> = link.proof_senders(STATEMENT).await?.into_iter().map(|sender| sender.pid).collect();
    let marker = marker(&endpoint, STATEMENT).await?;
    fault::reach("prove:marker", Some(&shared.layout.data_dir)).await;
    let (marker, flushed) = wait(shared, &link, epoch, setting, &before, marker).await?;
    fault::reach("prove:proven", Some(&shared.layout.data_dir)).await;
    let mut inner = shared.lock();
    inner.records.push(marker);
    inner.records.sort_unstable();
    inner.proof = Some(Proof { version, marker, flushed });
    inner.local.proven = Some(version);
    Ok(())
}

fn adopted_without_rule(shared: &Shared) -> bool {
    shared.agreed().is_some_and(|agreed| agreed.newest_rule().is_some_and(|rule| rule.setting.k == 0))
}

async fn wait(
    shared: &Shared,
    link: &Link,
    epoch: Epoch,
    setting: &Setting,
    before: &BTreeSet<i32>,
    marker: Lsn,
) -> anyhow::Result<(Lsn, BTreeSet<MemberKey>)> {
    let began = tokio::time::Instant::now();
    let agreed = shared.agreed().context("no agreed state yet")?;
    let keys: BTreeMap<String, &MemberKey> =
        setting.cohort.iter().map(|key| (agreed.sync_name(key, epoch), key)).collect();
    // Under a name that was given up a walsender may still release commits by the list that it holds.
    let open = agreed.rules.iter().flat_map(|rule| rule.setting.cohort.iter().map(move |key| (rule.epoch, key)));
    let older = open.flat_map(|(epoch, key)| agreed.sync_names(key, epoch));
    let named: BTreeSet<String> = older.chain(keys.keys().cloned()).collect();
    let mut ended = false;
    let mut end: Option<Lsn> = None;
    loop {
        let senders = link.proof_senders(STATEMENT).await?;
        let behind = behind(&senders, before, &named, marker);
        if behind.is_empty() && end.is_none() {
            // From here on nobody releases anything by an older rule; what was released so far lies before this.
            end = Some(flushed_here(link).await?);
        }
        let flushed = flushed(&senders, &keys, end.unwrap_or(marker));
        if let Some(end) = end
            && setting.satisfied_by(&flushed)
        {
            return Ok((end, flushed));
        }
        if began.elapsed() > STUCK && !ended && setting.satisfied_by(&flushed) {
            ended = true;
            for pid in &behind {
                link.terminate_backend(*pid, STATEMENT).await?;
            }
        }
        let moved = shared.agreed().and_then(|agreed| agreed.reign().map(|r| (r.epoch, r.setting.clone())));
        if moved.is_none_or(|(of, wanted)| of != epoch || wanted != *setting) {
            bail!("the rule has changed meanwhile");
        }
        if began.elapsed() > ATTEMPT {
            bail!("{} walsenders are behind the marker {marker}, {} of the rule have it", behind.len(), flushed.len());
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Whose every walsender has reported `end`: with two of one name, the one that has it may be a copy's.
fn flushed(senders: &[Walsender], keys: &BTreeMap<String, &MemberKey>, end: Lsn) -> BTreeSet<MemberKey> {
    let mut least: BTreeMap<&MemberKey, Option<Lsn>> = BTreeMap::new();
    for Walsender { name, flush, .. } in senders {
        if let Some(key) = keys.get(name) {
            least.entry(*key).and_modify(|least| *least = (*least).min(*flush)).or_insert(*flush);
        }
    }
    let have = least.into_iter().filter(|(_, flush)| flush.is_some_and(|flush| flush >= end));
    have.map(|(key, _)| key.clone()).collect()
}

/// How far WAL is flushed on this primary now.
async fn flushed_here(link: &Link) -> anyhow::Result<Lsn> {
    const WHAT: &str = "read the flushed position";
    Ok(parse(WHAT, &link.value(WHAT, "SELECT pg_current_wal_flush_lsn()", STATEMENT).await?)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgvigil_core::id::Incarnation;

    #[test]
    fn of_two_walsenders_of_one_name_the_one_behind_counts() {
        let key = MemberKey::new("b".into(), Incarnation(2));
        let keys = BTreeMap::from([("b".to_owned(), &key)]);
        let row = |pid, name: &str, flush: Option<u64>| {
            let name = name.to_owned();
            Walsender { pid, name, flush: flush.map(Lsn), counted: true }
        };
        let has = |rows: &[_]| !flushed(rows, &keys, Lsn(100)).is_empty();
        assert!(has(&[row(1, "b", Some(100)), row(2, "c", None)]));
        assert!(!has(&[row(1, "b", Some(100)), row(2, "b", Some(99))]));
        assert!(!has(&[row(1, "b", None), row(2, "b", Some(100))]));
        assert!(!has(&[row(1, "c", Some(100))]));
    }
}
