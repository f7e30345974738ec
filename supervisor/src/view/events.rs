//! What happened between two statuses, as sentences: for `pgvigil watch` and the demo.

use super::{IncidentDocument, MemberDocument, Role, StatusDocument, member::NOT_HEARD_YET};
use serde::{Deserialize, Serialize};

/// Something that happened.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventDocument {
    /// Wall clock, ms since 1970: of the phase where it is one, else of the status that showed it.
    pub at_ms: u64,
    /// `decided`, `seen`, `phase`, `member`, `rule`, `finding`, `leader`, `paused`, `note`.
    pub kind: String,
    /// The member or node it is about; may be empty.
    pub about: String,
    /// One sentence.
    pub text: String,
}

/// The events that lead from `before` to `after`, oldest first.
#[must_use]
pub fn events_between(before: &StatusDocument, after: &StatusDocument) -> Vec<EventDocument> {
    let mut events = Vec::new();
    let mut say = |at_ms: u64, kind: &str, about: &str, text: String| {
        events.push(EventDocument { at_ms, kind: kind.to_owned(), about: about.to_owned(), text });
    };
    let now = after.at_ms;
    if before.leader != after.leader && after.leader != 0 {
        say(now, "leader", &format!("node {}", after.leader), format!("node {} leads now", after.leader));
    }
    if before.paused != after.paused {
        let text = if after.paused.is_empty() { "resumed".to_owned() } else { format!("paused {}", after.paused) };
        say(now, "paused", "", text);
    }
    if before.request != after.request && !after.request.is_empty() {
        say(now, "seen", "", after.request.clone());
    }
    for member in &after.members {
        if let Some(text) = member_event(before.member(&member.name), member) {
            say(now, "member", &member.name, text);
        }
    }
    for member in before.members.iter().filter(|member| after.member(&member.name).is_none()) {
        say(now, "member", &member.name, format!("{} left the cluster", member.name));
    }
    for incident in &after.incidents {
        let old = before.incidents.iter().find(|old| old.number == incident.number);
        for (at_ms, kind, about, text) in incident_events(old, incident) {
            say(at_ms, kind, &about, text);
        }
    }
    if let Some(text) = rule_event(before, after) {
        say(now, "rule", "", text);
    }
    for finding in after.findings.iter().filter(|finding| !before.findings.iter().any(|old| same(old, finding))) {
        say(now, "finding", "", finding.clone());
    }
    events.sort_by_key(|event| event.at_ms);
    events
}

/// The same sentence but for its numbers, which count up while nothing new happens.
fn same(one: &str, other: &str) -> bool {
    let bare = |text: &str| text.chars().filter(|c| !c.is_ascii_digit()).collect::<String>();
    bare(one) == bare(other)
}

/// Steps of one activity (cloning, rewinding) are progress, no news.
fn first_word(activity: &str) -> &str {
    activity.split([' ', ':']).next().unwrap_or_default()
}

fn member_event(before: Option<&MemberDocument>, after: &MemberDocument) -> Option<String> {
    let name = &after.name;
    let Some(before) = before else {
        return Some(format!("{name} joined: tier {}, {}:{}", after.tier, after.host, after.port));
    };
    if before.incarnation != after.incarnation {
        return Some(format!("{name} gets a fresh data directory (incarnation {})", after.incarnation));
    }
    // A new leader hears of everyone within a moment; that is no news of the member.
    if before.state == NOT_HEARD_YET || after.state == NOT_HEARD_YET {
        return None;
    }
    let same_activity = !before.activity.is_empty() && first_word(&before.activity) == first_word(&after.activity);
    let same_state = same_activity || same(&before.state, &after.state);
    if same_state && (before.role == after.role || after.role == Role::None) {
        return None;
    }
    let role = match after.role {
        Role::Primary => "primary, ",
        Role::Appointed => "appointed, ",
        Role::Standby => "standby, ",
        Role::None => "",
    };
    Some(format!("{name}: {role}{} (was {})", after.state, before.state))
}

fn incident_events(
    before: Option<&IncidentDocument>,
    after: &IncidentDocument,
) -> Vec<(u64, &'static str, String, String)> {
    let mut events = Vec::new();
    let begun_at = after.phases.iter().find(|phase| phase.name == "begun").map_or(0, |phase| phase.at_ms);
    let last = after.phases.last().map_or(begun_at, |phase| phase.at_ms);
    // The appointment adds its own evidence: the seals.
    let shown_at = if before.is_none() { begun_at } else { last };
    for line in &after.evidence {
        if !before.is_some_and(|before| before.evidence.contains(line)) {
            events.push((shown_at, "seen", after.from.clone(), line.clone()));
        }
    }
    if before.is_none() {
        let text =
            format!("{} of {} in epoch {}: {} ({})", after.kind, after.from, after.number, after.reason, after.by);
        events.push((begun_at, "decided", after.from.clone(), text));
    }
    for phase in &after.phases {
        let known = before.is_some_and(|before| before.phases.iter().any(|old| old.name == phase.name));
        if known || phase.name == "noticed" || phase.name == "begun" {
            continue;
        }
        let text = format!("{} {} after {} ms", after.to, phase_words(&phase.name), phase.after_ms);
        events.push((phase.at_ms, "phase", after.to.clone(), text));
    }
    for note in &after.notes {
        if !before.is_some_and(|before| before.notes.contains(note)) {
            events.push((last, "note", after.to.clone(), note.clone()));
        }
    }
    let doubtful = after.possible_data_loss && !after.loss.is_empty();
    if doubtful && !before.is_some_and(|before| before.possible_data_loss && before.loss == after.loss) {
        events.push((last, "note", after.from.clone(), format!("loss of acknowledged commits: {}", after.loss)));
    }
    events
}

fn phase_words(phase: &str) -> &str {
    match phase {
        "appointed" => "appointed as primary",
        "promoted" => "promoted, its door still closed",
        "opened" => "open to clients",
        "completed" => "complete: its standbys have the new history",
        other => other,
    }
}

fn rule_event(before: &StatusDocument, after: &StatusDocument) -> Option<String> {
    let rule = after.rule.as_ref()?;
    let unchanged =
        before.rule.as_ref().is_some_and(|old| old.epoch == rule.epoch && old.cohort == rule.cohort && old.k == rule.k);
    (!unchanged).then(|| format!("a commit now needs {} of ({})", rule.k, rule.cohort.join(", ")))
}
