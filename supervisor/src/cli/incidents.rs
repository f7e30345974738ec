//! `pgvigil incidents`: what happened to the primary, and how long each phase took.

use super::{
    Client, Output,
    args::{IncidentsArguments, IncidentsCommand},
    client::Repeat,
    format::{date_time, milliseconds, table},
    outcome::Failure,
};
use crate::view::IncidentDocument;
use pgvigil_proto::v1;
use std::fmt::Write as _;

pub(super) async fn run(client: &mut Client, out: Output, args: IncidentsArguments) -> Result<(), Failure> {
    let number = match args.what {
        Some(IncidentsCommand::Show { number }) => number,
        None | Some(IncidentsCommand::List) => 0,
    };
    let question = v1::IncidentsRequest { cluster: client.cluster(), number };
    let answer = client.call(Repeat::Safe, question, |mut c, q| async move { c.incidents(q).await }).await?;
    let incidents: Vec<IncidentDocument> = answer.incidents.into_iter().map(Into::into).collect();
    match (number, incidents.first()) {
        (0, _) => out.print(&incidents, || list(&incidents)),
        (_, Some(incident)) => out.print(incident, || whole(incident)),
        (number, None) => Err(Failure::Failed(format!("there is no incident {number}"))),
    }
}

fn list(incidents: &[IncidentDocument]) -> String {
    if incidents.is_empty() {
        return "no change of primary yet".to_owned();
    }
    let rows: Vec<Vec<String>> = incidents
        .iter()
        .map(|incident| {
            let appointed = incident.phases.iter().any(|phase| phase.name == "appointed");
            let loss = match (incident.possible_data_loss, appointed) {
                (true, _) => "POSSIBLE",
                (false, true) => "none",
                (false, false) => "-",
            };
            vec![
                incident.number.to_string(),
                incident.phases.first().map_or_else(String::new, |phase| date_time(phase.at_ms)),
                incident.kind.clone(),
                incident.from.clone(),
                incident.to.clone(),
                incident.outcome.clone(),
                incident.to_open_ms.map_or_else(|| "-".to_owned(), milliseconds),
                loss.to_owned(),
                incident.reason.clone(),
            ]
        })
        .collect();
    table(&["NO", "WHEN (UTC)", "KIND", "FROM", "TO", "OUTCOME", "OPEN AFTER", "LOSS", "REASON"], &rows)
}

/// One incident with all that is known.
#[must_use]
pub(crate) fn whole(incident: &IncidentDocument) -> String {
    let mut text = String::new();
    let mut say = |line: String| {
        // Writing to a String cannot fail.
        let _infallible = writeln!(text, "{line}");
    };
    let to = if incident.to.is_empty() { "nobody yet" } else { &incident.to };
    say(format!(
        "incident {}: {} from {} to {to} ({})",
        incident.number, incident.kind, incident.from, incident.outcome
    ));
    say(format!("  reason    {}", incident.reason));
    say(format!("  by        {}", incident.by));
    for line in &incident.evidence {
        say(format!("  evidence  {line}"));
    }
    let mut before = 0;
    for phase in &incident.phases {
        let step = phase.after_ms.saturating_sub(before);
        before = phase.after_ms;
        say(format!("  {:<10}{:>8} ms  (+{step} ms)  {}", phase.name, phase.after_ms, date_time(phase.at_ms)));
    }
    for note in &incident.notes {
        say(format!("  note      {note}"));
    }
    // What an older server does not say is not claimed for it.
    if !incident.loss.is_empty() && incident.phases.iter().any(|phase| phase.name == "appointed") {
        say(format!("  loss      {}", incident.loss));
    }
    text
}
