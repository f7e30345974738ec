//! Servers that already run: whether they can be taken over as they are, and our files beside theirs.

use super::{directory::settings, door, session::STATEMENT, shared::Shared};
use anyhow::{Context, bail};
use pgvigil_postgres::{Link, conf_files::ensure_include, hba, role::Look};
use std::path::Path;

/// Checks a server that is to be taken over, and prepares it. What only a restart can change is reported.
pub(super) async fn prepare(shared: &Shared, link: &Link, primary: bool) -> anyhow::Result<()> {
    own_files(shared, link).await?;
    if !primary {
        return Ok(());
    }
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
    Ok(())
}

/// Writes our files; theirs are kept.
pub(super) fn take_over_files(shared: &Shared, primary: bool) -> anyhow::Result<()> {
    set_aside(shared)?;
    if primary {
        door::remember(&shared.layout.agent_dir, true)?;
    }
    settings(shared).write(shared.binaries.version(), &shared.layout)?;
    ensure_include(&shared.layout)?;
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
