//! The proof that a setting is held by every walsender and confirmed by k of S (protocol review, D3). Keeps S1.
//!
//! (a) a new connection shows the setting; (b) then a marker is written; (c) every walsender that existed at (a) and may
//! release commits has itself reported flush ≥ marker, or is gone; (d) k of S have flushed all that was flushed here when
//! (c) was seen. Backups, clones and log receivers release nothing: nobody waits for them, nobody ends them.
//!
//! Not the marker alone, as the review has it: until (c) a walsender that has not reloaded may release a commit beyond
//! the marker by its own old rule, and k of the new S need not have that commit (found by the model,
//! `proof-of-marker-only`: 15 steps to a lost commit).

use crate::{
    bug::Bug,
    ports::{Member, Session},
};
use anyhow::{Context, bail};
use pgvigil_core::{
    command::Proof,
    id::{Epoch, MemberKey, RuleVersion},
    lsn::Lsn,
    proof::{behind, flushed},
    rule::Setting,
    sync_rule::SyncRule,
};
use std::collections::{BTreeMap, BTreeSet};

/// A session's limit, in milliseconds.
const STATEMENT_MS: u64 = 5_000;
/// How long a walsender may lag behind the marker before it is ended, in milliseconds: its standby reconnects under the new
/// setting.
const STUCK_MS: u64 = 2_000;
/// How long one attempt waits for (c) and (d), in milliseconds.
const ATTEMPT_MS: u64 = 10_000;
/// How long a checkpoint may take, in milliseconds.
const CHECKPOINT_MS: u64 = 600_000;

/// Tries to prove `version` of `epoch`; on success the proof is known for the next report.
pub async fn prove<M: Member>(m: &M, epoch: Epoch, setting: &Setting, version: RuleVersion) -> anyhow::Result<()> {
    let names = SyncRule::of(m.agreed().as_deref(), setting, epoch).names_value();
    let shown = m.connect("prove", STATEMENT_MS).await?.sync_names().await?;
    if shown != names && !m.planted(Bug::RuleNotInForce) {
        if let Some(in_force) = m.known().local.in_force.as_mut() {
            in_force.version = None;
        }
        bail!("synchronous_standby_names is {shown:?}, not {names:?}");
    }
    let session = m.connect_local("prove", STATEMENT_MS).await?;
    let doubt = m.known().local.rule_doubt;
    let adopted = m.agreed().is_some_and(|agreed| agreed.newest_rule().is_some_and(|rule| rule.setting.k == 0));
    if doubt.is_open() || adopted {
        // Backends look at a flag that the checkpointer sets after its own reload; a checkpoint asked for after (a) is
        // begun only after that reload (history A8). A commit already past the flag is older than the marker.
        session.checkpoint(CHECKPOINT_MS).await.context("the checkpointer has not taken up the setting")?;
        m.known().local.rule_doubt.checkpoint_followed(doubt);
    }
    m.reach("prove:shown").await;
    let before: BTreeSet<i32> = session.senders().await?.into_iter().map(|sender| sender.pid).collect();
    let marker = session.marker().await?;
    m.reach("prove:marker").await;
    let (marker, flushed) = if m.planted(Bug::ProofInvented) {
        (marker, setting.cohort.clone())
    } else {
        wait(m, &session, epoch, setting, &before, marker).await?
    };
    m.reach("prove:proven").await;
    let mut known = m.known();
    known.records.push(marker);
    known.records.sort_unstable();
    known.proof = Some(Proof { version, marker, flushed });
    known.local.proven = Some(version);
    Ok(())
}

async fn wait<M: Member>(
    m: &M,
    session: &M::Session,
    epoch: Epoch,
    setting: &Setting,
    before: &BTreeSet<i32>,
    marker: Lsn,
) -> anyhow::Result<(Lsn, BTreeSet<MemberKey>)> {
    let began = m.now();
    let agreed = m.agreed().context("no agreed state yet")?;
    let keys: BTreeMap<String, &MemberKey> =
        setting.cohort.iter().map(|key| (agreed.sync_name(key, epoch), key)).collect();
    // Under a name that was given up a walsender may still release commits by the list that it holds.
    let open = agreed.rules.iter().flat_map(|rule| rule.setting.cohort.iter().map(move |key| (rule.epoch, key)));
    let older = open.flat_map(|(epoch, key)| agreed.sync_names(key, epoch));
    let named: BTreeSet<String> = older.chain(keys.keys().cloned()).collect();
    let mut ended = false;
    let mut end: Option<Lsn> = m.planted(Bug::ProofOfMarkerOnly).then_some(marker);
    loop {
        let senders = session.senders().await?;
        let behind = behind(&senders, before, &named, marker);
        if behind.is_empty() && end.is_none() {
            // From here on nobody releases anything by an older rule; what was released so far lies before this.
            end = Some(session.flush_lsn().await?);
        }
        let flushed = flushed(&senders, &keys, end.unwrap_or(marker));
        if let Some(end) = end
            && behind.is_empty()
            && setting.satisfied_by(&flushed)
        {
            return Ok((end, flushed));
        }
        let waited = m.now().since(began);
        if waited > STUCK_MS && !ended && setting.satisfied_by(&flushed) {
            ended = true;
            for pid in &behind {
                session.terminate(*pid).await?;
            }
        }
        let moved = m.agreed().and_then(|agreed| agreed.reign().map(|r| (r.epoch, r.setting.clone())));
        if moved.is_none_or(|(of, wanted)| of != epoch || wanted != *setting) {
            bail!("the rule has changed meanwhile");
        }
        if waited > ATTEMPT_MS {
            bail!("{} walsenders are behind the marker {marker}, {} of the rule have it", behind.len(), flushed.len());
        }
        m.pause(2_000).await;
    }
}
