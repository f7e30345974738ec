//! To be the primary: configure, start, promote, carry on under a new epoch.

use super::{GENERATION, STATEMENT, fence, instance, obey, rule, settings, start_options};
use crate::agent::{
    door,
    in_force::{self, Why},
    sampler,
    shared::Shared,
    twin,
};
use anyhow::{Context, bail};
use pgvigil_core::{
    id::{Epoch, RuleVersion, TimelineId},
    local::{InForce, LocalPostgres},
    lsn::Lsn,
    reign::Promotion,
    rule::Setting,
};
use pgvigil_postgres::{
    Link, Postmaster, Settings,
    clients::end_clients,
    fault::{self, Bug},
    hba::Door,
    history_files,
    instance::{Instance, InstanceError, StartAs, write_fence},
    link::parse,
    role::Look,
};
use std::{sync::Arc, time::Duration};

/// How long a reload may take to be seen.
const RELOAD: Duration = Duration::from_secs(10);
/// The same where the rule is not in force meanwhile: the door must be able to close in time.
const PUT_BACK: Duration = Duration::from_millis(500);
/// After so long PostgreSQL is asked why it does not show what was set.
const ASK: Duration = Duration::from_millis(400);
/// How long a promotion may replay what it has before it is asked again.
const PROMOTION: Duration = Duration::from_secs(60);

/// How long a checkpoint may take.
const CHECKPOINT: Duration = Duration::from_secs(600);

/// What was written, and how a connection shows it.
struct Put {
    ours: Settings,
    generation: String,
    names: String,
}

/// Writes setting and door, after what would override them.
fn write(
    shared: &Shared,
    epoch: Epoch,
    setting: &Setting,
    version: RuleVersion,
    door_open: bool,
) -> anyhow::Result<Put> {
    in_force::clear_overrides(shared)?;
    let mut ours = settings(shared);
    ours.rule = rule(shared, setting, epoch);
    let names = ours.rule.names_value();
    let generation = format!("e{epoch}.v{version}.{}", if door_open { "open" } else { "closed" });
    shared.unproven_file.write_rule(&names)?;
    ours.user.push((GENERATION.to_owned(), generation.clone()));
    ours.replace(shared.binaries.version(), &shared.layout)?;
    let door = if door_open || fault::planted(Bug::DoorOpenAtStart) { Door::Open } else { Door::Closed };
    shared.write_door(door)?;
    Ok(Put { ours, generation, names })
}

/// Puts setting and door in force and sees them through a new connection (proof step D3a). A closed door ends the
/// sessions that are in. Keeps S1, S3.
pub async fn configure(
    shared: &Arc<Shared>,
    epoch: Epoch,
    setting: &Setting,
    version: RuleVersion,
    door_open: bool,
) -> anyhow::Result<()> {
    obey(shared, epoch)?;
    let before = shared.lock().local.in_force.clone();
    let was_open = before.as_ref().is_none_or(|f| f.door_open);
    if before.is_none_or(|f| f.epoch != epoch || f.version != Some(version)) {
        // A door that opens leaves the rule as it was proven.
        shared.lock().local.proven = None;
    }
    if door_open && was_open && fault::planted(Bug::RuleNotInForce) {
        shared.lock().local.in_force =
            Some(InForce { epoch, version: Some(version), door_open, upstream: None, named: 0 });
        return Ok(());
    }
    if door_open {
        door::remember(&shared.layout.agent_dir, true)?;
        if !was_open {
            // From here on clients may come in, whatever becomes of this act.
            shared.lock().local.in_force = Some(InForce { epoch, version: None, door_open, upstream: None, named: 0 });
        }
    }
    let put = write(shared, epoch, setting, version, door_open)?;
    fault::reach("configure:written", Some(&shared.layout.data_dir)).await;
    let Some(postmaster) = shared.server().postmaster.clone() else { bail!("PostgreSQL does not run") };
    let instance = instance(shared);
    instance.reload(&postmaster)?;
    let astray = shared.lock().local.rule_astray_since.is_some();
    let mut seen = shown(&instance, &put, if astray { PUT_BACK } else { RELOAD }).await;
    if seen.is_err() && !door_open {
        // Whoever is in was to leave: that makes room for a session too. Nobody follows, since the door is read again.
        make_room(&instance, &postmaster).await?;
        seen = shown(&instance, &put, PUT_BACK).await;
    }
    let link = match seen? {
        Ok(link) => link,
        Err((link, why)) => {
            if !door_open {
                // The door is a file of its own, read at every reload: it closes whatever the others say.
                link.terminate_clients(&[], STATEMENT).await?;
                let mut inner = shared.lock();
                inner.local.in_force = Some(InForce { epoch, version: None, door_open, upstream: None, named: 0 });
            }
            bail!("PostgreSQL does not show what was set: {why}");
        }
    };
    fault::reach("configure:shown", Some(&shared.layout.data_dir)).await;
    twin::end_given_up(shared, &link, epoch, STATEMENT).await?;
    if !door_open && was_open {
        link.terminate_clients(&[], STATEMENT).await?;
    }
    if !door_open {
        door::remember(&shared.layout.agent_dir, false)?;
    }
    let mut inner = shared.lock();
    inner.local.in_force = Some(InForce { epoch, version: Some(version), door_open, upstream: None, named: 0 });
    if !put.names.is_empty() && inner.names_in_force.as_ref().is_some_and(String::is_empty) {
        // There was none before.
        inner.local.rule_doubt.raise();
    }
    inner.names_in_force = Some(put.names);
    inner.expected = Some(in_force::expect(put.ours.shown(shared.binaries.version(), &shared.layout), true));
    inner.local.rule_astray_since = None;
    drop(inner);
    shared.server().proven_link = (!door_open).then_some(link);
    Ok(())
}

/// Ends clients' sessions by signal until the agent gets one, for at most [`PUT_BACK`].
async fn make_room(instance: &Instance, postmaster: &Postmaster) -> anyhow::Result<()> {
    let began = tokio::time::Instant::now();
    while let Err(error) = instance.connect("configure", PUT_BACK).await
        && error.is_refusal()
        && began.elapsed() < PUT_BACK
    {
        let ended = end_clients(postmaster)?;
        tracing::warn!("PostgreSQL lets pgvigil in no more ({error}); asked {ended} sessions to end");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// Waits until a new connection shows what was put; if that is in vain, the newest connection and why.
async fn shown(instance: &Instance, put: &Put, limit: Duration) -> anyhow::Result<Result<Link, (Link, Why)>> {
    let began = tokio::time::Instant::now();
    let mut asked = began;
    loop {
        let link = instance.connect("configure", STATEMENT).await?;
        if shows(&link, &put.generation, &put.names).await? {
            return Ok(Ok(link));
        }
        if asked.elapsed() >= ASK.min(limit) {
            asked = tokio::time::Instant::now();
            let (why, blocked) = Why::ask(&link, &["synchronous_standby_names", "fsync", "full_page_writes"]).await;
            if blocked || began.elapsed() >= limit {
                return Ok(Err((link, why)));
            }
        }
        tokio::time::sleep(if asked > began { Duration::from_millis(20) } else { Duration::from_millis(1) }).await;
    }
}

/// Whether a connection shows the newest file, and that nothing overrides in it what the promise rests on.
async fn shows(link: &Link, generation: &str, names: &str) -> anyhow::Result<bool> {
    let sql = format!(
        "SELECT current_setting('{GENERATION}', true), current_setting('synchronous_standby_names'), \
         current_setting('fsync'), current_setting('full_page_writes')"
    );
    let row = link.rows("read the settings in force", &sql, STATEMENT).await?.pop().unwrap_or_default();
    Ok(row == [generation, names, "on", "on"].map(|value| Some(value.to_owned())))
}

/// Starts PostgreSQL as primary with its door closed and its rule in force from the first moment.
pub async fn start_primary(
    shared: &Arc<Shared>,
    epoch: Epoch,
    setting: &Setting,
    version: RuleVersion,
) -> anyhow::Result<()> {
    obey(shared, epoch)?;
    // From here on it is on its way to serve: a report that still called it stopped and fenced would end the new reign.
    shared.lock().local.fence_on_disk = false;
    shared.promise(epoch, |promise| {
        promise.reigned = epoch;
        promise.promotion = None;
    })?;
    shared.lock().activity = Some("starting as primary".to_owned());
    let put = write(shared, epoch, setting, version, false)?;
    let options = start_options(shared, StartAs::Primary).await?;
    door::remember(&shared.layout.agent_dir, false)?;
    shared.lock().local.in_force = Some(InForce { epoch, version: None, door_open: false, upstream: None, named: 0 });
    let limit = shared.agreed().map_or(60_000, |agreed| agreed.settings.restart_timeout_ms);
    let instance = instance(shared);
    let started = instance.start(StartAs::Primary, &options, Duration::from_millis(limit)).await;
    let (postmaster, _) = match started {
        Ok(started) => started,
        Err(error) => {
            fence::now(shared, 0, "it did not start as primary").await;
            return Err(error.into());
        }
    };
    sampler::watch(shared, postmaster);
    // The rule holds already and no standby streams yet: what the agent itself writes here must not wait.
    let link = Link::connect(&instance.endpoint, "start", "-c synchronous_commit=local", STATEMENT).await?;
    link.mend_replication_role(&shared.access.replication_role, &shared.secret, Look::Close, STATEMENT).await?;
    let at = insert_position(&link).await?;
    shared.promise(epoch, |promise| promise.promotion = Some(Promotion { fork: at, end: at, marked: false }))?;
    let mut inner = shared.lock();
    inner.local.in_force = Some(InForce { epoch, version: Some(version), door_open: false, upstream: None, named: 0 });
    inner.names_in_force = Some(put.names);
    inner.expected = Some(in_force::expect(put.ours.shown(shared.binaries.version(), &shared.layout), true));
    inner.local.sealed = None;
    inner.forget_end();
    inner.forget_records();
    inner.local.fence_on_disk = false;
    Ok(())
}

/// The insert position.
pub async fn insert_position(link: &Link) -> anyhow::Result<Lsn> {
    const WHAT: &str = "read the insert position";
    Ok(parse(WHAT, &link.value(WHAT, "SELECT pg_current_wal_insert_lsn()", STATEMENT).await?)?)
}

/// Promotes onto the allotted timeline. The new setting is in force and the door closed (`reconcile` sees to it).
/// Keeps S2 (history A7).
pub async fn promote(shared: &Arc<Shared>, epoch: Epoch, timeline: TimelineId) -> anyhow::Result<()> {
    obey(shared, epoch)?;
    let instance = instance(shared);
    let Some(postmaster) = shared.server().postmaster.clone() else { bail!("PostgreSQL does not run") };
    shared.lock().activity = Some(format!("promoting to timeline {timeline}"));
    let data_dir = Some(shared.layout.data_dir.as_path());
    fault::reach("promote:begin", data_dir).await;
    let proven = shared.server().proven_link.take().filter(|link| !link.is_closed());
    let connecting = async {
        match proven {
            Some(link) => Ok(link),
            None => instance.connect("promote", STATEMENT).await,
        }
    };
    let (prepared, link) = tokio::join!(prepare(shared, epoch, timeline), connecting);
    let (link, in_recovery) = (link?, prepared?);
    fault::reach("promote:reserved", data_dir).await;
    if in_recovery {
        // What was read and sealed is no longer the end. If this one is given up, nobody may follow with a server that was
        // asked to promote and may do it yet: whoever reads the end again stops it. Keeps S3 (found by the simulation).
        shared.lock().forget_end();
        link.resume_replay(STATEMENT).await.ok();
        instance.promote(&postmaster)?;
        fault::reach("promote:asked", data_dir).await;
        history_file_written(shared, timeline).await;
    }
    let promoted = match instance.wait_promoted(&link, Some(timeline), PROMOTION).await {
        Ok(promoted) => promoted,
        Err(error @ (InstanceError::WrongTimeline { .. } | InstanceError::NoFork(_))) => {
            fence::now(shared, 0, "it was promoted to another timeline than the one allotted").await;
            return Err(error.into());
        }
        Err(error) => return Err(error).context("the promotion is not complete"),
    };
    fault::reach("promote:promoted", data_dir).await;
    let promotion = Promotion { fork: promoted.fork, end: promoted.insert, marked: true };
    // All flushed at once, before anybody hears of the promotion, or fetches the timeline's history.
    let (layout, promising) = (shared.layout.clone(), Arc::clone(shared));
    let pg_wal = layout.pg_wal();
    let fence = tokio::task::spawn_blocking(move || write_fence(&layout));
    let mark = tokio::task::spawn_blocking(move || history_files::mark(&pg_wal, timeline, epoch));
    let promise =
        tokio::task::spawn_blocking(move || promising.promise(epoch, |promise| promise.promotion = Some(promotion)));
    fence.await??;
    mark.await??;
    promise.await??;
    fault::reach("promote:promised", data_dir).await;
    let mut inner = shared.lock();
    if let LocalPostgres::Running(running) = &mut inner.local.postgres {
        running.in_recovery = false;
        running.timeline = promoted.timeline;
        running.flush_lsn = promoted.insert;
    }
    inner.local.sealed = None;
    inner.forget_end();
    inner.forget_records();
    inner.local.fence_on_disk = false;
    inner.flush_seen = None;
    drop(inner);
    // A checkpoint on the new timeline is what pg_rewind needs; nobody waits for it.
    tokio::spawn(async move {
        if let Err(error) = link.checkpoint(Duration::from_secs(600)).await {
            tracing::debug!("no checkpoint after the promotion: {error}");
        }
    });
    Ok(())
}

/// The fault point between the timeline's history file and the end-of-recovery record: PostgreSQL is watched only if
/// something is armed there.
async fn history_file_written(shared: &Shared, timeline: TimelineId) {
    const POINT: &str = "promote:history-file";
    if !fault::waits_at(POINT) {
        return;
    }
    let path = shared.layout.pg_wal().join(format!("{:08X}.history", timeline.0));
    for _ in 0..20_000 {
        if path.exists() {
            break;
        }
        tokio::time::sleep(Duration::from_micros(200)).await;
    }
    fault::reach(POINT, Some(&shared.layout.data_dir)).await;
}

/// The allotted timeline is the next one that PostgreSQL will find free, and the reign is promised, before it is asked.
/// `false`: it is promoted already, and an agent that was restarted meanwhile only reads what came of it.
async fn prepare(shared: &Arc<Shared>, epoch: Epoch, timeline: TimelineId) -> anyhow::Result<bool> {
    let in_recovery = matches!(&shared.lock().local.postgres, LocalPostgres::Running(running) if running.in_recovery);
    if !in_recovery {
        return Ok(false);
    }
    // What was sealed must be all there is.
    let Some((_, owner)) = shared.lock().local.wal_end else { bail!("the end of its WAL is not known") };
    let shared = Arc::clone(shared);
    tokio::task::spawn_blocking(move || {
        history_files::reserve(&shared.layout.pg_wal(), owner, timeline)?;
        shared.promise(epoch, |promise| {
            promise.reigned = epoch;
            promise.promotion = None;
        })?;
        anyhow::Ok(true)
    })
    .await?
}

/// Writes a checkpoint before a planned change.
pub async fn checkpoint(shared: &Arc<Shared>, epoch: Epoch) -> anyhow::Result<()> {
    obey(shared, epoch)?;
    let (doubt, names) = {
        let inner = shared.lock();
        (inner.local.rule_doubt, inner.names_in_force.clone())
    };
    let link = instance(shared).connect("checkpoint", STATEMENT).await?;
    if doubt.is_open() {
        let shown = link.value("read the rule", "SHOW synchronous_standby_names", STATEMENT).await?;
        if names.as_ref() != Some(&shown) {
            bail!("synchronous_standby_names is {shown:?}, not {names:?}");
        }
    }
    link.checkpoint(CHECKPOINT).await?;
    let mut inner = shared.lock();
    inner.local.checkpointed_at = Some(crate::clock::now());
    inner.local.rule_doubt.checkpoint_followed(doubt);
    Ok(())
}

/// The same server goes on under a new epoch; its rule is in force already.
pub async fn carry_on(shared: &Arc<Shared>, epoch: Epoch) -> anyhow::Result<()> {
    obey(shared, epoch)?;
    let link = instance(shared).connect("carry on", STATEMENT).await?;
    let at = insert_position(&link).await?;
    shared.promise(epoch, |promise| {
        promise.reigned = epoch;
        promise.promotion = Some(Promotion { fork: at, end: at, marked: false });
    })?;
    Ok(())
}
