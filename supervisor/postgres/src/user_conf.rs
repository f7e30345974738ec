//! What the user's own files say, read as PostgreSQL reads them: the last value of a name counts.

use crate::{conf_text::parse_assignment, layout::Layout};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// Values by name in lower case, as they are written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserValues(BTreeMap<String, String>);

/// PostgreSQL's own bound for includes within includes.
const DEPTH: u32 = 10;

impl UserValues {
    /// Of `postgresql.conf` with what it includes (except ours), and of `postgresql.auto.conf`. What cannot be read says
    /// nothing: PostgreSQL will complain of it.
    #[must_use]
    pub fn read(layout: &Layout) -> Self {
        let ours = [layout.pgvigil_conf(), layout.rule_conf(), layout.main_conf()];
        let mut values = Self::default();
        values.take_file(&layout.postgresql_conf(), &ours, DEPTH);
        values.take_file(&layout.auto_conf(), &ours, DEPTH);
        values
    }

    /// Of one file's text, without includes.
    #[must_use]
    pub fn from_text(text: &str) -> Self {
        Self(text.lines().filter_map(parse_assignment).collect())
    }

    /// The value of a name in lower case.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    fn take_file(&mut self, path: &Path, ours: &[PathBuf], depth: u32) {
        if depth == 0 || ours.iter().any(|own| own == path) {
            return;
        }
        let text = String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned();
        let beside = |named: &str| path.parent().unwrap_or(Path::new("/")).join(named);
        for (name, value) in text.lines().filter_map(parse_assignment) {
            match name.as_str() {
                "include" | "include_if_exists" => self.take_file(&beside(&value), ours, depth - 1),
                "include_dir" => {
                    let entries = fs::read_dir(beside(&value)).into_iter().flatten().flatten();
                    let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(|p| is_conf(p)).collect();
                    files.sort();
                    files.iter().for_each(|file| self.take_file(file, ours, depth - 1));
                }
                _ => {
                    self.0.insert(name, value);
                }
            }
        }
    }
}

fn is_conf(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.ends_with(".conf") && !name.starts_with('.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_value_counts_through_includes_and_ours_are_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path(), dir.path());
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        fs::create_dir(dir.path().join("conf.d")).unwrap();
        write("postgresql.conf", "a = 1\ninclude 'x.conf'\ninclude_dir 'conf.d'\ninclude 'pgvigil.conf'\n");
        write("x.conf", "A = 2\nb = 2\ninclude 'x.conf'\n");
        write("conf.d/2.conf", "b = 4\n");
        write("conf.d/1.conf", "b = 3\n");
        write("conf.d/no", "b = 9\n");
        write("pgvigil.conf", "c = 5\n");
        write("postgresql.auto.conf", "d = '6'\n");
        let values = UserValues::read(&layout);
        assert_eq!(["a", "b", "c", "d"].map(|name| values.get(name)), [Some("2"), Some("4"), None, Some("6")]);
    }
}
