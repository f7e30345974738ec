//! What PostgreSQL shows of the settings on which the promise rests, held against what was put in force. What is astray is
//! named with its file and line, counted as evidence, and put back; what only a restart would spoil is named.

use super::{here::Here, shared::Shared};
use crate::clock;
use pgvigil_agent::{
    acts,
    in_force::Stamp,
    ports::Removed,
    tasks::sampler::{NOTICE_MS, Origins},
};
use pgvigil_postgres::{
    Layout, Link, Sample, conf_files, drift,
    in_force::{FileError, Origin},
    procfs,
    settings::{FLOORS, MANAGED},
};
use std::{os::unix::fs::MetadataExt, path::Path, sync::Arc, time::Duration};

/// A statement's limit.
const LIMIT: Duration = Duration::from_millis(1_500);
/// Asks PostgreSQL why it does not show what was written: who else sets it, and which line it cannot read; in its own
/// words. `true`: no change of any file is taken up, so that waiting is in vain.
pub(super) async fn why(link: &Link, names: &[&str]) -> (String, bool) {
    let origins = link.origins(names, LIMIT).await.unwrap_or_default();
    let errors = link.file_errors(LIMIT).await.unwrap_or_default();
    let blocking: Vec<String> = errors.iter().filter(|e| e.blocks).map(FileError::to_string).collect();
    let blocked = !blocking.is_empty();
    let read = if blocked {
        format!("it takes up no file because of {}; mend that", blocking.join(", "))
    } else {
        "it names no error in its files".to_owned()
    };
    (format!("it shows {}; {read}", join(&origins)), blocked)
}

pub(super) fn stamp(path: &Path) -> Option<Stamp> {
    let meta = std::fs::metadata(path).ok()?;
    Some((meta.dev(), meta.ino(), meta.ctime(), meta.ctime_nsec()))
}

/// Whether PostgreSQL was started with pgvigil's own main file: then no line of the user's files comes after ours.
pub(super) fn reads_ours(layout: &Layout, sample: &Sample) -> bool {
    same_file(&sample.config_file, &layout.main_conf())
}

/// The same of the server that runs, if one does. One that lets nobody in was started with a command line that says it.
fn reads_ours_now(shared: &Shared) -> bool {
    let told = shared.lock().sample.as_ref().map(|(sample, _)| reads_ours(&shared.layout, sample));
    let pid = shared.postmaster_pid();
    let option = format!("config_file={}", shared.layout.main_conf().display());
    let started_so = |pid| procfs::title(pid).ok().flatten().is_some_and(|line| line.contains(&option));
    told.unwrap_or_else(|| pid.is_some_and(started_so))
}

fn same_file(read: &str, wanted: &Path) -> bool {
    let read = Path::new(read);
    read == wanted || wanted.canonicalize().is_ok_and(|path| read.canonicalize().is_ok_and(|read| read == path))
}

/// The files that could weaken the rule, as they are now.
pub(super) fn stamps(layout: &Layout, sample: &Sample) -> Vec<Option<Stamp>> {
    let ours = reads_ours(layout, sample);
    let theirs = (!ours).then(|| layout.postgresql_conf());
    [layout.auto_conf()].iter().chain(&theirs).map(|path| stamp(path)).collect()
}

/// Where what is astray comes from. `None`: PostgreSQL does not answer.
pub(super) async fn origins(link: &Link, names: &[String]) -> Option<Origins> {
    let asked: Vec<&str> = names.iter().map(String::as_str).collect();
    let origins = link.origins(&asked, LIMIT).await.ok()?;
    let (of_session, rest): (Vec<Origin>, Vec<Origin>) = origins.into_iter().partition(Origin::is_of_session);
    Some(Origins {
        of_session: of_session.into_iter().map(|origin| (origin.name, origin.value)).collect(),
        of_server: rest.iter().map(Origin::to_string).collect(),
    })
}

/// Lines because of which PostgreSQL takes up no file.
pub(super) async fn blocking_errors(link: &Link) -> Vec<String> {
    let errors = link.file_errors(LIMIT).await.unwrap_or_default();
    errors.iter().filter(|error| error.blocks).map(FileError::to_string).collect()
}

/// The lines of `ALTER SYSTEM` that override ours.
pub(super) fn overrides(shared: &Shared) -> anyhow::Result<Removed> {
    let found = drift::find(&shared.layout)?;
    Ok(Removed { changed: false, lines: found.into_iter().map(|drift| (drift.name, drift.value)).collect() })
}

/// No line comes after ours any more: those of `ALTER SYSTEM` are taken out, and where the server reads the user's file
/// first, the line that includes ours is the last one again. Costs a look at each where nothing is to be done.
pub(super) fn remove_overrides(shared: &Shared) -> anyhow::Result<Removed> {
    let gone = drift::remove(&shared.layout)?;
    let mut removed = Removed { changed: !gone.is_empty(), lines: Vec::new() };
    for gone in gone {
        tracing::warn!(
            member = %shared.me(), name = gone.name, value = gone.value, line = gone.line,
            "took a line out of postgresql.auto.conf"
        );
        removed.lines.push((gone.name, gone.value));
    }
    if !reads_ours_now(shared) && !conf_files::is_included_last(&shared.layout)? {
        conf_files::ensure_include(&shared.layout)?;
        removed.changed = true;
        tracing::warn!(member = %shared.me(), "moved the line that includes ours to the end of postgresql.conf again");
    }
    Ok(removed)
}

fn join(origins: &[Origin]) -> String {
    origins.iter().map(Origin::to_string).collect::<Vec<_>>().join(", ")
}

/// No session shows what is in force: of what was astray is told what was seen last.
pub(super) fn unasked(shared: &Shared) {
    let seen = {
        let inner = shared.lock();
        inner.drifted.since.and(inner.drifted.told.clone())
    };
    let Some((what, _)) = seen else { return };
    shared.problem(
        "drift",
        Some(format!(
            "{what} and not as pgvigil set it when it could last look; it is written anew, but no session shows what is in \
             force now"
        )),
    );
}

/// The slower look: what the files say that PostgreSQL cannot take up, or would only at a restart; lines by `ALTER SYSTEM`
/// that a server which somebody else starts would obey.
pub(super) async fn files(shared: &Arc<Shared>, link: &Link, sample: &Sample) {
    let Ok(errors) = link.file_errors(LIMIT).await else { return };
    let wrong: Vec<String> = errors.iter().filter(|error| !error.restart).map(FileError::to_string).collect();
    let blocked = errors.iter().any(|error| error.blocks);
    let text = format!(
        "configuration files hold what PostgreSQL cannot take up: {}{}",
        wrong.join(", "),
        if blocked { "; until that is mended no change of any file is taken up, and it would not start" } else { "" }
    );
    shared.problem("files", (!wrong.is_empty()).then_some(text));
    let waiting: Vec<String> = errors.iter().filter(|error| error.restart).filter_map(pending).collect();
    shared.problem("pending", (!waiting.is_empty()).then(|| waiting.join("; ")));
    let ours = reads_ours(&shared.layout, sample);
    if shared.lock().local.marker.is_none() || shared.lock().local.busy {
        return;
    }
    let foreign = !ours && !same_file(&sample.config_file, &shared.layout.postgresql_conf());
    if foreign && sample.in_recovery {
        let why =
            format!("it was started with config_file = {}, so it does not read what pgvigil sets", sample.config_file);
        let mut inner = shared.lock();
        if inner.local.restart_due.is_none() {
            tracing::warn!(member = %shared.me(), "{why}; it is restarted");
            inner.local.restart_due = Some(why);
            shared.work.notify_one();
        }
        return;
    }
    let failed = tidy(shared, link, ours).await.err();
    let text = failed.map(|error| format!("lines that override what pgvigil sets cannot be taken out: {error:#}"));
    shared.problem("overrides", text);
}

/// For servers that somebody else will start: ours is included, and nothing overrides it.
async fn tidy(shared: &Arc<Shared>, link: &Link, ours: bool) -> anyhow::Result<()> {
    if ours && !conf_files::has_include(&shared.layout)? {
        conf_files::ensure_include(&shared.layout)?;
        tracing::warn!(member = %shared.me(), "postgresql.conf did not include ours any more; it does again");
    }
    let found = drift::find(&shared.layout)?;
    if found.is_empty() && (ours || conf_files::is_included_last(&shared.layout)?) {
        return Ok(());
    }
    // What overrides without an effect stays for one look, so that whoever set it can see that.
    let seen_before = std::mem::replace(&mut shared.server().idle_overrides, found.clone()) == found;
    if ours && !seen_before {
        return Ok(());
    }
    acts::clear_overrides(&Here(Arc::clone(shared))).await?;
    link.reload(LIMIT).await?;
    let names: Vec<String> = found.iter().map(|d| format!("{} = '{}' (line {})", d.name, d.value, d.line)).collect();
    if !names.is_empty() {
        let text = format!("{} in postgresql.auto.conf", names.join(", "));
        shared.lock().drifted.told = Some((text, clock::now().plus(NOTICE_MS)));
    }
    Ok(())
}

/// What a restart would, or would not, bring.
fn pending(error: &FileError) -> Option<String> {
    let (name, value) = error.setting.as_ref()?;
    let place = error.place.as_ref().map(|place| format!(" ({place})")).unwrap_or_default();
    let lower = name.to_ascii_lowercase();
    if MANAGED.contains(&lower.as_str()) || FLOORS.contains(&lower.as_str()) {
        return Some(format!(
            "{name} = '{value}'{place} has no effect: pgvigil starts PostgreSQL with what the cluster needs"
        ));
    }
    // A standby with less than its primary has does not start.
    const FLOOR_OF_PRIMARY: [&str; 4] =
        ["max_connections", "max_worker_processes", "max_prepared_transactions", "max_locks_per_transaction"];
    FLOOR_OF_PRIMARY.contains(&lower.as_str()).then(|| format!("{name} = '{value}'{place} waits for a restart"))
}
