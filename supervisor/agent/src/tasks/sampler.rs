//! The sampler: looks at PostgreSQL a few times a second, notices its end at once, and repairs drift of settings.

use super::{Tasks, find::find, settle::settle};
pub use super::{
    find::{Content, Running},
    settle::{NOTICE_MS, Origins},
};
use crate::{
    acts,
    bug::Bug,
    in_force::{Look, Stamp},
    known::ServerId,
    ports::Wake,
    sampler, twin,
};
use pgvigil_core::{
    keeper::Renewal,
    local::{LocalPostgres, Marker},
    reign::ElectionKind,
    sample::{Sample, SlowSample},
    time::Time,
};

/// Between two slow samples, in fast ones.
pub const SLOW_EVERY: u64 = 40;
/// Between two samples while nothing agreed is known, in milliseconds.
const FIRST_MS: u64 = 200;
/// Between two samples while a primary drains, in milliseconds.
const DRAINING_MS: u64 = 5;
/// Between two attempts while PostgreSQL refuses every session, in milliseconds.
const SHUT_OUT_MS: u64 = 500;

/// The sampler's session, and what can be seen of a server and its directory without one.
#[expect(async_fn_in_trait, reason = "as for the ports of acts")]
pub trait Looker {
    /// A server that was found running.
    type Postmaster;

    /// What the server shows, and when the look began. `None`: it lets nobody in, is starting or does not answer; what
    /// follows from that is done.
    async fn sample(&mut self, server: ServerId) -> Option<(Sample, Time)>;
    /// What is looked at less often. `None`: it does not answer.
    async fn slow_sample(&mut self) -> Option<SlowSample>;
    /// Where the settings of these names come from. `None`: it does not answer.
    async fn origins(&mut self, names: &[String]) -> Option<Origins>;
    /// Lines because of which no change of any file is taken up, in words.
    async fn blocking_errors(&mut self) -> Vec<String>;
    /// A sample was taken in: what else it means for this process.
    async fn sampled(&mut self, sample: &Sample);
    /// What is astray was looked at.
    async fn settled(&mut self) {}
    /// Once in [`SLOW_EVERY`] rounds.
    async fn rarely(&mut self) {}
    /// A round is over. `count`: how many there were.
    fn round_ends(&mut self, count: u64) {
        let _ = count;
    }
    /// No server is known to run: its session is dropped, and what must not run is ended. An error: something does.
    async fn nothing_runs(&mut self, busy: bool) -> Result<(), String>;

    /// The files that could weaken the rule, as they are now.
    fn stamps(&self, sample: &Sample) -> Vec<Option<Stamp>>;
    /// The value of `synchronous_standby_names` that this agent has written last, in force or not.
    fn rule_written(&self) -> Option<String>;
    /// The version of PostgreSQL's programs.
    fn major(&self) -> u32;

    /// What is in the data directory.
    fn content(&self) -> Content;
    /// The server that runs there, if one does.
    fn running(&self) -> anyhow::Result<Option<Running<Self::Postmaster>>>;
    /// Tells the newest start of a server there from others. `None`: there was none since the directory was made.
    fn last_start(&self) -> Option<Stamp>;
    /// How a server that does not run has ended, by its control file.
    fn has_ended_clean(&self) -> bool;
    /// The mark in the data directory.
    fn marker(&self) -> Option<Marker>;
    /// Keeps the server that was found, and has [`super::server_ended`] called at its end.
    fn watch(&self, postmaster: Self::Postmaster);
}

/// The task.
pub async fn run<M: Tasks>(m: &M, mut looker: impl Looker) {
    for count in 0_u64.. {
        round(m, &mut looker, count).await;
        looker.round_ends(count + 1);
        m.until_or_woken(m.about(pause_ms(m)), Wake::Look).await;
    }
}

/// Milliseconds to the next look: short while a standby waits for the last WAL of a primary that stops, since writes
/// stand still meanwhile.
fn pause_ms<M: Tasks>(m: &M) -> u64 {
    let Some(agreed) = m.agreed() else { return FIRST_MS };
    let planned = agreed.election.as_ref().is_some_and(|e| matches!(e.kind, ElectionKind::Switchover { .. }));
    let known = m.known();
    if known.local.unasked_since.is_some() {
        // Each refusal is a line in its log.
        return SHUT_OUT_MS;
    }
    let receives = matches!(&known.local.postgres, LocalPostgres::Running(running) if running.streaming);
    if planned && receives { DRAINING_MS } else { agreed.settings.heartbeat_ms * 4 / 5 }
}

async fn round<M: Tasks, L: Looker>(m: &M, looker: &mut L, count: u64) {
    let (server, busy) = {
        let known = m.known();
        (known.server, known.local.busy)
    };
    let Some(server) = server else {
        match looker.nothing_runs(busy).await {
            _ if busy => {}
            Ok(()) => {
                m.problem("recovery", None);
                find(m, looker);
            }
            Err(why) => m.problem("recovery", Some(why)),
        }
        return;
    };
    let Some((sample, began)) = looker.sample(server).await else { return };
    m.problem("copied standby", copies(m, &sample));
    take(m, looker, &sample, began, server);
    looker.sampled(&sample).await;
    settle(m, looker).await;
    looker.settled().await;
    if count.is_multiple_of(SLOW_EVERY) || m.known().slow.is_none() {
        if let Some(slow) = looker.slow_sample().await {
            let own = slow.checkpoint_timeline;
            m.known().slow = Some(slow);
            acts::look_at_timelines(m, own).await;
        }
        looker.rarely().await;
    }
}

fn copies<M: Tasks>(m: &M, sample: &Sample) -> Option<String> {
    let agreed = m.agreed()?;
    let epoch = m.known().local.promise.reigned;
    twin::copies(&agreed, epoch, sample).filter(|_| !sample.in_recovery)
}

/// Takes in a sample.
fn take<M: Tasks>(m: &M, looker: &impl Looker, sample: &Sample, began: Time, server: ServerId) {
    let agreed = m.agreed();
    let taken_out = m.known().drifted.taken_out;
    // Without the lock: a disk that hangs holds up this task only.
    let files = looker.stamps(sample);
    let taken = {
        let mut known = m.known();
        let answered = if m.planted(Bug::QuietFromBeginning) { began } else { m.now() };
        let written = || looker.rule_written();
        let (now, files) = ((answered, m.wall()), (files.as_slice(), taken_out));
        let look = Look { sample, began, now, agreed: agreed.as_deref(), files, written: &written };
        sampler::take(&mut known, look, server, looker.major())
    };
    if taken.evidence {
        m.evidence_changed();
    }
    if let Some((epoch, began_at)) = taken.canary {
        m.renew(Renewal::Canary { epoch, began_at });
    }
    if taken.changed {
        m.wake(Wake::Worker);
        m.wake(Wake::Report);
    }
}
