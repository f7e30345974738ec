//! What an agent's tasks share: what is known at this moment, and how they wake each other.

use crate::{
    exec::{Notify, Watch},
    fault::Strike,
    postgres::wal::Point,
    world::{W, World},
};
use pgvigil_agent::known::{Known, Remembered};
use pgvigil_core::{cluster::ClusterState, keeper::Renewal, rpo::Ledger, sample::Sample, time::Time};
use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    rc::Rc,
    sync::Arc,
};

/// See the module.
#[derive(Debug)]
pub struct Agent {
    /// What is known. Not borrowed across an `await`.
    pub inner: RefCell<Known>,
    /// The newest agreed state held.
    pub agreed: RefCell<Option<Arc<ClusterState>>>,
    /// A change of the promise is under way.
    pub promising: Cell<bool>,
    /// What makes the right longer, not yet told to the guard.
    pub renewals: RefCell<VecDeque<Renewal>>,
    /// Wakes the worker.
    pub work: Notify,
    /// Asks for a report at once.
    pub report: Notify,
    /// Asks for a sample at once.
    pub look: Notify,
    /// Wakes the keeper of the right.
    pub renewed: Notify,
    /// A server has ended.
    pub exited: Notify,
    /// Moves when the agreed state held does.
    pub learned: Watch,
    /// Frames from the leader.
    pub mail: RefCell<VecDeque<super::uplink::Mail>>,
    /// Wakes the uplink.
    pub posted: Notify,
}

/// An agent's task: the world, its agent, its host.
#[derive(Clone)]
pub struct Ctx {
    /// The world.
    pub w: W,
    /// The agent.
    pub a: Rc<Agent>,
    /// The host.
    pub h: usize,
}

impl Agent {
    /// Reads what must be known before the first act.
    #[must_use]
    pub fn new(w: &World, host: usize) -> Self {
        let disk = w.hosts[host].disk.borrow();
        let remembered = Remembered {
            marker: disk.data.as_ref().and_then(|data| data.marker.clone()),
            half_made: None,
            promise: disk.promise.clone(),
            unproven: Ledger::recovered(disk.unproven.clone(), 0, w.now(host)),
            rule_written: disk.names_written.as_ref().map(|names| names.value.as_ref().to_owned()),
        };
        Self {
            inner: RefCell::new(Known::new(w.member(host).clone(), remembered)),
            agreed: RefCell::default(),
            promising: Cell::default(),
            renewals: RefCell::default(),
            work: Notify::default(),
            report: Notify::default(),
            look: Notify::default(),
            renewed: Notify::default(),
            exited: Notify::default(),
            learned: Watch::default(),
            mail: RefCell::default(),
            posted: Notify::default(),
        }
    }
}

impl Ctx {
    /// This host's clock.
    #[must_use]
    pub fn now(&self) -> Time {
        self.w.now(self.h)
    }

    /// The newest agreed state held.
    #[must_use]
    pub fn agreed(&self) -> Option<Arc<ClusterState>> {
        self.a.agreed.borrow().clone()
    }

    /// Wakes the worker.
    pub fn wake_work(&self) {
        self.a.work.notify(&self.w.exec);
    }

    /// Asks for a report at once.
    pub fn wake_report(&self) {
        self.a.report.notify(&self.w.exec);
    }

    /// Asks for a sample at once.
    pub fn wake_look(&self) {
        self.a.look.notify(&self.w.exec);
    }

    /// PostgreSQL was found not to run: forgets everything that was true of the running one.
    pub fn forget_running(&self, crashed: bool) {
        self.evidence(|known, now| known.forget_running(crashed, now));
    }

    /// Changes what is known against the rule, writes it down without a flush, and has it told.
    pub fn evidence(&self, change: impl FnOnce(&mut Known, Time) -> bool) {
        let now = self.now();
        let mut inner = self.a.inner.borrow_mut();
        if change(&mut inner, now) {
            self.w.hosts[self.h].disk.borrow_mut().unproven.clone_from(&inner.unproven.stretches);
            drop(inner);
            self.wake_report();
        }
    }

    /// A place between two steps: something may strike here.
    pub async fn step(&self, name: &'static str) {
        self.w.pause(20, 400).await;
        if let Some(strike) = self.w.struck(self.h, name) {
            self.w.log_host(self.h, || format!("struck at {name}: {strike:?}"));
            strike.happen(&self.w, self.h);
            if matches!(strike, Strike::Agent | Strike::Host) {
                std::future::pending::<()>().await;
            }
        }
    }

    /// What a new connection to the server here shows; waits for a frozen one up to `limit_ms`.
    pub async fn sample(&self, limit_ms: u64) -> Option<Sample> {
        self.query(limit_ms).await?;
        self.w.sample(self.h)
    }

    /// A statement of the agent's own: `None` if no server answers in time.
    pub async fn query(&self, limit_ms: u64) -> Option<()> {
        let deadline = self.now().plus(limit_ms);
        self.w.pause(100, 600).await;
        loop {
            if !self.w.server_runs(self.h) {
                return None;
            }
            if !self.w.exec.is_frozen(World::postgres_process(self.h)) {
                return self.w.sample(self.h).map(|_| ());
            }
            if self.now() >= deadline {
                return None;
            }
            self.w.pause(10_000, 20_000).await;
        }
    }

    /// Where this host's WAL ends, by its files.
    #[must_use]
    pub fn end_on_disk(&self) -> Option<Point> {
        let disk = self.w.hosts[self.h].disk.borrow();
        disk.data.as_ref().map(|data| self.w.tree.borrow().owner(data.end))
    }
}
