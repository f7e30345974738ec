//! Goal: a guard is never disarmed beside a primary that may serve (review F12). Method: every combination.

use super::*;
use crate::{
    id::TimelineId,
    local::InForce,
    report::Adoptable,
    testing::{World, agent::running},
};

fn adoptable(in_recovery: bool) -> LocalPostgres {
    LocalPostgres::Adoptable(Adoptable { system_identifier: 7, in_recovery, timeline: TimelineId(1), major: 17 })
}

fn every() -> impl Iterator<Item = Local> {
    let servers = [
        LocalPostgres::Unknown,
        LocalPostgres::NoData,
        LocalPostgres::Unusable { why: "?".to_owned() },
        adoptable(true),
        adoptable(false),
        LocalPostgres::Stopped { crashed: true },
        LocalPostgres::Stopped { crashed: false },
        LocalPostgres::Starting,
        running(true, 1),
        running(false, 1),
    ];
    let doors = [None, Some(true), Some(false)];
    let flags = [false, true];
    servers.into_iter().flat_map(move |postgres| {
        let of_door = move |door: Option<bool>| {
            let postgres = postgres.clone();
            flags.into_iter().flat_map(move |fence| {
                let postgres = postgres.clone();
                flags.into_iter().map(move |marked| {
                    let base = World::serving(2, 1).primary();
                    let in_force = door.map(|door_open| InForce { door_open, ..InForce::default() });
                    let marker = base.marker.clone().filter(|_| marked);
                    Local { postgres: postgres.clone(), fence_on_disk: fence, in_force, marker, ..base }
                })
            })
        };
        doors.into_iter().flat_map(of_door)
    })
}

#[test]
fn a_guard_is_disarmed_only_beside_what_is_known_not_to_serve() {
    assert_eq!(every().count(), 10 * 3 * 2 * 2);
    for local in every() {
        let closed = local.in_force.as_ref().is_some_and(|f| !f.door_open);
        let harmless = match &local.postgres {
            LocalPostgres::Stopped { .. } | LocalPostgres::NoData => true,
            LocalPostgres::Starting => local.fence_on_disk || closed,
            LocalPostgres::Running(running) => running.in_recovery || closed,
            LocalPostgres::Adoptable(found) => found.in_recovery,
            LocalPostgres::Unknown | LocalPostgres::Unusable { .. } => false,
        };
        assert_eq!(order(&local, false, None) == Order::Disarm, harmless, "{local:?}");
        for until in [None, Some(Time(9))] {
            assert_eq!(order(&local, true, until), Order::Hold);
        }
        assert_eq!(order(&local, false, Some(Time(9))), Order::Arm(Time(9)));
        let ours = matches!(local.postgres, LocalPostgres::Running(_) | LocalPostgres::Starting);
        let stops = order(&local, false, None) == Order::Keep { or_stop: true };
        assert_eq!(stops, !harmless && ours && local.marker.is_some(), "{local:?}");
    }
}
