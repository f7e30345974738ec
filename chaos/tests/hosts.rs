//! The world of hosts itself, without any cluster: what a killed suite leaves behind, and who refuses what.
//!
//! Hosts of their own need root and some programs; where these are missing, the tests that need them say so and do
//! nothing else.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use pgvigil_chaos::host::{missing, sweep, tool};

fn chaos() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pgvigil-chaos"));
    command.stdin(Stdio::null());
    command
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Whether hosts of their own can be made here; says why not.
fn hosts_are_possible() -> bool {
    let missing: Vec<String> = missing().into_iter().map(|missing| missing.0).collect();
    if !missing.is_empty() {
        eprintln!("SKIPPED: hosts of their own need what is not here: {}", missing.join("; "));
    }
    missing.is_empty()
}

/// Waits for a condition with a generous limit.
fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < Duration::from_secs(120), "never came true: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A folder that every account can enter, with a program in it that is no pgvigil: it only sleeps.
fn ground() -> (tempfile::TempDir, std::path::PathBuf) {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().expect("a folder");
    let all = |mode| std::fs::Permissions::from_mode(mode);
    std::fs::set_permissions(dir.path(), all(0o755)).expect("is opened");
    let program = dir.path().join("sleeper");
    std::fs::write(&program, "#!/bin/sh\nexec sleep 300\n").expect("is written");
    std::fs::set_permissions(&program, all(0o755)).expect("is opened");
    (dir, program)
}

/// The folders of runs in `dir`.
fn runs(dir: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(dir).expect("is read");
    entries.map(|entry| entry.expect("is read").path()).filter(|path| path.is_dir()).collect()
}

fn loop_devices(dir: &Path) -> String {
    let all = tool("losetup", &["--list", "--output", "NAME,BACK-FILE"], None).expect("losetup runs");
    all.lines().filter(|line| line.contains(&*dir.to_string_lossy())).collect::<Vec<_>>().join("\n")
}

#[test]
fn an_unknown_scenario_is_refused_with_the_names_there_are() {
    let output = chaos().args(["run", "no-such-thing"]).output().expect("runs");
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    for word in ["no-such-thing", "kill-postmaster", "power-loss"] {
        assert!(said(&output).contains(word), "{}", said(&output));
    }
}

#[test]
fn a_missing_pgvigil_is_refused() {
    let (dir, _) = ground();
    let mut command = chaos();
    command.args(["run", "kill-postmaster", "--pgvigil", "/no/such/program", "--dir"]).arg(dir.path());
    let output = command.output().expect("runs");
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    assert!(said(&output).contains("/no/such/program"), "{}", said(&output));
    assert!(runs(dir.path()).is_empty());
}

#[test]
fn nothing_of_a_killed_suite_stays() {
    if !hosts_are_possible() {
        return;
    }
    let (dir, program) = ground();
    let mut command = chaos();
    command.args(["run", "kill-postmaster", "--pgvigil"]).arg(&program).arg("--dir").arg(dir.path());
    let mut suite = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("starts");
    let sleepers = || {
        let all = pgvigil_chaos::processes::of_host(dir.path());
        all.into_iter().filter(|process| process.command.starts_with("sleep")).count()
    };
    eventually("three nodes to be started", || sleepers() >= 3);
    assert_eq!(loop_devices(dir.path()).lines().count(), 3);
    suite.kill().expect("is killed");
    suite.wait().expect("is reaped");
    eventually("every process to be gone", || sleepers() == 0);
    eventually("every disk to be gone", || loop_devices(dir.path()).is_empty());

    // What the kernel cannot take back is the folder, which the next run removes.
    assert_eq!(runs(dir.path()).len(), 1);
    let left = sweep(dir.path()).expect("sweeps");
    assert_eq!(left.len(), 1);
    assert!(left[0].remains.is_empty(), "{left:?}");
    assert!(runs(dir.path()).is_empty());
}

#[test]
fn a_disk_that_was_frozen_when_the_suite_died_is_thawed() {
    if !hosts_are_possible() {
        return;
    }
    let (dir, _) = ground();
    // What a suite leaves that is killed while a disk is stalled.
    let run = dir.path().join("pgvigil-chaos-world-1-dead");
    std::fs::create_dir_all(run.join("n1")).expect("is made");
    let script = "truncate -s 16M disk.img && mkfs.ext4 -q disk.img && mount -o loop disk.img n1 && fsfreeze -f n1";
    let frozen = Command::new("unshare").args(["--mount", "sh", "-c", script]).current_dir(&run).output();
    let frozen = frozen.expect("unshare runs");
    assert!(frozen.status.success(), "{}", said(&frozen));
    assert_eq!(loop_devices(dir.path()).lines().count(), 1);

    let left = sweep(dir.path()).expect("sweeps");
    assert!(left.len() == 1 && left[0].remains.is_empty(), "{left:?}");
    eventually("the disk to be gone", || loop_devices(dir.path()).is_empty());
    assert!(runs(dir.path()).is_empty());
}

#[test]
fn a_suite_that_lives_is_left_alone_and_one_that_is_dead_is_not() {
    let (dir, program) = ground();
    let mut command = chaos();
    command.args(["run", "kill-postmaster", "--loopback", "--pgvigil"]).arg(&program).arg("--dir").arg(dir.path());
    let mut suite = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("starts");
    eventually("its folder", || runs(dir.path()).iter().any(|run| run.join("suite.lock").exists()));
    eventually("its nodes", || !pgvigil_chaos::processes::of_host(dir.path()).is_empty());
    assert!(sweep(dir.path()).expect("sweeps").is_empty());
    assert_eq!(runs(dir.path()).len(), 1);

    suite.kill().expect("is killed");
    suite.wait().expect("is reaped");
    // A node that it was just starting holds its lock as well, until that has become another program.
    let mut left = Vec::new();
    eventually("the dead suite's lock to be free", || {
        left = sweep(dir.path()).expect("sweeps");
        !left.is_empty()
    });
    assert!(left.len() == 1 && left[0].remains.is_empty(), "{left:?}");
    eventually("every process to be gone", || pgvigil_chaos::processes::of_host(dir.path()).is_empty());
}
