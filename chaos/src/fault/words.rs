//! What a fault is called, and what it may lead to.

use std::fmt;

use super::{Fault, Part};
use crate::host::{End, Service};

impl Fault {
    /// Its kind, in a word or two.
    pub fn kind(&self) -> String {
        match self {
            Fault::Kill(part, _) => format!("kill -9 {}", part.word()),
            Fault::AgentGone(_) => "pgvigil gone".to_owned(),
            Fault::Freeze(part, _) => format!("freeze {}", part.word()),
            Fault::PowerOff(hosts) if hosts.len() > 1 => "power off, several".to_owned(),
            Fault::PowerOff(_) => "power off".to_owned(),
            Fault::PowerLoss(hosts) if hosts.len() > 1 => "power loss, several".to_owned(),
            Fault::PowerLoss(_) => "power loss".to_owned(),
            Fault::Partition(..) => "partition".to_owned(),
            Fault::OneWay(..) => "one-way partition".to_owned(),
            Fault::ServiceCut(Service::Postgres, ..) => "replication cut".to_owned(),
            Fault::ServiceCut(Service::Pgvigil, ..) => "Raft links cut".to_owned(),
            Fault::Flapping(..) => "flapping partition".to_owned(),
            Fault::Loss(_) => "packet loss".to_owned(),
            Fault::Weather(..) => "delay, loss, reordering".to_owned(),
            Fault::DiskFull(_) => "disk full".to_owned(),
            Fault::NoInodes(_) => "no inodes".to_owned(),
            Fault::SyncError(..) => "fsync error".to_owned(),
            Fault::DiskStall(_) => "disk stall".to_owned(),
            Fault::WallClock(..) => "wall clock jumps".to_owned(),
            Fault::Strobe(..) => "wall clock strobes".to_owned(),
            Fault::CancelWaits(_) => "commit waits cancelled".to_owned(),
            Fault::ReplayPaused(_) => "replay paused".to_owned(),
            Fault::Locked(_) => "pgvigil's tables locked".to_owned(),
            Fault::PromotedByHand(_) => "promoted by hand".to_owned(),
            Fault::Lead(_) => "Raft leader moved".to_owned(),
            Fault::Switchover(_) => "switchover".to_owned(),
            Fault::RestartAgent(_) => "pgvigil restarted".to_owned(),
            Fault::BusyCores(_) => "busy cores".to_owned(),
        }
    }

    /// What it strikes.
    pub fn target(&self) -> String {
        let list = |ends: &[End]| ends.iter().map(End::to_string).collect::<Vec<_>>().join(", ");
        match self {
            Fault::PowerOff(hosts) | Fault::PowerLoss(hosts) => {
                hosts.iter().map(|id| format!("host {id}")).collect::<Vec<_>>().join(", ")
            }
            Fault::Partition(a, b) | Fault::Flapping(a, b, _) | Fault::ServiceCut(_, a, b) => {
                format!("{} | {}", list(a), list(b))
            }
            Fault::OneWay(a, b) => format!("{} -> {}", list(a), list(b)),
            Fault::Loss(percent) => format!("every link, {percent} %"),
            Fault::Switchover(to) => to.clone().map_or_else(|| "the primary".to_owned(), |to| format!("to {to}")),
            Fault::SyncError(id, pattern) => format!("host {id}, {pattern}"),
            Fault::WallClock(id, ms) | Fault::Strobe(id, ms) => format!("host {id}, {ms} ms"),
            Fault::BusyCores(cores) => format!("{cores} cores"),
            Fault::Weather(id, weather) => format!(
                "host {id}, {} ± {} ms, {} % lost, {} % twice",
                weather.delay.as_millis(),
                weather.jitter.as_millis(),
                weather.loss,
                weather.duplicate
            ),
            other => other.host().map_or_else(String::new, |id| format!("host {id}")),
        }
    }

    /// The one host that it strikes, if it is one.
    pub fn host(&self) -> Option<u64> {
        match self {
            Fault::Kill(_, id) | Fault::Freeze(_, id) | Fault::AgentGone(id) => Some(*id),
            Fault::Weather(id, _) | Fault::SyncError(id, _) | Fault::WallClock(id, _) | Fault::Strobe(id, _) => {
                Some(*id)
            }
            Fault::DiskFull(id) | Fault::NoInodes(id) | Fault::DiskStall(id) => Some(*id),
            Fault::CancelWaits(id) | Fault::ReplayPaused(id) | Fault::Lead(id) | Fault::RestartAgent(id) => Some(*id),
            Fault::Locked(id) => Some(*id),
            Fault::PromotedByHand(id) => Some(*id),
            Fault::PowerOff(hosts) | Fault::PowerLoss(hosts) if hosts.len() == 1 => hosts.first().copied(),
            _ => None,
        }
    }

    /// Whether a change of primary is a right answer to it, when `primary` is the primary's host.
    pub fn may_move(&self, primary: u64) -> bool {
        let hits = self.host() == Some(primary);
        match self {
            Fault::Kill(Part::Postmaster | Part::Postgres | Part::Backend | Part::WalProcess, _) => hits,
            Fault::Kill(Part::AgentAndPostmaster | Part::Host, _) => hits,
            // Started again at once it adopts what runs; on a busy machine that may take longer than a lease.
            Fault::Kill(Part::Agent | Part::AgentAndGuard, _) => hits,
            Fault::Kill(Part::Guard, _) => false,
            // Without heartbeats its lease ends; its canary is not renewed by anybody else.
            Fault::AgentGone(_) => hits,
            Fault::Freeze(..) => hits,
            Fault::PowerOff(hosts) | Fault::PowerLoss(hosts) => hosts.contains(&primary) || hosts.len() > 1,
            // Without its standbys a primary may be left for one that has the other standby.
            Fault::ServiceCut(Service::Pgvigil, ..) => false,
            Fault::Partition(a, b)
            | Fault::OneWay(a, b)
            | Fault::Flapping(a, b, _)
            | Fault::ServiceCut(Service::Postgres, a, b) => {
                // One link less is no reason to move: the other standby confirms, and the Raft group is whole.
                let hosts = |ends: &[End]| ends.iter().filter(|end| matches!(end, End::Host(_))).count();
                let side = |mine: &[End], other: &[End]| mine.contains(&End::Host(primary)) && hosts(other) > 1;
                side(a, b) || side(b, a)
            }
            Fault::DiskFull(_) | Fault::NoInodes(_) | Fault::SyncError(..) | Fault::DiskStall(_) => hits,
            Fault::Switchover(_) => true,
            // Retransmissions take longer than a lease when every third or fourth frame is lost.
            Fault::Loss(percent) => *percent >= 20,
            Fault::Weather(..) | Fault::WallClock(..) | Fault::Strobe(..) => false,
            Fault::RestartAgent(_) => hits,
            Fault::CancelWaits(_) | Fault::ReplayPaused(_) | Fault::Locked(_) | Fault::Lead(_) => false,
            Fault::PromotedByHand(_) => false,
            Fault::BusyCores(_) => false,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.kind(), self.target())
    }
}
