use super::*;
use crate::testing::World;

fn listening(world: &World) -> Inbox {
    let mut inbox = Inbox::new(NodeId(1));
    inbox.begin(world.now, 7);
    inbox
}

#[test]
fn who_does_not_listen_hears_and_renews_nothing() {
    let world = World::serving(3, 1);
    let (agreed, report) = (world.cluster(), world.primary_report(&[1, 2]));
    let mut inbox = Inbox::new(NodeId(1));
    assert!(!inbox.receive(Some(agreed), report.clone(), world.now));
    assert!(!inbox.renew(agreed, &report, world.now));
    assert_eq!((inbox.since(), inbox.term(), inbox.clock(world.now)), (None, None, None));
}

/// S3: a leader that is told of a renewal remembers it before anybody is, and counts from when the heartbeat had come in.
#[test]
fn a_renewal_is_remembered_as_of_the_newest_heartbeat() {
    let world = World::serving(3, 1);
    let (agreed, report) = (world.cluster(), world.primary_report(&[1, 2]));
    let mut inbox = listening(&world);
    for at in [world.now.plus(100), world.now.plus(300), world.now.plus(200)] {
        assert!(inbox.receive(Some(agreed), report.clone(), at));
        assert!(inbox.renew(agreed, &report, at));
    }
    let epoch = agreed.reign().unwrap().epoch;
    assert_eq!(inbox.of(agreed).unwrap().last_renewal[&epoch], world.now.plus(300));
    let standby = world.standby_report(1);
    assert!(!inbox.renew(agreed, &standby, world.now), "a standby has no lease");
}

/// S5: what was seen in an earlier term is no evidence in this one.
#[test]
fn another_term_forgets_everything() {
    let world = World::serving(3, 1);
    let (agreed, report) = (world.cluster(), world.primary_report(&[1, 2]));
    let mut inbox = listening(&world);
    assert!(inbox.receive(Some(agreed), report, world.now));
    let (member, later) = (agreed.reign().unwrap().primary.member.clone(), world.now.plus(50));
    inbox.begin(later, 8);
    assert!(inbox.of(agreed).unwrap().reports.is_empty());
    assert!(!inbox.fence_command_done(&agreed.id, &member, Epoch(1), world.now), "begun under the leadership before");
    assert!(inbox.fence_command_done(&agreed.id, &member, Epoch(1), later));
    assert_eq!(inbox.of(agreed).unwrap().fence_commands_done[&member], Epoch(1));
    inbox.end();
    assert_eq!(inbox.since(), None);
}

#[test]
fn a_primary_is_late_after_one_and_a_half_heartbeats() {
    let world = World::serving(3, 1);
    let (agreed, report) = (world.cluster(), world.primary_report(&[1, 2]));
    let mut inbox = listening(&world);
    let _ = inbox.receive(Some(agreed), report, world.now);
    let limit = agreed.settings.heartbeat_ms * 3 / 2;
    assert!(!inbox.primary_late(agreed, world.now.plus(limit)));
    assert!(inbox.primary_late(agreed, world.now.plus(limit + 1)));
}

#[test]
fn an_agent_that_cannot_start_is_shown_for_a_while_and_is_no_sign_of_life() {
    let world = World::serving(3, 1);
    let agreed = world.cluster();
    let mut report = world.standby_report(2);
    let mut inbox = listening(&world);
    assert!(!inbox.ailing(&report, world.now), "it runs");
    report.postgres = PostgresReport::Unusable { why: "its mark is damaged".to_owned() };
    assert!(inbox.ailing(&report, world.now));
    assert!(!inbox.ailing(&report, world.now.plus(1)), "known");
    let shown = |at| inbox.snapshot(&agreed.id, at).1.into_iter().any(|f| f.code == "agent-cannot-start");
    assert!(shown(world.now.plus(AILING_MS)));
    assert!(!shown(world.now.plus(AILING_MS + 1)));
    assert!(inbox.of(agreed).unwrap().reports.is_empty());
}
