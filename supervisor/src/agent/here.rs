//! The agent's ports in the program: its own process and what is known.

use super::shared::Shared;
use crate::clock;
use pgvigil_agent::{
    bug::Bug,
    known::{Known, ServerId},
    ports::{Agent, Wake},
    tasks::{Event, NotNewer, Tasks},
};
use pgvigil_consensus::grid;
use pgvigil_core::{
    cluster::ClusterState,
    id::{ClusterId, Epoch, MemberId},
    keeper::Renewal,
    local::Promise,
    member::MemberSpec,
    reconcile::Action,
    time::{Time, WallTime},
    trace::{Acted, Line},
};
use pgvigil_postgres::fault;
use std::{
    ops::Deref,
    sync::{Arc, MutexGuard},
    time::Duration,
};
use tokio::{sync::Notify, time::Instant};

/// See the module; the data directory and the server are in [`super::directory`] and [`super::server`].
#[derive(Clone, Debug)]
pub struct Here(pub Arc<Shared>);

impl Deref for Here {
    type Target = Arc<Shared>;

    fn deref(&self) -> &Arc<Shared> {
        &self.0
    }
}

const fn bug(bug: Bug) -> Option<fault::Bug> {
    Some(match bug {
        Bug::SealSkipped => fault::Bug::SealSkipped,
        Bug::SealNotAwaited => fault::Bug::SealNotAwaited,
        Bug::PositionInvented => fault::Bug::PositionInvented,
        Bug::RuleNotInForce => fault::Bug::RuleNotInForce,
        Bug::DoorOpenAtStart => fault::Bug::DoorOpenAtStart,
        // In the simulation only.
        Bug::ProofInvented
        | Bug::ProofOfMarkerOnly
        | Bug::TimelineByNumber
        | Bug::RightFromReceipt
        | Bug::QuietFromBeginning
        | Bug::FollowUnverified
        | Bug::RightOutlivesItsServer => return None,
    })
}

impl Agent for Here {
    type Known<'a> = MutexGuard<'a, Known>;

    fn me(&self) -> &MemberId {
        Shared::me(self)
    }

    fn cluster(&self) -> ClusterId {
        self.cluster.clone()
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.lock()
    }

    fn agreed(&self) -> Option<Arc<ClusterState>> {
        Shared::agreed(self)
    }

    async fn overtaken(&self, action: &Action) {
        let mut agreed = self.agreed.subscribe();
        // The sender lives as long as this agent.
        let _ = agreed.wait_for(|agreed| agreed.as_ref().is_some_and(|agreed| action.is_overtaken(agreed))).await;
    }

    fn now(&self) -> Time {
        clock::now()
    }

    fn wall(&self) -> WallTime {
        clock::wall()
    }

    async fn pause(&self, us: u64) {
        tokio::time::sleep(Duration::from_micros(us)).await;
    }

    fn wake(&self, whom: Wake) {
        self.waker(whom).notify_one();
    }

    fn renew(&self, renewal: Renewal) {
        if let Some(renewals) = self.renewals.get() {
            renewals.send(renewal).ok();
        }
    }

    fn forget_running(&self, crashed: bool) {
        Shared::forget_running(self, crashed);
    }

    fn evidence_changed(&self) {
        Shared::evidence_changed(self);
    }

    fn problem(&self, topic: &'static str, text: Option<String>) {
        Shared::problem(self, topic, text);
    }

    async fn promise(&self, epoch: Epoch, change: impl FnOnce(&mut Promise) + Send + 'static) -> anyhow::Result<()> {
        let shared = Arc::clone(self);
        tokio::task::spawn_blocking(move || Shared::promise(&shared, epoch, change)).await??;
        Ok(())
    }

    async fn promise_note(&self, change: impl FnOnce(&mut Promise) + Send + 'static) -> anyhow::Result<()> {
        let shared = Arc::clone(self);
        tokio::task::spawn_blocking(move || Shared::promise_note(&shared, change)).await??;
        Ok(())
    }

    async fn reach(&self, point: &'static str) {
        fault::reach(point, Some(&self.layout.data_dir)).await;
    }

    fn planted(&self, planted: Bug) -> bool {
        bug(planted).is_some_and(fault::planted)
    }
}

impl Here {
    fn waker(&self, whom: Wake) -> &Notify {
        match whom {
            Wake::Worker => &self.work,
            Wake::Report => &self.report,
            Wake::Look => &self.look,
        }
    }
}

impl Tasks for Here {
    type Moment = Instant;

    fn spec(&self) -> &MemberSpec {
        &self.spec
    }

    fn about(&self, ms: u64) -> Instant {
        let pause = Duration::from_millis(ms);
        grid::nearest(Instant::now() + pause, pause)
    }

    fn after(&self, ms: u64) -> Instant {
        grid::after(Duration::from_millis(ms))
    }

    async fn until(&self, moment: Instant) {
        tokio::time::sleep_until(moment).await;
    }

    async fn until_or_woken(&self, moment: Instant, whom: Wake) {
        tokio::select! {
            () = tokio::time::sleep_until(moment) => {}
            () = self.waker(whom).notified() => {}
        }
    }

    async fn wait(&self, whom: Wake, due: Time, longest_ms: u64) -> Option<Time> {
        let (planned, at) = clock::wake_up(due, longest_ms);
        tokio::select! {
            () = tokio::time::sleep_until(at) => Some(planned),
            () = self.waker(whom).notified() => None,
        }
    }

    fn hold(&self, state: &Arc<ClusterState>) -> Result<Option<Arc<ClusterState>>, NotNewer> {
        let mut before = Err(NotNewer);
        self.agreed.send_if_modified(|held| {
            let newer = held.as_ref().is_none_or(|held| held.revision < state.revision);
            if newer {
                before = Ok(held.replace(Arc::clone(state)));
            }
            newer
        });
        before
    }

    fn has_ended(&self, server: ServerId) -> Option<bool> {
        Shared::has_ended(self, server)
    }

    fn evidence_forgotten(&self) {
        Shared::evidence_forgotten(self);
    }

    fn happens(&self, event: Event<'_>) {
        if let Event::Begins { agreed, local, now, action } = event {
            self.journal.write(|| {
                Line::Acted(Box::new(Acted {
                    cluster: agreed.id.clone(),
                    member: self.spec.member.clone(),
                    revision: agreed.revision,
                    local: local.clone(),
                    now,
                    action: action.clone(),
                }))
            });
        }
    }
}
