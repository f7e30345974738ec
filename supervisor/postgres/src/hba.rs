//! The door: `pg_hba.conf`, open to the user's clients or closed to all but the agent and its standbys.

use crate::{
    conf_text::identifier,
    fsio::{FsError, Written, read_bytes, read_lossy, replace},
    layout::Layout,
    ways::AGENT_ROLE,
};

const HEADER: &str = "# Written by pgvigil; do not edit. Changes are overwritten.\n";
const MAP: &str = "pgvigil";
const LAST_SHUT: &str = "host all all all reject\n";

/// Whether clients may connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// The user's own lines hold, after ours.
    Open,
    /// Only the agent (by the socket) and replication get in; everybody else is rejected.
    Closed,
}

impl Door {
    const fn line(self) -> &'static str {
        match self {
            Self::Open => "# The door is open.\n",
            Self::Closed => "# The door is closed.\n",
        }
    }
}

/// Which door a file of ours is; `None`: it is not ours.
#[must_use]
pub fn door_of(text: &str) -> Option<Door> {
    let rest = text.strip_prefix(HEADER)?;
    let says = [Door::Open, Door::Closed].into_iter().find(|door| rest.starts_with(door.line()));
    // Versions before this one wrote no such line.
    let ends_shut = text.ends_with(LAST_SHUT);
    says.or(Some(if ends_shut { Door::Closed } else { Door::Open }))
}

/// Who may always come in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// The superuser role of the agent.
    pub superuser: String,
    /// The operating-system user under which the agent runs; mapped to the superuser role and to [`AGENT_ROLE`].
    pub os_user: String,
    /// The replication role.
    pub replication_role: String,
    /// From where it may come: `10.0.0.0/8`, `samenet`, host names.
    pub replication_addresses: Vec<String>,
}

/// Renders `pg_hba.conf`. PostgreSQL obeys the first line that fits, so ours come first; the closed door ends with
/// lines that fit everybody. Lines of `user` are copied as they are.
#[must_use]
pub fn render(door: Door, access: &Access, user: &[String]) -> String {
    let superuser = identifier(&access.superuser);
    let replication = identifier(&access.replication_role);
    let mut text = String::from(HEADER) + door.line();
    let own = identifier(AGENT_ROLE);
    for role in [&superuser, &own] {
        text += &format!("local all {role} peer map={MAP}\n");
        text += &format!("local replication {role} peer map={MAP}\n");
    }
    // It has no password, and a user's `trust` line further down must not make up for one.
    for database in ["replication", "all"] {
        text += &format!("host {database} {own} all reject\n");
    }
    for address in &access.replication_addresses {
        // `replication` is for walreceivers and pg_basebackup, the database for pg_rewind and slot synchronisation.
        text += &format!("host replication {replication} {address} scram-sha-256\n");
        text += &format!("host postgres {replication} {address} scram-sha-256\n");
    }
    // A user's `trust` line further down must not let the replication role in without its password: a sealed member
    // would stream again with an empty pass file (history A5).
    for database in ["replication", "all"] {
        text += &format!("host {database} {replication} all reject\n");
        text += &format!("local {database} {replication} reject\n");
    }
    match door {
        Door::Open => {
            // Physical replication under any other role would be a receiver that no seal reaches.
            for line in user {
                text += line.trim_end();
                text.push('\n');
            }
        }
        Door::Closed => {
            for database in ["replication", "all"] {
                text += &format!("local {database} all reject\n");
                text += &format!("host {database} all all reject\n");
            }
        }
    }
    text
}

/// Replaces `pg_hba.conf` and the user map; every start writes them anew. Takes effect for new connections at the next reload; sessions that
/// exist are not touched.
pub fn write(layout: &Layout, door: Door, access: &Access, user: &[String]) -> Result<Written, FsError> {
    let old = read_bytes(&layout.pg_ident())?;
    replace(&layout.pg_ident(), &with_map(&old, access), 0o600)?;
    replace(&layout.pg_hba(), render(door, access, user).as_bytes(), 0o600)
}

/// How the two files stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stands {
    /// As they would be written.
    Right,
    /// Ours, with that door, but not as they would be written now.
    Behind,
    /// Ours, with the other door: an act is under way.
    OtherDoor,
    /// Somebody replaced them: the agent may not get in any more, nor its standbys.
    Replaced,
}

/// Compares the files with what [`write`] would write.
pub fn stands(layout: &Layout, door: Door, access: &Access, user: &[String]) -> Result<Stands, FsError> {
    let text = read_lossy(&layout.pg_hba())?.unwrap_or_default();
    let map = read_lossy(&layout.pg_ident())?.unwrap_or_default();
    let ours = map_lines(access);
    let mapped: Vec<&str> = map.lines().filter(|line| is_of_map(line)).collect();
    Ok(match door_of(&text) {
        Some(found) if found != door => Stands::OtherDoor,
        Some(_) if mapped.is_empty() => Stands::Replaced,
        Some(_) if mapped != ours || text != render(door, access, user) => Stands::Behind,
        Some(_) => Stands::Right,
        None => Stands::Replaced,
    })
}

/// The lines of a `pg_hba.conf` that is not ours, without comments: what an adopted cluster's user had. `None` when
/// the file is ours already.
pub fn user_lines(layout: &Layout) -> Result<Option<Vec<String>>, FsError> {
    let text = read_lossy(&layout.pg_hba())?.unwrap_or_default();
    if text.starts_with(HEADER) {
        return Ok(None);
    }
    let kept = text.lines().filter(|line| !line.trim().is_empty() && !line.trim_start().starts_with('#'));
    Ok(Some(kept.map(str::to_owned).collect()))
}

/// The user's bytes stay as they are, of whatever encoding.
fn with_map(old: &[u8], access: &Access) -> Vec<u8> {
    let mut text = Vec::new();
    for line in old.split_inclusive(|byte| *byte == b'\n').filter(|line| !is_of_map(&String::from_utf8_lossy(line))) {
        text.extend_from_slice(line.strip_suffix(b"\n").unwrap_or(line));
        text.push(b'\n');
    }
    for line in map_lines(access) {
        text.extend_from_slice(line.as_bytes());
        text.push(b'\n');
    }
    text
}

fn is_of_map(line: &str) -> bool {
    line.split_whitespace().next() == Some(MAP)
}

fn map_lines(access: &Access) -> Vec<String> {
    let roles = [access.superuser.as_str(), AGENT_ROLE];
    let line = |role| format!("{MAP} {} {}", identifier(&access.os_user), identifier(role));
    roles.into_iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access() -> Access {
        Access {
            superuser: "postgres".into(),
            os_user: "pg".into(),
            replication_role: "pgvigil_repl".into(),
            replication_addresses: vec!["127.0.0.1/32".into(), "samenet".into()],
        }
    }

    #[test]
    fn the_closed_door_golden() {
        let text = render(Door::Closed, &access(), &["host all all 0.0.0.0/0 trust".into()]);
        assert_eq!(text, include_str!("../tests/fixtures/hba_closed.conf"));
    }

    #[test]
    fn the_open_door_golden() {
        let text = render(Door::Open, &access(), &["host all all 0.0.0.0/0 scram-sha-256".into()]);
        assert_eq!(text, include_str!("../tests/fixtures/hba_open.conf"));
    }

    #[test]
    fn a_file_says_which_door_it_is_whatever_the_users_lines_are() {
        let user = ["host all all all reject".to_owned()];
        for door in [Door::Open, Door::Closed] {
            assert_eq!(door_of(&render(door, &access(), &user)), Some(door));
        }
        let before = |door| render(door, &access(), &[]).replace(Door::line(door), "");
        assert_eq!(door_of(&before(Door::Open)), Some(Door::Open));
        assert_eq!(door_of(&before(Door::Closed)), Some(Door::Closed));
        assert_eq!(door_of("host all all all trust\n"), None);
    }

    #[test]
    fn the_map_is_ours_once_and_others_stay() {
        let once = with_map(b"# caf\xe9\nother a b\npgvigil old old\n", &access());
        assert_eq!(once, b"# caf\xe9\nother a b\npgvigil \"pg\" \"postgres\"\npgvigil \"pg\" \"pgvigil_agent\"\n");
        assert_eq!(with_map(&once, &access()), once);
    }

    #[test]
    fn files_that_somebody_replaced_are_known() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path(), dir.path());
        let now = |door| stands(&layout, door, &access(), &[]).unwrap();
        let put = |path: std::path::PathBuf, text: &str| std::fs::write(path, text).unwrap();
        assert_eq!(now(Door::Open), Stands::Replaced);
        std::fs::write(layout.pg_ident(), b"# caf\xe9\n").unwrap();
        write(&layout, Door::Open, &access(), &[]).unwrap();
        assert_eq!((now(Door::Open), now(Door::Closed)), (Stands::Right, Stands::OtherDoor));
        put(layout.pg_ident(), "pgvigil \"pg\" \"postgres\"\n");
        assert_eq!(now(Door::Open), Stands::Behind, "an older version wrote it");
        put(layout.pg_ident(), "# empty\n");
        assert_eq!(now(Door::Open), Stands::Replaced);
        write(&layout, Door::Open, &access(), &[]).unwrap();
        put(layout.pg_ident(), &(std::fs::read_to_string(layout.pg_ident()).unwrap() + "other a b\n"));
        assert_eq!(now(Door::Open), Stands::Right, "other maps are the user's");
        put(layout.pg_hba(), "local all all scram-sha-256\n");
        assert_eq!(now(Door::Open), Stands::Replaced);
    }
}
