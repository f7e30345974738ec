//! Whether a node listens as the leader, and under which election of Raft's. Keeps S5: what was seen under an earlier one is
//! forgotten, and silence before this one is no evidence.

/// What a node does about listening.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listening {
    /// It leads in the term in which it began to listen.
    GoesOn,
    /// It leads in a term in which it does not listen yet: it forgets what it saw before, and begins once a quorum has
    /// confirmed that it leads in this very term.
    Begins(u64),
    /// It does not lead.
    Not,
}

/// What a node does that leads in the term `leads`, if it does, and began to listen in the term `listens`, if it did. Two
/// looks may have missed that it lost and regained the lead in between: the terms tell.
#[must_use]
pub fn listening(leads: Option<u64>, listens: Option<u64>) -> Listening {
    match (leads, listens) {
        (Some(term), Some(of)) if term == of => Listening::GoesOn,
        (Some(term), _) => Listening::Begins(term),
        (None, _) => Listening::Not,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leader_that_lost_and_regained_the_lead_between_two_looks_begins_anew() {
        assert_eq!(listening(Some(7), Some(7)), Listening::GoesOn);
        assert_eq!(listening(Some(9), Some(7)), Listening::Begins(9));
        assert_eq!(listening(Some(7), None), Listening::Begins(7));
        assert_eq!(listening(None, Some(7)), Listening::Not);
        assert_eq!(listening(None, None), Listening::Not);
    }
}
