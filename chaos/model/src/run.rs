//! Runs one size and says what came of it.

use crate::{
    actions::Step,
    durability::Durability,
    sizes::Size,
    trace::{Told, tell},
};
use serde::Serialize;
use stateright::{Checker, Expectation, HasDiscoveries, Model};
use std::time::{Duration, Instant};

/// What became of one property.
#[derive(Clone, Debug, Serialize)]
pub struct Verdict {
    /// The property.
    pub property: String,
    /// Whether it is as it should be: an *always* without a counterexample, a *sometimes* with an example.
    pub good: bool,
    /// Whether it must always hold.
    pub always: bool,
    /// The counterexample or example, if there is one: the shortest there is.
    pub path: Option<Vec<Step>>,
}

/// What became of a size.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// The size.
    pub size: Size,
    /// Distinct states.
    pub states: usize,
    /// Steps taken, also those that led to a known state.
    pub steps: usize,
    /// The depth reached, in steps.
    pub depth: usize,
    /// Whether every reachable state was seen.
    pub exhausted: bool,
    /// Distinct agreed states.
    pub agreed: usize,
    /// Seconds.
    pub seconds: f64,
    /// Each property.
    pub verdicts: Vec<Verdict>,
    /// Refusals of `apply` that were met, and from how many distinct agreed states.
    pub refusals: Vec<(String, u64)>,
}

impl Outcome {
    /// Whether every property is as it should be.
    #[must_use]
    pub fn good(&self) -> bool {
        self.verdicts.iter().all(|verdict| verdict.good)
    }

    /// The first property that must always hold and does not, with its path.
    #[must_use]
    pub fn counterexample(&self) -> Option<(&str, &[Step])> {
        let broken = self.verdicts.iter().filter(|verdict| verdict.always && !verdict.good);
        let paths = broken.filter_map(|verdict| Some((verdict.property.as_str(), verdict.path.as_deref()?)));
        paths.min_by_key(|(_, path)| path.len())
    }

    /// The counterexample in sentences.
    #[must_use]
    pub fn story(&self) -> Vec<Told> {
        let Some((property, path)) = self.counterexample() else { return Vec::new() };
        let model = Durability::new(self.size);
        let mut story = tell(&model, path);
        if property == crate::properties::ARRIVES {
            story.extend(fair(&model, path));
        }
        story
    }
}

/// The fair run from the end of `path`: what is agreed, and where it ends.
fn fair(model: &Durability, path: &[Step]) -> Vec<Told> {
    let mut world = model.founded();
    for step in path {
        world = crate::next::next(model, &world, *step).unwrap_or(world);
    }
    let mut told = Vec::new();
    let end = crate::heal::run(model, &world, |command| {
        told.push(Told { step: format!("fair run: {}", command.name()), world: String::new() });
    });
    told.push(Told { step: format!("fair run: {end:?}"), world: String::new() });
    told
}

/// Waits for the search to end; `progress` hears every two seconds of states, depth and time.
pub(crate) fn wait<M: Model>(checker: &mut impl Checker<M>, progress: &mut impl FnMut(usize, usize, Duration)) {
    let began = Instant::now();
    let handles = checker.handles();
    let mut told = began;
    while !handles.iter().all(std::thread::JoinHandle::is_finished) {
        std::thread::sleep(Duration::from_millis(5));
        if told.elapsed() >= Duration::from_secs(2) {
            progress(checker.unique_state_count(), checker.max_depth(), began.elapsed());
            told = Instant::now();
        }
    }
    for handle in handles {
        handle.join().expect("the checker's thread does not panic unless the model or the core does");
    }
}

/// Checks `size` on one thread, so that paths are the shortest; `progress` hears of it every two seconds.
///
/// # Panics
/// If the checker's thread does: then the model or the core has panicked.
pub fn check(size: Size, mut progress: impl FnMut(usize, usize, Duration)) -> Outcome {
    let model = Durability::new(size);
    let book = std::sync::Arc::clone(&model.book);
    let began = Instant::now();
    assert!(!model.init_states().is_empty(), "what is to have happened before {} cannot happen", size.name);
    let mut builder = model.checker().finish_when(HasDiscoveries::AnyFailures);
    if size.depth > 0 {
        builder = builder.target_max_depth(size.depth + 2);
    }
    let mut checker = builder.spawn_bfs();
    wait(&mut checker, &mut progress);
    let mut discoveries = checker.discoveries();
    let verdicts: Vec<Verdict> = checker
        .model()
        .properties()
        .iter()
        .map(|property| {
            let found = discoveries.remove(property.name).map(stateright::Path::into_actions);
            let path = found.map(|found| size.before.iter().copied().chain(found).collect::<Vec<Step>>());
            let always = matches!(property.expectation, Expectation::Always);
            Verdict { property: property.name.to_owned(), good: path.is_some() != always, always, path }
        })
        .collect();
    let failed = verdicts.iter().any(|verdict| verdict.always && !verdict.good);
    let depth = checker.max_depth().saturating_sub(1);
    Outcome {
        size,
        states: checker.unique_state_count(),
        steps: checker.state_count(),
        depth,
        exhausted: !failed && (size.depth == 0 || depth < size.depth),
        agreed: book.len(),
        seconds: began.elapsed().as_secs_f64(),
        verdicts,
        refusals: book.refusals(),
    }
}
