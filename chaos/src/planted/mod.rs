//! The checkers checked on real processes: bugs put back into the real program, each of which a story must bring to
//! light; and the same stories without the bug, which must be clean.
//!
//! The program must have been built with its fault points (`cargo build --workspace`); what users run has none.

mod stage;
mod stories;

use std::time::{Duration, Instant};

use clap::ValueEnum;
use thiserror::Error;

use crate::bare::BareError;
use crate::check::{Kind, Verdict};
use crate::cluster::{ClusterError, ClusterOptions};
use crate::interrupt::WaitError;
use crate::processes::SignalError;
use crate::report::RunRecord;
use crate::workload::LoadError;

pub use stories::Story;

/// Why a story could not be played.
#[derive(Debug, Error)]
pub enum PlantedError {
    /// The program has no fault points.
    #[error("{0} has no fault points: build it with 'cargo build --workspace'")]
    NoFaultPoints(String),
    /// A process that the story is about is not there.
    #[error("{0}")]
    Missing(String),
    /// A program could not be run, or a file not be used.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// See there.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// See there.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// See there.
    #[error(transparent)]
    Bare(#[from] BareError),
    /// See there.
    #[error(transparent)]
    Signal(#[from] SignalError),
    /// See there.
    #[error(transparent)]
    Wait(#[from] WaitError),
}

/// A planted bug, in the words of the program's fault points.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Bug {
    /// The leader opens at once, as if every former primary were fenced.
    LeaseIgnored,
    /// A server is started and promoted with its door open.
    DoorOpenAtStart,
    /// The guard does not kill when the deadline comes.
    GuardDoesNotKill,
    /// A seal promises and reports a position, and stops nothing.
    SealSkipped,
    /// A seal's position is read first, and reception is stopped after that.
    SealNotAwaited,
    /// Killing ends the postmaster and spares what is left of its children.
    FenceMissesBackends,
    /// Every seal claims more WAL than there is: the wrong candidate is chosen.
    PositionInvented,
    /// A rule is narrowed before PostgreSQL has the narrower setting in force.
    RuleNotInForce,
    /// What a seal writes is not flushed, and the host loses its power.
    FsyncSkipped,
}

impl Bug {
    /// The story that brings it to light.
    pub fn story(self) -> Story {
        match self {
            Bug::SealSkipped
            | Bug::SealNotAwaited
            | Bug::LeaseIgnored
            | Bug::DoorOpenAtStart
            | Bug::GuardDoesNotKill => Story::FrozenAgent,
            Bug::FenceMissesBackends => Story::BusyBackend,
            Bug::PositionInvented => Story::LaggingCandidate,
            Bug::RuleNotInForce => Story::NarrowedRule,
            Bug::FsyncSkipped => Story::PowerLossOfSealed,
        }
    }

    /// What checkers must find: at least one of these.
    pub fn signs(self) -> &'static [Kind] {
        match self {
            Bug::SealSkipped
            | Bug::SealNotAwaited
            | Bug::PositionInvented
            | Bug::RuleNotInForce
            | Bug::FsyncSkipped => &[Kind::Lost, Kind::OutsideHistory],
            Bug::LeaseIgnored | Bug::DoorOpenAtStart | Bug::GuardDoesNotKill | Bug::FenceMissesBackends => {
                &[Kind::StaleService]
            }
        }
    }

    /// Its name in `PGVIGIL_FAULT_POINTS`.
    pub fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// Whether this verdict gives it away.
    pub fn is_caught_by(self, verdict: &Verdict) -> bool {
        self.signs().iter().any(|kind| verdict.count(*kind) > 0)
    }
}

/// How often a bug may escape. Some show only while two servers serve at one time, which is over soon, and a busy machine
/// may have no client look just then. As it is, the program gets one chance only.
const ATTEMPTS: u32 = 4;

/// What to play.
#[derive(Debug, Clone)]
pub struct PlantedOptions {
    /// How clusters are started.
    pub cluster: ClusterOptions,
    /// Which bugs.
    pub bugs: Vec<Bug>,
}

/// One story as it was played.
#[derive(Debug, Clone)]
pub struct Play {
    /// With which bug; `None`: as the program is.
    pub bug: Option<Bug>,
    /// What came of it.
    pub record: RunRecord,
}

impl Play {
    /// With a bug, that it was caught; without one, that there was nothing to catch.
    pub fn is_good(&self) -> bool {
        match self.bug {
            Some(bug) => bug.is_caught_by(&self.record.verdict),
            None => self.record.is_good(),
        }
    }
}

/// Plays each story as the program is, and then with each bug that it is for. `say` gets a line for each thing that
/// happens.
pub fn planted(options: &PlantedOptions, say: &mut dyn FnMut(String)) -> Result<Vec<Play>, PlantedError> {
    let mut plays = Vec::new();
    let mut stage = stage::Stage::set(&options.cluster)?;
    for story in Story::value_variants() {
        let bugs: Vec<Bug> = options.bugs.iter().copied().filter(|bug| bug.story() == *story).collect();
        if bugs.is_empty() {
            continue;
        }
        for bug in [None].into_iter().chain(bugs.into_iter().map(Some)) {
            let name = bug.map_or_else(|| "as it is".to_owned(), |bug| format!("with {}", bug.name()));
            say(format!("{} {name}: {}", story.name(), story.sentence()));
            for attempt in 1..=ATTEMPTS {
                let began = Instant::now();
                let play = Play { bug, record: stage.play(*story, bug, None)? };
                say(told(&play, began.elapsed()));
                if bug.is_none() || play.is_good() || attempt == ATTEMPTS {
                    plays.push(play);
                    break;
                }
            }
        }
    }
    Ok(plays)
}

/// The points at which `points` lets a host die, in the order of a change of primary.
pub const POINTS: &[&str] = &[
    "begin-election:before-propose",
    "begin-election:after-agreed",
    "seal:begin",
    "seal:on-disk",
    "seal:receivers-gone",
    "seal:promised",
    "appoint:before-propose",
    "appoint:after-agreed",
    "configure:written",
    "configure:shown",
    "promote:begin",
    "promote:reserved",
    "promote:asked",
    "promote:history-file",
    "promote:promoted",
    "promote:promised",
    "record-promotion:before-propose",
    "record-promotion:after-agreed",
    "open:before-propose",
    "open:after-agreed",
    "follow:begin",
    "follow:pointed",
    "prove:marker",
    "prove:proven",
    "complete-rule:before-propose",
    "complete-rule:after-agreed",
];

/// Plays `Story::CrashAtPoint` for each of these points.
pub fn points(
    cluster: &ClusterOptions,
    points: &[&'static str],
    say: &mut dyn FnMut(String),
) -> Result<Vec<Play>, PlantedError> {
    let mut plays = Vec::new();
    let mut stage = stage::Stage::set(cluster)?;
    for point in points {
        let began = Instant::now();
        let play = Play { bug: None, record: stage.play(Story::CrashAtPoint, None, Some(point))? };
        say(format!("{point}: {}", told(&play, began.elapsed())));
        plays.push(play);
    }
    Ok(plays)
}

/// What came of a play, in a line.
fn told(play: &Play, took: Duration) -> String {
    let verdict = &play.record.verdict;
    let found: Vec<String> = verdict.totals.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
    let found = if found.is_empty() { "nothing found".to_owned() } else { found.join(", ") };
    let word = match (play.bug, play.is_good()) {
        (Some(_), true) => "CAUGHT",
        (Some(_), false) => "NOT CAUGHT",
        (None, true) => "clean",
        (None, false) => "NOT CLEAN",
    };
    format!("{word}: {found} in {} acknowledged commits ({:.1} s)", verdict.counts.acknowledged, took.as_secs_f64())
}
