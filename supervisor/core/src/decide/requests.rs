//! What operators asked for: begun when it is safe, dropped with the reason when it is not.

use super::{
    Decision,
    candidate::{may_take_over, preference},
};
use crate::{
    cluster::ClusterState,
    command::Command,
    observation::Observations,
    reign::{ElectionKind, Reign},
    time::Time,
};

pub(super) fn begin(agreed: &ClusterState, reign: &Reign, seen: &Observations, now: Time, decision: &mut Decision) {
    let Some(request) = &agreed.request else { return };
    match &request.kind {
        ElectionKind::Switchover { to } => {
            if reign.promotion.is_none() || !reign.open || !reign.complete || agreed.change.is_some() {
                decision.find("switchover-waits", "the switchover waits for the present reign to be open and complete");
                return;
            }
            let mut suitable = Vec::new();
            let mut reasons = Vec::new();
            for member in agreed.members.values() {
                if to.as_ref().is_some_and(|to| *to != member.spec.member) {
                    continue;
                }
                match may_take_over(agreed, seen, member, now) {
                    Ok(standby) if standby.streaming => suitable.push(member.key()),
                    Ok(_) => reasons.push(format!("{} does not stream", member.spec.member)),
                    Err(why) => reasons.push(format!("{}: {}", member.spec.member, why.0)),
                }
            }
            suitable.sort_by_key(|key| preference(agreed, seen, key));
            let Some(best) = suitable.first() else {
                let reason = format!("no switchover: nobody suitable may take over now ({})", reasons.join("; "));
                decision.want(Command::DropRequest, reason, Vec::new());
                return;
            };
            let kind = ElectionKind::Switchover { to: Some(best.member.clone()) };
            decision.want(
                Command::BeginElection { epoch: agreed.epoch.next(), kind, noticed_at: seen.wall },
                format!("switchover to {} asked for {}", best.member, request.by),
                Vec::new(),
            );
        }
        ElectionKind::Forced { .. } => {
            decision.want(
                Command::BeginElection {
                    epoch: agreed.epoch.next(),
                    kind: request.kind.clone(),
                    noticed_at: seen.wall,
                },
                format!("failover forced by {}", request.by),
                Vec::new(),
            );
        }
        ElectionKind::Failover | ElectionKind::Renewal => {
            decision.want(Command::DropRequest, "not something an operator can ask for", Vec::new());
        }
    }
}
