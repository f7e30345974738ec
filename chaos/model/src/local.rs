//! What an agent sees of its own member, in the core's words, and what the shipped `reconcile` makes of it.
//!
//! Time stands still here: the right to serve never runs out and no canary hangs. The service model covers those.

use crate::{
    agreed::{Book, name},
    planted::Planted,
    postgres::owner,
    state::{AgreedId, Branch, Force, Member, Run, Server, World},
};
use pgvigil_core::{
    cluster::ClusterState,
    id::{ClusterId, Epoch, Incarnation, MemberKey, RuleVersion, TimelineId},
    lease::Right,
    local::{InForce, Local, LocalPostgres, Marker, Promise, RuleDoubt, Running, SealedAt},
    lsn::Lsn,
    position::Position,
    reconcile::{Action, reconcile},
    reign::Promotion,
    time::Time,
};
use rustc_hash::FxHashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// The moment at which everything is asked: long after anything began.
const NOW: Time = Time(1_000_000);

/// What `reconcile` wants of a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// What it is to do.
    pub action: Option<Action>,
    /// Its data directory must be made anew first.
    pub remake: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Key {
    view: AgreedId,
    me: Member,
    marker: u8,
    run: Run,
    crashed: bool,
    fence: bool,
    reigned: u8,
    promotion: Option<(u8, u8)>,
    end: Option<(u8, u8)>,
    sealed: u8,
    force: Option<Force>,
    receiving: bool,
    proven: u8,
}

/// The answers of `reconcile`, each asked for once.
#[derive(Debug, Default)]
pub struct Wishes {
    known: Mutex<FxHashMap<Key, Arc<Wish>>>,
}

/// The timeline that owns the last record of a member's WAL.
#[must_use]
pub fn last_timeline(branches: &[Branch], server: &Server) -> u8 {
    let branch = if server.wal.len == 0 { 0 } else { owner(branches, server.wal, server.wal.len) };
    branches[branch as usize].timeline
}

/// A member's position in agreed terms; `None` if its timeline was never allotted.
#[must_use]
pub fn position(agreed: &ClusterState, branches: &[Branch], server: &Server, planted: Planted) -> Option<Position> {
    let timeline = TimelineId(u32::from(last_timeline(branches, server)));
    let epoch = agreed.epoch_of_timeline(timeline)?;
    let epoch = if planted == Planted::PositionOfFollowedTimeline {
        epoch.max(agreed.epoch_of_timeline(TimelineId(u32::from(server.touched))).unwrap_or_default())
    } else {
        epoch
    };
    Some(Position::new(epoch, Lsn(u64::from(server.wal.len))))
}

impl Wishes {
    /// What the agent of `me` is to do next, from the agreed state it last took a plan from.
    pub fn ask(&self, book: &Book, world: &World, me: Member, view: AgreedId, planted: Planted) -> Arc<Wish> {
        let server = &world.servers[me as usize];
        let key = Key {
            view,
            me,
            marker: server.marker,
            run: server.run,
            crashed: server.crashed,
            fence: server.fence,
            reigned: server.reigned,
            promotion: server.promotion,
            end: server.read.then(|| (last_timeline(&world.branches, server), server.wal.len)),
            sealed: server.sealed,
            force: server.force,
            receiving: server.follows.1 != 0,
            proven: server.proven,
        };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(wish) = known.get(&key) {
            return Arc::clone(wish);
        }
        let agreed = book.get(view);
        let local = local(&agreed, &world.branches, server, me, planted);
        let plan = reconcile(&agreed, &local, NOW);
        let wish = Arc::new(Wish { action: plan.action, remake: plan.needs_new_incarnation.is_some() });
        known.insert(key, Arc::clone(&wish));
        wish
    }
}

fn local(agreed: &ClusterState, branches: &[Branch], server: &Server, me: Member, planted: Planted) -> Local {
    let timeline = TimelineId(u32::from(last_timeline(branches, server)));
    let end = position(agreed, branches, server, planted).map(|position| (position, timeline));
    let marker = (server.marker != 0).then(|| Marker {
        cluster: ClusterId::from("c"),
        member: name(me),
        incarnation: Incarnation(u64::from(server.marker)),
    });
    let postgres = match server.run {
        Run::Down if server.marker == 0 => LocalPostgres::NoData,
        Run::Down => LocalPostgres::Stopped { crashed: server.crashed },
        run => LocalPostgres::Running(Running {
            in_recovery: run != Run::Primary,
            timeline,
            flush_lsn: Lsn(u64::from(server.wal.len)),
            streaming: server.follows.1 != 0,
            wal_moved_at: NOW,
        }),
    };
    let wal_end = end.filter(|_| server.read);
    let local = Local {
        me: name(me),
        marker,
        promise: Promise {
            restarted: 0,
            epoch: Epoch(u64::from(server.promised)),
            sealed: None,
            reigned: Epoch(u64::from(server.reigned)),
            promotion: server.promotion.map(|(fork, end)| Promotion {
                fork: Lsn(u64::from(fork)),
                end: Lsn(u64::from(end)),
                marked: true,
            }),
        },
        postgres,
        wal_end,
        directory: pgvigil_core::local::Directory::default(),
        own_end: None,
        sealed: end
            .filter(|_| server.sealed != 0)
            .map(|(position, _)| SealedAt { epoch: Epoch(u64::from(server.sealed)), position }),
        fence_on_disk: server.fence,
        in_force: server.force.map(|force| in_force(&force)),
        right: Right { renewed_sent_at: Some(NOW), canary_began_at: Some(NOW) },
        starting_since: None,
        election_since: Some(Time(0)),
        canary_waiting_ms: 0,
        standbys_enough_since: None,
        proven: (server.proven != 0).then_some(RuleVersion(u64::from(server.proven))),
        busy: false,
        checkpointed_at: None,
        restart_due: None,
        rule_astray_since: None,
        rule_doubt: RuleDoubt::default(),
        unasked_since: None,
    };
    planted.before_reconcile(agreed, local)
}

fn in_force(force: &Force) -> InForce {
    let (member, inc) = force.upstream;
    InForce {
        epoch: Epoch(u64::from(force.epoch)),
        version: (force.version != 0).then_some(RuleVersion(u64::from(force.version))),
        door_open: force.door,
        upstream: (inc != 0).then(|| MemberKey::new(name(member), Incarnation(u64::from(inc)))),
        named: 0,
    }
}
