//! What `pgvigil status --json` says, as far as a chaos run looks at it.

use serde::Deserialize;

/// The status of the cluster at one moment, as the Raft leader sees it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Status {
    /// Whether the answer is the Raft leader's own.
    pub from_leader: bool,
    /// The Raft leader's node; 0 when none is known.
    pub leader: u64,
    /// The newest epoch begun.
    pub epoch: u64,
    /// The member appointed last.
    pub primary: String,
    /// `healthy`, `degraded`, `electing`, …
    pub state: String,
    /// What is under way.
    pub waits_for: String,
    /// Why it is paused; empty when it is not.
    pub paused: String,
    /// Every member.
    pub members: Vec<MemberStatus>,
    /// Durability and service at this moment.
    pub rpo: Rpo,
    /// Problems and what decisions wait for.
    pub findings: Vec<String>,
}

/// One member's line.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct MemberStatus {
    /// Its name.
    pub name: String,
    /// The pgvigil process beside it.
    pub node: u64,
    /// `primary`, `appointed`, `standby`, `none`.
    pub role: String,
    /// What its PostgreSQL does, in a word or two.
    pub state: String,
    /// Whether the newest durability rule counts it.
    pub in_rule: bool,
    /// Complaints of its agent.
    pub problems: Vec<String>,
    /// Whether it could take over now.
    pub may_take_over: bool,
    /// Why not.
    pub may_not_because: String,
}

/// Whether an acknowledged commit can be lost, and whether commits go through.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Rpo {
    /// No acknowledged commit can be lost.
    pub zero: bool,
    /// Otherwise why not.
    pub why_not: Vec<String>,
    /// Commits go through.
    pub writable: bool,
    /// Otherwise why not.
    pub not_writable: Vec<String>,
}

impl Status {
    /// The member of that name.
    pub fn member(&self, name: &str) -> Option<&MemberStatus> {
        self.members.iter().find(|member| member.name == name)
    }

    /// Why the cluster is not in full health: one open primary, every other of `members` members a streaming standby
    /// in the rule, RPO 0. Empty when it is.
    pub fn ailments(&self, members: usize) -> Vec<String> {
        let mut why = Vec::new();
        if !self.from_leader {
            why.push("no answer from the Raft leader".to_owned());
        }
        if self.state != "healthy" {
            let waits = if self.waits_for.is_empty() { String::new() } else { format!(" ({})", self.waits_for) };
            why.push(format!("the cluster is {}{waits}", self.state));
        }
        if !self.rpo.zero {
            why.push(format!("RPO 0 does not hold: {}", self.rpo.why_not.join("; ")));
        }
        if !self.rpo.writable {
            why.push(format!("no commits go through: {}", self.rpo.not_writable.join("; ")));
        }
        if self.members.len() != members {
            why.push(format!("{} of {members} members are known", self.members.len()));
        }
        for member in &self.members {
            let well = if member.name == self.primary {
                member.role == "primary" && member.state == "open"
            } else {
                member.role == "standby" && member.state == "streaming" && member.in_rule
            };
            if !well {
                let MemberStatus { name, role, state, in_rule, problems, .. } = member;
                why.push(format!("{name}: {role}, {state}, in the rule: {in_rule} {}", problems.join("; ")));
            }
        }
        why
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WELL: &str = r#"{"from_leader": true, "leader": 2, "epoch": 3, "primary": "pg1", "state": "healthy",
        "members": [
          {"name": "pg1", "node": 1, "role": "primary", "state": "open", "in_rule": false},
          {"name": "pg2", "node": 2, "role": "standby", "state": "streaming", "in_rule": true},
          {"name": "pg3", "node": 3, "role": "standby", "state": "streaming", "in_rule": true}],
        "rpo": {"zero": true, "writable": true}, "unknown_to_us": 1}"#;

    #[test]
    fn full_health_has_no_ailments() {
        let status: Status = serde_json::from_str(WELL).expect("is read");
        assert_eq!(status.ailments(3), Vec::<String>::new());
        assert_eq!(status.ailments(4), ["3 of 4 members are known"]);
    }

    #[test]
    fn a_standby_outside_the_rule_is_an_ailment() {
        let mut status: Status = serde_json::from_str(WELL).expect("is read");
        status.members[2].in_rule = false;
        assert_eq!(status.ailments(3).len(), 1);
    }

    #[test]
    fn an_answer_that_says_nothing_is_not_health() {
        assert!(!Status::default().ailments(3).is_empty());
    }
}
