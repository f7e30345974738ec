//! A server in a cgroup of its own. Needs cgroups of version 2 and, to have one delegated, root: elsewhere it says that it
//! was skipped, and why.

mod common;

use common::{LIMIT, Node, until};
use pgvigil_postgres::{StartAs, cgroup, kill::processes, procfs};
use std::{
    os::unix::fs::chown,
    path::{Path, PathBuf},
    process::Command,
};

const NAME: &str = "what_leaves_the_directory_dies_with_its_cgroup";
const DELEGATED: &str = "PGVIGIL_TEST_DELEGATED";

/// A program that a backend starts, and that works elsewhere under another name, is nobody's by its directory.
#[test]
fn what_leaves_the_directory_dies_with_its_cgroup() {
    if std::env::var_os(DELEGATED).is_some() {
        return common::run(NAME, ends_with_its_cgroup());
    }
    match delegate() {
        Ok(group) => {
            let done = rerun_in(&group);
            // Empty by now, or the test has failed.
            let removed = std::fs::remove_dir(&group);
            assert!(done.success() && removed.is_ok(), "{done} {removed:?}");
        }
        Err(why) => println!("skipped: {why}"),
    }
}

/// Makes a cgroup and hands it to user `postgres`, as systemd does with `Delegate=yes`.
fn delegate() -> Result<PathBuf, String> {
    if !nix::unistd::geteuid().is_root() {
        return Err("only root can delegate a cgroup".to_owned());
    }
    let mounts = std::fs::read_to_string("/proc/self/mounts").map_err(|error| error.to_string())?;
    let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let mount = fields.into_iter().find(|fields| fields.get(2) == Some(&"cgroup2")).ok_or("no cgroup2 is mounted")?;
    let group = Path::new(mount[1]).join(format!("pgvigil-test-{}", std::process::id()));
    std::fs::create_dir(&group).map_err(|error| format!("cannot make {}: {error}", group.display()))?;
    let user = nix::unistd::User::from_name("postgres").ok().flatten().ok_or("no user postgres")?;
    for path in [group.clone(), group.join("cgroup.procs"), group.join("cgroup.subtree_control")] {
        chown(&path, Some(user.uid.as_raw()), Some(user.gid.as_raw())).map_err(|error| error.to_string())?;
    }
    Ok(group)
}

fn rerun_in(group: &Path) -> std::process::ExitStatus {
    let enter = "echo 0 > \"$0\" && exec setpriv --reuid=postgres --regid=postgres --init-groups \"$@\"";
    Command::new("sh")
        .args(["-c", enter])
        .arg(group.join("cgroup.procs"))
        .arg(common::reachable_program())
        .args(["--exact", NAME, "--nocapture"])
        .env(DELEGATED, "1")
        .current_dir("/")
        .status()
        .unwrap()
}

async fn ends_with_its_cgroup() {
    let root = tempfile::tempdir().unwrap();
    let mut node = Node::primary(root.path(), "a").await;
    node.instance.kill().await.unwrap();
    let own = cgroup::own().unwrap();
    let group = cgroup::below(&own, "postgres-a").unwrap();
    node.instance.cgroup = Some(group.clone());
    node.start(StartAs::Primary).await;

    let data_dir = node.instance.layout.data_dir.clone();
    let pids = processes(&data_dir, None).unwrap();
    let members = procfs::cgroup_members(&group).unwrap();
    assert!(pids.len() > 4 && pids.iter().all(|pid| members.contains(pid)), "{pids:?} {members:?}");
    assert!(!members.contains(&i32::try_from(std::process::id()).unwrap()));

    let link = node.link().await;
    let stray = "COPY (SELECT 1) TO PROGRAM 'cd / && exec sleep 600'";
    let waiting = tokio::spawn(async move { link.execute("test", stray, LIMIT).await });
    let sleeps = |pid: &i32| procfs::title(*pid).ok().flatten().is_some_and(|title| title == "sleep 600");
    let mut found = None;
    until("the stray", async || {
        found = procfs::cgroup_members(&group).unwrap().into_iter().find(|pid| sleeps(pid));
        found.is_some()
    })
    .await;
    let stray = found.unwrap();
    assert!(!processes(&data_dir, None).unwrap().contains(&stray), "its directory does not tell");
    let killed = node.instance.kill().await.unwrap();
    assert!(killed.pids.contains(&stray) || !procfs::is_alive(stray).unwrap(), "{killed:?}");
    assert!(!procfs::is_alive(stray).unwrap());
    assert!(processes(&data_dir, Some(&group)).unwrap().is_empty());
    waiting.abort();
    until("the cgroup is empty", async || std::fs::remove_dir(&group).is_ok()).await;
    // Gone meanwhile, it is made again.
    node.start(StartAs::Primary).await;
    assert!(!procfs::cgroup_members(&group).unwrap().is_empty());
    node.instance.kill().await.unwrap();
    until("the cgroup is empty", async || std::fs::remove_dir(&group).is_ok()).await;
}
