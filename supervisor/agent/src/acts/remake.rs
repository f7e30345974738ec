//! A data directory made anew: by pg_rewind where that works, by a clone beside it where not. The new incarnation was
//! agreed before (history A9); the mark is written last, so that a half-made directory counts as nobody's.

use super::{
    found, obey,
    seal::{End, locate, needs},
};
use crate::ports::{Member, RecoveryTimeline};
use anyhow::{Context, bail};
use futures::future::{Either, select};
use pgvigil_core::{
    id::{Epoch, Incarnation, MemberKey, TimelineId},
    lineage::{OwnEnd, place},
    local::{Directory, Local, LocalPostgres},
    lsn::Lsn,
    reconcile::{Action, Upstream, history_of, made_anew},
    report::DiscardedWal,
};
use std::{future::Future, pin::pin};

/// Between two looks at what is agreed while a rewind waits, in microseconds.
const LOOK_US: u64 = 100_000;

/// Where this member's own WAL left the history of the reign in force, and whether by a promotion that nobody ordered.
struct Left {
    fork: Lsn,
    by_hand: bool,
}

/// `owner` owns the last byte; `own` is what was read of an end that lies on no agreed timeline.
fn left<M: Member>(m: &M, owner: Option<TimelineId>, own: Option<&OwnEnd>) -> Option<Left> {
    let agreed = m.agreed()?;
    let reign = agreed.reign()?;
    let history = history_of(&agreed, reign);
    let default = reign.promotion.map(|p| p.fork);
    let marker = m.known().local.marker.clone()?;
    let me = MemberKey::new(marker.member, marker.incarnation);
    let Some(astray) = own.and_then(|own| place(&agreed, &me, own).err()) else {
        let fork = owner.and_then(|owner| history.switch_point(owner)).or(default)?;
        return Some(Left { fork, by_hand: false });
    };
    let to = astray.agreed_to?;
    let on = agreed.reigns.iter().find(|r| r.epoch == to.epoch).map_or(TimelineId(0), |r| r.timeline);
    let fork = if on == history.timeline { to.lsn } else { history.switch_point(on).or(default)?.min(to.lsn) };
    Some(Left { fork, by_hand: astray.by_hand })
}

/// By pg_rewind; by a clone if that does not work.
pub async fn rewind<M: Member>(
    m: &M,
    epoch: Epoch,
    upstream: &Upstream,
    incarnation: Incarnation,
    action: &Action,
) -> anyhow::Result<()> {
    obey(m, epoch).await?;
    m.reach("rewind:begin").await;
    let (owner, own) = {
        let known = m.known();
        (known.local.wal_end.map(|(_, owner)| owner), known.local.own_end.clone())
    };
    if m.is_interrupted()? {
        // An earlier rewind did not end: what it left cannot be trusted.
        return clone(m, epoch, upstream, incarnation, action).await;
    }
    let reigning = m.agreed().and_then(|agreed| agreed.reign().map(|reign| reign.timeline));
    let (Some(Left { fork, by_hand }), Some(timeline)) = (left(m, owner, own.as_ref()), reigning) else {
        return clone(m, epoch, upstream, incarnation, action).await;
    };
    // A source that may not be given the password, or does not answer for itself: nothing is stopped on account of it.
    m.trusted(upstream).await?;
    {
        let mut known = m.known();
        known.activity = Some(format!("rewinding to {fork}"));
        known.stopping = true;
    }
    let label = format!("i{incarnation}");
    let given_up = async {
        match select(pin!(over(m, epoch)), pin!(m.overtaken(action))).await {
            Either::Left(_) => format!("epoch {epoch} is over; it was not rewound to {}", upstream.key),
            Either::Right(_) => format!("{} is the primary no more; the rewind to it was cut off", upstream.key),
        }
    };
    let rewound = unless(given_up, m.rewind(upstream, fork, timeline, &label)).await?;
    note_discarded(m, rewound.kept, by_hand);
    let why = match rewound.done {
        Ok(()) => {
            tracing::info!(member = %m.me(), "rewound to {fork}");
            m.reach("rewind:done").await;
            // What pg_rewind says is not believed unread: only what belongs takes this member's name.
            match read(m).await {
                Ok((mut local, end, needs)) => {
                    local.directory = Directory { needs, ..Directory::default() };
                    local.wal_end = Some(end);
                    let agreed = m.agreed().context("no agreed state yet")?;
                    match made_anew(&agreed, &local) {
                        Ok(()) => return finish(m, incarnation, end, needs).await,
                        Err(why) => format!("what pg_rewind left does not belong: {why}"),
                    }
                }
                Err(error) => format!("what pg_rewind left cannot be read: {error:#}"),
            }
        }
        Err(error) => format!("pg_rewind does not work here: {error:#}"),
    };
    tracing::warn!(member = %m.me(), "{why}; cloning instead");
    clone(m, epoch, upstream, incarnation, action).await
}

/// `work`, unless `given_up` completes first, which says why.
async fn unless<T>(given_up: impl Future<Output = String>, work: impl Future<Output = T>) -> anyhow::Result<T> {
    match select(pin!(work), pin!(given_up)).await {
        Either::Left((done, _)) => Ok(done),
        Either::Right((why, _)) => bail!(why),
    }
}

/// Completes when the reign of `epoch` is over, or an election has begun, while pg_rewind waits: the source may be another
/// one by then. One that is at work ends with its source.
async fn over<M: Member>(m: &M, epoch: Epoch) {
    loop {
        m.pause(LOOK_US).await;
        let over = m.agreed().is_some_and(|agreed| agreed.election.is_some() || agreed.epoch > epoch);
        if over && matches!(m.is_interrupted(), Ok(false)) {
            return;
        }
    }
}

/// Where the WAL of a directory ends that was just made anew, in agreed terms, and what it still needs.
async fn read<M: Member>(m: &M) -> anyhow::Result<(Local, End, Option<End>)> {
    let found = m.end_of_stopped().await?;
    let agreed = m.agreed().context("no agreed state yet")?;
    let mut local = m.known().local.clone();
    local.own_end = None;
    match locate(m, &agreed, &found)? {
        Ok(end) => Ok((local, end, needs(&agreed, &found)?)),
        Err((_, astray)) => bail!("{}", astray.why),
    }
}

/// By pg_basebackup into a new directory.
pub async fn clone<M: Member>(
    m: &M,
    epoch: Epoch,
    upstream: &Upstream,
    incarnation: Incarnation,
    action: &Action,
) -> anyhow::Result<()> {
    obey(m, epoch).await?;
    m.reach("clone:begin").await;
    m.known().stopping = true;
    let half_made = m.is_interrupted()? || m.known().local.directory.half_made.is_some();
    if half_made {
        // Its WAL was kept before, and its settings need not be readable any more.
        m.fence_half_made().await?;
        m.forget_running(true);
    } else if m.has_data().await {
        m.seal_on_disk(RecoveryTimeline::Latest).await?;
        m.kill().await?;
        m.forget_running(false);
        keep_aside(m, incarnation).await;
    }
    let old_rules = m.agreed().is_some_and(|agreed| agreed.rules.iter().any(|rule| rule.epoch < epoch));
    let keep_old = old_rules.then(|| format!("i{incarnation}"));
    m.known().activity = Some(format!("cloning from {}", upstream.key));
    let given_up = async {
        m.overtaken(action).await;
        format!("{} is the primary no more; the clone of it was cut off", upstream.key)
    };
    unless(given_up, m.clone_from(upstream, keep_old)).await?.context("the clone failed")?;
    m.reach("clone:done").await;
    // The primary may have been another one before the copy was complete: whether it belongs is seen from what is there.
    let (_, end, needs) = read(m).await.context("the clone cannot be read")?;
    finish(m, incarnation, end, needs).await
}

/// Marks the new directory, and knows of it what was read.
async fn finish<M: Member>(m: &M, incarnation: Incarnation, end: End, needs: Option<End>) -> anyhow::Result<()> {
    found::mark(m, incarnation).await?;
    let mut known = m.known();
    known.local.postgres = LocalPostgres::Stopped { crashed: false };
    known.local.directory = Directory { needs, ..Directory::default() };
    known.local.fence_on_disk = true;
    known.local.sealed = None;
    known.local.in_force = None;
    known.forget_end();
    known.local.wal_end = Some(end);
    known.flush_seen = None;
    known.slow = None;
    Ok(())
}

/// The dead branch of WAL is kept before its directory goes.
async fn keep_aside<M: Member>(m: &M, incarnation: Incarnation) {
    let keeping = async {
        let own = m.end_of_stopped().await?.own;
        let Some(Left { fork, by_hand }) = left(m, Some(own.history.timeline), Some(&own)) else { return Ok(None) };
        anyhow::Ok(m.keep_diverged(fork, &format!("i{incarnation}")).await?.map(|kept| (kept, by_hand)))
    };
    match keeping.await {
        Ok(Some((kept, by_hand))) => note_discarded(m, Some(kept), by_hand),
        Ok(None) => {}
        Err(error) => m.problem("diverged", Some(format!("its diverged WAL could not be kept aside: {error:#}"))),
    }
}

/// `kept` says what and where; of which epoch it is, and by whose hand, is known here.
fn note_discarded<M: Member>(m: &M, kept: Option<DiscardedWal>, by_hand: bool) {
    let Some(kept) = kept else { return };
    let newest = m.agreed().map(|agreed| agreed.epoch).unwrap_or_default();
    let mut known = m.known();
    let epoch = if by_hand { newest } else { known.local.promise.reigned };
    known.discarded = Some(DiscardedWal { epoch, by_hand, ..kept });
}
