//! Runs the service model and says what came of it.

use crate::run::wait;
use crate::service::{PLANTED, STALE, Service, Tick, Unguarded, tell};
use serde::Serialize;
use stateright::{Checker, HasDiscoveries, Model};
use std::{
    fmt::Write,
    time::{Duration, Instant},
};

/// What came of the service model.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// Its name.
    pub name: &'static str,
    /// Which protection was taken out.
    pub planted: Unguarded,
    /// Distinct states.
    pub states: usize,
    /// The depth reached.
    pub depth: usize,
    /// Seconds.
    pub seconds: f64,
    /// The shortest history in which a stale primary serves.
    pub path: Option<Vec<Tick>>,
    /// The same in sentences.
    pub story: Vec<String>,
    /// What should sometimes happen, and the length of its example if it does.
    pub examples: Vec<(&'static str, Option<usize>)>,
}

impl Outcome {
    /// Whether no stale primary ever serves, and everything that should happen does.
    #[must_use]
    pub fn good(&self) -> bool {
        self.path.is_none() && self.examples.iter().all(|(_, length)| length.is_some())
    }
}

/// Searches the service model without the protection `planted`; `progress` hears of it every two seconds.
///
/// # Panics
/// If the checker's thread does: then the model or the core has panicked.
pub fn check(planted: Unguarded, mut progress: impl FnMut(usize, usize, Duration)) -> Outcome {
    let began = Instant::now();
    let model = Service::new(planted);
    let name = PLANTED.iter().find(|(_, this)| *this == planted).map_or("service", |(name, _)| name);
    let names: Vec<&'static str> = model.properties().iter().map(|property| property.name).collect();
    let mut checker = model.checker().finish_when(HasDiscoveries::AnyFailures).spawn_bfs();
    wait(&mut checker, &mut progress);
    let mut discoveries = checker.discoveries();
    let path = discoveries.remove(STALE).map(stateright::Path::into_actions);
    let examples = names
        .into_iter()
        .filter(|name| *name != STALE)
        .map(|name| (name, discoveries.remove(name).map(|path| path.into_actions().len())))
        .collect();
    let story = path.as_deref().map(|path| tell(&Service::new(planted), path)).unwrap_or_default();
    Outcome {
        name,
        planted,
        states: checker.unique_state_count(),
        depth: checker.max_depth().saturating_sub(1),
        seconds: began.elapsed().as_secs_f64(),
        path,
        story,
        examples,
    }
}

/// The outcome in lines.
#[must_use]
pub fn lines(outcome: &Outcome) -> String {
    let Outcome { name, states, depth, seconds, .. } = outcome;
    if let Some(path) = &outcome.path {
        return format!("{name:32} {:3} steps, {states:8} states, {seconds:6.1} s: {STALE}\n", path.len());
    }
    let mut text = format!("{name}: {states} states, exhausted at depth {depth}, {seconds:.1} s\n");
    let _ = writeln!(text, "  ok   {STALE}: never broken");
    for (example, length) in &outcome.examples {
        let _ = match length {
            Some(length) => writeln!(text, "  ok   {example}: after {length} steps"),
            None => writeln!(text, "  FAIL {example}: never happens"),
        };
    }
    text
}

/// The counterexamples of service, for the page of all of them.
#[must_use]
pub fn page(outcomes: &[Outcome]) -> String {
    let mut text = String::from(
        "\n# Counterexamples of service\n\n\
         a is the old primary; b, its only standby, confirms canaries and succeeds it.\n\
         The lease is three ticks of one common clock.\n",
    );
    for outcome in outcomes {
        let _ = writeln!(text, "\n## {}\n\n{}\n", outcome.name, outcome.planted.sentence());
        for (number, step) in outcome.story.iter().enumerate() {
            let _ = writeln!(text, "{}. {step}", number + 1);
        }
    }
    text
}
