//! The agent's ports in the program: its own process and what is known.

use super::shared::Shared;
use crate::clock;
use pgvigil_agent::{
    bug::Bug,
    known::Known,
    ports::{Agent, Wake},
};
use pgvigil_core::{
    cluster::ClusterState,
    id::{ClusterId, Epoch, MemberId},
    keeper::Renewal,
    local::Promise,
    reconcile::Action,
    time::{Time, WallTime},
};
use pgvigil_postgres::fault;
use std::{
    ops::Deref,
    sync::{Arc, MutexGuard},
    time::Duration,
};

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
        Bug::ProofInvented | Bug::ProofOfMarkerOnly | Bug::TimelineByNumber => return None,
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
        match whom {
            Wake::Worker => self.work.notify_one(),
            Wake::Report => self.report.notify_one(),
            Wake::Look => self.look.notify_one(),
        }
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
