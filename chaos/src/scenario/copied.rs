//! A copy of a standby, as a cloned virtual machine is one.

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use super::stage::LIMIT;
use super::{Stage, StoryError, Told};
use crate::bare;
use crate::cluster::ClusterError;
use crate::fault::{Fault, Part};
use crate::host::tool;
use crate::processes;

/// A server on a copied data directory, ended when dropped.
struct Copy {
    dir: PathBuf,
    child: Child,
}

impl Copy {
    /// Starts PostgreSQL in `dir`, on the host of `node` and without a pgvigil.
    fn start(stage: &Stage, node: u64, dir: &Path) -> Result<Copy, StoryError> {
        let cluster = &stage.world.cluster;
        let port = bare::free_ports(1).map_err(ClusterError::from)?[0];
        let postgres = bare::bin_dir().map_err(ClusterError::from)?.join("postgres");
        let mut command = cluster.account.command(&postgres, dir);
        command.arg("-D").arg(dir).arg("-c").arg(format!("port={port}")).args(["-c", "listen_addresses="]);
        command.arg("-c").arg(format!("unix_socket_directories={}", dir.display()));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let fail = |source| ClusterError::Io { what: "starting the copy".to_owned(), source };
        let child = cluster.node(node)?.place.inside(|| command.spawn()).map_err(fail)?;
        Ok(Copy { dir: dir.to_owned(), child })
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        if let Err(error) = processes::kill_host(&self.dir) {
            eprintln!("the copy in {} could not be ended: {error}", self.dir.display());
        }
        self.child.wait().ok();
    }
}

/// A copy of a standby's data directory streams under its original's name; then both real standbys stop. The copy must
/// not confirm a commit, the status must name it, and the original comes back to the rule by itself.
pub(super) fn standby(stage: &mut Stage) -> Told {
    let (primary, epoch) = (stage.primary()?, stage.epoch()?);
    let standbys = stage.others(primary);
    let dir = stage.world.dir().join("copied-standby");
    let off = stage.begin(Fault::PowerOff(vec![standbys[0]]))?;
    let from = stage.world.cluster.node(standbys[0])?.data_dir.clone();
    tool("cp", &["-a", &from.to_string_lossy(), &dir.to_string_lossy()], None)?;
    std::fs::remove_file(dir.join("postmaster.pid")).ok();
    stage.end(off)?;
    stage.heal()?;
    let copy = Copy::start(stage, standbys[0], &dir)?;
    stage.note("copied standby", &format!("host {}", standbys[0]), false);
    stage.until_status("the copy to be named", |status| {
        status.members.iter().flat_map(|member| &member.problems).any(|problem| problem.contains("had the same"))
    })?;
    stage.until_status("the original in the rule", |status| {
        status.members.iter().filter(|member| member.role == "standby").all(|member| member.in_rule)
    })?;
    let frozen: Vec<_> =
        standbys.iter().map(|id| stage.begin(Fault::Freeze(Part::Postgres, *id))).collect::<Result<_, _>>()?;
    stage.pause(Duration::from_millis(500))?;
    let since = stage.now();
    stage.pause(Duration::from_secs(3))?;
    let until = stage.now();
    let alone = stage.acknowledged_by(primary, since, until)?;
    stage.demand(alone == 0, format!("{alone} writes were acknowledged that only a copy can have confirmed"))?;
    stage.begin(Fault::PowerOff(vec![primary]))?;
    for handle in frozen {
        stage.end(handle)?;
    }
    stage.writes_resume()?;
    drop(copy);
    stage.until("the copy's folder to be removed", LIMIT, |_| Ok(std::fs::remove_dir_all(&dir).ok()))?;
    stage.heal()?;
    stage.demand_epochs(epoch, 1..=2)
}
