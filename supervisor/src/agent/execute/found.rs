//! The first data directory of a cluster, and servers that already run.

use super::{STATEMENT, instance, obey, settings};
use crate::agent::{
    door,
    marker::{self, Kept},
    shared::Shared,
};
use anyhow::{Context, bail};
use pgvigil_core::{
    id::{Epoch, Incarnation},
    local::{InForce, LocalPostgres, Marker},
    reign::Promotion,
};
use pgvigil_postgres::{
    Link,
    conf_files::ensure_include,
    hba::{self, Door},
    instance::write_fence,
    rewind,
    role::Look,
};
use std::{path::Path, sync::Arc, time::Duration};

const INITDB: Duration = Duration::from_secs(300);

/// Marks the data directory as this member's, in that incarnation.
pub(super) fn mark(shared: &Shared, incarnation: Incarnation) -> anyhow::Result<()> {
    let major = shared.binaries.version().major;
    let mark = Marker { cluster: shared.cluster.clone(), member: shared.me().clone(), incarnation };
    marker::write(&shared.layout.data_dir, &mark)?;
    marker::keep(&shared.layout.agent_dir, &Kept { marker: mark.clone(), major })?;
    rewind::forget_interrupted(&shared.layout)?;
    shared.lock().local.marker = Some(mark);
    Ok(())
}

/// Makes the data directory of a new cluster, marked and fenced; it is started by the next act.
pub async fn initdb(shared: &Arc<Shared>, epoch: Epoch, incarnation: Incarnation) -> anyhow::Result<()> {
    obey(shared, epoch)?;
    shared.lock().activity = Some("initdb".to_owned());
    let instance = instance(shared);
    let mut print = |line: &str| tracing::debug!("initdb: {line}");
    instance.initdb(INITDB, &mut print).await?;
    shared.write_door(Door::Closed)?;
    settings(shared).write(shared.binaries.version(), &shared.layout)?;
    ensure_include(&shared.layout)?;
    // Marked last: an unmarked directory is one that this act did not finish.
    mark(shared, incarnation)?;
    let mut inner = shared.lock();
    inner.local.postgres = LocalPostgres::Stopped { crashed: false };
    inner.local.fence_on_disk = true;
    Ok(())
}

/// Takes over a running primary without a restart: the mark, our included file, our lines of pg_hba.conf before its own.
/// What only a restart can change is reported.
pub async fn adopt_primary(shared: &Arc<Shared>, epoch: Epoch, incarnation: Incarnation) -> anyhow::Result<()> {
    obey(shared, epoch)?;
    let instance = instance(shared);
    let link = Link::connect(&instance.endpoint, "adopt", "-c synchronous_commit=local", STATEMENT).await?;
    if link.in_recovery(STATEMENT).await? {
        bail!("it is a standby");
    }
    own_files(shared, &link).await?;
    let needed = [("wal_level", "minimal"), ("max_wal_senders", "0"), ("hot_standby", "off")];
    for (name, bad) in needed {
        if link.setting(name, STATEMENT).await? == bad {
            bail!("{name} = {bad}: no standby can follow it; change it and restart PostgreSQL, then it is adopted");
        }
    }
    let checksums = link.setting("data_checksums", STATEMENT).await?;
    let hints = link.setting("wal_log_hints", STATEMENT).await?;
    let text = "neither data checksums nor wal_log_hints are on: this server cannot be rewound, only cloned anew";
    shared.problem("rewind", (checksums == "off" && hints == "off").then(|| text.to_owned()));
    link.mend_replication_role(&shared.access.replication_role, &shared.secret, Look::Close, STATEMENT).await?;
    let at = super::serve::insert_position(&link).await?;
    set_aside(shared)?;
    door::remember(&shared.layout.agent_dir, true)?;
    settings(shared).write(shared.binaries.version(), &shared.layout)?;
    ensure_include(&shared.layout)?;
    shared.promise(epoch, |promise| {
        promise.reigned = epoch;
        promise.promotion = Some(Promotion { fork: at, end: at, marked: false });
    })?;
    mark(shared, incarnation).context("cannot mark the data directory")?;
    // What a boot or a person starts here from now on must be a standby, as of every primary of ours (history A13). Only
    // after the mark: before it, what people start here is still to be adopted.
    write_fence(&shared.layout)?;
    let mut inner = shared.lock();
    // Its clients stay in: the door is open as it was.
    inner.local.in_force = Some(InForce { epoch, door_open: true, ..InForce::default() });
    inner.local.postgres = LocalPostgres::Starting;
    drop(inner);
    shared.look.notify_one();
    Ok(())
}

/// Takes over a running standby without a restart; where its WAL ends is checked before it follows.
pub async fn adopt_standby(shared: &Arc<Shared>, incarnation: Incarnation) -> anyhow::Result<()> {
    let link = Link::connect(&instance(shared).endpoint, "adopt", "", STATEMENT).await?;
    own_files(shared, &link).await?;
    set_aside(shared)?;
    settings(shared).write(shared.binaries.version(), &shared.layout)?;
    ensure_include(&shared.layout)?;
    mark(shared, incarnation).context("cannot mark the data directory")?;
    let mut inner = shared.lock();
    inner.local.in_force = None;
    inner.local.postgres = LocalPostgres::Starting;
    drop(inner);
    shared.look.notify_one();
    Ok(())
}

/// What pgvigil writes must be what the server reads: its configuration lies in the data directory. Debian keeps it
/// elsewhere, and only a start can change that. And what is written must be taken up: a server whose files do not parse
/// would never show the rule.
async fn own_files(shared: &Shared, link: &Link) -> anyhow::Result<()> {
    let layout = &shared.layout;
    if let Some(error) = link.file_errors(STATEMENT).await?.iter().find(|error| error.blocks) {
        bail!("PostgreSQL takes up no change of its files because of {error}: mend that, then it is adopted");
    }
    let files =
        [("config_file", layout.postgresql_conf()), ("hba_file", layout.pg_hba()), ("ident_file", layout.pg_ident())];
    for (name, wanted) in files {
        let read = link.setting(name, STATEMENT).await?;
        let same = |path: &Path| path.canonicalize().ok();
        // A server that pgvigil started, without its mark since then.
        let main =
            name == "config_file" && same(Path::new(&read)).is_some_and(|p| Some(p) == same(&layout.main_conf()));
        if !main && (same(Path::new(&read)) != same(&wanted) || same(&wanted).is_none()) {
            bail!(
                "it reads its {name} from {read}, and pgvigil writes to {}: copy postgresql.conf, pg_hba.conf and \
                 pg_ident.conf into the data directory (without data_directory, hba_file and ident_file), and start \
                 PostgreSQL with -D {} alone; then it is adopted",
                wanted.display(),
                layout.data_dir.display()
            );
        }
    }
    Ok(())
}

/// The files as they were before pgvigil came are kept; the lines for clients that are not in the configuration would
/// be missed, so they are reported.
fn set_aside(shared: &Shared) -> anyhow::Result<()> {
    let layout = &shared.layout;
    if let Some(lines) = hba::user_lines(layout)? {
        let kept = layout.agent_dir.join("before-pgvigil");
        std::fs::create_dir_all(&kept).with_context(|| format!("cannot make {}", kept.display()))?;
        for file in [layout.postgresql_conf(), layout.auto_conf(), layout.pg_hba(), layout.pg_ident()] {
            let (true, Some(name)) = (file.exists(), file.file_name()) else { continue };
            std::fs::copy(&file, kept.join(name))
                .with_context(|| format!("cannot keep a copy of {}", file.display()))?;
        }
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let known: Vec<Vec<String>> = shared.config.hba.iter().map(|line| words(line)).collect();
        let missed: Vec<&String> =
            lines.iter().filter(|line| line.starts_with("host") && !known.contains(&words(line))).collect();
        let text = format!(
            "its pg_hba.conf had lines that are not in member.hba and no longer hold: {missed:?}; the old file is {}",
            kept.join("pg_hba.conf").display()
        );
        shared.problem("hba", (!missed.is_empty()).then_some(text));
    }
    Ok(())
}
