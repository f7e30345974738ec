//! What the leader has seen: reports with the leader's own arrival times. Late, partial, and never agreed.

use crate::{
    cluster::ClusterState,
    command::Command,
    id::{ClusterId, Epoch, Incarnation, MemberId, MemberKey, NodeId},
    member::Tier,
    position::Position,
    report::{PostgresReport, Report},
    rpo::{self, Unproven, UnprovenReport},
    settings::Settings,
    time::{Time, WallTime},
    twin::{self, Sight},
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// A report and when it came in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Seen {
    /// The newest report of that member.
    pub report: Report,
    /// When the leader received it.
    pub at: Time,
}

/// What this leader has seen of one cluster since it began to listen.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Observations {
    /// This leader's node.
    pub me: NodeId,
    /// This leader's wall clock, for incidents. Nothing is decided by it.
    pub wall: WallTime,
    /// When this leader became leader and began to listen: silence before is not evidence. Keeps S5.
    pub since: Time,
    /// The newest report of each member.
    pub reports: BTreeMap<MemberId, Seen>,
    /// How things were when this leader first saw the newest epoch begun: see [`Stage`].
    #[serde(default)]
    pub stage: Option<(Epoch, Stage)>,
    /// The newest lease renewal granted to the primary of each epoch, by receipt of the heartbeat.
    pub last_renewal: BTreeMap<Epoch, Time>,
    /// When this leader first saw the present reign appointed: no canary of an older reign began later.
    pub appointed_seen: Option<(Epoch, Time)>,
    /// The latest `quiet since` of the seals on which the present reign was appointed, on this leader's clock; kept
    /// only by the leader that appointed it.
    pub seals_quiet: Option<(Epoch, Time)>,
    /// When this leader first saw what an operator asked for last.
    pub request_seen: Option<Time>,
    /// Members whose fence command succeeded while this leader led, with the epoch it fenced.
    pub fence_commands_done: BTreeMap<MemberId, Epoch>,
    /// When this leader first saw the present election begun: how long it has been waiting for seals.
    pub election_seen: Option<(Epoch, Time)>,
    /// When the primary last reported each standby as streaming and within the allowed lag.
    pub streaming_ok_at: BTreeMap<MemberId, Time>,
    /// When the primary's agent was first seen in its present trouble (not promoted, not complete): patience begins.
    pub incomplete_since: Option<(Epoch, Time)>,
    /// By how much this leader's own loop ran late of late: its time-outs stretch (Lifeguard).
    pub starved_ms: u64,
    /// When the last pause of this leader's own process ended: nobody's silence before that is evidence.
    pub deaf_until: Time,
    /// When the rule of the newest reign of which that is known was last shown in force, to this leader or to one before.
    pub rule_shown: Option<(Epoch, Time)>,
    /// What was agreed of the present reign's unproven stretches when this leader last saw that change, and when.
    pub unproven_noted: Option<(Vec<Unproven>, Time)>,
    /// What is known of the connections under each member's name.
    #[serde(default)]
    pub sights: BTreeMap<MemberId, Sight>,
    /// What the primary's walsenders have shown each counted incarnation to have flushed, on the reign's own timeline, and
    /// the primary itself before them: each a record's end.
    #[serde(default)]
    pub flushed: BTreeMap<MemberId, (Incarnation, Position)>,
    /// What the primary says that others than its canary have written: in which epoch, how much, and how much it was when
    /// what is agreed last covered `flushed`.
    #[serde(default)]
    pub written: Option<(Epoch, u64, Option<u64>)>,
    /// Since when `flushed` holds more than is agreed.
    #[serde(default)]
    pub unnoted_since: Option<Time>,
    /// Cluster names for which this leader's configuration asks creation.
    pub wanted_clusters: BTreeSet<ClusterId>,
}

/// What must change for an election to be promising although the ones before it came to nothing. Only compared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stage {
    /// The members whose agents are heard, and whether each has room on its disk.
    heard: BTreeMap<MemberId, bool>,
    /// Who may be counted on: tier, and whether it is leaving.
    members: BTreeMap<MemberId, (Tier, bool)>,
    settings: Settings,
}

impl Stage {
    /// How things are now.
    #[must_use]
    pub fn of(agreed: &ClusterState, seen: &Observations, now: Time) -> Self {
        let limit = agreed.settings.standby_timeout_ms;
        let heard = agreed.members.keys().filter_map(|member| {
            let report = seen.fresh(member, now, limit)?;
            Some((member.clone(), !report.disk_full))
        });
        let members = agreed.members.values().map(|m| (m.spec.member.clone(), (m.spec.tier, m.leaving)));
        Self { heard: heard.collect(), members: members.collect(), settings: agreed.settings.clone() }
    }
}

impl Observations {
    /// The report of a member if it came in less than `within` milliseconds ago.
    #[must_use]
    pub fn fresh(&self, member: &MemberId, now: Time, within: u64) -> Option<&Report> {
        self.reports.get(member).filter(|seen| now.since(seen.at) <= within).map(|seen| &seen.report)
    }

    /// How long a member has been silent, counted at most from when this leader began to listen, or could again.
    #[must_use]
    pub fn silence(&self, member: &MemberId, now: Time) -> u64 {
        let heard = self.reports.get(member).map_or(self.since, |seen| seen.at);
        now.since(heard.max(self.since).max(self.deaf_until))
    }
}

impl Observations {
    /// What a node knows when it becomes leader: nothing.
    #[must_use]
    pub fn new(me: NodeId, since: Time) -> Self {
        Self { me, since, ..Self::default() }
    }

    /// Takes in a report that arrived at `at`. A report that is older than the newest one of its member is dropped.
    pub fn receive(&mut self, agreed: Option<&ClusterState>, mut report: Report, at: Time) {
        let member = report.spec.member.clone();
        if let Some(agreed) = agreed {
            self.note_shown(agreed, &report, at);
            self.keep_unproven(agreed, &mut report, at);
        }
        self.reports.insert(member.clone(), Seen { report, at });
        if let Some(agreed) = agreed {
            twin::look(agreed, self, at);
            self.note_senders(agreed, &member, at);
            self.note_flushed(agreed, &member);
        }
    }

    /// What a member's agent said against the rule counts until it is agreed, also when the agent that says more was started
    /// since and knows nothing of it (its host lost power). It is over then: whoever reports next sees anew what goes on.
    fn keep_unproven(&self, agreed: &ClusterState, report: &mut Report, at: Time) {
        let Some(before) = self.reports.get(&report.spec.member) else { return };
        let passed = at.since(before.at);
        for said in &before.report.unproven {
            let told = |told: &UnprovenReport| (told.epoch, told.id) == (said.epoch, said.id);
            let reign = agreed.reigns.iter().find(|reign| reign.epoch == said.epoch);
            if report.unproven.iter().any(told) || reign.is_none_or(|reign| rpo::is_agreed(&reign.unproven, said)) {
                continue;
            }
            report.unproven.push(UnprovenReport {
                began_ago_ms: said.began_ago_ms.saturating_add(passed),
                ended_ago_ms: Some(said.ended_ago_ms.map_or(0, |ago_ms| ago_ms.saturating_add(passed))),
                ..said.clone()
            });
        }
    }

    fn note_senders(&mut self, agreed: &ClusterState, member: &MemberId, at: Time) {
        let Some(Seen { report: Report { postgres: PostgresReport::Primary(primary), .. }, .. }) =
            self.reports.get(member)
        else {
            return;
        };
        if agreed.reign().is_none_or(|reign| reign.epoch != primary.epoch) {
            return;
        }
        for sender in primary.standbys.iter().filter(|sender| sender.streaming && agreed.is_counted(&sender.key)) {
            if agreed.members.get(&sender.key.member).is_some_and(|member| self.doubt(member).is_some()) {
                continue;
            }
            let behind = primary.flush_lsn.bytes_since(sender.flush_lsn);
            if behind <= agreed.settings.sync_lag_max_bytes {
                self.streaming_ok_at.insert(sender.key.member.clone(), at);
            }
        }
    }

    /// A moment that was not after the sending of `report`, which came in at `at`: on a slow network what it says was so no
    /// later. `None`: it answers nothing that this leader said.
    #[must_use]
    pub fn sent_by(&self, report: &Report, at: Time) -> Option<Time> {
        let (clock, ago_ms) = report.echo.filter(|(clock, _)| (clock.node, clock.since) == (self.me, self.since))?;
        Some(at.min(clock.at.plus(ago_ms)))
    }

    /// What the primary itself shows, and what others heard of it from the leader before this one. Counted from a moment
    /// that was not after the sending of the report: what was shown before it lay on its way was not shown later.
    fn note_shown(&mut self, agreed: &ClusterState, report: &Report, at: Time) {
        let Some(at) = self.sent_by(report, at) else { return };
        let own = match &report.postgres {
            PostgresReport::Primary(primary) => agreed
                .reign()
                .filter(|reign| reign.epoch == primary.epoch && reign.primary.member == report.spec.member)
                .and(primary.shown_ago_ms.map(|ago_ms| (primary.epoch, ago_ms))),
            _ => None,
        };
        let heard = report.shown_to_leader.filter(|(epoch, _)| *epoch <= agreed.epoch);
        for (epoch, ago_ms) in own.into_iter().chain(heard) {
            let shown = (epoch, at.minus(ago_ms));
            self.rule_shown = self.rule_shown.max(Some(shown));
        }
    }

    /// A walsender tells of positions without timelines, and a walreceiver's begins where its replay is (histories A3, A6):
    /// only beyond the end of recovery are they surely of the reign's timeline.
    fn note_flushed(&mut self, agreed: &ClusterState, member: &MemberId) {
        let Some(Seen { report: Report { postgres: PostgresReport::Primary(primary), incarnation, .. }, .. }) =
            self.reports.get(member)
        else {
            return;
        };
        let Some(reign) = agreed.reign().filter(|reign| reign.epoch == primary.epoch) else { return };
        let (Some(promotion), Some(began)) = (reign.promotion, agreed.epoch_of_timeline(reign.timeline)) else {
            return;
        };
        if primary.timeline != reign.timeline || *incarnation != Some(reign.primary.incarnation) {
            return;
        }
        // What a copy under a member's name has flushed says nothing of that member.
        let doubted = |member| agreed.members.get(member).is_some_and(|member| self.doubt(member).is_some());
        let senders = primary.standbys.iter().filter(|sender| sender.streaming && agreed.is_counted(&sender.key));
        let mut seen: Vec<_> = senders
            .filter(|sender| !doubted(&sender.key.member))
            .filter_map(|s| {
                Some((s.key.clone(), s.flushed_record.filter(|at| *at <= s.flush_lsn && *at > promotion.end)?))
            })
            .collect();
        // It sends only what it has flushed itself.
        let own = seen.iter().map(|(_, at)| *at).max().map(|at| (reign.primary.clone(), at));
        seen.extend(own);
        let base = self.written.filter(|(epoch, ..)| *epoch == reign.epoch).and_then(|(.., base)| base);
        self.written = Some((reign.epoch, primary.written_by_others, base));
        for (key, lsn) in seen {
            let position = Position::new(began, lsn);
            let known = self.flushed.entry(key.member).or_insert((key.incarnation, position));
            if known.0 != key.incarnation {
                *known = (key.incarnation, position);
            }
            known.1 = known.1.max(position);
        }
    }

    fn noted(&mut self) {
        self.unnoted_since = None;
        if let Some((_, written, base)) = &mut self.written {
            *base = Some(*written);
        }
    }

    /// What was seen flushed beyond what is agreed of the incarnations that count.
    #[must_use]
    pub fn unnoted(&self, agreed: &ClusterState) -> Vec<(MemberKey, Position)> {
        let beyond = |(member, (incarnation, position)): (&MemberId, &(Incarnation, Position))| {
            let known = agreed.members.get(member)?;
            let newer = known.incarnation == *incarnation && known.proven < Some(*position);
            newer.then(|| (known.key(), *position))
        };
        self.flushed.iter().filter_map(beyond).collect()
    }

    /// Keeps the times from which patience counts; called before each decision.
    pub fn notice(&mut self, agreed: &ClusterState, now: Time) {
        fn first_seen(slot: &mut Option<(Epoch, Time)>, epoch: Option<Epoch>, now: Time) {
            *slot = epoch.map(|epoch| match *slot {
                Some((of, at)) if of == epoch => (of, at),
                _ => (epoch, now),
            });
        }
        let unproven = agreed.reign().map(|reign| &reign.unproven);
        if unproven != self.unproven_noted.as_ref().map(|(known, _)| known) {
            self.unproven_noted = unproven.map(|unproven| (unproven.clone(), now));
        }
        let reign = agreed.reign_in_force();
        first_seen(&mut self.election_seen, agreed.election.as_ref().map(|e| e.epoch), now);
        first_seen(&mut self.appointed_seen, reign.map(|r| r.epoch), now);
        self.request_seen = agreed.request.as_ref().map(|_| self.request_seen.unwrap_or(now));
        let incomplete = reign.filter(|r| r.promotion.is_some() && !r.complete).map(|r| r.epoch);
        first_seen(&mut self.incomplete_since, incomplete, now);
        if self.stage.as_ref().is_none_or(|(epoch, _)| *epoch != agreed.epoch) {
            self.stage = Some((agreed.epoch, Stage::of(agreed, self, now)));
        }
        if self.unnoted(agreed).is_empty() {
            self.noted();
        } else {
            self.unnoted_since.get_or_insert(now);
        }
    }

    /// Remembers, for an appointment that this leader is about to propose, when its sealed members last took WAL: no
    /// canary of the old reign that was acknowledged can have begun later (history A15). Keeps S3. And of a note of what was
    /// flushed, that the next one is to wait.
    pub fn appointing(&mut self, command: &Command) {
        if let Command::NoteFlushed { .. } = command {
            self.noted();
        }
        let Command::Appoint { epoch, seals, .. } = command else { return };
        let quiet = seals.iter().filter_map(|seal| {
            let seen = self.reports.get(&seal.key.member)?;
            let report = seen.report.seal.as_ref().filter(|r| r.seal.epoch == *epoch)?;
            Some(seen.at.minus(report.quiet_ms))
        });
        self.seals_quiet = quiet.max().map(|at| (*epoch, at));
    }
}
