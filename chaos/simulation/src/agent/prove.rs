//! The proof that a setting is held by every walsender and confirmed by k of S (protocol review, D3). Keeps S1.

use super::shared::{Ctx, Failed};
use crate::planted::Planted;
use pgvigil_core::{
    command::Proof,
    id::{Epoch, MemberKey, RuleVersion},
    lsn::Lsn,
    rule::Setting,
};
use std::collections::BTreeSet;

const STATEMENT_MS: u64 = 5_000;
const STUCK_MS: u64 = 2_000;
const ATTEMPT_MS: u64 = 10_000;

/// Tries to prove `version` of `epoch`; on success the proof lies ready for the next report.
pub async fn prove(c: &Ctx, epoch: Epoch, setting: &Setting, version: RuleVersion) -> Result<(), Failed> {
    let names = c.names_of(setting, epoch);
    let shown = c.sample(STATEMENT_MS).await.ok_or("no server")?.sync_names;
    if shown != *names.value {
        if let Some(in_force) = c.a.inner.borrow_mut().local.in_force.as_mut() {
            in_force.version = None;
        }
        return Err("the setting is not in force".to_owned());
    }
    let adopted = c.agreed().is_some_and(|agreed| agreed.newest_rule().is_some_and(|rule| rule.setting.k == 0));
    let doubt = c.a.inner.borrow().local.rule_doubt;
    if doubt.is_open() || adopted {
        checkpointer_reloads(c).await?;
        c.a.inner.borrow_mut().local.rule_doubt.checkpoint_followed(doubt);
    }
    c.step("prove.shown").await;
    let before: BTreeSet<i32> =
        c.sample(STATEMENT_MS).await.ok_or("no server")?.walsenders.iter().map(|s| s.pid).collect();
    let marker = marker(c).await?;
    c.step("prove.marker").await;
    let flushed = if c.w.planted == Some(Planted::ProofInvented) {
        setting.cohort.clone()
    } else {
        wait(c, epoch, setting, &before, marker).await?
    };
    let mut inner = c.a.inner.borrow_mut();
    inner.records.push(marker);
    inner.records.sort_unstable();
    inner.proof = Some(Proof { version, marker, flushed });
    inner.local.proven = Some(version);
    Ok(())
}

/// The checkpointer has taken up what was loaded once a checkpoint asked for now is done (history A8).
pub async fn checkpointer_reloads(c: &Ctx) -> Result<(), Failed> {
    let deadline = c.now().plus(ATTEMPT_MS);
    while c.w.hosts[c.h].pg.borrow().checkpointer_pending {
        if c.now() > deadline {
            return Err("the checkpointer has not taken up the setting".to_owned());
        }
        c.w.pause(5_000, 10_000).await;
    }
    Ok(())
}

/// Writes a marker without waiting for any standby, and returns a position at or past its end, flushed here.
async fn marker(c: &Ctx) -> Result<Lsn, Failed> {
    c.query(STATEMENT_MS).await.ok_or("no server")?;
    if c.w.hosts[c.h].pg.borrow().in_recovery {
        return Err("no primary".to_owned());
    }
    let pid = c.w.hosts[c.h].pg.borrow().pid;
    let end = c.w.write_wal(c.h, 0x80);
    let deadline = c.now().plus(STATEMENT_MS);
    loop {
        c.w.pause(300, 1_500).await;
        let pg = c.w.hosts[c.h].pg.borrow();
        if pg.pid != pid || c.w.now(c.h) > deadline {
            return Err("the marker was not flushed".to_owned());
        }
        if pg.flush >= end {
            return Ok(Lsn(pg.flush));
        }
    }
}

async fn wait(
    c: &Ctx,
    epoch: Epoch,
    setting: &Setting,
    before: &BTreeSet<i32>,
    marker: Lsn,
) -> Result<BTreeSet<MemberKey>, Failed> {
    let began = c.now();
    let mut ended = false;
    loop {
        let senders = c.sample(STATEMENT_MS).await.ok_or("no server")?.walsenders;
        let there = |flushed: Option<Lsn>| flushed.is_some_and(|at| at >= marker);
        let behind: Vec<i32> =
            senders.iter().filter(|s| before.contains(&s.pid) && !there(s.flush_lsn)).map(|s| s.pid).collect();
        let flushed: BTreeSet<MemberKey> = setting
            .cohort
            .iter()
            .filter(|key| {
                let name = c.name(key, epoch);
                let mut rows = senders.iter().filter(|s| *s.application_name == *name).peekable();
                rows.peek().is_some() && rows.all(|s| there(s.flush_lsn))
            })
            .cloned()
            .collect();
        if behind.is_empty() && setting.satisfied_by(&flushed) {
            return Ok(flushed);
        }
        let waited = c.now().since(began);
        if waited > STUCK_MS && !ended && setting.satisfied_by(&flushed) {
            ended = true;
            c.w.cover.hit("prove", "walsender-ended");
            for id in behind {
                c.w.terminate_sender(c.h, u64::try_from(id).unwrap_or_default());
            }
        }
        let moved = c.agreed().and_then(|agreed| agreed.reign().map(|r| (r.epoch, r.setting.clone())));
        if moved.is_none_or(|(of, wanted)| of != epoch || wanted != *setting) {
            return Err("the rule has changed meanwhile".to_owned());
        }
        if waited > ATTEMPT_MS {
            return Err("walsenders are behind the marker".to_owned());
        }
        c.w.pause(2_000, 8_000).await;
    }
}
