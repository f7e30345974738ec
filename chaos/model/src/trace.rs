//! A path through the world, told in sentences.

use crate::{
    actions::Step,
    agreed::name,
    durability::Durability,
    state::{Member, MemberMask, World, letter},
};
use pgvigil_core::reconcile::Action;
use serde::Serialize;

/// One step of a path and what was found after it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Told {
    /// What happened.
    pub step: String,
    /// What the world is then.
    pub world: String,
}

/// Tells the path of `steps` from the beginning.
#[must_use]
pub fn tell(model: &Durability, steps: &[Step]) -> Vec<Told> {
    let mut world = model.founded();
    let mut told = Vec::new();
    for step in steps {
        let sentence = sentence(model, &world, *step);
        let Some(after) = crate::next::next(model, &world, *step) else { break };
        world = after;
        told.push(Told { step: sentence, world: describe(model, &world) });
    }
    told
}

fn members(mask: MemberMask) -> String {
    let names: Vec<String> = (0..8).filter(|m| mask & (1 << m) != 0).map(|m| letter(m).to_string()).collect();
    if names.is_empty() { "nobody".to_owned() } else { names.join(", ") }
}

/// A step in words, as it happens in `world`.
#[must_use]
pub fn sentence(model: &Durability, world: &World, step: Step) -> String {
    let agreed = model.book.get(world.agreed);
    let next = agreed.epoch.0 + 1;
    match step {
        Step::Write(m) => format!("a client commits on {}", letter(m)),
        Step::Stream(m) => {
            let from = world.servers[m as usize].follows.0;
            format!("{} streams from {} and reports what it has flushed", letter(m), letter(from))
        }
        Step::Reload(p, m) => format!("the walsender of {} for {} takes up the reload", letter(p), letter(m)),
        Step::Promoted(m) => format!("the promotion of {} is done", letter(m)),
        Step::PromotedThenCrashed(m) => {
            format!("the promotion of {} is done, and its host crashes before that is noted", letter(m))
        }
        Step::AllReported(m) => format!("every walsender of {} has reported the marker, or is ended", letter(m)),
        Step::Proven(m) => format!("{} has proven its setting", letter(m)),
        Step::Act(m) => act(model, world, m),
        Step::Learn(m) => format!("the agent of {} learns what is agreed", letter(m)),
        Step::Crash(m) => format!("the host of {} crashes", letter(m)),
        Step::Return(m) => format!("the host of {} comes back", letter(m)),
        Step::Wipe(m) => format!("the host of {} crashes, and its disk comes back empty", letter(m)),
        Step::Rollback(m, len) => {
            format!("the host of {} crashes, and its disk comes back as it was at record {len}", letter(m))
        }
        Step::Begin(false) => format!("agreed: an election for epoch {next} begins"),
        Step::Begin(true) => format!("agreed: a renewal under epoch {next} begins"),
        Step::OrderCatchUp(m, s) => format!("agreed: {} is to catch up from {}", letter(m), letter(s)),
        Step::Appoint { primary, goes_on, cohort, k } => {
            let how = if goes_on { "goes on" } else { "is appointed" };
            format!("agreed: {} {how}, with ANY {k} of {}", letter(primary), members(cohort))
        }
        Step::Record(m) => format!("agreed: {} was promoted", letter(m)),
        Step::Open(m) => format!("agreed: {} opens its door", letter(m)),
        Step::Complete(m) => format!("agreed: the rule of {} is complete, older ones are closed", letter(m)),
        Step::Change { cohort, k } => format!("agreed: the rule is to become ANY {k} of {}", members(cohort)),
        Step::Finish(m) => format!("agreed: the rule of {} is the new one alone", letter(m)),
        Step::NewIncarnation(m) => format!("agreed: {} has a new incarnation", letter(m)),
        Step::Unseal(m) => format!("PostgreSQL of {} restarts and streams where it did before", letter(m)),
        Step::RemakeInPlace(m) => {
            format!("{} is being made anew under its old incarnation, and that breaks off", letter(m))
        }
    }
}

fn act(model: &Durability, world: &World, member: Member) -> String {
    let server = &world.servers[member as usize];
    let wish = model.wishes.ask(&model.book, world, member, server.view, model.size.planted);
    let late = if server.view == world.agreed { "" } else { " (late)" };
    let me = letter(member);
    let what = match &wish.action {
        None => "does nothing".to_owned(),
        Some(Action::Fence { .. }) => "is fenced".to_owned(),
        Some(Action::Seal { epoch }) => format!("seals for epoch {epoch}"),
        Some(Action::CatchUp { source, .. }) => format!("catches up from {}", source.key.member),
        Some(Action::StartPrimary { epoch, .. }) => format!("starts as primary of epoch {epoch}, door closed"),
        Some(Action::Configure { setting, door_open, .. }) => {
            let names: Vec<&str> = setting.cohort.iter().map(|key| key.member.as_str()).collect();
            let door = if *door_open { "open" } else { "closed" };
            format!("puts ANY {} ({}) in force, door {door}", setting.k, names.join(", "))
        }
        Some(Action::Promote { epoch, .. }) => format!("asks for its promotion to primary of epoch {epoch}"),
        Some(Action::CarryOn { epoch }) => format!("carries on as primary of epoch {epoch}"),
        Some(Action::Prove { .. }) => "writes a marker to prove its setting".to_owned(),
        Some(Action::StartStandby { following: None, .. }) => "starts as a standby that follows nobody".to_owned(),
        Some(Action::StartStandby { following: Some((upstream, _)), .. }) => {
            format!("starts as a standby of {}", upstream.key.member)
        }
        Some(Action::Follow { upstream, .. }) => format!("is pointed at {}", upstream.key.member),
        Some(Action::Rewind { upstream, .. }) => format!("is rewound from {}", upstream.key.member),
        Some(Action::Clone { upstream, .. }) => format!("is cloned from {}", upstream.key.member),
        Some(Action::Initdb { .. }) => "runs initdb".to_owned(),
        Some(Action::ReadWalEnd { .. }) => "reads the end of its WAL".to_owned(),
        Some(other) => format!("does {other:?}"),
    };
    format!("{me} {what}{late}")
}

/// The world in one line: what each member has and is, and what was acknowledged.
#[must_use]
pub fn describe(model: &Durability, world: &World) -> String {
    let agreed = model.book.get(world.agreed);
    let mut parts = Vec::new();
    for (number, server) in world.servers.iter().enumerate() {
        let wal = server.wal;
        let state = if server.up { format!("{:?}", server.run).to_lowercase() } else { "off".to_owned() };
        let epoch = world.branches[wal.branch as usize].epoch;
        let member = u8::try_from(number).unwrap_or(0);
        let counted = agreed.members.get(&name(member)).is_some_and(|m| m.incarnation.0 == u64::from(server.marker));
        let mark = if counted { "" } else { " uncounted" };
        parts.push(format!("{} {state} {}@e{epoch}{mark}", letter(member), wal.len));
    }
    let acked: Vec<String> = world.acked.iter().map(|a| format!("e{}:{}", a.epoch, a.wal.len)).collect();
    let rules: Vec<String> = agreed
        .rules
        .iter()
        .map(|rule| {
            let names: Vec<String> = rule.setting.cohort.iter().map(ToString::to_string).collect();
            format!("e{} ANY {} ({})", rule.epoch, rule.setting.k, names.join(" "))
        })
        .collect();
    format!("{}; acknowledged {}; rules {}", parts.join(", "), acked.join(" "), rules.join(" + "))
}
