//! The agents: what `reconcile` says is done as the acts of `supervisor/agent` do it.

use super::held;
use crate::{
    actions::Step,
    agreed::{number, small},
    durability::Durability,
    local::position,
    planted::Planted,
    postgres::{contains, cut},
    state::{Branch, Force, Held, Inc, MEMBERS_MAX, Member, Proven, Run, Sender, Server, Told, World},
};
use pgvigil_core::{reconcile::Action, rule::Setting};

pub(super) fn steps(model: &Durability, world: &World, member: Member, steps: &mut Vec<Step>) {
    let server = &world.servers[member as usize];
    let planted = model.size.planted;
    let wish = model.wishes.ask(&model.book, world, member, server.view, planted);
    if wish.action.is_some() {
        steps.push(Step::Act(member));
    }
    if server.view != world.agreed {
        steps.push(Step::Learn(member));
    }
    if server.run == Run::Promoting {
        steps.push(Step::Promoted(member));
    }
    if planted == Planted::SealForgotten && server.sealed != 0 && server.run == Run::Standby {
        steps.push(Step::Unseal(member));
    }
    if planted == Planted::RemadeInPlace && world.budget.wipes > 0 && server.run == Run::Standby {
        steps.push(Step::RemakeInPlace(member));
    }
}

pub(super) fn next(model: &Durability, world: &mut World, step: Step) -> bool {
    match step {
        Step::Act(member) => {
            let server = &world.servers[member as usize];
            let wish = model.wishes.ask(&model.book, world, member, server.view, model.size.planted);
            if server.view != world.agreed {
                world.budget.stale -= 1;
            }
            wish.action.as_ref().is_some_and(|action| act(model, world, member, action))
        }
        Step::Learn(member) => {
            world.servers[member as usize].view = world.agreed;
            true
        }
        Step::Promoted(member) => {
            promoted(model, world, member);
            let server = &mut world.servers[member as usize];
            let fork = world.branches[server.wal.branch as usize].fork;
            server.promotion = Some((fork, server.wal.len));
            server.sealed = 0;
            server.read = false;
            true
        }
        Step::AllReported(member) => all_reported(model, world, member),
        Step::Proven(member) => proven(model, world, member),
        Step::Unseal(member) => {
            let primary = (0..model.size.members).find(|m| world.servers[*m as usize].run == Run::Primary);
            let Some(primary) = primary.filter(|m| *m != member) else { return false };
            let epoch = world.servers[primary as usize].reigned;
            let server = &mut world.servers[member as usize];
            server.follows = (primary, server.marker, epoch);
            server.sealed = 0;
            server.read = false;
            true
        }
        Step::RemakeInPlace(member) => {
            world.budget.wipes -= 1;
            let server = &mut world.servers[member as usize];
            stop(server, false, model.size.planted);
            server.wal = crate::state::Wal::default();
            server.read = false;
            server.sealed = 0;
            true
        }
        _ => false,
    }
}

/// A new line of history under the number that PostgreSQL was made to take.
pub(super) fn promoted(model: &Durability, world: &mut World, member: Member) {
    let server = &world.servers[member as usize];
    let (wal, epoch) = (server.wal, server.reigned);
    let agreed = model.book.get(world.agreed);
    let allotted = agreed.reigns.iter().find(|reign| small(reign.epoch.0) == epoch);
    let timeline = allotted.map_or(0, |reign| small(u64::from(reign.timeline.0)));
    world.branches.push(Branch { parent: wal.branch, fork: wal.len, epoch, timeline });
    let server = &mut world.servers[member as usize];
    server.wal.branch = small(world.branches.len() as u64 - 1);
    // The end-of-recovery record is the first one of the new timeline.
    server.wal.len += 1;
    server.run = Run::Primary;
    server.fence = false;
}

/// Refuses an act of an epoch older than the promise; promises a newer one first.
fn obey(server: &mut Server, epoch: u8) -> bool {
    let obeys = epoch >= server.promised;
    server.promised = server.promised.max(epoch);
    obeys
}

fn act(model: &Durability, world: &mut World, member: Member, action: &Action) -> bool {
    let planted = model.size.planted;
    let branches = world.branches.clone();
    let server = &mut world.servers[member as usize];
    match action {
        Action::Fence { .. } => {
            stop(server, true, planted);
            server.fence = true;
            server.read = false;
            true
        }
        Action::Seal { epoch } => obey(server, small(epoch.0)) && seal(model, world, member, small(epoch.0)),
        Action::ReadWalEnd { epoch } => {
            if !obey(server, small(epoch.0)) {
                return false;
            }
            close(server, planted);
            true
        }
        // A checkpoint changes nothing that the model has.
        Action::Checkpoint { .. } => false,
        Action::CatchUp { epoch, source } => {
            obey(server, small(epoch.0)) && catch_up(model, world, member, small(epoch.0), number(&source.key.member))
        }
        Action::StartPrimary { epoch, setting, version } => {
            let epoch = small(epoch.0);
            if !obey(server, epoch) {
                return false;
            }
            // The same timeline, but what it writes from here on is a line of its own: whoever has more than it has now
            // has other bytes there (history A10).
            let parent = branches[server.wal.branch as usize];
            world.branches.push(Branch {
                parent: server.wal.branch,
                fork: server.wal.len,
                epoch,
                timeline: parent.timeline,
            });
            server.wal.branch = small(branches.len() as u64);
            server.reigned = epoch;
            server.promotion = Some((server.wal.len, server.wal.len));
            server.run = Run::Primary;
            server.crashed = false;
            server.fence = false;
            configure(server, setting, epoch, small(version.0), false);
            server.senders = [Sender::default(); MEMBERS_MAX];
            server.sealed = 0;
            server.read = false;
            true
        }
        Action::Configure { epoch, setting, version, door_open } => {
            let epoch = small(epoch.0);
            if server.run == Run::Down || !obey(server, epoch) {
                return false;
            }
            configure(server, setting, epoch, small(version.0), *door_open);
            true
        }
        Action::Promote { epoch, .. } => {
            let epoch = small(epoch.0);
            if server.run != Run::Standby || !server.read || !obey(server, epoch) {
                return false;
            }
            server.reigned = epoch;
            server.promotion = None;
            server.run = Run::Promoting;
            true
        }
        Action::CarryOn { epoch } => {
            let epoch = small(epoch.0);
            if !obey(server, epoch) {
                return false;
            }
            server.reigned = epoch;
            server.promotion = Some((server.wal.len, server.wal.len));
            true
        }
        Action::Prove { .. } => {
            if server.marking != 0 {
                return false;
            }
            // The marker is a record of its own, written after a new connection showed the setting.
            server.wal.len += 1;
            server.marking = server.wal.len;
            true
        }
        Action::StartStandby { epoch, following } => {
            let epoch = small(epoch.0);
            if !server.read || !obey(server, epoch) {
                return false;
            }
            server.run = Run::Standby;
            server.crashed = false;
            server.fence = true;
            server.setting = planted.without_rule();
            match following {
                Some((upstream, key)) => {
                    follow(
                        server,
                        epoch,
                        number(&upstream.key.member),
                        crate::agreed::inc(&upstream.key),
                        crate::agreed::inc(key),
                    );
                }
                None => server.force = Some(Force { epoch: 0, version: 0, door: false, upstream: (0, 0) }),
            }
            true
        }
        Action::Follow { epoch, upstream, key } => {
            let epoch = small(epoch.0);
            if server.run != Run::Standby || !obey(server, epoch) {
                return false;
            }
            follow(
                server,
                epoch,
                number(&upstream.key.member),
                crate::agreed::inc(&upstream.key),
                crate::agreed::inc(key),
            );
            true
        }
        Action::Rewind { epoch, upstream, incarnation } | Action::Clone { epoch, upstream, incarnation } => {
            let source = number(&upstream.key.member);
            let incarnation = small(incarnation.0);
            obey(server, small(epoch.0)) && copy(world, member, source, incarnation)
        }
        Action::Initdb { epoch, incarnation } => {
            // Nothing of what was there is left: a line of history from nothing, under the same timeline.
            let epoch = small(epoch.0);
            if !obey(server, epoch) {
                return false;
            }
            world.branches.push(Branch { parent: 0, fork: 0, epoch, timeline: branches[0].timeline });
            let wal = crate::state::Wal { branch: small(branches.len() as u64), len: 1 };
            *server = Server {
                up: true,
                marker: small(incarnation.0),
                wal,
                run: Run::Primary,
                promised: epoch,
                reigned: epoch,
                promotion: Some((0, 0)),
                setting: Held::NOBODY,
                view: server.view,
                ..Server::default()
            };
            true
        }
        Action::AdoptPrimary { .. } | Action::AdoptStandby { .. } | Action::Restart { .. } => {
            debug_assert!(branches.is_empty(), "nothing is adopted or restarted by hand in the model");
            false
        }
    }
}

/// PostgreSQL ends: what its agent knew of the running one is forgotten.
pub(super) fn stop(server: &mut Server, crashed: bool, planted: Planted) {
    server.crashed = crashed;
    server.run = Run::Down;
    server.force = None;
    server.proven = 0;
    server.proof = None;
    server.marking = 0;
    server.reported = 0;
    server.follows = (0, 0, 0);
    server.senders = [Sender::default(); MEMBERS_MAX];
    server.setting = planted.without_rule();
}

/// Upstream emptied, no walreceiver, the end of the WAL read.
fn close(server: &mut Server, planted: Planted) {
    if server.run == Run::Promoting {
        // A promotion that was asked for is stopped; that it was done first is the other order of two steps.
        stop(server, false, planted);
    }
    if planted != Planted::ReceiverLives {
        server.follows = (0, 0, 0);
    }
    server.read = true;
    server.fence = true;
    if let Some(force) = &mut server.force {
        force.upstream = (0, 0);
        force.version = 0;
    }
}

fn seal(model: &Durability, world: &mut World, member: Member, epoch: u8) -> bool {
    close(&mut world.servers[member as usize], model.size.planted);
    let agreed = model.book.get(world.agreed);
    let server = &mut world.servers[member as usize];
    let Some(position) = position(&agreed, &world.branches, server, model.size.planted) else { return false };
    server.sealed = epoch;
    if agreed.election.as_ref().is_some_and(|election| small(election.epoch.0) == epoch) {
        let told = Told { inc: server.marker, position: (small(position.epoch.0), small(position.lsn.0)) };
        world.told[member as usize] = Some(told);
    }
    true
}

/// From another sealed member, all that it has, under a name that no rule counts; then sealed again.
fn catch_up(model: &Durability, world: &mut World, member: Member, epoch: u8, source: Member) -> bool {
    let (mine, other) = (world.servers[member as usize], world.servers[source as usize]);
    let serves = other.up && other.run == Run::Standby && other.sealed == epoch && mine.run == Run::Standby;
    if !serves || !contains(&world.branches, other.wal, mine.wal) {
        return false;
    }
    world.servers[member as usize].wal = other.wal;
    seal(model, world, member, epoch)
}

fn configure(server: &mut Server, setting: &Setting, epoch: u8, version: u8, door: bool) {
    let same = server.force.is_some_and(|force| force.epoch == epoch && force.version == version);
    if !same {
        server.proven = 0;
        server.marking = 0;
        server.reported = 0;
    }
    server.setting = held(setting, epoch);
    server.force = Some(Force { epoch, version, door, upstream: (0, 0) });
}

fn follow(server: &mut Server, epoch: u8, upstream: Member, upstream_inc: u8, inc: u8) {
    server.follows = (upstream, inc, epoch);
    server.read = false;
    server.sealed = 0;
    server.force = Some(Force { epoch, version: 0, door: true, upstream: (upstream, upstream_inc) });
}

/// A data directory made anew from a primary, by pg_rewind or a clone: afterwards it has what that one has.
fn copy(world: &mut World, member: Member, source: Member, incarnation: u8) -> bool {
    let from = world.servers[source as usize];
    if source == member || !from.up || from.run != Run::Primary {
        return false;
    }
    let wal = cut(&world.branches, from.wal, from.wal.len);
    let server = &mut world.servers[member as usize];
    let promised = server.promised;
    *server = Server {
        up: true,
        marker: incarnation,
        wal,
        fence: true,
        promised,
        reigned: server.reigned,
        promotion: server.promotion,
        read: true,
        setting: server.setting,
        view: server.view,
        ..Server::default()
    };
    true
}

/// The members of the rule in force that have flushed `end`; `None` if the rule to be proven is not in force any more.
fn confirmed(model: &Durability, world: &World, member: Member, end: u8) -> Option<(Held, [Inc; MEMBERS_MAX])> {
    let server = &world.servers[member as usize];
    let agreed = model.book.get(server.view);
    let (force, reign) = (server.force?, agreed.reign()?);
    let setting = held(&reign.setting, small(reign.epoch.0));
    if setting != server.setting || force.version == 0 {
        return None;
    }
    let named =
        |sender: &Sender| sender.inc != 0 && sender.epoch == setting.epoch && setting.names & (1 << sender.inc) != 0;
    let there = |sender: &Sender| sender.flush >= end || model.size.planted == Planted::ProofWithoutFlush;
    Some((setting, server.senders.map(|sender| if named(&sender) && there(&sender) { sender.inc } else { 0 })))
}

fn count(flushed: &[Inc; MEMBERS_MAX]) -> u8 {
    small(flushed.iter().filter(|inc| **inc != 0).count() as u64)
}

/// Step (c) of a proof: every walsender has reported the marker, or is ended once k of S have it.
fn all_reported(model: &Durability, world: &mut World, member: Member) -> bool {
    let planted = model.size.planted;
    let marker = world.servers[member as usize].marking;
    let Some((setting, flushed)) = confirmed(model, world, member, marker) else { return false };
    let server = &mut world.servers[member as usize];
    let behind = |sender: &Sender| sender.inc != 0 && sender.flush < marker;
    let enough = count(&flushed) >= setting.k;
    let asked = planted != Planted::ProofWithoutWalsenders;
    if asked && server.senders.iter().any(behind) && !enough {
        return false;
    }
    for sender in server.senders.iter_mut().filter(|sender| asked && behind(sender)) {
        if planted == Planted::ProofWithoutFlush {
            sender.held = setting;
        } else {
            *sender = Sender::default();
        }
    }
    // A walsender under the old setting may have released commits beyond the marker until now.
    server.reported = if planted == Planted::ProofOfMarkerOnly { marker } else { server.wal.len };
    true
}

/// Step (d): k of S have flushed what there was then.
fn proven(model: &Durability, world: &mut World, member: Member) -> bool {
    let end = world.servers[member as usize].reported;
    let Some((setting, flushed)) = confirmed(model, world, member, end) else { return false };
    if count(&flushed) < setting.k {
        return false;
    }
    let server = &mut world.servers[member as usize];
    let Some(force) = server.force else { return false };
    server.proven = force.version;
    let proof = Proven { version: force.version, marker: end, flushed };
    server.proof = (model.size.planted != Planted::ProofUnreported).then_some(proof);
    server.marking = 0;
    server.reported = 0;
    true
}
