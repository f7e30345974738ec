//! What may happen next, and what comes of it.

mod agent;
mod faults;
mod leader;

use crate::{
    actions::Step,
    agreed::{inc, name},
    durability::Durability,
    planted::Planted,
    postgres,
    state::{AgreedId, Held, Inc, MEMBERS_MAX, Member, Run, World},
};
use pgvigil_core::{
    id::{Incarnation, MemberKey},
    rule::Setting,
};
use std::collections::BTreeSet;

/// A setting of the core as a process of PostgreSQL holds it.
#[must_use]
pub fn held(setting: &Setting, epoch: u8) -> Held {
    let names = setting.cohort.iter().fold(0, |mask, key| mask | 1 << inc(key));
    Held { epoch, names, k: u8::try_from(setting.k).unwrap_or(u8::MAX) }
}

/// The core's keys of the incarnations that each member has in a proof.
#[must_use]
pub fn keys(flushed: &[Inc; MEMBERS_MAX]) -> BTreeSet<MemberKey> {
    let named = (0..).zip(flushed).filter(|(_, inc)| **inc != 0);
    named.map(|(member, inc)| MemberKey::new(name(member), Incarnation(u64::from(*inc)))).collect()
}

/// Every step that may be possible in `world`. Some of them turn out to change nothing and are dropped.
pub fn steps(model: &Durability, world: &World, steps: &mut Vec<Step>) {
    for member in 0..model.size.members {
        let server = &world.servers[member as usize];
        if !server.up {
            steps.push(Step::Return(member));
            continue;
        }
        if server.run == Run::Primary {
            if world.budget.writes > 0 {
                steps.push(Step::Write(member));
            }
            for other in 0..model.size.members {
                let sender = &server.senders[other as usize];
                if sender.inc != 0 && sender.held != server.setting {
                    steps.push(Step::Reload(member, other));
                }
            }
            if server.reported != 0 {
                steps.push(Step::Proven(member));
            } else if server.marking != 0 {
                steps.push(Step::AllReported(member));
            }
        }
        if server.follows.1 != 0 {
            steps.push(Step::Stream(member));
        }
        agent::steps(model, world, member, steps);
        faults::steps(model, world, member, steps);
    }
    leader::steps(model, world, steps);
}

/// The world after `step`; `None` if it is not possible or changes nothing.
#[must_use]
pub fn next(model: &Durability, world: &World, step: Step) -> Option<World> {
    let mut after = world.clone();
    let changed = match step {
        Step::Write(member) => {
            after.budget.writes -= 1;
            after.servers[member as usize].wal.len += 1;
            true
        }
        Step::Stream(member) => streams(model, &mut after, member),
        Step::Reload(member, other) => {
            let server = &mut after.servers[member as usize];
            server.senders[other as usize].held = server.setting;
            true
        }
        Step::Act(_)
        | Step::Learn(_)
        | Step::Promoted(_)
        | Step::AllReported(_)
        | Step::Proven(_)
        | Step::Unseal(_)
        | Step::RemakeInPlace(_) => agent::next(model, &mut after, step),
        Step::Crash(_) | Step::Return(_) | Step::Wipe(_) | Step::Rollback(..) | Step::PromotedThenCrashed(_) => {
            faults::next(model, &mut after, step)
        }
        _ => leader::next(model, &mut after, step),
    };
    if !changed {
        return None;
    }
    postgres::acknowledge(&mut after);
    show(&mut after);
    settle(model, &mut after);
    (after != *world).then_some(after)
}

fn streams(model: &Durability, world: &mut World, member: Member) -> bool {
    let upstream = world.servers[member as usize].follows.0;
    let source = &world.servers[upstream as usize];
    if !source.up || source.run != Run::Primary {
        return false;
    }
    let touched = world.branches[source.wal.branch as usize].timeline;
    if model.size.planted == Planted::PositionOfFollowedTimeline && world.servers[member as usize].touched != touched {
        // A walreceiver that follows a new timeline begins with the segment's start: no record yet, but a file of it.
        world.servers[member as usize].touched = touched;
        return true;
    }
    postgres::stream(world, member, model.size.planted == Planted::DivergedFollows)
}

/// What an open door shows: everything that the primary has and does not make wait for a confirmation, which after a
/// start is all that recovery found.
fn show(world: &mut World) {
    for member in 0..world.servers.len() {
        let server = world.servers[member];
        let Some(force) = server.force.filter(|force| force.door && server.run == Run::Primary) else { continue };
        let Some((_, end)) = server.promotion else { continue };
        let wal = postgres::cut(&world.branches, server.wal, end);
        postgres::note(&mut world.shown, force.epoch, wal, &world.branches);
    }
}

/// An agent without a plan of its own takes in what is newest: it has nothing left to do late.
fn settle(model: &Durability, world: &mut World) {
    for member in 0..model.size.members {
        let server = &world.servers[member as usize];
        if server.up && server.view != world.agreed {
            let late = world.budget.stale > 0 && wishes(model, world, member, server.view);
            if !late {
                world.servers[member as usize].view = world.agreed;
            }
        }
    }
}

fn wishes(model: &Durability, world: &World, member: Member, view: AgreedId) -> bool {
    model.wishes.ask(&model.book, world, member, view, model.size.planted).action.is_some()
}
