//! The agent's side of [`World`]: what the agent of a member knows, as a healthy member of the present reign.

use super::{World, name};
use crate::{
    id::{Epoch, TimelineId},
    lease::Right,
    local::{InForce, Local, LocalPostgres, Marker, Promise, RuleDoubt, Running, SealedAt},
    lsn::Lsn,
    position::Position,
    reconcile::{Action, Plan, reconcile},
    time::Time,
};

pub(crate) fn running(in_recovery: bool, timeline: u32) -> LocalPostgres {
    LocalPostgres::Running(Running {
        in_recovery,
        timeline: TimelineId(timeline),
        flush_lsn: Lsn(1_000),
        streaming: in_recovery,
        wal_moved_at: Time(100_000),
    })
}

impl World {
    /// A counted directory and no PostgreSQL; nothing promised.
    pub(crate) fn stopped(&self, number: usize) -> Local {
        let member = &self.cluster().members[&name(number)];
        Local {
            me: name(number),
            marker: Some(Marker {
                cluster: self.cluster().id.clone(),
                member: name(number),
                incarnation: member.incarnation,
            }),
            promise: Promise { epoch: self.cluster().epoch, ..Promise::default() },
            postgres: LocalPostgres::Stopped { crashed: false },
            wal_end: None,
            directory: crate::local::Directory::default(),
            own_end: None,
            sealed: None,
            fence_on_disk: true,
            in_force: None,
            right: Right::default(),
            starting_since: None,
            election_since: None,
            canary_waiting_ms: 0,
            standbys_enough_since: None,
            proven: None,
            busy: false,
            checkpointed_at: None,
            restart_due: None,
            rule_astray_since: None,
            rule_doubt: RuleDoubt::default(),
            unasked_since: None,
        }
    }

    /// The primary of the present reign, as it should be, with a fresh right.
    pub(crate) fn primary(&self) -> Local {
        let reign = self.cluster().reign().unwrap();
        let number = (0..).find(|n| name(*n) == reign.primary.member).unwrap();
        let local = self.stopped(number);
        Local {
            promise: Promise { reigned: reign.epoch, promotion: reign.promotion, ..local.promise },
            postgres: running(false, reign.timeline.0),
            fence_on_disk: false,
            in_force: Some(InForce {
                epoch: reign.epoch,
                version: Some(reign.version),
                door_open: reign.open,
                upstream: None,
                named: 0,
            }),
            right: Right { renewed_sent_at: Some(self.now), canary_began_at: None },
            ..local
        }
    }

    /// A standby that follows the primary of the present reign.
    pub(crate) fn standby(&self, number: usize) -> Local {
        let reign = self.cluster().reign().unwrap();
        Local {
            postgres: running(true, reign.timeline.0),
            in_force: Some(InForce {
                epoch: reign.epoch,
                version: None,
                door_open: true,
                upstream: Some(reign.primary.clone()),
                named: 0,
            }),
            ..self.stopped(number)
        }
    }

    /// A standby that has sealed for `epoch`: it runs and follows nobody.
    pub(crate) fn sealed(&self, number: usize, epoch: u64, at: (u64, u64)) -> Local {
        let mut local = self.standby(number);
        local.promise.sealed = Some(Epoch(epoch));
        let position = Position::new(Epoch(at.0), Lsn(at.1));
        let owner = self.cluster().reigns.iter().find(|reign| reign.epoch == position.epoch).map(|r| r.timeline);
        local.sealed = Some(SealedAt { epoch: Epoch(epoch), position });
        local.wal_end = owner.map(|owner| (position, owner));
        if let LocalPostgres::Running(running) = &mut local.postgres {
            running.streaming = false;
        }
        if let Some(in_force) = &mut local.in_force {
            in_force.upstream = None;
        }
        local
    }

    pub(crate) fn plan(&self, local: &Local) -> Plan {
        let plan = reconcile(self.cluster(), local, self.now);
        assert!(plan.wake_at.is_none_or(|at| at > self.now), "a moment that has passed wakes it for ever");
        plan
    }

    /// The action that is planned; there must be one.
    pub(crate) fn acts(&self, local: &Local) -> Action {
        let plan = self.plan(local);
        plan.action.unwrap_or_else(|| panic!("nothing is done: {:?}", plan.findings))
    }

    /// Nothing is done, and the finding `code` says why; its sentence.
    pub(crate) fn rests(&self, local: &Local, code: &str) -> String {
        let plan = self.plan(local);
        assert_eq!(plan.action, None);
        let found = plan.findings.iter().find(|finding| finding.code == code);
        found.unwrap_or_else(|| panic!("no {code} in {:?}", plan.findings)).text.clone()
    }
}
