//! Story 1: `pgvigil demo`, the first thing anybody tries. It ends well by itself, and a demo that is killed leaves
//! nothing behind that runs.

use nix::sys::signal::Signal;
use pgvigil_chaos::{account::Account, processes};
use pgvigil_tests::{LIMIT, assert_says, node, serial, wait};
use std::{
    path::Path,
    process::{Command, Stdio},
};

/// Ends whatever works in the folder when dropped.
struct Cleaner<'a>(&'a Path);

impl Drop for Cleaner<'_> {
    fn drop(&mut self) {
        if let Err(error) = processes::kill_host(self.0) {
            eprintln!("not everything of the demo could be ended: {error}");
        }
    }
}

/// The demo as anybody starts it, except that the folder for its temporary directory is ours.
fn demo(program: &Path, folder: &Path) -> Command {
    let mut command = Command::new(program);
    command.arg("demo").env("TMPDIR", folder).stdin(Stdio::null());
    command
}

#[test]
fn the_demo_loses_nothing_and_leaves_nothing() {
    let _turn = serial::turn();
    let account = Account::unprivileged().expect("an account");
    let folder = tempfile::Builder::new().prefix("pgvigil-demo-test-").tempdir().expect("a folder");
    let _cleaner = Cleaner(folder.path());
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("ours");
    let program = node::program(&account, folder.path());
    let tmp = folder.path().join("tmp");
    std::fs::create_dir(&tmp).expect("a folder");
    let ended = demo(&program, &tmp).output().expect("it can be started");
    let said = String::from_utf8_lossy(&ended.stdout).into_owned();
    assert!(ended.status.success(), "{said}{}", String::from_utf8_lossy(&ended.stderr));
    assert_says(&said, &["kill -9", "incident", "appointed", "opened", "completed", "healed after", "lost 0 ("]);
    let count = said.lines().find_map(|line| line.strip_prefix("acknowledged ")).expect("a line with the result");
    let count: u64 = count.split(',').next().unwrap_or_default().parse().expect("a number");
    assert!(count > 0, "{said}");
    assert!(processes::of_host(&tmp).is_empty(), "{:?}", processes::of_host(&tmp));
    assert_eq!(std::fs::read_dir(&tmp).expect("ours").count(), 0, "its temporary directory is removed");
}

#[test]
fn a_killed_demo_leaves_nothing_that_runs() {
    let _turn = serial::turn();
    let account = Account::unprivileged().expect("an account");
    let folder = tempfile::Builder::new().prefix("pgvigil-demo-test-").tempdir().expect("a folder");
    let _cleaner = Cleaner(folder.path());
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("ours");
    let program = node::program(&account, folder.path());
    let tmp = folder.path().join("tmp");
    std::fs::create_dir(&tmp).expect("a folder");
    let out = std::fs::File::create(folder.path().join("out")).expect("a file");
    let mut demo = demo(&program, &tmp).stdout(out).spawn().expect("it can be started");
    wait("the demo's cluster to serve", || {
        let said = std::fs::read_to_string(folder.path().join("out")).unwrap_or_default();
        assert!(demo.try_wait().expect("our child").is_none(), "it has ended: {said}");
        if said.contains("clients write") { Ok(()) } else { Err(said) }
    });
    assert!(processes::of_host(&tmp).len() > 6, "three nodes run");
    processes::send(demo.id() as i32, Signal::SIGKILL).expect("it can be killed");
    demo.wait().expect("it is reaped");
    wait("everything that it had started to end", || {
        let left = processes::of_host(&tmp);
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?} within {LIMIT:?}")) }
    });
}

#[test]
fn a_demo_that_cannot_start_leaves_nothing() {
    let account = Account::unprivileged().expect("an account");
    let folder = tempfile::Builder::new().prefix("pgvigil-demo-test-").tempdir().expect("a folder");
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("ours");
    let program = node::program(&account, folder.path());
    let full = folder.path().join("full");
    std::fs::create_dir(&full).expect("a folder");
    std::fs::write(full.join("something"), "of somebody").expect("ours");
    let ended = demo(&program, folder.path()).arg("--dir").arg(&full).output().expect("it can be started");
    assert_eq!(ended.status.code(), Some(2));
    assert_says(&String::from_utf8_lossy(&ended.stderr), &["--dir", "must be empty"]);
    assert_eq!(std::fs::read_dir(&full).expect("ours").count(), 1, "nothing was changed");
}
