//! Settings that somebody set by hand where they override ours: `ALTER SYSTEM` writes `postgresql.auto.conf`, which
//! PostgreSQL reads last.

use crate::{
    conf_text::parse_assignment,
    fsio::{FsError, read_text, write_atomic},
    layout::Layout,
    settings::MANAGED,
};

/// One managed setting found where it should not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drift {
    /// Which setting.
    pub name: String,
    /// The value that overrides ours.
    pub value: String,
}

/// The managed settings in `postgresql.auto.conf`.
pub fn find(layout: &Layout) -> Result<Vec<Drift>, FsError> {
    Ok(in_text(&read_text(&layout.auto_conf())?.unwrap_or_default()))
}

/// Removes them durably and says what was removed. Other settings stay. Takes effect at the next reload (some only at
/// a restart). With the server running, an `ALTER SYSTEM` at the same moment may be lost; look again afterwards.
pub fn remove(layout: &Layout) -> Result<Vec<Drift>, FsError> {
    let path = layout.auto_conf();
    let Some(text) = read_text(&path)? else { return Ok(Vec::new()) };
    let found = in_text(&text);
    if !found.is_empty() {
        let kept = text.lines().filter(|line| managed(line).is_none());
        write_atomic(&path, kept.fold(String::new(), |text, line| text + line + "\n").as_bytes(), 0o600)?;
    }
    Ok(found)
}

fn in_text(text: &str) -> Vec<Drift> {
    text.lines().filter_map(managed).collect()
}

fn managed(line: &str) -> Option<Drift> {
    let (name, value) = parse_assignment(line)?;
    MANAGED.contains(&name.as_str()).then_some(Drift { name, value })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn managed_names_are_found_and_removed_and_others_stay() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path(), dir.path());
        let text = "# Do not edit\nwork_mem = '4MB'\nSynchronous_Standby_Names = ''\nprimary_conninfo = 'host=''x'''\n";
        std::fs::write(layout.auto_conf(), text).unwrap();
        let found = find(&layout).unwrap();
        let pairs: Vec<_> = found.iter().map(|d| (d.name.as_str(), d.value.as_str())).collect();
        assert_eq!(pairs, [("synchronous_standby_names", ""), ("primary_conninfo", "host='x'")]);
        assert_eq!(remove(&layout).unwrap(), found);
        assert_eq!(std::fs::read_to_string(layout.auto_conf()).unwrap(), "# Do not edit\nwork_mem = '4MB'\n");
        assert!(find(&layout).unwrap().is_empty());
    }

    #[test]
    fn no_file_is_no_drift() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path(), dir.path());
        assert!(find(&layout).unwrap().is_empty() && remove(&layout).unwrap().is_empty());
    }
}
