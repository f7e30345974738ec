//! What is armed in this process.

use super::{Bug, POINTS};
use crate::kill::kill_all;
use nix::sys::signal::{Signal, raise};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

/// What happens at a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    /// SIGSTOP to this process.
    Stop,
    /// This process aborts.
    Crash,
    /// Every process of PostgreSQL is killed, then this one aborts.
    CrashHost,
    /// It goes on, and so much later the host loses its power.
    PowerLoss(Duration),
    /// It goes on after so long.
    Delay(Duration),
}

#[derive(Debug)]
struct Armed {
    point: &'static str,
    act: Act,
    /// At which time of reaching it; 0: every time.
    nth: u32,
    reached: AtomicU32,
}

#[derive(Debug, Default)]
struct Plan {
    points: Vec<Armed>,
    bugs: Vec<Bug>,
}

/// Where the plan comes from.
#[derive(Debug)]
enum Source {
    Fixed(Arc<Plan>),
    /// A file that is looked at anew each time, with what it held last and what that means.
    File(PathBuf, Mutex<(String, Arc<Plan>)>),
}

static SOURCE: OnceLock<Source> = OnceLock::new();

/// What files held that have been replaced and not flushed since a loss of power was armed; `None`: they were not there.
static UNSYNCED: Mutex<BTreeMap<PathBuf, Option<Vec<u8>>>> = Mutex::new(BTreeMap::new());

pub(super) fn arm(text: &str) -> Result<(), String> {
    let source = match text.strip_prefix('@') {
        Some(path) => Source::File(PathBuf::from(path), Mutex::default()),
        None => Source::Fixed(Arc::new(parse(text)?)),
    };
    // A second call changes nothing: a process is armed once, at its start.
    let _ = SOURCE.set(source);
    Ok(())
}

fn plan() -> Option<Arc<Plan>> {
    match SOURCE.get()? {
        Source::Fixed(plan) => Some(Arc::clone(plan)),
        Source::File(path, known) => {
            let text = std::fs::read_to_string(path).unwrap_or_default();
            let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
            if known.0 != text {
                tracing::error!("FAULT POINTS: {text:?}");
                // A fault that never fires proves nothing, so what cannot be read ends the process.
                let plan = parse(&text).unwrap_or_else(|problem| panic!("{}: {problem}", path.display()));
                *known = (text, Arc::new(plan));
            }
            Some(Arc::clone(&known.1))
        }
    }
}

fn parse(text: &str) -> Result<Plan, String> {
    let mut plan = Plan::default();
    for word in text.split_whitespace() {
        if let Some(name) = word.strip_prefix("bug:") {
            let bug = Bug::ALL.iter().find(|bug| bug.name() == name);
            plan.bugs.push(*bug.ok_or_else(|| format!("there is no bug {name:?}"))?);
            continue;
        }
        let (name, act) = word.split_once('=').ok_or_else(|| format!("{word:?} is neither POINT=ACT nor bug:NAME"))?;
        let point = POINTS.iter().find(|point| **point == name);
        let point = point.ok_or_else(|| format!("there is no point {name:?}"))?;
        let (act, nth) = match act.split_once('@') {
            Some((act, nth)) => (act, Some(nth.parse::<u32>().map_err(|e| format!("{word:?}: {e}"))?)),
            None => (act, None),
        };
        let (act, usual) = match act {
            "stop" => (Act::Stop, 1),
            "crash" => (Act::Crash, 1),
            "crash-host" => (Act::CrashHost, 1),
            other => {
                let (kind, millis) = other.split_once(':').unwrap_or_default();
                let millis = millis.parse().ok().map(Duration::from_millis);
                match (kind, millis) {
                    ("delay", Some(length)) => (Act::Delay(length), 0),
                    ("power-loss", Some(after)) => (Act::PowerLoss(after), 1),
                    _ => return Err(format!("{word:?}: there is no such act")),
                }
            }
        };
        plan.points.push(Armed { point, act, nth: nth.unwrap_or(usual), reached: AtomicU32::new(0) });
    }
    Ok(plan)
}

pub(super) fn planted(bug: Bug) -> bool {
    plan().is_some_and(|plan| plan.bugs.contains(&bug))
}

pub(super) fn waits_at(point: &str) -> bool {
    plan().is_some_and(|plan| plan.points.iter().any(|armed| armed.point == point))
}

/// Does what is armed at the point; returns how long to wait.
pub(super) fn reach(point: &str, data_dir: Option<&Path>) -> Option<Duration> {
    let plan = plan()?;
    let armed = plan.points.iter().find(|armed| armed.point == point)?;
    let count = armed.reached.fetch_add(1, Ordering::Relaxed) + 1;
    if armed.nth != 0 && armed.nth != count {
        return None;
    }
    tracing::error!(point, act = ?armed.act, count, "a fault point is reached");
    match armed.act {
        Act::Stop => {
            // Cannot fail for one's own process and a valid signal.
            let _ = raise(Signal::SIGSTOP);
            None
        }
        Act::Crash => std::process::abort(),
        Act::CrashHost => {
            kill_postgres(data_dir);
            std::process::abort()
        }
        Act::PowerLoss(after) => {
            let data_dir = data_dir.map(Path::to_owned);
            std::thread::spawn(move || {
                std::thread::sleep(after);
                kill_postgres(data_dir.as_deref());
                forget_unsynced();
                std::process::abort()
            });
            None
        }
        Act::Delay(length) => Some(length),
    }
}

fn kill_postgres(data_dir: Option<&Path>) {
    if let Some(data_dir) = data_dir
        && let Err(error) = kill_all(data_dir, None, Duration::from_secs(10))
    {
        tracing::error!(%error, "not everything was killed");
    }
}

pub(super) fn replaces(path: &Path, synced: bool) {
    let to_come = |plan: &Arc<Plan>| plan.points.iter().any(|armed| matches!(armed.act, Act::PowerLoss(_)));
    if !plan().as_ref().is_some_and(to_come) {
        return;
    }
    let mut unsynced = UNSYNCED.lock().unwrap_or_else(PoisonError::into_inner);
    if synced {
        unsynced.remove(path);
    } else {
        unsynced.entry(path.to_owned()).or_insert_with(|| std::fs::read(path).ok());
    }
}

fn forget_unsynced() {
    for (path, before) in UNSYNCED.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        let done = match before {
            Some(bytes) => std::fs::write(path, bytes),
            None => std::fs::remove_file(path),
        };
        tracing::error!(path = %path.display(), ?done, "not flushed: it is what it was before");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_acts_and_bugs_are_read() {
        let plan =
            parse("seal:promised=crash@2 follow:begin=delay:500 bug:lease-ignored seal:begin=power-loss:9").unwrap();
        assert_eq!((plan.points[0].point, plan.points[0].act, plan.points[0].nth), ("seal:promised", Act::Crash, 2));
        assert_eq!((plan.points[1].act, plan.points[1].nth), (Act::Delay(Duration::from_millis(500)), 0));
        assert_eq!((plan.points[2].act, plan.points[2].nth), (Act::PowerLoss(Duration::from_millis(9)), 1));
        assert_eq!(plan.bugs, [Bug::LeaseIgnored]);
    }

    #[test]
    fn what_is_not_known_is_an_error() {
        for bad in ["seal:nowhere=stop", "seal:promised=jump", "bug:nothing", "seal:promised", "seal:promised=stop@x"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
