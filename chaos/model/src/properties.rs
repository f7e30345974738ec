//! What must always hold, and what must sometimes happen for that to mean anything.

use crate::{
    agreed::{name, number, small},
    durability::Durability,
    planted::Planted,
    postgres::contains,
    sizes::Size,
    state::{Acked, Run, Wal, World},
};
use pgvigil_core::reign::Start;
use stateright::Property;
use std::sync::atomic::Ordering;

/// S1 and S2: every commit acknowledged under an epoch, then or later, is in the history from which every later epoch
/// starts.
pub const ACKNOWLEDGED: &str = "S1: no acknowledged commit is lost";
/// S2: an epoch has one primary and one history.
pub const ONE_PRIMARY: &str = "S2: one primary per epoch";
/// The properties of the agreed state that the core states itself.
pub const AGREED: &str = "the agreed state keeps its own invariants";
/// What a client has read through an open door is not lost (PostgreSQL shows what crash recovery found at once).
pub const SHOWN: &str = "S1 for readers: no row that was shown is lost";

/// Once nothing fails any more, a failover that was begun, or is needed, completes.
pub const ARRIVES: &str = "liveness: the fair run arrives";

/// The properties of a size.
#[must_use]
pub fn all(size: &Size) -> Vec<Property<Durability>> {
    let mut all = vec![
        Property::always(ACKNOWLEDGED, |m: &Durability, w: &World| first_failure(m, 0, survives(w, &w.acked))),
        Property::always(ONE_PRIMARY, |m: &Durability, w: &World| first_failure(m, 1, one_primary(w))),
        Property::always(AGREED, |m: &Durability, w: &World| first_failure(m, 2, m.book.broken(w.agreed).is_none())),
    ];
    if size.planted != Planted::Nothing {
        // The core's own properties would be the first to notice; what is wanted is what becomes of the commits.
        all.pop();
    }
    if size.doors {
        all.push(Property::always(SHOWN, |m: &Durability, w: &World| first_failure(m, 3, survives(w, &w.shown))));
    }
    if size.heals {
        all.push(Property::always(ARRIVES, |m: &Durability, w: &World| {
            first_failure(m, 4, crate::heal::arrives(m, w))
        }));
    }
    for (property, applies) in SOMETIMES {
        if applies(size) && size.planted == Planted::Nothing {
            all.push(property());
        }
    }
    all
}

type Sometimes = (fn() -> Property<Durability>, fn(&Size) -> bool);

const SOMETIMES: &[Sometimes] = &[
    (
        || {
            Property::sometimes("a commit is acknowledged", |m: &Durability, w: &World| {
                first(m, 8, !w.acked.is_empty())
            })
        },
        |size| size.budget.writes > 0,
    ),
    (
        || {
            Property::sometimes("a successor is promoted and completes its rule", |m: &Durability, w: &World| {
                first(m, 9, completed(m, w, Start::Promote) >= 1)
            })
        },
        |size| size.budget.elections > 0 && size.depth == 0,
    ),
    (
        || {
            Property::sometimes("two successors in a row complete their rules", |m: &Durability, w: &World| {
                first(m, 10, completed(m, w, Start::Promote) >= 2)
            })
        },
        |size| size.budget.elections > 1 && size.depth == 0,
    ),
    (
        || {
            Property::sometimes("a second election finds the first one's rule open", |m: &Durability, w: &World| {
                let agreed = m.book.get(w.agreed);
                first(m, 11, agreed.election.is_some() && agreed.rules.len() > 1)
            })
        },
        |size| size.budget.elections > 1,
    ),
    (
        || {
            Property::sometimes("the old primary goes on under a new epoch", |m: &Durability, w: &World| {
                first(m, 12, completed(m, w, Start::Continue) >= 1)
            })
        },
        |size| size.budget.elections > 0 && (size.depth == 0 || size.members == 3),
    ),
    (
        || {
            Property::sometimes("walsenders of one primary hold two settings", |m: &Durability, w: &World| {
                first(m, 13, mixture(w))
            })
        },
        |size| size.budget.changes > 0,
    ),
    (
        || {
            Property::sometimes("a change of the rule is finished", |m: &Durability, w: &World| {
                let agreed = m.book.get(w.agreed);
                let changed = agreed.newest_rule().is_some_and(|rule| rule.epoch.0 == 1 && rule.version.0 > 1);
                first(m, 14, changed && agreed.change.is_none() && agreed.election.is_none())
            })
        },
        |size| size.budget.changes > 0,
    ),
    (
        || {
            Property::sometimes("a member has a new incarnation and streams again", |m: &Durability, w: &World| {
                let again =
                    w.servers.iter().any(|s| s.run == Run::Standby && s.marker > m.size.members && s.follows.1 != 0);
                first(m, 15, again)
            })
        },
        |size| size.budget.wipes > 0,
    ),
    (
        || {
            Property::sometimes("a host crashes between promotion and its record", |m: &Durability, w: &World| {
                let agreed = m.book.get(w.agreed);
                let lost = |branch: &crate::state::Branch| {
                    agreed.reigns.iter().any(|r| small(r.epoch.0) == branch.epoch && r.promotion.is_none())
                        && !w.servers.iter().any(|s| s.run == Run::Primary && s.reigned == branch.epoch)
                };
                first(m, 16, w.branches.iter().any(lost))
            })
        },
        |size| size.budget.crashes > 0 && size.budget.elections > 0,
    ),
    (
        || {
            Property::sometimes(
                "an old primary runs on while its successor acknowledges",
                |m: &Durability, w: &World| {
                    let newest = w.acked.last().map_or(0, |acked| acked.epoch);
                    let old = w.servers.iter().any(|s| s.run == Run::Primary && s.reigned < newest);
                    first(m, 17, newest > 1 && old)
                },
            )
        },
        |size| size.budget.elections > 0 && size.budget.writes > 0 && size.k == 1,
    ),
    (
        || {
            Property::sometimes(
                "a member carries out a plan that something newer has overtaken",
                |m: &Durability, w: &World| first(m, 18, w.budget.stale < m.size.budget.stale),
            )
        },
        |size| size.budget.stale > 0,
    ),
    (
        || {
            Property::sometimes("a sealed member has caught up from another one", |m: &Durability, w: &World| {
                let agreed = m.book.get(w.agreed);
                let order = agreed.election.as_ref().and_then(|election| election.catch_up.clone());
                let done = order.is_some_and(|order| {
                    let told = w.told[number(&order.member.member) as usize];
                    told.is_some_and(|told| u64::from(told.position.1) >= order.target.lsn.0)
                });
                first(m, 19, done)
            })
        },
        |size| size.catch_up,
    ),
];

/// Only the first discovery of each property counts, which in a breadth-first search is the shortest.
fn first(model: &Durability, bit: u32, holds: bool) -> bool {
    holds && model.discovered.fetch_or(1 << bit, Ordering::Relaxed) & (1 << bit) == 0
}

fn first_failure(model: &Durability, bit: u32, holds: bool) -> bool {
    holds || model.discovered.fetch_or(1 << bit, Ordering::Relaxed) & (1 << bit) != 0
}

fn survives(world: &World, commits: &[Acked]) -> bool {
    commits.iter().all(|commit| {
        let later = world.branches.iter().enumerate().filter(|(_, branch)| branch.epoch > commit.epoch);
        later.into_iter().all(|(number, branch)| {
            let start = Wal { branch: small(number as u64), len: branch.fork };
            contains(&world.branches, start, commit.wal)
        })
    })
}

fn one_primary(world: &World) -> bool {
    let branches = &world.branches;
    let one_line = branches.iter().enumerate().all(|(n, one)| branches[..n].iter().all(|two| one.epoch != two.epoch));
    one_line && world.acked.windows(2).all(|pair| pair[0].epoch != pair[1].epoch)
}

fn completed(model: &Durability, world: &World, start: Start) -> usize {
    let agreed = model.book.get(world.agreed);
    agreed.reigns.iter().filter(|reign| reign.start == start && reign.complete).count()
}

fn mixture(world: &World) -> bool {
    world.servers.iter().filter(|server| server.run == Run::Primary).any(|server| {
        let mut held = server.senders.iter().filter(|sender| sender.inc != 0).map(|sender| sender.held);
        held.next().is_some_and(|one| held.any(|other| other != one))
    })
}

/// Whether `member` is the primary of the newest reign.
#[must_use]
pub fn reigns(model: &Durability, world: &World, member: u8) -> bool {
    model.book.get(world.agreed).reign().is_some_and(|reign| reign.primary.member == name(member))
}
