//! The leader's side of [`World`]: reports that come in now, and decisions that `apply` must agree with.

use super::{World, name};
use crate::{
    command::{Outcome, Proof, Proposal},
    decide::{Decision, Finding, Wanted, decide},
    id::{ClusterId, Epoch, NodeId, RuleVersion},
    lsn::Lsn,
    position::Position,
    reign::{Seal, SealKind},
    report::{
        CanaryReport, PostgresReport, PrimaryReport, Probe, Receiver, Remote, Report, SealReport, SenderReport,
        StandbyReport, Walsender,
    },
    time::WallTime,
};

impl World {
    /// What the agent of a member says at least: counted directory, newest state, PostgreSQL stopped.
    pub(crate) fn report(&self, number: usize) -> Report {
        let member = &self.cluster().members[&name(number)];
        Report {
            cluster: ClusterId::from("c"),
            spec: member.spec.clone(),
            seq: 1,
            incarnation: Some(member.incarnation),
            revision: self.cluster().revision,
            promised: self.cluster().epoch,
            postgres: PostgresReport::Stopped { crashed: false },
            seal: None,
            fenced: None,
            starved_ms: 0,
            guard_armed: true,
            probe: None,
            disk_full: false,
            activity: None,
            problems: Vec::new(),
            needs_new_incarnation: None,
            restarted: 0,
            discarded_wal: None,
            unproven: Vec::new(),
            shown_to_leader: None,
            echo: None,
            timelines: crate::report::TimelinesReport::default(),
            was_member: false,
        }
    }

    /// The report of the reigning primary, to which `streaming` stream without lag.
    pub(crate) fn primary_report(&self, streaming: &[usize]) -> Report {
        let reign = self.cluster().reign().unwrap();
        let number = (0..).find(|n| name(*n) == reign.primary.member).unwrap();
        let standbys = streaming
            .iter()
            .map(|n| SenderReport {
                key: self.key(*n),
                flush_lsn: Lsn(1_000),
                flushed_record: None,
                streaming: true,
                counted: true,
                encrypted: None,
                named: self.cluster().members[&name(*n)].named,
                walsenders: vec![walsender(*n, 60_000)],
            })
            .collect();
        let primary = PrimaryReport {
            epoch: reign.epoch,
            timeline: reign.timeline,
            flush_lsn: Lsn(1_000),
            promotion: reign.promotion,
            system_identifier: 7,
            door_open: reign.open,
            checkpoint_age_ms: Some(0),
            setting_in_force: Some(reign.version),
            proof: None,
            canary: CanaryReport::default(),
            standbys,
            weakened: Vec::new(),
            shown_ago_ms: None,
            right_ms: 1_000,
            unasked_ms: None,
            written_by_others: 0,
        };
        Report { postgres: PostgresReport::Primary(Box::new(primary)), ..self.report(number) }
    }

    /// The same with a change to what its PostgreSQL is.
    pub(crate) fn primary_report_with(&self, streaming: &[usize], change: impl FnOnce(&mut PrimaryReport)) -> Report {
        let mut report = self.primary_report(streaming);
        if let PostgresReport::Primary(primary) = &mut report.postgres {
            change(primary);
        }
        report
    }

    /// A standby that streams and keeps up.
    pub(crate) fn standby_report(&self, number: usize) -> Report {
        let standby = StandbyReport {
            timeline: self.cluster().reign().unwrap().timeline,
            following: self.cluster().reign().map(|reign| reign.epoch),
            flush_lsn: Lsn(1_000),
            replay_lsn: Lsn(1_000),
            streaming: true,
            wal_age_ms: 50,
            replay_held: false,
            receiver: Receiver::Connected(remote(number)),
        };
        Report { postgres: PostgresReport::Standby(standby), ..self.report(number) }
    }

    /// A standby whose WAL stopped coming, and its probe of member 0's port.
    pub(crate) fn cut_off_report(&self, number: usize, answered: Option<bool>) -> Report {
        let mut report = self.standby_report(number);
        if let PostgresReport::Standby(standby) = &mut report.postgres {
            standby.streaming = false;
            standby.wal_age_ms = 900;
        }
        report.probe = answered.map(|answered| Probe {
            member: name(0),
            answered,
            age_ms: 100,
            detail: if answered { "it answers".to_owned() } else { "no route to host".to_owned() },
        });
        report
    }

    /// A member that has sealed for the election under way, its PostgreSQL running as a standby that follows nobody.
    pub(crate) fn sealed_report(&self, number: usize, at: (u64, u64)) -> Report {
        let seal = self.seal_report(number, at, SealKind::Sealed);
        Report { seal: Some(seal), ..self.cut_off_report(number, None) }
    }

    /// The dead primary: sealed, fenced, stopped.
    pub(crate) fn dead_report(&self, number: usize, at: Option<(u64, u64)>) -> Report {
        Report {
            postgres: PostgresReport::Stopped { crashed: true },
            fenced: self.cluster().reign().map(|reign| reign.epoch),
            seal: at.map(|at| self.seal_report(number, at, SealKind::Sealed)),
            ..self.report(number)
        }
    }

    /// The primary that runs on through an election.
    pub(crate) fn standing_report(&self, at: (u64, u64)) -> Report {
        let report = self.primary_report(&[]);
        let number = (0..).find(|n| name(*n) == report.spec.member).unwrap();
        Report { seal: Some(self.seal_report(number, at, SealKind::Standing)), ..report }
    }

    fn seal_report(&self, number: usize, at: (u64, u64), kind: SealKind) -> SealReport {
        let epoch = self.cluster().election.as_ref().unwrap().epoch;
        let position = Position::new(Epoch(at.0), Lsn(at.1));
        SealReport {
            seal: Seal { epoch, key: self.key(number), position, kind },
            quiet_ms: 0,
            can_stream: true,
            incomplete: false,
        }
    }

    /// That `by` have flushed `marker` under the setting of version `version`.
    pub(crate) fn proof(&self, version: u64, marker: u64, by: &[usize]) -> Proof {
        let flushed = self.keys(by).into_iter().collect();
        Proof { version: RuleVersion(version), marker: Lsn(marker), flushed }
    }

    /// A report comes in now.
    pub(crate) fn hear(&mut self, report: Report) {
        let agreed = self.state.clusters.values().next();
        self.seen.receive(agreed, report, self.now);
    }

    /// The primary and the standbys `streaming` report that all is well.
    pub(crate) fn hear_well(&mut self, streaming: &[usize]) {
        self.hear(self.primary_report(streaming));
        for number in streaming {
            self.hear(self.standby_report(*number));
        }
    }

    pub(crate) fn wait(&mut self, ms: u64) {
        self.now = self.now.plus(ms);
    }

    /// Decides without having it agreed.
    pub(crate) fn look(&mut self) -> Decision {
        self.notice();
        let cluster = self.state.clusters.values().next().unwrap();
        let decision = decide(cluster, &self.seen, self.now);
        assert!(decision.wake_at.is_none_or(|at| at > self.now), "a moment that has passed wakes it for ever");
        decision
    }

    /// Decides; something must be wanted, and `apply` must agree with it.
    pub(crate) fn step(&mut self) -> Wanted {
        let decision = self.look();
        let Some(wanted) = decision.command else { panic!("nothing is wanted: {:?}", decision.findings) };
        self.seen.appointing(&wanted.command);
        let before = self.state.clone();
        let proposal = Proposal {
            cluster: ClusterId::from("c"),
            based_on: Some(self.cluster().revision),
            at: WallTime(60_000),
            by: crate::command::Actor::Controller(NodeId(1)),
            reason: wanted.reason.clone(),
            evidence: wanted.evidence.clone(),
            command: wanted.command.clone(),
        };
        let outcome = self.propose(&proposal, &before);
        assert!(matches!(outcome, Outcome::Agreed { .. }), "{outcome:?} to {wanted:?}");
        wanted
    }

    /// The leader looks, so that its patience begins.
    pub(crate) fn notice(&mut self) {
        let cluster = self.state.clusters.values().next().unwrap();
        self.seen.notice(cluster, self.now);
    }

    /// Nothing is wanted; the findings say why.
    pub(crate) fn idle(&mut self) -> Vec<Finding> {
        let decision = self.look();
        assert_eq!(decision.command, None);
        decision.findings
    }

    /// Nothing is wanted, and the finding `code` says why; its sentence.
    pub(crate) fn finds(&mut self, code: &str) -> String {
        let findings = self.idle();
        let found = findings.iter().find(|finding| finding.code == code);
        found.unwrap_or_else(|| panic!("no {code} in {findings:?}")).text.clone()
    }
}

/// Where the walreceiver of a member is connected from.
pub(crate) fn remote(number: usize) -> Remote {
    Remote { address: format!("10.0.0.{number}"), port: 40_000 }
}

/// The walsender of a member, connected `age_ms` ago, that replies.
pub(crate) fn walsender(number: usize, age_ms: u64) -> Walsender {
    Walsender { pid: i32::try_from(100 + number).unwrap(), from: Some(remote(number)), age_ms, quiet_ms: 50 }
}
