//! What a running PostgreSQL is, when no session can be had: judged from its pid file, its control file and the titles of
//! its processes. Less is known than from a session, and nothing more is claimed.

use crate::{id::TimelineId, local::Running, lsn::Lsn, time::Time};
use serde::{Deserialize, Serialize};

/// What the postmaster says of itself in its pid file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// "ready": accepts sessions, as a primary or as a hot standby; the control file says which. It was brought up to date
    /// before.
    Ready,
    /// "standby": in recovery, and accepts no sessions.
    Standby,
    /// Anything else: it starts or stops.
    Other,
}

/// What the control file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Control {
    /// "in production".
    pub in_production: bool,
    /// "in archive recovery".
    pub in_recovery: bool,
    /// The timeline of the latest checkpoint.
    pub timeline: TimelineId,
    /// WAL is flushed at least up to here: the latest checkpoint, or what a standby has replayed.
    pub flushed: Lsn,
}

/// What was seen of a living postmaster that answered a session with a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// Its pid file.
    pub status: Status,
    /// Its control file.
    pub control: Control,
    /// Its walreceiver: `None` without one; how far it has flushed, once it streams.
    pub receiver: Option<Option<Lsn>>,
}

/// What follows from `seen`. `before` is what was known of the same process; `reigned` the timeline of the reign that its
/// agent promised and whose promotion it saw. `None`: what was seen does not agree, or contradicts the promise; nothing is
/// claimed. Keeps S3: a server counts as a primary only where the postmaster is ready, the control file says that it is in
/// production, and nothing receives.
#[must_use]
pub fn judge(seen: &Evidence, before: Option<&Running>, reigned: Option<TimelineId>, now: Time) -> Option<Running> {
    let Evidence { status, control, receiver } = *seen;
    let in_recovery = match status {
        Status::Ready if control.in_production && receiver.is_none() => false,
        Status::Ready | Status::Standby if control.in_recovery => true,
        Status::Ready | Status::Standby | Status::Other => return None,
    };
    let before = before.filter(|before| before.in_recovery == in_recovery);
    let known = before.map_or(control.timeline, |before| before.timeline.max(control.timeline));
    let timeline = match reigned {
        // The checkpoint after a promotion may still be to come.
        Some(reigned) if !in_recovery && known <= reigned => reigned,
        // It has gone beyond the timeline of its reign: somebody promoted it.
        Some(_) if !in_recovery => return None,
        _ => known,
    };
    let received = receiver.flatten().unwrap_or_default();
    let flush_lsn = before.map_or(control.flushed, |before| before.flush_lsn.max(control.flushed)).max(received);
    let moved = before.is_none_or(|before| before.flush_lsn != flush_lsn);
    Some(Running {
        in_recovery,
        timeline,
        flush_lsn,
        streaming: matches!(receiver, Some(Some(_))),
        wal_moved_at: if moved { now } else { before.map_or(now, |before| before.wal_moved_at) },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn control(production: bool) -> Control {
        Control { in_production: production, in_recovery: !production, timeline: TimelineId(1), flushed: Lsn(500) }
    }

    fn primary() -> Evidence {
        Evidence { status: Status::Ready, control: control(true), receiver: None }
    }

    fn standby() -> Evidence {
        Evidence { status: Status::Ready, control: control(false), receiver: Some(Some(Lsn(900))) }
    }

    #[test]
    fn a_primary_is_one_where_everything_says_so() {
        let found = judge(&primary(), None, Some(TimelineId(2)), Time(7)).unwrap();
        assert_eq!((found.in_recovery, found.timeline, found.flush_lsn), (false, TimelineId(2), Lsn(500)));
        for odd in [
            Evidence { status: Status::Standby, ..primary() },
            Evidence { status: Status::Other, ..primary() },
            Evidence { control: Control { in_production: false, ..control(true) }, ..primary() },
            Evidence { receiver: Some(None), ..primary() },
        ] {
            assert_eq!(judge(&odd, None, Some(TimelineId(2)), Time(7)), None, "{odd:?}");
        }
    }

    #[test]
    fn a_primary_beyond_the_timeline_of_its_reign_is_not_taken_for_that_of_the_reign() {
        let mut seen = primary();
        seen.control.timeline = TimelineId(3);
        assert_eq!(judge(&seen, None, Some(TimelineId(2)), Time(7)), None);
        assert_eq!(judge(&seen, None, None, Time(7)).unwrap().timeline, TimelineId(3));
    }

    #[test]
    fn a_standby_streams_where_its_walreceiver_says_so_and_its_position_only_grows() {
        let found = judge(&standby(), None, None, Time(7)).unwrap();
        assert_eq!((found.in_recovery, found.streaming, found.flush_lsn), (true, true, Lsn(900)));
        let still = judge(&standby(), Some(&found), None, Time(9)).unwrap();
        assert_eq!(still, found, "nothing came");
        let gone = Evidence { receiver: None, ..standby() };
        let found = judge(&gone, Some(&found), None, Time(9)).unwrap();
        assert_eq!((found.streaming, found.flush_lsn, found.wal_moved_at), (false, Lsn(900), Time(7)));
        let starting = Evidence { receiver: Some(None), ..standby() };
        assert!(!judge(&starting, None, None, Time(9)).unwrap().streaming);
        assert_eq!(judge(&Evidence { control: control(true), ..standby() }, None, None, Time(9)), None);
    }
}
