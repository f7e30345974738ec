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
    let question = v1::SwitchoverRequest { cluster: client.cluster(), to: args.to.unwrap_or_default(), by: operator() };
    let answer = client.call(Repeat::OnlyUnsent, question, |mut c, q| async move { c.switchover(q).await }).await?;
    change_of_primary(client, out, args.waiting, "switchover", answer).await
}

pub(super) async fn failover(client: &mut Client, out: Output, args: FailoverArguments) -> Result<(), Failure> {
    let question = v1::FailoverRequest {
        cluster: client.cluster(),
        to: args.to.unwrap_or_default(),
        give_up: args.give_up,
        old_primary_is_off: args.old_primary_is_off,
        by: operator(),
    };
    let answer = client.call(Repeat::OnlyUnsent, question, |mut c, q| async move { c.failover(q).await }).await?;
    change_of_primary(client, out, args.waiting, "failover", answer).await
}

async fn change_of_primary(
    client: &mut Client,
    out: Output,
    waiting: Waiting,
    what: &str,
    answer: v1::AskReply,
) -> Result<(), Failure> {
    let answer = agreed(answer)?;
    if waiting.no_wait {
        return only_agreed(out, what, &answer);
    }
    let asked_in = answer.epoch;
    let asked_at = answer.revision;
    let judge = |status: &StatusDocument| judge_change(status, asked_in, asked_at, what);
    let (text, status) = until_done(client, out, waiting, judge).await?;
    let incident = status.incidents.last().cloned();
    out.print(&json!({"done": true, "primary": status.primary, "epoch": status.epoch, "incident": incident}), || text)
}

/// How far the change is that was asked for in epoch `asked_in` and agreed as revision `asked_at`.
pub(super) fn judge_change(status: &StatusDocument, asked_in: u64, asked_at: u64, what: &str) -> Progress {
    let newer = status.incidents.iter().rfind(|incident| incident.number > asked_in);
    let Some(incident) = newer else {
        // A status of a node that has not applied the request yet says nothing.
        let dropped = status.revision > asked_at && status.request.is_empty() && status.epoch == asked_in;
        if !dropped {
            return Progress::Going;
        }
        let others = status.members.iter().filter(|member| member.name != status.primary);
        let why: Vec<String> = others
            .filter(|member| !member.may_take_over)
            .map(|member| format!("{}: {}", member.name, member.may_not_because))
            .collect();
        let why = if why.is_empty() { String::new() } else { format!(" ({})", why.join("; ")) };
        return Progress::Refused(format!("the {what} was dropped: nobody suitable may take over now{why}"));
    };
    let complete = incident.phases.iter().any(|phase| phase.name == "completed");
    match incident.outcome.as_str() {
        "moved" if complete => Progress::Done(moved(incident)),
        "stayed" if complete => {
            let notes = incident.notes.join("; ");
            Progress::Failed(format!("the {what} was called off, {} goes on as primary. {notes}", incident.to))
        }
        _ => Progress::Going,
    }
}

fn moved(incident: &IncidentDocument) -> String {
    let opened = incident.to_open_ms.map_or_else(String::new, |ms| format!(" after {}", milliseconds(ms)));
    let loss =
        if incident.possible_data_loss { "; acknowledged commits may be lost, see 'pgvigil incidents'" } else { "" };
    format!("{} is the primary, open to clients{opened} (incident {}){loss}", incident.to, incident.number)
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
