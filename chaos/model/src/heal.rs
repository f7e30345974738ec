//! Liveness: from every reachable state, once nothing fails any more, the shipped `decide` and `reconcile` end up with a
//! primary that is open, promoted and complete.
//!
//! stateright's *eventually* is unsound here: it looks at the ends of paths only, and in this world paths meet again and
//! go round in circles. So each reachable state is asked another question, which is sound: does the *fair* run from here
//! arrive? In it every host returns, every agent does what `reconcile` says, PostgreSQL gets everything done, and the
//! leader proposes what `decide` wants, first as if everything had just been seen, then, when nothing moves, as if it
//! had waited for long. The run is deterministic, so states that were passed are known to arrive, and each is walked
//! once. It shows that the state is no trap, not how long the way takes.

use crate::{
    actions::Step,
    durability::Durability,
    heal_report::observations,
    next::{self, held},
    state::{MEMBERS_MAX, Member, Run, World},
};
use pgvigil_core::{command::Command, decide, time::Time};
use rustc_hash::FxHashSet;
use std::{
    hash::{Hash, Hasher},
    sync::{Mutex, PoisonError},
};

/// The moment of every question.
pub(crate) const NOW: Time = Time(1_000_000);
/// More rounds than any way home takes.
const ROUNDS_MAX: usize = 300;

/// States from which the fair run is known to arrive.
#[derive(Debug, Default)]
pub struct Arriving {
    known: Mutex<FxHashSet<u64>>,
}

/// How the fair run from a state ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// A primary is open and complete.
    Well,
    /// Nobody may be promoted without risking an acknowledged commit, and the leader says so.
    TooFewSeals,
    /// It goes nowhere; what `decide` finds.
    Stuck(String),
}

fn fingerprint(world: &World) -> u64 {
    let mut hasher = rustc_hash::FxHasher::default();
    world.hash(&mut hasher);
    hasher.finish()
}

/// Whether the fair run from `world` arrives, or ends where it may.
pub fn arrives(model: &Durability, world: &World) -> bool {
    !matches!(run(model, world, |_| ()), End::Stuck(_))
}

/// The fair run from `world`; `tell` hears of every command that is agreed.
pub fn run(model: &Durability, world: &World, mut tell: impl FnMut(&Command)) -> End {
    let mut world = world.clone();
    world.budget = crate::state::Budget::default();
    let mut passed = Vec::new();
    let mut impatient = false;
    for _ in 0..ROUNDS_MAX {
        calm(model, &mut world);
        if well(model, &world) {
            break;
        }
        let print = fingerprint(&world);
        if !impatient {
            if model.arriving.known.lock().unwrap_or_else(PoisonError::into_inner).contains(&print) {
                break;
            }
            passed.push(print);
        }
        let agreed = model.book.get(world.agreed);
        let seen = observations(model, &world, &agreed, impatient);
        let decision = decide(&agreed, &seen, NOW);
        let moved = decision.command.as_ref().and_then(|wanted| {
            tell(&wanted.command);
            model.book.apply(world.agreed, &wanted.command, model.size.planted)
        });
        match moved {
            Some(after) => {
                impatient = false;
                world.agreed = after;
                world.told = [None; MEMBERS_MAX];
            }
            None if !impatient => impatient = true,
            None => {
                let codes: Vec<&str> = decision.findings.iter().map(|finding| finding.code.as_str()).collect();
                if codes.contains(&"too-few-seals") || codes.contains(&"too-few-members") {
                    return End::TooFewSeals;
                }
                let refused = decision.command.map(|wanted| wanted.command.name()).unwrap_or_default();
                let texts: Vec<&str> = decision.findings.iter().map(|finding| finding.text.as_str()).collect();
                return End::Stuck(format!("{refused} {}", texts.join("; ")));
            }
        }
    }
    if !well(model, &world) && passed.len() + 1 >= ROUNDS_MAX {
        return End::Stuck("it goes round in circles".to_owned());
    }
    model.arriving.known.lock().unwrap_or_else(PoisonError::into_inner).extend(passed);
    End::Well
}

/// Everything that happens by itself: hosts return, agents act, PostgreSQL gets it done.
fn calm(model: &Durability, world: &mut World) {
    for _ in 0..ROUNDS_MAX {
        let before = world.clone();
        for member in 0..model.size.members {
            world.servers[member as usize].view = world.agreed;
            attempt(model, world, Step::Return(member), !world.servers[member as usize].up);
            attempt(model, world, Step::Promoted(member), world.servers[member as usize].run == Run::Promoting);
            attempt(model, world, Step::Act(member), true);
            for other in 0..model.size.members {
                let server = &world.servers[member as usize];
                let sender = &server.senders[other as usize];
                let reloads = server.run == Run::Primary && sender.inc != 0 && sender.held != server.setting;
                attempt(model, world, Step::Reload(member, other), reloads);
            }
            let (marking, reported) = {
                let server = &world.servers[member as usize];
                (server.marking != 0 && server.reported == 0, server.reported != 0)
            };
            attempt(model, world, Step::AllReported(member), marking);
            attempt(model, world, Step::Proven(member), reported);
            attempt(model, world, Step::Stream(member), world.servers[member as usize].follows.1 != 0);
        }
        if *world == before {
            return;
        }
    }
}

fn attempt(model: &Durability, world: &mut World, step: Step, possible: bool) {
    if possible && let Some(after) = next::next(model, world, step) {
        *world = after;
    }
}

fn well(model: &Durability, world: &World) -> bool {
    let agreed = model.book.get(world.agreed);
    let Some(reign) = agreed.reign_in_force().filter(|reign| reign.open && reign.complete) else { return false };
    let primary: Member = crate::agreed::number(&reign.primary.member);
    let server = &world.servers[primary as usize];
    server.up
        && server.run == Run::Primary
        && u64::from(server.reigned) == reign.epoch.0
        && server.setting == held(&reign.setting, server.reigned)
        && server.force.is_some_and(|force| force.door)
}
