//! Which file PostgreSQL reads when, so that nothing a person writes comes after what pgvigil sets.
//!
//! ```text
//! a server that pgvigil started      a server that somebody else started
//! pgvigil.main.conf (config_file)    postgresql.conf
//!   postgresql.conf (the user's)       what the user wrote
//!   pgvigil.rule.conf                  pgvigil.conf: what only a start takes up
//! postgresql.auto.conf                   pgvigil.rule.conf
//! the command line                   postgresql.auto.conf
//! ```
//!
//! What is further down wins. So on a server of ours only `ALTER SYSTEM` can override, for a moment, what a reload takes up;
//! what only a start takes up, and what never changes, stands on the command line ([`crate::Settings::command_line`]). On
//! one that somebody else started a line after the last include can too: [`ensure_include`] puts that to the end again.

use crate::{
    fsio::{FsError, Written, read_bytes, write_atomic},
    layout::Layout,
};
use std::{fs, path::Path};

const INCLUDE: &str = "include 'pgvigil.conf'";
/// The line with which `pgvigil.conf` ends.
pub(crate) const RULE_INCLUDE: &str = "include 'pgvigil.rule.conf'";

const MAIN: &str = "# Written by pgvigil; do not edit. Changes are overwritten.\n\
    # PostgreSQL is started with this as its config_file: whatever the first file says, the second has the last word.\n\
    include_if_exists 'postgresql.conf'\n\
    include 'pgvigil.rule.conf'\n";

/// What stands where nothing was written yet: nobody's commits are confirmed.
const NO_RULE: &str = "# Written by pgvigil; do not edit. Changes are overwritten.\n\
    synchronous_standby_names = 'ANY 1 (\"pgvigil_nobody\")'\n";

/// Writes the main configuration file of a server that we start. Durable, idempotent.
pub fn write_main(layout: &Layout) -> Result<Written, FsError> {
    if !layout.rule_conf().exists() {
        write_atomic(&layout.rule_conf(), NO_RULE.as_bytes(), 0o600)?;
    }
    write_atomic(&layout.main_conf(), MAIN.as_bytes(), 0o600)
}

/// The options with which every server of ours finds its files, whatever the files themselves say about that.
#[must_use]
pub fn options(layout: &Layout) -> Vec<(&'static str, String)> {
    let text = |path: &Path| path.display().to_string();
    vec![
        ("config_file", text(&layout.main_conf())),
        ("data_directory", text(&layout.data_dir)),
        ("hba_file", text(&layout.pg_hba())),
        ("ident_file", text(&layout.pg_ident())),
    ]
}

/// Makes sure that `postgresql.conf` ends with the line that includes ours, so that nothing in it overrides us.
/// Idempotent. The user's bytes stay as they are, of whatever encoding.
pub fn ensure_include(layout: &Layout) -> Result<Written, FsError> {
    let path = layout.postgresql_conf();
    write_atomic(&path, &with_include(&read_bytes(&path)?), 0o600)
}

/// Whether nothing in `postgresql.conf` comes after ours.
pub fn is_included_last(layout: &Layout) -> Result<bool, FsError> {
    Ok(ends_with_include(&read_bytes(&layout.postgresql_conf())?))
}

/// Whether `postgresql.conf` includes ours at all.
pub fn has_include(layout: &Layout) -> Result<bool, FsError> {
    Ok(read_bytes(&layout.postgresql_conf())?.split(|byte| *byte == b'\n').any(is_include))
}

/// Whether `pgvigil.conf` includes the rule.
pub(crate) fn includes_rule(layout: &Layout) -> bool {
    fs::read_to_string(layout.pgvigil_conf()).is_ok_and(|text| text.lines().any(|line| line == RULE_INCLUDE))
}

fn is_include(line: &[u8]) -> bool {
    line.trim_ascii() == INCLUDE.as_bytes()
}

fn ends_with_include(text: &[u8]) -> bool {
    let says = |line: &&[u8]| !line.trim_ascii().is_empty() && !line.trim_ascii_start().starts_with(b"#");
    text.rsplit(|byte| *byte == b'\n').find(says).is_some_and(is_include)
}

fn with_include(old: &[u8]) -> Vec<u8> {
    if ends_with_include(old) {
        return old.to_vec();
    }
    let lines: Vec<&[u8]> = old.split(|byte| *byte == b'\n').collect();
    let kept = if old.ends_with(b"\n") || old.is_empty() { &lines[..lines.len() - 1] } else { &lines[..] };
    let mut text = Vec::new();
    for line in kept.iter().filter(|line| !is_include(line)) {
        text.extend_from_slice(line);
        text.push(b'\n');
    }
    text.extend_from_slice(INCLUDE.as_bytes());
    text.push(b'\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_include_line_comes_last_and_once() {
        let with = |text: &str| String::from_utf8(with_include(text.as_bytes())).unwrap();
        assert_eq!(with(""), "include 'pgvigil.conf'\n");
        assert_eq!(with("a = 1"), "a = 1\ninclude 'pgvigil.conf'\n");
        let text = with("include 'pgvigil.conf'\nport = 1\n");
        assert_eq!(text, "port = 1\ninclude 'pgvigil.conf'\n");
        assert_eq!(with(&text), text);
        let commented = format!("{text}\n# the end\n");
        assert_eq!(with(&commented), commented);
    }

    #[test]
    fn bytes_that_are_no_text_stay() {
        assert_eq!(with_include(b"# caf\xe9\n"), b"# caf\xe9\ninclude 'pgvigil.conf'\n");
    }
}
