use super::*;
use crate::{
    command::{Refusal, RefusalCode},
    id::NodeId,
    testing::World,
};

fn heard(report: Report, at: Time) -> Heard {
    Heard { report: Arc::new(report), at, refused: None }
}

fn inbox(world: &World) -> Inbox {
    let mut inbox = Inbox::new(NodeId(1));
    inbox.begin(world.now, 7);
    inbox
}

/// The primary's agent knows everything that is agreed.
fn informed(world: &World) -> Heard {
    let mut report = world.primary_report(&[1, 2]);
    report.revision = world.cluster().revision;
    heard(report, world.now)
}

/// S5: who lost the lead says nothing, whatever was confirmed before.
#[test]
fn who_listens_no_more_answers_nobody() {
    let world = World::serving(3, 1);
    let (mut session, heard) = (Session::default(), informed(&world));
    let agreed = Some(world.cluster());
    let by = session.turn(true, &heard, agreed);
    let answered = session.reply(&mut Inbox::new(NodeId(1)), (true, &heard), (by, agreed), world.now);
    assert_eq!(answered, Err(NotListening));
}

/// The leader counts a lease from when the heartbeat had come in, however long the quorum took to confirm.
#[test]
fn a_renewal_names_the_heartbeat_and_counts_from_its_arrival() {
    let world = World::serving(3, 1);
    let (mut session, mut inbox, heard) = (Session::default(), inbox(&world), informed(&world));
    let agreed = world.cluster();
    assert!(inbox.receive(Some(agreed), (*heard.report).clone(), heard.at));
    let by = session.turn(true, &heard, Some(agreed));
    assert_eq!(by, Confirmation::NextHeartbeats, "it knows everything, and nothing is under way");
    let later = world.now.plus(900);
    let reply = session.reply(&mut inbox, (true, &heard), (by, Some(agreed)), later).unwrap().unwrap();
    assert_eq!((reply.said.renewed, reply.state), (Some(heard.report.seq), false));
    assert_eq!(inbox.of(agreed).unwrap().last_renewal[&agreed.reign().unwrap().epoch], heard.at);
}

/// In quiet times the next heartbeats confirm that this node led when the report came in, and nothing that was agreed since.
#[test]
fn what_moved_meanwhile_is_not_told_in_a_quiet_turn() {
    let world = World::serving(3, 1);
    let (mut session, mut inbox, heard) = (Session::default(), inbox(&world), informed(&world));
    let by = session.turn(true, &heard, Some(world.cluster()));
    let mut moved = world.cluster().clone();
    moved.revision = Revision(moved.revision.0 + 1);
    let reply = session.reply(&mut inbox, (true, &heard), (by, Some(&moved)), world.now).unwrap().unwrap();
    assert_eq!((reply.said.renewed, reply.state, reply.said.shown), (None, false, None));
    let by = session.turn(false, &heard, Some(&moved));
    assert_eq!(by, Confirmation::Round);
    let reply = session.reply(&mut inbox, (false, &heard), (by, Some(&moved)), world.now).unwrap().unwrap();
    assert!(reply.state);
    let by = session.turn(false, &heard, Some(&moved));
    let reply = session.reply(&mut inbox, (false, &heard), (by, Some(&moved)), world.now);
    assert_eq!(reply, Ok(None), "told already");
}

#[test]
fn an_agent_that_forgot_is_told_again() {
    let world = World::serving(3, 1);
    let (mut session, mut inbox, known) = (Session::default(), inbox(&world), informed(&world));
    let agreed = Some(world.cluster());
    let by = session.turn(true, &known, agreed);
    assert!(!session.reply(&mut inbox, (true, &known), (by, agreed), world.now).unwrap().unwrap().state);
    let mut report = (*known.report).clone();
    report.revision = Revision(0);
    let forgot = heard(report, world.now);
    let by = session.turn(true, &forgot, agreed);
    assert!(session.reply(&mut inbox, (true, &forgot), (by, agreed), world.now).unwrap().unwrap().state);
}

#[test]
fn who_is_refused_gets_no_lease_and_hears_why() {
    let world = World::serving(3, 1);
    let (mut session, mut inbox) = (Session::default(), inbox(&world));
    let heard = Heard { refused: Some("another node has its name".to_owned()), ..informed(&world) };
    let agreed = Some(world.cluster());
    let by = session.turn(true, &heard, agreed);
    assert_eq!(by, Confirmation::Round);
    let reply = session.reply(&mut inbox, (true, &heard), (by, agreed), world.now).unwrap().unwrap();
    assert_eq!((reply.said.renewed, reply.refused), (None, heard.refused));
}

#[test]
fn members_are_admitted_strangers_registered_and_those_removed_refused() {
    let world = World::serving(3, 1);
    let (agreed, wall) = (world.cluster(), WallTime(1));
    let mut report = world.standby_report(1);
    assert_eq!(admit(Some(agreed), &report, wall), Admission::Member);
    assert!(matches!(admit(None, &report, wall), Admission::Refused(why) if why.contains("no cluster")));
    report.spec.host = "198.51.100.7".to_owned();
    let Admission::Register(proposal) = admit(Some(agreed), &report, wall) else { panic!("another address") };
    assert_eq!(proposal.command, Command::RegisterMember { spec: report.spec.clone() });
    let refusal = Refusal { code: RefusalCode::Exists, text: "taken".to_owned() };
    let refused = Outcome::Refused(refusal);
    assert_eq!(registered(refused.clone(), Some(agreed), &report).as_deref(), Some("taken"));
    assert_eq!(registered(refused, Some(agreed), &world.standby_report(1)), None, "another report was faster");
    report.spec.member = "gone".into();
    report.was_member = true;
    assert!(matches!(admit(Some(agreed), &report, wall), Admission::Refused(why) if why.contains("was removed")));
}
