//! The agent's ports in the simulation: its own process and what is known.

use super::shared::Ctx;
use crate::{
    exec::{Done, Notify},
    planted::Planted,
    world::World,
};
use anyhow::bail;
use pgvigil_agent::{
    bug::Bug,
    known::{Known, ServerId},
    ports::{Agent, Reigning, Wake},
    tasks::{Event, NotNewer, Tasks},
};
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
use std::{cell::RefCell, rc::Rc, sync::Arc};

const fn bug(planted: Planted) -> Option<Bug> {
    Some(match planted {
        Planted::SealBeforeReceptionEnds => Bug::SealSkipped,
        Planted::DoorOpenAtStart => Bug::DoorOpenAtStart,
        Planted::ProofInvented => Bug::ProofInvented,
        Planted::ProofOfMarkerOnly => Bug::ProofOfMarkerOnly,
        Planted::TimelineByNumber => Bug::TimelineByNumber,
        Planted::RightFromReceipt => Bug::RightFromReceipt,
        Planted::QuietFromBeginning => Bug::QuietFromBeginning,
        Planted::FollowUnverified => Bug::FollowUnverified,
        Planted::RightOutlivesItsServer => Bug::RightOutlivesItsServer,
        // In the ports, or in what is around them.
        _ => return None,
    })
}

impl Ctx {
    fn waker(&self, whom: Wake) -> &Notify {
        match whom {
            Wake::Worker => &self.a.work,
            Wake::Report => &self.a.report,
            Wake::Look => &self.a.look,
        }
    }

    /// Changes the promise, one change after the other. It is a task of its own: an act that is given up does not stop it.
    async fn change_promise(
        &self,
        epoch: Option<Epoch>,
        change: impl FnOnce(&mut Promise) + 'static,
    ) -> anyhow::Result<()> {
        let (done, result) = (Rc::new(Done::new()), Rc::new(RefCell::new(None)));
        let (c, end, tell) = (self.clone(), Rc::clone(&done), Rc::clone(&result));
        self.w.exec.spawn(World::agent_process(self.h), async move {
            while c.a.promising.replace(true) {
                c.w.pause(20, 200).await;
            }
            let held = c.w.hosts[c.h].disk.borrow().promise.clone();
            let over = epoch.filter(|epoch| *epoch < held.epoch);
            let mut promise = held.clone();
            if over.is_none() {
                promise.epoch = epoch.unwrap_or(promise.epoch);
                change(&mut promise);
            }
            if promise != held {
                c.w.fsync(c.h).await;
                let mut disk = c.w.hosts[c.h].disk.borrow_mut();
                disk.promise = promise.clone();
                if c.w.planted != Some(Planted::SealNotDurable) {
                    disk.promise_synced = promise.clone();
                }
            }
            c.a.inner.borrow_mut().local.promise = promise;
            c.a.promising.set(false);
            *tell.borrow_mut() = over.map(|epoch| format!("epoch {epoch} is over: epoch {} was promised", held.epoch));
            end.end(&c.w.exec);
        });
        self.w.ended(&done).await;
        let refused = result.borrow_mut().take();
        match refused {
            Some(why) => bail!(why),
            None => Ok(()),
        }
    }
}

impl Agent for Ctx {
    type Known<'a> = std::cell::RefMut<'a, Known>;

    fn me(&self) -> &MemberId {
        self.w.member(self.h)
    }

    fn cluster(&self) -> ClusterId {
        World::cluster()
    }

    fn known(&self) -> std::cell::RefMut<'_, Known> {
        self.a.inner.borrow_mut()
    }

    fn agreed(&self) -> Option<Arc<ClusterState>> {
        Self::agreed(self)
    }

    async fn overtaken(&self, action: &Action) {
        let mut seen = u64::MAX;
        loop {
            self.w.changed(&self.a.learned, &mut seen).await;
            if Self::agreed(self).is_some_and(|agreed| action.is_overtaken(&agreed)) {
                return;
            }
        }
    }

    fn now(&self) -> Time {
        Self::now(self)
    }

    fn wall(&self) -> WallTime {
        self.w.wall()
    }

    async fn pause(&self, us: u64) {
        // Clocks run at other rates by some per mille; what is waited for here is no lease.
        self.w.pause(us, us + us / 4 + 500).await;
    }

    fn wake(&self, whom: Wake) {
        match whom {
            Wake::Worker => self.wake_work(),
            Wake::Report => self.wake_report(),
            Wake::Look => self.wake_look(),
        }
    }

    fn renew(&self, renewal: Renewal) {
        Self::renew(self, renewal);
    }

    fn forget_running(&self, crashed: bool) {
        Self::forget_running(self, crashed);
    }

    fn reigns(&self, epoch: Epoch, how: Reigning) {
        let mut pg = self.w.hosts[self.h].pg.borrow_mut();
        let before = std::mem::replace(&mut pg.epoch, epoch.0);
        pg.by_hand &= how != Reigning::Asked;
        drop(pg);
        if how == Reigning::GoesOn {
            self.w.check.borrow_mut().goes_on(before, epoch.0);
        }
    }

    fn evidence_changed(&self) {
        self.evidence(|_, _| true);
    }

    fn problem(&self, topic: &'static str, text: Option<String>) {
        let said = text.clone();
        let changed = self.a.inner.borrow_mut().problem(topic, text);
        if changed {
            self.w.log_host(self.h, || format!("{topic}: {}", said.as_deref().unwrap_or("no longer a problem")));
            self.wake_report();
        }
    }

    async fn promise(&self, epoch: Epoch, change: impl FnOnce(&mut Promise) + Send + 'static) -> anyhow::Result<()> {
        self.change_promise(Some(epoch), change).await?;
        self.step("promise:written").await;
        Ok(())
    }

    async fn promise_note(&self, change: impl FnOnce(&mut Promise) + Send + 'static) -> anyhow::Result<()> {
        self.change_promise(None, change).await
    }

    async fn reach(&self, point: &'static str) {
        self.step(point).await;
    }

    fn planted(&self, planted: Bug) -> bool {
        self.w.planted.and_then(bug) == Some(planted)
    }
}

impl Tasks for Ctx {
    type Moment = Time;

    fn spec(&self) -> &MemberSpec {
        &self.w.hosts[self.h].spec
    }

    fn about(&self, ms: u64) -> Time {
        self.now().plus(ms)
    }

    fn after(&self, ms: u64) -> Time {
        self.now().plus(ms)
    }

    async fn until(&self, moment: Time) {
        let left = moment.since(self.now());
        self.w.sleep(self.h, left.max(1)).await;
    }

    async fn until_or_woken(&self, moment: Time, whom: Wake) {
        self.w.until_or_told(self.h, moment, self.waker(whom)).await;
    }

    async fn wait(&self, whom: Wake, due: Time, longest_ms: u64) -> Option<Time> {
        let planned = due.min(self.now().plus(longest_ms));
        self.w.until_or_told(self.h, planned, self.waker(whom)).await.then_some(planned)
    }

    fn hold(&self, state: &Arc<ClusterState>) -> Result<Option<Arc<ClusterState>>, NotNewer> {
        if Self::agreed(self).is_some_and(|held| held.revision >= state.revision) {
            return Err(NotNewer);
        }
        self.w.check.borrow_mut().learned(&self.w, self.h, state.revision);
        let before = self.a.agreed.borrow_mut().replace(Arc::clone(state));
        self.a.learned.bump(&self.w.exec);
        Ok(before)
    }

    fn has_ended(&self, server: ServerId) -> Option<bool> {
        let crashed = {
            let known = self.a.inner.borrow();
            (known.server == Some(server)).then_some(!known.stopping)
        }?;
        Self::forget_running(self, crashed);
        Some(crashed)
    }

    fn evidence_forgotten(&self) {
        let known = self.a.inner.borrow();
        self.w.hosts[self.h].disk.borrow_mut().unproven.clone_from(&known.unproven.stretches);
    }

    fn happens(&self, event: Event<'_>) {
        let (w, h) = (&self.w, self.h);
        match event {
            Event::Finds(finding) => w.cover.hit("agent-finding", &finding.code),
            Event::HeldBack => w.cover.hit("worker", "held-back"),
            Event::Begins { agreed, local, now, action } => {
                w.cover.hit("action", action.name());
                w.log_host(h, || format!("does {action:?}"));
                w.record(|| {
                    Line::Acted(Box::new(Acted {
                        cluster: agreed.id.clone(),
                        member: w.member(h).clone(),
                        revision: agreed.revision,
                        local: local.clone(),
                        now,
                        action: action.clone(),
                    }))
                });
            }
            Event::Ended(action, why) => w.log_host(h, || match why {
                None => format!("{} done", action.name()),
                Some(why) => format!("{} failed: {why}", action.name()),
            }),
            Event::Canary(true) => w.cover.hit("canary", "acknowledged"),
            Event::Canary(false) => w.cover.hit("canary", "failed"),
            Event::Probed(true) => w.cover.hit("probe", "answered"),
            Event::Probed(false) => w.cover.hit("probe", "unanswered"),
            Event::Renewed => w.cover.hit("lease", "renewed"),
            Event::GuardStarts => w.cover.hit("guard", "not-confirmed"),
            Event::Found(_) => w.log_host(h, || "found PostgreSQL running".to_owned()),
            Event::ServerEnded { crashed: true } => w.log_host(h, || "PostgreSQL has ended".to_owned()),
            Event::ServerEnded { crashed: false } => {}
        }
    }
}
