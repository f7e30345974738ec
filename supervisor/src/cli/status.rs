//! `pgvigil status`: the cluster on one screen.

use super::{
    Client, Output,
    format::{bytes, date_time, milliseconds, table},
    outcome::Failure,
};
use crate::{
    api::convert::word,
    view::{IncidentDocument, MemberDocument, Role, StatusDocument},
};
use std::fmt::Write as _;

pub(super) async fn show(client: &mut Client, out: Output) -> Result<(), Failure> {
    let status = match client.status().await {
        Ok(status) => status,
        Err(Failure::Failed(why)) => match client.stale_status().await {
            Ok(status) => {
                eprintln!("pgvigil: {why}\npgvigil: this is what node {} holds; it may be old", status.node);
                status
            }
            Err(_) => return Err(Failure::Failed(why)),
        },
        Err(other) => return Err(other),
    };
    out.print(&status, || render(&status))
}

/// The screen.
#[must_use]
pub(crate) fn render(status: &StatusDocument) -> String {
    let mut text = String::new();
    let leader = if status.leader == 0 {
        "no Raft leader known".to_owned()
    } else {
        format!("Raft leader: node {}", status.leader)
    };
    say(
        &mut text,
        format_args!(
            "cluster {}: {}   epoch {}, timeline {}   {leader}",
            status.cluster,
            word(&status.state),
            status.epoch,
            status.timeline
        ),
    );
    if !status.paused.is_empty() {
        say(&mut text, format_args!("PAUSED {}", status.paused));
    }
    if !status.waits_for.is_empty() {
        say(&mut text, format_args!("waits for: {}", status.waits_for));
    }
    if !status.request.is_empty() {
        say(&mut text, format_args!("asked for: {}", status.request));
    }
    say(&mut text, format_args!("{}", durability(status)));
    say(&mut text, format_args!("{}", service(status)));
    text.push('\n');
    text.push_str(&members_table(&status.members));
    if !status.unfenced.is_empty() {
        say(&mut text, format_args!("\nnot known to be fenced: {}", status.unfenced.join(", ")));
    }
    if !status.findings.is_empty() {
        say(&mut text, format_args!("\nfindings:"));
        for finding in &status.findings {
            say(&mut text, format_args!("  - {finding}"));
        }
    }
    if let Some(last) = status.incidents.last() {
        say(&mut text, format_args!("\nlast change: {}", one_line(last)));
    }
    text
}

/// Writing to a String cannot fail.
fn say(text: &mut String, line: std::fmt::Arguments<'_>) {
    let _infallible = writeln!(text, "{line}");
}

fn durability(status: &StatusDocument) -> String {
    if !status.rpo.zero {
        return format!("RPO 0: NOT HELD\n  - {}", status.rpo.why_not.join("\n  - "));
    }
    match &status.rule {
        Some(rule) => {
            let change = if rule.change.is_empty() { String::new() } else { format!(" (changing {})", rule.change) };
            format!(
                "RPO 0: holds. A commit is acknowledged once {} of ({}) flushed it{change}",
                rule.k,
                rule.cohort.join(", ")
            )
        }
        None => "RPO 0: holds".to_owned(),
    }
}

fn service(status: &StatusDocument) -> String {
    if status.rpo.writable {
        return format!("writes: go through, {} is the primary", status.primary);
    }
    format!("writes: STOPPED\n  - {}", status.rpo.not_writable.join("\n  - "))
}

/// The members, one line each.
#[must_use]
pub(crate) fn members_table(members: &[MemberDocument]) -> String {
    let rows: Vec<Vec<String>> = members
        .iter()
        .map(|member| {
            let state = match member.silent_ms {
                Some(ms) if member.state == "silent" => format!("silent {}", milliseconds(ms)),
                _ => member.state.clone(),
            };
            let lag = match (member.flush_lag_bytes, member.replay_lag_bytes) {
                (Some(flush), Some(replay)) => format!("{} / {}", bytes(flush), bytes(replay)),
                _ => "-".to_owned(),
            };
            let take_over = match (member.may_take_over, member.role) {
                (true, _) => "yes".to_owned(),
                (false, Role::Primary | Role::Appointed) => "-".to_owned(),
                (false, _) => format!("no: {}", member.may_not_because),
            };
            vec![
                member.name.clone(),
                member.tier.to_string(),
                word(&member.role),
                state,
                if member.timeline == 0 { "-".to_owned() } else { member.timeline.to_string() },
                lag,
                member.encrypted.map_or("-", |encrypted| if encrypted { "yes" } else { "no" }).to_owned(),
                if member.in_rule { "yes" } else { "-" }.to_owned(),
                format!("{}:{}", member.host, member.port),
                take_over,
            ]
        })
        .collect();
    let heads =
        ["MEMBER", "TIER", "ROLE", "STATE", "TL", "LAG flush/replay", "ENCRYPTED", "RULE", "ADDRESS", "TAKE OVER"];
    table(&heads, &rows)
}

/// An incident in one line.
#[must_use]
pub(crate) fn one_line(incident: &IncidentDocument) -> String {
    let at = incident.phases.first().map_or_else(String::new, |phase| date_time(phase.at_ms));
    let to = match incident.outcome.as_str() {
        "open" => "not over yet".to_owned(),
        "stayed" => format!("{} went on", incident.to),
        "superseded" => "overtaken by the next".to_owned(),
        _ => format!("{} took over", incident.to),
    };
    let opened = incident.to_open_ms.map_or_else(String::new, |ms| format!(", open after {}", milliseconds(ms)));
    let loss = if incident.possible_data_loss { ", POSSIBLE DATA LOSS" } else { "" };
    format!("#{} {} of {}, {at}: {to}{opened}{loss}", incident.number, incident.kind, incident.from)
}
