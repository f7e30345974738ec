//! What an operator may ask for: agreed first, then waited for until it is done.

use super::{
    Client, Output,
    args::{FailoverArguments, PauseArguments, ReinitArguments, RestartArguments, SwitchoverArguments, Waiting},
    client::Repeat,
    format::{milliseconds, operator},
    outcome::Failure,
    wait::{Progress, until_done},
};
use crate::view::{IncidentDocument, Role, StatusDocument};
use pgvigil_proto::v1;
use serde_json::json;

pub(super) async fn switchover(client: &mut Client, out: Output, args: SwitchoverArguments) -> Result<(), Failure> {
    let to = args.to.clone().unwrap_or_default();
    let question = v1::SwitchoverRequest { cluster: client.cluster(), to, by: operator() };
    let answer = client.call(Repeat::OnlyUnsent, question, |mut c, q| async move { c.switchover(q).await }).await?;
    change_of_primary(client, out, args.waiting, "switchover", args.to.as_deref(), answer).await
}

pub(super) async fn failover(client: &mut Client, out: Output, args: FailoverArguments) -> Result<(), Failure> {
    let question = v1::FailoverRequest {
        cluster: client.cluster(),
        to: args.to.clone().unwrap_or_default(),
        give_up: args.give_up,
        old_primary_is_off: args.old_primary_is_off,
        by: operator(),
    };
    let answer = client.call(Repeat::OnlyUnsent, question, |mut c, q| async move { c.failover(q).await }).await?;
    change_of_primary(client, out, args.waiting, "failover", args.to.as_deref(), answer).await
}

async fn change_of_primary(
    client: &mut Client,
    out: Output,
    waiting: Waiting,
    what: &str,
    to: Option<&str>,
    answer: v1::AskReply,
) -> Result<(), Failure> {
    let answer = agreed(answer)?;
    if waiting.no_wait {
        return only_agreed(out, what, &answer);
    }
    let asked = Asked { revision: answer.revision, what, to };
    let (text, status) = until_done(client, out, waiting, |status| asked.judge(status)).await?;
    let incident = asked.own(&status).cloned();
    out.print(&json!({"done": true, "primary": status.primary, "epoch": status.epoch, "incident": incident}), || text)
}

/// A change of primary that was asked for: known ever after by the revision as which the request was agreed.
pub(super) struct Asked<'a> {
    /// That revision.
    pub(super) revision: u64,
    /// `switchover` or `failover`.
    pub(super) what: &'a str,
    /// The member that was named.
    pub(super) to: Option<&'a str>,
}

impl Asked<'_> {
    /// The incident that this very request began.
    fn own<'s>(&self, status: &'s StatusDocument) -> Option<&'s IncidentDocument> {
        status.incidents.iter().find(|incident| incident.request_revision == self.revision)
    }

    /// How far it is: done only when whoever was wanted is the primary, refused only when nothing was stopped for it.
    pub(super) fn judge(&self, status: &StatusDocument) -> Progress {
        let what = self.what;
        let Some(own) = self.own(status) else {
            if status.dropped_revision == self.revision {
                return Progress::Refused(format!("the {what} was dropped: {}", status.dropped_because));
            }
            // A status of a node that has not applied the request yet says nothing.
            let stands = status.revision < self.revision || status.request_revision == self.revision;
            let unknown = "what became of it is not known any more: newer changes followed; see 'pgvigil incidents'";
            return if stands { Progress::Going } else { Progress::Failed(format!("the {what}: {unknown}")) };
        };
        // Overtaken by another change of primary, it is judged by what the last one brings.
        let last = status.incidents.last().unwrap_or(own);
        let ended = |incident: &IncidentDocument| incident.phases.iter().any(|phase| phase.name == "completed");
        if own.outcome == "open" || !ended(last) || !matches!(last.outcome.as_str(), "moved" | "stayed") {
            return Progress::Going;
        }
        let wanted = self.to.unwrap_or(&own.to);
        let notes = |incident: &IncidentDocument| {
            let told = incident.evidence.iter().filter(|line| line.contains("was asked for, but"));
            told.chain(&incident.notes).map(|line| format!("; {line}")).collect::<String>()
        };
        if status.primary == wanted && status.primary != own.from {
            return Progress::Done(moved(own, &status.primary));
        }
        let since = if last.number == own.number {
            String::new()
        } else {
            format!(" since incident {} ({})", last.number, last.kind)
        };
        if status.primary == own.from {
            return Progress::Failed(format!(
                "the {what} was called off, {} goes on as primary{since}{}",
                own.from,
                notes(own)
            ));
        }
        Progress::Failed(format!("{} is the primary{since}, not {wanted}{}", status.primary, notes(own)))
    }
}

fn moved(incident: &IncidentDocument, primary: &str) -> String {
    let opened = incident.to_open_ms.map_or_else(String::new, |ms| format!(" after {}", milliseconds(ms)));
    let loss =
        if incident.possible_data_loss { "; acknowledged commits may be lost, see 'pgvigil incidents'" } else { "" };
    format!("{primary} is the primary, open to clients{opened} (incident {}){loss}", incident.number)
}

pub(super) async fn pause(client: &mut Client, out: Output, args: PauseArguments) -> Result<(), Failure> {
    let question = v1::PauseRequest { cluster: client.cluster(), reason: args.reason, by: operator() };
    let answer = client.call(Repeat::OnlyUnsent, question, |mut c, q| async move { c.pause(q).await }).await?;
    let answer = agreed(answer)?;
    let text = "paused: pgvigil watches and decides nothing until 'pgvigil resume'. A primary that dies stays dead";
    out.print(&done(&answer), || text.to_owned())
}

pub(super) async fn resume(client: &mut Client, out: Output) -> Result<(), Failure> {
    let question = v1::ResumeRequest { cluster: client.cluster(), by: operator() };
    let answer = client.call(Repeat::OnlyUnsent, question, |mut c, q| async move { c.resume(q).await }).await?;
    let answer = agreed(answer)?;
    out.print(&done(&answer), || "resumed".to_owned())
}

pub(super) async fn reinit(client: &mut Client, out: Output, args: ReinitArguments) -> Result<(), Failure> {
    let member = args.member;
    let question = v1::ReinitialiseRequest { cluster: client.cluster(), member: member.clone(), by: operator() };
    let answer = client.call(Repeat::OnlyUnsent, question, |mut c, q| async move { c.reinitialise(q).await }).await?;
    let answer = agreed(answer)?;
    if args.waiting.no_wait {
        return only_agreed(out, "reinit", &answer);
    }
    let before = answer.incarnation;
    let judge = |status: &StatusDocument| match status.member(&member) {
        Some(now) if now.incarnation > before && now.role == Role::Standby && now.state.starts_with("streaming") => {
            Progress::Done(format!("{member} streams again, from a fresh data directory"))
        }
        Some(_) => Progress::Going,
        None => Progress::Failed(format!("{member} is no member any more")),
    };
    let (text, _) = until_done(client, out, args.waiting, judge).await?;
    out.print(&done(&answer), || text)
}

pub(super) async fn restart(client: &mut Client, out: Output, args: RestartArguments) -> Result<(), Failure> {
    let member = match args.member {
        Some(member) => member,
        None => client.status().await?.primary,
    };
    let question = v1::RestartRequest { cluster: client.cluster(), member: member.clone(), by: operator() };
    let answer = client.call(Repeat::OnlyUnsent, question, |mut c, q| async move { c.restart(q).await }).await?;
    let answer = agreed(answer)?;
    if args.waiting.no_wait {
        return only_agreed(out, "restart", &answer);
    }
    let request = answer.restart_request;
    let judge = |status: &StatusDocument| match status.member(&member) {
        Some(now) if now.restarted >= request && (now.state == "open" || now.state.starts_with("streaming")) => {
            Progress::Done(format!("{member} was restarted and is {}", now.state))
        }
        Some(_) => Progress::Going,
        None => Progress::Failed(format!("{member} is no member any more")),
    };
    let (text, _) = until_done(client, out, args.waiting, judge).await?;
    out.print(&done(&answer), || text)
}

/// A refusal is a failure of the command with its own exit code.
pub(super) fn agreed(answer: v1::AskReply) -> Result<v1::AskReply, Failure> {
    match answer.refusal {
        Some(refusal) => Err(refusal.into()),
        None => Ok(answer),
    }
}

pub(super) fn only_agreed(out: Output, what: &str, answer: &v1::AskReply) -> Result<(), Failure> {
    let value = json!({"done": false, "agreed": true, "cluster": answer.cluster, "revision": answer.revision});
    out.print(&value, || format!("the {what} is agreed (revision {}); 'pgvigil watch' shows it", answer.revision))
}

pub(super) fn done(answer: &v1::AskReply) -> serde_json::Value {
    json!({"done": true, "cluster": answer.cluster, "revision": answer.revision})
}
