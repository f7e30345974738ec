//! Every scenario, by name and number.

use super::{
    Needs, Scenario, Stage, Told, commits, conf, copied, crash, disk, freeze, hands, network, planned, power,
    raft_store,
};
use crate::report::Bar;

/// The bars of a crash, and of a host that is lost or freezes.
const CRASH: Bar = Bar { median_ms: 300.0, max_ms: 1000.0 };
const HOST: Bar = Bar { median_ms: 2000.0, max_ms: 3500.0 };
/// The bar of a PostgreSQL that hangs beside a healthy agent: `hang_timeout_ms` (5 s) and a failover.
const HANG: Bar = Bar { median_ms: 6500.0, max_ms: 9000.0 };
/// The bar of a disk that hangs: the same, and its right to serve has to run out, since nothing can be killed or written.
const STALL: Bar = Bar { median_ms: 8500.0, max_ms: 12_000.0 };

/// The scenario of that name.
pub fn find(name: &str) -> Option<Scenario> {
    scenarios().into_iter().find(|scenario| scenario.name == name)
}

/// All names, in order.
pub fn names() -> Vec<&'static str> {
    scenarios().iter().map(|scenario| scenario.name).collect()
}

const fn scenario(
    number: u32,
    name: &'static str,
    story: &'static str,
    needs: Needs,
    tell: fn(&mut Stage) -> Told,
) -> Scenario {
    Scenario { number: Some(number), name, story, needs, bar: None, plain: false, ci: false, tell }
}

impl Scenario {
    const fn bar(self, bar: Bar) -> Scenario {
        Scenario { bar: Some(bar), ..self }
    }

    /// With clients that only insert.
    const fn plain(self) -> Scenario {
        Scenario { plain: true, ..self }
    }

    /// In the set that runs on every change.
    const fn often(self) -> Scenario {
        Scenario { ci: true, ..self }
    }

    /// One more story of the same number, or of none.
    const fn beside(self, number: Option<u32>) -> Scenario {
        Scenario { number, ..self }
    }
}

/// All of them, in the order of the thirty.
pub fn scenarios() -> Vec<Scenario> {
    use Needs::{Hosts, Processes};
    vec![
        scenario(1, "kill-postmaster", "the primary's postmaster is killed", Processes, crash::postmaster)
            .bar(CRASH)
            .often(),
        scenario(2, "kill-backend", "a backend dies of SIGSEGV, under either policy", Processes, crash::backend)
            .often(),
        scenario(
            3,
            "kill-agent",
            "pgvigil alone dies: adopted when it is back, fenced when it stays away",
            Processes,
            crash::agent,
        )
        .often(),
        scenario(
            4,
            "kill-agent-and-postmaster",
            "pgvigil and the postmaster die together",
            Processes,
            crash::agent_and_postmaster,
        ),
        scenario(5, "freeze-postgres", "all of PostgreSQL stops and wakes up later", Processes, freeze::postgres)
            .bar(HANG)
            .often(),
        scenario(
            6,
            "power-off",
            "the primary's host loses power, the Raft leader is elsewhere",
            Processes,
            power::primary,
        )
        .bar(HOST)
        .often(),
        scenario(
            7,
            "power-off-leader",
            "the primary's host loses power, the Raft leader is on it",
            Processes,
            power::primary_and_leader,
        )
        .bar(HOST),
        scenario(8, "freeze-host", "the primary's host stops for a long while and wakes up", Processes, freeze::host)
            .bar(HOST),
        scenario(9, "freeze-agent", "pgvigil alone stops on the primary", Processes, freeze::agent).often(),
        scenario(
            10,
            "partition-primary-and-clients",
            "the primary is cut off with all clients",
            Processes,
            network::primary_with_clients,
        )
        .often(),
        scenario(11, "partition-one-standby", "the primary loses one of two standbys", Processes, network::one_standby),
        scenario(
            12,
            "cut-replication",
            "replication to both standbys is cut, Raft goes on",
            Processes,
            network::no_replication,
        )
        .often(),
        scenario(13, "cut-raft", "all Raft links are cut, replication goes on", Processes, network::no_raft).often(),
        scenario(14, "one-way", "the primary's network fails one way, then the other", Processes, network::one_way)
            .often(),
        scenario(15, "ring", "the link that is down changes again and again", Processes, network::ring),
        scenario(15, "flapping", "the primary's links come and go", Processes, network::flapping),
        scenario(16, "weather", "frames are late, lost, doubled and reordered", Hosts, network::weather),
        scenario(16, "packet-loss", "nearly a third of all frames are lost", Hosts, network::loss),
        scenario(17, "disk-stall", "every write to the primary's disk waits", Hosts, disk::stall).bar(STALL).often(),
        scenario(18, "fsync-error", "fsync fails on the primary's WAL, then on a Raft log", Hosts, disk::sync_error)
            .often(),
        scenario(19, "disk-full", "the primary's disk has no space, then no inodes", Hosts, disk::full),
        scenario(
            20,
            "power-loss",
            "power fails with unsynced writes: on the primary, then everywhere",
            Hosts,
            power::unsynced,
        )
        .often(),
        scenario(21, "raft-torn-tail", "one Raft log loses its last bytes", Processes, raft_store::torn_tail),
        scenario(21, "raft-bit-flip", "one bit flips in one node's Raft log", Processes, raft_store::bit_flip),
        scenario(
            22,
            "raft-two-bit-flips",
            "bits flip in two nodes' Raft logs, the leader's among them",
            Processes,
            raft_store::two_bit_flips,
        ),
        scenario(23, "disk-lost", "a standby's host comes back with an empty disk", Hosts, power::disk_lost),
        scenario(24, "wall-clock", "wall clocks jump by an hour, and strobe", Hosts, disk::clock).often(),
        scenario(
            25,
            "cancelled-commits",
            "clients cancel commits that wait; then the primary dies",
            Hosts,
            commits::cancelled,
        )
        .plain()
        .often(),
        scenario(
            26,
            "restart-in-place",
            "the primary restarts alone with commits that nobody confirmed",
            Hosts,
            commits::restart_in_place,
        )
        .often(),
        scenario(
            27,
            "kill-candidate",
            "the one that takes over dies as well, at ever later moments",
            Processes,
            commits::candidate,
        ),
        scenario(28, "lagging-standby", "one standby is behind when the primary dies", Hosts, commits::lagging),
        scenario(
            28,
            "replay-paused",
            "replay is paused on both standbys when the primary dies",
            Processes,
            commits::replay_paused,
        ),
        scenario(
            29,
            "switchovers",
            "planned changes of primary with long transactions",
            Processes,
            planned::switchovers,
        ),
        scenario(29, "rolling-restart", "every pgvigil is restarted in turn", Processes, planned::rolling_restart),
        scenario(30, "membership", "members join and leave while primaries fail", Processes, planned::membership),
        scenario(30, "adversary", "wrong orders and malformed frames", Processes, planned::adversary),
        scenario(0, "copied-standby", "a copy of a standby streams under its name", Processes, copied::standby)
            .often()
            .beside(None),
        scenario(0, "two-hosts", "two hosts of three lose power, the primary's among them", Processes, power::two)
            .beside(None),
        scenario(0, "locked", "whatever pgvigil keeps in a database is locked for long", Processes, planned::locked)
            .often()
            .beside(None),
        scenario(0, "raft-churn", "the Raft leadership moves all the time", Processes, planned::raft_churn)
            .beside(None),
        scenario(
            0,
            "config-lines",
            "lines in PostgreSQL's files would weaken the rule and everything else, on every member",
            Processes,
            conf::lines,
        )
        .beside(None)
        .often(),
        scenario(0, "alter-system", "the same with ALTER SYSTEM", Processes, conf::alter_system).beside(None),
        scenario(
            0,
            "promoted-by-hand",
            "a standby is promoted by hand; later the primary dies, and the next one",
            Processes,
            hands::promoted,
        )
        .beside(None)
        .often(),
        scenario(
            0,
            "promoted-by-hand-unseen",
            "a standby that is cut off is promoted by hand and takes the number that the next primary is allotted",
            Processes,
            hands::promoted_unseen,
        )
        .beside(None),
        scenario(0, "busy-cores", "all cores have other work", Processes, disk::busy).beside(None),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn all_thirty_are_there_and_names_are_unique() {
        let all = scenarios();
        let numbers: BTreeSet<u32> = all.iter().filter_map(|scenario| scenario.number).collect();
        assert_eq!(numbers, (1..=30).collect());
        assert_eq!(names().into_iter().collect::<BTreeSet<_>>().len(), all.len());
    }

    #[test]
    fn a_name_finds_its_scenario_only() {
        assert_eq!(find("power-loss").and_then(|scenario| scenario.number), Some(20));
        assert!(find("power").is_none());
    }
}
