//! What an agent knows at this moment, and the transitions that concern more than one of its fields.

use crate::{
    in_force::{Drifted, Expected, Stamp},
    scene::Scene,
    twin::Replies,
};
use pgvigil_core::{
    beats::Leader,
    cluster::ClusterState,
    command::Proof,
    id::{MemberId, TimelineId},
    keeper::Guarded,
    lease::Right,
    local::{Directory, Local, LocalPostgres, Marker, Promise, RuleDoubt},
    lsn::Lsn,
    report::{DiscardedWal, Probe, Receiver},
    rpo::{Canaries, Ledger, Releases},
    sample::{Sample, SlowSample},
    time::{Time, WallTime},
    worker::Worker,
    written::Written,
};
use std::collections::BTreeMap;

/// Which server: the process id of its postmaster.
pub type ServerId = u64;

/// See the module.
#[derive(Clone, Debug)]
pub struct Known {
    /// What `reconcile` looks at.
    pub local: Local,
    /// The server that is known to run.
    pub server: Option<ServerId>,
    /// Which start of a server in the data directory is the newest that is known.
    pub last_start: Option<Stamp>,
    /// The newest sample and when it began.
    pub sample: Option<(Sample, Time)>,
    /// When the walsenders of this primary last replied.
    pub replies: Replies,
    /// What was seen of this standby's walreceiver.
    pub receiver: Receiver,
    /// The newest slow sample.
    pub slow: Option<SlowSample>,
    /// A standby's flushed position and when the first sample that showed it had come in.
    pub flush_seen: Option<(Lsn, Time)>,
    /// Ends of records of canaries and markers, newest last: what a standby's flushed position is measured against.
    pub records: Vec<Lsn>,
    /// The newest timeline that a history file here describes, reservations excluded; as of the last look.
    pub newest_timeline: TimelineId,
    /// When the history file of `own_end`'s timeline was written, by this host's clock.
    pub own_end_at: Option<WallTime>,
    /// WAL that others than the canary have written since this became primary.
    pub written: Written,
    /// The newest successful canary began then.
    pub canary_ok_at: Option<Time>,
    /// The canary under way began then.
    pub canary_waiting_since: Option<Time>,
    /// When it was last seen to wait for a lock.
    pub canary_locked_at: Option<Time>,
    /// How long the newest successful canary took, in microseconds.
    pub canary_took_us: u64,
    /// The newest complete proof.
    pub proof: Option<Proof>,
    /// The newest probe of the primary's port and when it ended.
    pub probe: Option<(Probe, Time)>,
    /// What a longer act is doing.
    pub activity: Option<String>,
    /// Which act may begin now.
    pub worker: Worker<Scene>,
    /// There is hardly any room left for data or WAL.
    pub disk_full: bool,
    /// What a proof or a checkpoint waited for last, as far as it was told already.
    pub aside_waits_for: Option<String>,
    /// What went wrong lately, by topic.
    pub problems: BTreeMap<&'static str, String>,
    /// `reconcile`'s wish for a new incarnation.
    pub needs_new_incarnation: Option<String>,
    /// Diverged WAL that was kept aside.
    pub discarded: Option<DiscardedWal>,
    /// What the guard has confirmed.
    pub guarded: Guarded,
    /// The worst delay of the worker's own timer since the last report.
    pub starved_ms: u64,
    /// The seal is good for streaming from.
    pub can_stream: bool,
    /// How long before now the sealed position was first sampled; an instant.
    pub quiet_since: Option<Time>,
    /// The value of `synchronous_standby_names` that was last put in force.
    pub names_in_force: Option<String>,
    /// What was put in force, for looks to hold against the server.
    pub expected: Option<Expected>,
    /// What is not as it was put in force.
    pub drifted: Drifted,
    /// PostgreSQL was started with its recovery pinned to one timeline.
    pub pinned: bool,
    /// The agreed state has named this member since this process began.
    pub was_member: bool,
    /// PostgreSQL was stopped by us: its end is no crash.
    pub stopping: bool,
    /// When a fence that is under way should be complete. After that this agent is silent: a disk that hangs lets no
    /// fence be written and no process die, and whoever renews its lease must not go on.
    pub fence_due: Option<Time>,
    /// Stretches of time in which commits may have been acknowledged without k standbys, until they are agreed.
    pub unproven: Ledger,
    /// The value of `synchronous_standby_names` that an agent before this one wrote last.
    pub rule_written: Option<String>,
    /// What the leader heard last has said.
    pub leader: Leader,
    /// Canaries that give a right once a look has shown the rule in force.
    pub canaries: Canaries,
    /// Who waits for standbys, to see whether anybody is released by hand.
    pub releases: Releases,
}

/// What an agent remembers across its own restarts.
#[derive(Clone, Debug, Default)]
pub struct Remembered {
    /// The mark in the data directory.
    pub marker: Option<Marker>,
    /// Why nothing in the data directory can be trusted.
    pub half_made: Option<String>,
    /// What it promised.
    pub promise: Promise,
    /// What it had seen that speaks against the rule, and had not seen agreed.
    pub unproven: Ledger,
    /// The value of `synchronous_standby_names` that it wrote last.
    pub rule_written: Option<String>,
}

impl Known {
    /// What the agent of `me` knows before its first look.
    #[must_use]
    pub fn new(me: MemberId, remembered: Remembered) -> Self {
        let Remembered { marker, half_made, promise, unproven, rule_written } = remembered;
        let local = Local {
            me,
            marker,
            promise,
            postgres: LocalPostgres::Unknown,
            wal_end: None,
            directory: Directory { half_made, ..Directory::default() },
            own_end: None,
            sealed: None,
            fence_on_disk: false,
            in_force: None,
            right: Right::default(),
            starting_since: None,
            election_since: None,
            canary_waiting_ms: 0,
            standbys_enough_since: None,
            proven: None,
            checkpointed_at: None,
            busy: false,
            restart_due: None,
            rule_astray_since: None,
            rule_doubt: RuleDoubt::default(),
            unasked_since: None,
        };
        Self {
            local,
            server: None,
            last_start: None,
            sample: None,
            replies: Replies::default(),
            receiver: Receiver::Unknown,
            slow: None,
            flush_seen: None,
            records: Vec::new(),
            newest_timeline: TimelineId(0),
            own_end_at: None,
            written: Written::default(),
            canary_ok_at: None,
            canary_waiting_since: None,
            canary_locked_at: None,
            canary_took_us: 0,
            proof: None,
            probe: None,
            activity: None,
            worker: Worker::default(),
            disk_full: false,
            aside_waits_for: None,
            problems: BTreeMap::new(),
            needs_new_incarnation: None,
            discarded: None,
            guarded: Guarded::default(),
            starved_ms: 0,
            can_stream: false,
            quiet_since: None,
            names_in_force: None,
            expected: None,
            drifted: Drifted::default(),
            pinned: false,
            was_member: false,
            stopping: false,
            fence_due: None,
            unproven,
            rule_written,
            leader: Leader::default(),
            canaries: Canaries::default(),
            releases: Releases::default(),
        }
    }

    /// WAL may be added, or another history begins: what was read of its end is no longer so.
    pub fn forget_end(&mut self) {
        self.local.wal_end = None;
        self.local.own_end = None;
        self.own_end_at = None;
    }

    /// A reign begins here: what was measured in an older one is of another history.
    pub fn forget_records(&mut self) {
        self.records.clear();
        self.written = Written::default();
    }

    /// PostgreSQL was found not to run: forgets everything that was true of the running one. `true`: what is known against
    /// the rule has changed.
    pub fn forget_running(&mut self, crashed: bool, now: Time) -> bool {
        self.server = None;
        self.sample = None;
        self.replies = Replies::default();
        self.receiver = Receiver::Unknown;
        self.canary_waiting_since = None;
        self.local.canary_waiting_ms = 0;
        self.local.standbys_enough_since = None;
        self.local.in_force = None;
        self.local.restart_due = None;
        self.local.rule_doubt.server_ended();
        self.local.rule_astray_since = None;
        self.expected = None;
        self.drifted = Drifted::default();
        self.local.unasked_since = None;
        self.local.proven = None;
        self.proof = None;
        self.local.postgres = LocalPostgres::Stopped { crashed };
        self.unproven.end_all(now)
    }

    /// The fence is on disk and every process is gone. `crashed`: it did not end where its standbys do.
    pub fn fenced(&mut self) {
        self.fence_due = None;
        self.local.fence_on_disk = true;
        self.forget_end();
        self.local.right = Right::default();
        self.activity = None;
    }

    /// A server that was started or found; `start` tells its start from others.
    pub fn found_running(&mut self, server: ServerId, start: Option<Stamp>) {
        self.last_start = start;
        self.local.postgres = LocalPostgres::Starting;
        self.local.starting_since = None;
        self.stopping = false;
        self.server = Some(server);
    }

    /// Nothing runs. `start`: the newest start of a server here. One that is not known was by others, and it has ended since:
    /// more WAL may have come in, or it made for another timeline. Keeps S1.
    pub fn nothing_runs(&mut self, start: Option<Stamp>) {
        if start.is_some() && self.last_start != start {
            self.last_start = start;
            self.forget_end();
            self.local.sealed = None;
        }
    }

    /// Notes the election that newer agreed state shows, after `before`. `true`: it has changed.
    pub fn note_election(&mut self, before: Option<&ClusterState>, state: &ClusterState, now: Time) -> bool {
        let of = |state: &ClusterState| state.election.as_ref().map(|e| e.epoch);
        let changed = before.and_then(of) != of(state);
        if changed {
            self.local.election_since = of(state).map(|_| now);
        }
        changed
    }

    /// Remembers a problem for the next report, or forgets it. `true`: that is news.
    pub fn problem(&mut self, topic: &'static str, text: Option<String>) -> bool {
        match text {
            Some(text) => self.problems.insert(topic, text.clone()).as_ref() != Some(&text),
            None => self.problems.remove(topic).is_some(),
        }
    }
}
