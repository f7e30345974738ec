//! To be the primary: configure, start, promote, carry on under a new epoch.

use super::{fence, obey};
use crate::{
    bug::Bug,
    in_force::{self, Expected},
    known::Known,
    ports::{Member, Reigning, Removed, Session, StartAs},
    twin::given_up,
};
use anyhow::{Context, bail};
use futures::future::{join, join3, pending};
use pgvigil_core::{
    id::{Epoch, RuleVersion, TimelineId},
    local::{InForce, LocalPostgres},
    reign::Promotion,
    rule::Setting,
    sync_rule::SyncRule,
};
use std::collections::BTreeMap;

/// How long a reload may take to be seen, in milliseconds.
const RELOAD_MS: u64 = 10_000;
/// The same where the rule is not in force meanwhile: the door must be able to close in time.
const PUT_BACK_MS: u64 = 500;
/// After so long PostgreSQL is asked why it does not show what was set, in milliseconds.
const ASK_MS: u64 = 400;
/// How long a promotion may replay what it has before it is asked again, in milliseconds.
const PROMOTION_MS: u64 = 60_000;
/// How long a checkpoint may take, in milliseconds.
const CHECKPOINT_MS: u64 = 600_000;
/// A session's limit, in milliseconds.
const STATEMENT_MS: u64 = 5_000;

/// What was written, and how a connection shows it.
struct Put {
    shown: BTreeMap<String, String>,
    generation: String,
    names: String,
}

/// Writes setting and door, after what would override them.
async fn write<M: Member>(
    m: &M,
    epoch: Epoch,
    setting: &Setting,
    version: RuleVersion,
    door_open: bool,
) -> anyhow::Result<Put> {
    clear_overrides(m).await?;
    let rule = SyncRule::of(m.agreed().as_deref(), setting, epoch);
    let names = rule.names_value();
    let generation = format!("e{epoch}.v{version}.{}", if door_open { "open" } else { "closed" });
    let shown = m.put_rule(&rule, &generation).await?;
    m.reach("configure:settings").await;
    m.write_door(door_open || m.planted(Bug::DoorOpenAtStart)).await?;
    Ok(Put { shown, generation, names })
}

/// No line comes after ours any more. What is found counts before it is gone: where only a part of it can be taken out,
/// nobody would see it again. Keeps S1.
pub async fn clear_overrides<M: Member>(m: &M) -> anyhow::Result<()> {
    note_taken_out(m, &m.overrides().await?);
    note_taken_out(m, &m.remove_overrides().await?);
    Ok(())
}

fn note_taken_out<M: Member>(m: &M, removed: &Removed) {
    let now = (m.now(), m.wall());
    if in_force::taken_out(&mut m.known(), removed, now) {
        m.evidence_changed();
    }
}

/// Puts setting and door in force and sees them through a new connection (proof step D3a). A closed door ends the
/// sessions that are in. Keeps S1, S3.
pub async fn configure<M: Member>(
    m: &M,
    epoch: Epoch,
    setting: &Setting,
    version: RuleVersion,
    door_open: bool,
) -> anyhow::Result<()> {
    obey(m, epoch).await?;
    let before = m.known().local.in_force.clone();
    let was_open = before.as_ref().is_none_or(|f| f.door_open);
    if before.is_none_or(|f| f.epoch != epoch || f.version != Some(version)) {
        // A door that opens leaves the rule as it was proven.
        m.known().local.proven = None;
    }
    let in_force = |version| InForce { epoch, version, door_open, upstream: None, named: 0 };
    if door_open && was_open && m.planted(Bug::RuleNotInForce) {
        m.known().local.in_force = Some(in_force(Some(version)));
        return Ok(());
    }
    if door_open {
        m.remember_door(true)?;
        if !was_open {
            // From here on clients may come in, whatever becomes of this act.
            m.known().local.in_force = Some(in_force(None));
        }
    }
    let put = write(m, epoch, setting, version, door_open).await?;
    m.reach("configure:written").await;
    if m.known().server.is_none() {
        bail!("PostgreSQL does not run");
    }
    m.reigns(epoch, Reigning::GoesOn);
    m.reload()?;
    let astray = m.known().local.rule_astray_since.is_some();
    let mut seen = shown(m, &put, if astray { PUT_BACK_MS } else { RELOAD_MS }).await;
    if seen.is_err() && !door_open {
        // Whoever is in was to leave: that makes room for a session too. Nobody follows, since the door is read again.
        make_room(m).await?;
        seen = shown(m, &put, PUT_BACK_MS).await;
    }
    let session = match seen? {
        Ok(session) => session,
        Err((session, why)) => {
            if !door_open {
                // The door is a file of its own, read at every reload: it closes whatever the others say.
                session.end_clients().await?;
                m.known().local.in_force = Some(in_force(None));
            }
            bail!("PostgreSQL does not show what was set: {why}");
        }
    };
    m.reach("configure:shown").await;
    end_given_up(m, &session, epoch).await?;
    if !door_open && was_open && !m.planted(Bug::DoorOpenAtStart) {
        session.end_clients().await?;
    }
    if !door_open {
        m.remember_door(false)?;
    }
    {
        let mut known = m.known();
        known.local.in_force = Some(in_force(Some(version)));
        if !put.names.is_empty() && known.names_in_force.as_ref().is_some_and(String::is_empty) {
            // There was none before.
            known.local.rule_doubt.raise();
        }
        put_in_force(&mut known, put, m.now());
        known.local.rule_astray_since = None;
    }
    m.keep_session((!door_open).then_some(session));
    Ok(())
}

fn put_in_force(known: &mut Known, put: Put, since: pgvigil_core::time::Time) {
    known.names_in_force = Some(put.names);
    known.expected = Some(Expected { shown: put.shown, since, seen: true });
}

/// Ends clients' sessions by signal until the agent gets one, for at most [`PUT_BACK_MS`].
async fn make_room<M: Member>(m: &M) -> anyhow::Result<()> {
    let deadline = m.now().plus(PUT_BACK_MS);
    while let Err(no) = m.connect("configure", PUT_BACK_MS).await
        && no.refused
        && m.now() < deadline
    {
        let ended = m.signal_clients()?;
        tracing::warn!("PostgreSQL lets pgvigil in no more ({:#}); asked {ended} sessions to end", no.why);
        m.pause(20_000).await;
    }
    Ok(())
}

/// Waits until a new connection shows what was put; if that is in vain, the newest connection and why.
async fn shown<M: Member>(m: &M, put: &Put, limit_ms: u64) -> anyhow::Result<Result<M::Session, (M::Session, String)>> {
    let began = m.now();
    let mut asked = began;
    loop {
        let session = m.connect("configure", STATEMENT_MS).await?;
        if session.shows(&put.generation, &put.names).await? {
            return Ok(Ok(session));
        }
        let now = m.now();
        if now.since(asked) >= ASK_MS.min(limit_ms) {
            asked = now;
            let (why, blocked) = session.why_not().await;
            if blocked || now.since(began) >= limit_ms {
                return Ok(Err((session, why)));
            }
        }
        m.pause(if asked > began { 20_000 } else { 1_000 }).await;
    }
}

/// Ends the walsenders of names that were given up, now that others are in force: the members' own come back under theirs,
/// and a copy's count for nothing.
async fn end_given_up<M: Member>(m: &M, session: &M::Session, epoch: Epoch) -> anyhow::Result<()> {
    let names = m.agreed().map(|agreed| given_up(&agreed, epoch)).unwrap_or_default();
    if names.is_empty() {
        return Ok(());
    }
    for sender in session.senders().await? {
        if names.iter().any(|given_up| sender.name.eq_ignore_ascii_case(given_up)) {
            session.terminate(sender.pid).await?;
        }
    }
    Ok(())
}

/// Starts PostgreSQL as primary with its door closed and its rule in force from the first moment.
pub async fn start_primary<M: Member>(
    m: &M,
    epoch: Epoch,
    setting: &Setting,
    version: RuleVersion,
) -> anyhow::Result<()> {
    obey(m, epoch).await?;
    // From here on it is on its way to serve: a report that still called it stopped and fenced would end the new reign.
    m.known().local.fence_on_disk = false;
    m.promise(epoch, move |promise| {
        promise.reigned = epoch;
        promise.promotion = None;
    })
    .await?;
    m.known().activity = Some("starting as primary".to_owned());
    m.reach("start-primary:promised").await;
    let put = write(m, epoch, setting, version, false).await?;
    m.remember_door(false)?;
    m.known().local.in_force = Some(InForce { epoch, version: None, door_open: false, upstream: None, named: 0 });
    let limit = m.agreed().map_or(60_000, |agreed| agreed.settings.restart_timeout_ms);
    if let Err(error) = m.start(StartAs::Primary, limit, pending()).await {
        fence::now(m, 0, "it did not start as primary").await;
        return Err(error);
    }
    m.reigns(epoch, Reigning::Begun);
    m.reach("start-primary:ready").await;
    // The rule holds already and no standby streams yet: what the agent itself writes here must not wait.
    let session = m.connect_local("start", STATEMENT_MS).await?;
    session.mend_role().await?;
    let at = session.insert_lsn().await?;
    m.promise(epoch, move |promise| promise.promotion = Some(Promotion { fork: at, end: at, marked: false })).await?;
    let mut known = m.known();
    known.local.in_force = Some(InForce { epoch, version: Some(version), door_open: false, upstream: None, named: 0 });
    put_in_force(&mut known, put, m.now());
    known.local.sealed = None;
    known.forget_end();
    known.forget_records();
    known.local.fence_on_disk = false;
    Ok(())
}

/// Promotes onto the allotted timeline. The new setting is in force and the door closed (`reconcile` sees to it).
/// Keeps S2 (history A7).
pub async fn promote<M: Member>(m: &M, epoch: Epoch, timeline: TimelineId) -> anyhow::Result<()> {
    obey(m, epoch).await?;
    if m.known().server.is_none() {
        bail!("PostgreSQL does not run");
    }
    m.known().activity = Some(format!("promoting to timeline {timeline}"));
    m.reach("promote:begin").await;
    let connecting = async {
        match m.kept_session() {
            Some(session) => Ok(session),
            None => m.connect("promote", STATEMENT_MS).await,
        }
    };
    let (prepared, session) = join(prepare(m, epoch, timeline), connecting).await;
    let (session, in_recovery) = (session?, prepared?);
    m.reach("promote:reserved").await;
    if in_recovery {
        // What was read and sealed is no longer the end. If this one is given up, nobody may follow with a server that was
        // asked to promote and may do it yet: whoever reads the end again stops it. Keeps S3 (found by the simulation).
        m.known().forget_end();
        session.resume_replay().await.ok();
        m.reigns(epoch, Reigning::Asked);
        m.ask_promotion()?;
        m.reach("promote:asked").await;
        m.history_file_written(timeline).await;
    }
    let promoted = match m.wait_promoted(&session, timeline, PROMOTION_MS).await {
        Ok(promoted) => promoted,
        Err(no) if no.wrong => {
            fence::now(m, 0, "it was promoted to another timeline than the one allotted").await;
            return Err(no.why);
        }
        Err(no) => return Err(no.why).context("the promotion is not complete"),
    };
    m.reach("promote:promoted").await;
    m.reigns(epoch, Reigning::Begun);
    let promotion = Promotion { fork: promoted.fork, end: promoted.insert, marked: true };
    // All flushed at once, before anybody hears of the promotion, or fetches the timeline's history.
    let promise = m.promise(epoch, move |promise| promise.promotion = Some(promotion));
    let (fence, mark, promise) = join3(m.write_fence(), m.mark_history(timeline, epoch), promise).await;
    fence?;
    mark?;
    promise?;
    m.reach("promote:promised").await;
    {
        let mut known = m.known();
        if let LocalPostgres::Running(running) = &mut known.local.postgres {
            running.in_recovery = false;
            running.timeline = promoted.timeline;
            running.flush_lsn = promoted.insert;
        }
        known.local.sealed = None;
        known.forget_end();
        known.forget_records();
        known.local.fence_on_disk = false;
        known.flush_seen = None;
    }
    // A checkpoint on the new timeline is what pg_rewind needs; nobody waits for it.
    m.checkpoint_later(session);
    Ok(())
}

/// The allotted timeline is the next one that PostgreSQL will find free, and the reign is promised, before it is asked.
/// `false`: it is promoted already, and an agent that was restarted meanwhile only reads what came of it.
async fn prepare<M: Member>(m: &M, epoch: Epoch, timeline: TimelineId) -> anyhow::Result<bool> {
    let in_recovery = matches!(&m.known().local.postgres, LocalPostgres::Running(running) if running.in_recovery);
    if !in_recovery {
        return Ok(false);
    }
    // What was sealed must be all there is.
    let owner = m.known().local.wal_end.map(|(_, owner)| owner);
    let Some(owner) = owner else { bail!("the end of its WAL is not known") };
    m.reserve_timeline(owner, timeline).await?;
    m.promise(epoch, move |promise| {
        promise.reigned = epoch;
        promise.promotion = None;
    })
    .await?;
    Ok(true)
}

/// Writes a checkpoint before a planned change.
pub async fn checkpoint<M: Member>(m: &M, epoch: Epoch) -> anyhow::Result<()> {
    obey(m, epoch).await?;
    let (doubt, names) = {
        let known = m.known();
        (known.local.rule_doubt, known.names_in_force.clone())
    };
    let session = m.connect("checkpoint", STATEMENT_MS).await?;
    if doubt.is_open() {
        let shown = session.sync_names().await?;
        if names.as_ref() != Some(&shown) {
            bail!("synchronous_standby_names is {shown:?}, not {names:?}");
        }
    }
    session.checkpoint(CHECKPOINT_MS).await?;
    m.reach("checkpoint:written").await;
    let now = m.now();
    let mut known = m.known();
    known.local.checkpointed_at = Some(now);
    known.local.rule_doubt.checkpoint_followed(doubt);
    Ok(())
}

/// The same server goes on under a new epoch; its rule is in force already.
pub async fn carry_on<M: Member>(m: &M, epoch: Epoch) -> anyhow::Result<()> {
    obey(m, epoch).await?;
    let session = m.connect("carry on", STATEMENT_MS).await?;
    let at = session.insert_lsn().await?;
    m.reigns(epoch, Reigning::GoesOn);
    m.promise(epoch, move |promise| {
        promise.reigned = epoch;
        promise.promotion = Some(Promotion { fork: at, end: at, marked: false });
    })
    .await?;
    m.reach("carry-on:promised").await;
    Ok(())
}
