//! Settings that somebody set by hand where they override ours: `ALTER SYSTEM` writes `postgresql.auto.conf`, which
//! PostgreSQL reads last.

use crate::{
    conf_text::parse_assignment,
    fsio::{FsError, read_bytes, write_atomic},
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
    /// The line of `postgresql.auto.conf`, counted from 1.
    pub line: usize,
}

/// The managed settings in `postgresql.auto.conf`.
pub fn find(layout: &Layout) -> Result<Vec<Drift>, FsError> {
    Ok(lines(&read_bytes(&layout.auto_conf())?).filter_map(|(_, drift)| drift).collect())
}

/// Removes them durably and says what was removed. Other settings stay, byte by byte. Takes effect at the next reload
/// (some only at a restart). With the server running, an `ALTER SYSTEM` at the same moment may be lost; look again
/// afterwards.
pub fn remove(layout: &Layout) -> Result<Vec<Drift>, FsError> {
    let bytes = read_bytes(&layout.auto_conf())?;
    let found: Vec<Drift> = lines(&bytes).filter_map(|(_, drift)| drift).collect();
    if !found.is_empty() {
        let kept = lines(&bytes).filter(|(_, drift)| drift.is_none()).map(|(line, _)| line);
        write_atomic(&layout.auto_conf(), &kept.collect::<Vec<_>>().concat(), 0o600)?;
    }
    Ok(found)
}

/// Every line, with its end, and what it sets of ours.
fn lines(bytes: &[u8]) -> impl Iterator<Item = (&[u8], Option<Drift>)> {
    bytes.split_inclusive(|byte| *byte == b'\n').zip(1..).map(|(line, number)| (line, managed(line, number)))
}

fn managed(line: &[u8], number: usize) -> Option<Drift> {
    let (name, value) = parse_assignment(&String::from_utf8_lossy(line))?;
    MANAGED.contains(&name.as_str()).then_some(Drift { name, value, line: number })
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
