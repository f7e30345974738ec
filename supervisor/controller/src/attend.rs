//! A leader's two tasks for the stream of one agent: reports in, agreed state and lease renewals out. What is said is
//! decided by `pgvigil_core::session`. Keeps S3 and S5.

use crate::ports::{Answers, Ended, Led, Node, NotAgreed, Reports, Turn};
use pgvigil_core::{
    cluster::ClusterState,
    report::Report,
    session::{self, Admission, Confirmation, Heard, Session},
};
use std::sync::Arc;

/// How long confirming the leadership may take, in milliseconds, before the agent is sent to look for another leader.
const CONFIRM_MS: u64 = 1_000;

/// Reads reports into the inbox as they come in, and hands the newest one to the answering task.
pub async fn read<N: Node>(node: &N, mut reports: impl Reports) {
    while let Some((report, at, moment)) = reports.next().await {
        if report.seq == Report::NO_HEARTBEAT {
            if node.inbox(|inbox| inbox.ailing(&report, at)) {
                node.show();
            }
            return reports.end(Ended::Heard).await;
        }
        let agreed = node.agreed();
        let agreed = agreed.clusters.get(&report.cluster);
        let refused = admit(node, agreed, &report).await;
        let report = Arc::new(report);
        if refused.is_none() {
            if !node.inbox(|inbox| inbox.receive(agreed, (*report).clone(), at)) {
                return reports.end(Ended::NotLeading).await;
            }
            node.poke();
        }
        reports.hand_on(Heard { report, at, refused }, moment);
    }
}

/// Why the sender of `report` is not listened to. Has an unknown member, or a changed address, agreed first.
async fn admit<N: Node>(node: &N, agreed: Option<&ClusterState>, report: &Report) -> Option<String> {
    let proposal = match session::admit(agreed, report, node.wall()) {
        Admission::Member => return None,
        Admission::Refused(why) => return Some(why),
        Admission::Register(proposal) => proposal,
    };
    match node.propose(&proposal).await {
        Ok(outcome) => session::registered(outcome, node.agreed().clusters.get(&report.cluster), report),
        Err(NotAgreed::NotLeader) => Some("this node does not lead".to_owned()),
        Err(NotAgreed::Failed(why)) => Some(why),
    }
}

/// Answers whenever a report came in or the agreed state has moved.
pub async fn answer<N: Node>(node: &N, mut answers: impl Answers<N>) {
    let mut session = Session::default();
    while let Some(Turn { heard, moment, news }) = answers.turn().await {
        let cluster = heard.report.cluster.clone();
        let mut by = session.turn(news, &heard, answers.newest().clusters.get(&cluster));
        let mut confirmed = false;
        if by == Confirmation::NextHeartbeats {
            match answers.led_since(moment, CONFIRM_MS).await {
                Led::Yes => confirmed = true,
                Led::No => {}
                Led::Moved => by = Confirmation::Round,
            }
        }
        if by == Confirmation::Round {
            confirmed = answers.confirm(CONFIRM_MS).await;
        }
        if !confirmed {
            return answers.end(Ended::NotLeading).await;
        }
        // What moved while heartbeats were waited for is told in the next turn.
        let agreed = if by == Confirmation::Round { answers.newest() } else { node.agreed() };
        let state = agreed.clusters.get(&cluster);
        let reply = node.inbox(|inbox| session.reply(inbox, (news, &heard), (by, state), node.now()));
        let Ok(reply) = reply else { return answers.end(Ended::NotLeading).await };
        let Some(reply) = reply else { continue };
        let state = reply.state.then_some((&agreed, &cluster));
        if !answers.send(reply, state).await {
            return;
        }
    }
}
