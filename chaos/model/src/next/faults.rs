//! What goes wrong: hosts crash and come back, disks come back empty or as they once were.

use super::agent::{promoted, stop};
use crate::{
    actions::Step,
    agreed::{name, small},
    durability::Durability,
    planted::Planted,
    postgres::cut,
    state::{Member, Run, Server, Wal, World},
};

pub(super) fn steps(model: &Durability, world: &World, member: Member, steps: &mut Vec<Step>) {
    let _ = model;
    let server = &world.servers[member as usize];
    let budget = &world.budget;
    if budget.crashes > 0 {
        steps.push(Step::Crash(member));
        if server.run == Run::Promoting {
            steps.push(Step::PromotedThenCrashed(member));
        }
    }
    if budget.wipes > 0 && server.marker != 0 {
        steps.push(Step::Wipe(member));
    }
    if budget.rollbacks > 0 {
        // Only as far back as what was proven of it: further forward nothing agreed could notice it (see README.md).
        let agreed = model.book.get(world.agreed);
        let proven = agreed
            .members
            .get(&name(member))
            .and_then(|m| m.proven.filter(|_| m.incarnation.0 == u64::from(server.marker)));
        let proven = proven.map_or(0, |proven| small(proven.lsn.0)).min(server.wal.len);
        steps.extend((0..proven).map(|len| Step::Rollback(member, len)));
    }
}

pub(super) fn next(model: &Durability, world: &mut World, step: Step) -> bool {
    let planted = model.size.planted;
    match step {
        Step::Crash(member) => {
            world.budget.crashes -= 1;
            down(&mut world.servers[member as usize], planted);
        }
        Step::PromotedThenCrashed(member) => {
            world.budget.crashes -= 1;
            promoted(model, world, member);
            down(&mut world.servers[member as usize], planted);
        }
        Step::Wipe(member) => {
            world.budget.wipes -= 1;
            let server = &mut world.servers[member as usize];
            down(server, planted);
            if planted == Planted::WipedCounted {
                server.wal = Wal::default();
            } else {
                *server = Server { setting: server.setting, ..Server::default() };
            }
        }
        Step::Rollback(member, len) => {
            world.budget.rollbacks -= 1;
            let wal = cut(&world.branches, world.servers[member as usize].wal, len);
            let server = &mut world.servers[member as usize];
            down(server, planted);
            server.wal = wal;
        }
        Step::Return(member) => {
            let agreed = world.agreed;
            let server = &mut world.servers[member as usize];
            server.up = true;
            server.view = agreed;
        }
        _ => return false,
    }
    true
}

/// The host is off: PostgreSQL is gone, and its agent has forgotten all but its promise.
fn down(server: &mut Server, planted: Planted) {
    stop(server, true, planted);
    server.up = false;
    server.read = false;
    server.sealed = 0;
    server.view = 0;
}
