//! Whose walsender is it? PostgreSQL counts walsenders by `application_name` alone, so a copy of a standby's data directory
//! that streams under its original's name confirms commits that the original does not have (case 21).
//!
//! Evidence that a name is taken: two walsenders of it both go on replying; or the one that replies is not the connection
//! that the member's own agent sees on its walreceiver. The latter says something only where the two ends are known to
//! name one connection alike (no proxy or address translation between them): they have, once, under this name.
//! What is lost by a mistake is one interruption of the member's stream. Keeps S1 from the next rule on.

use crate::{
    cluster::ClusterState,
    id::{Epoch, MemberId},
    member::Member,
    observation::Observations,
    report::{PostgresReport, Receiver, Remote, Report, SenderReport, Walsender},
    settings::Settings,
    time::Time,
};
use serde::{Deserialize, Serialize};
use std::fmt;

/// A walsender that has not replied for so long, in milliseconds, confirms nothing now: a standby that pgvigil set up
/// replies at least every second.
const LIVE_MS: u64 = 2_500;

/// What the leader remembers of a member's name in the present reign.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sight {
    /// Of which epoch's name.
    pub epoch: Epoch,
    /// Of which of its names.
    pub named: u64,
    /// The newest connection that both ends named alike.
    pub own: Option<Remote>,
    /// Why a walsender of that name may not be the member's.
    pub doubt: Option<Doubt>,
    /// When this leader saw it use this name in place of one that was given up.
    pub renamed: Option<Time>,
}

/// A walsender that may not be the member's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Doubt {
    /// Its process.
    pub pid: i32,
    /// Since when the leader has doubted it.
    pub since: Time,
    /// When it had connected, on the leader's clock.
    pub connected: Time,
    /// What speaks against it; a sentence.
    pub text: String,
    /// The evidence has lasted: the name is taken.
    pub sure: bool,
}

enum Own<'a> {
    Unknown,
    Silent,
    Says(&'a Receiver),
}

struct Suspicion<'a> {
    row: &'a Walsender,
    text: String,
    /// How long it must last, in milliseconds, before it counts; `None`: it has lasted.
    patience: Option<u64>,
}

/// Looks again at every name of the reign, after a report has come in.
pub(crate) fn look(agreed: &ClusterState, seen: &mut Observations, now: Time) {
    let Some(reign) = agreed.reign() else { return };
    let limit = agreed.settings.suspect_ms + seen.starved_ms;
    let mut sights = std::mem::take(&mut seen.sights);
    // What the primary says is so as of its report: a dead one's walsenders do not go on replying.
    let as_of = seen.reports.get(&reign.primary.member).map_or(now, |report| report.at);
    if let Some(report) = seen.fresh(&reign.primary.member, now, limit)
        && let PostgresReport::Primary(primary) = &report.postgres
        && primary.epoch == reign.epoch
    {
        for sender in &primary.standbys {
            let Some(member) = agreed.members.get(&sender.key.member).filter(|m| m.key() == sender.key) else {
                continue;
            };
            if sender.named != member.named {
                continue;
            }
            let sight = sights.entry(sender.key.member.clone()).or_default();
            if (sight.epoch, sight.named) != (reign.epoch, member.named) {
                let renamed = (sight.named < member.named).then_some(now);
                *sight = Sight { epoch: reign.epoch, named: member.named, renamed, ..Sight::default() };
            }
            let own = own_word(&sender.key.member, seen, now, limit);
            judge(&agreed.settings, sender, &own, sight, now, as_of);
        }
    }
    seen.sights = sights;
}

fn own_word<'a>(member: &MemberId, seen: &'a Observations, now: Time, limit: u64) -> Own<'a> {
    let Some(report) = seen.fresh(member, now, limit) else {
        return if seen.silence(member, now) > limit { Own::Silent } else { Own::Unknown };
    };
    match &report.postgres {
        PostgresReport::Standby(standby) => match &standby.receiver {
            Receiver::Unknown => Own::Unknown,
            known => Own::Says(known),
        },
        // While an act starts it, its walreceiver may stream before the agent calls it running.
        PostgresReport::Stopped { .. } | PostgresReport::NoData if report.activity.is_none() => {
            Own::Says(&Receiver::Absent)
        }
        _ => Own::Unknown,
    }
}

fn judge(settings: &Settings, sender: &SenderReport, own: &Own<'_>, sight: &mut Sight, now: Time, as_of: Time) {
    if let Own::Says(Receiver::Connected(remote)) = own
        && sender.walsenders.iter().any(|row| row.from.as_ref() == Some(remote))
    {
        sight.own = Some(remote.clone());
    }
    let beat = settings.heartbeat_ms;
    let Some(found) = both_live(sender, beat).or_else(|| not_its_own(settings, sender, own, sight.own.as_ref())) else {
        sight.doubt = None;
        return;
    };
    let connected = as_of.minus(found.row.age_ms);
    let since = sight.doubt.as_ref().filter(|doubt| doubt.pid == found.row.pid).map_or(now, |doubt| doubt.since);
    // It must have replied since: one whose standby is gone only looks alive for a while.
    let lasted = |patience| as_of.since(since) >= patience && found.row.quiet_ms + beat <= as_of.since(since);
    let sure = found.patience.is_none_or(lasted);
    let connected = sight.doubt.as_ref().map_or(connected, |doubt| doubt.connected.min(connected));
    sight.doubt = Some(Doubt { pid: found.row.pid, since, connected, text: found.text, sure });
}

/// Two that both reply, the older one clearly after the younger one had come: a standby has one walreceiver, and what an
/// ended one still sends comes before the next one connects.
fn both_live(sender: &SenderReport, beat: u64) -> Option<Suspicion<'_>> {
    let live = |row: &&Walsender| row.quiet_ms < row.age_ms && row.quiet_ms <= LIVE_MS;
    let mut rows: Vec<&Walsender> = sender.walsenders.iter().filter(live).collect();
    rows.sort_by_key(|row| (row.age_ms, row.pid));
    let (young, older) = rows.split_first()?;
    let old = older.iter().find(|old| old.quiet_ms + 2 * beat <= young.age_ms)?;
    let text = format!("two walsenders of the same name confirm commits for it: {old} and {young}");
    Some(Suspicion { row: young, text, patience: None })
}

fn not_its_own<'a>(
    settings: &Settings,
    sender: &'a SenderReport,
    own: &Own<'_>,
    known: Option<&Remote>,
) -> Option<Suspicion<'a>> {
    let other = |remote: Option<&Remote>| {
        let rows = sender.walsenders.iter().filter(|row| row.quiet_ms <= LIVE_MS);
        rows.filter(|row| remote.is_none() || row.from.as_ref() != remote).min_by_key(|row| row.quiet_ms)
    };
    let who = &sender.key.member;
    let lasting = 3 * settings.heartbeat_ms;
    let (row, why, patience) = match (own, known) {
        (Own::Says(Receiver::Absent), _) => (other(None)?, "its own server has no walreceiver".to_owned(), lasting),
        (Own::Says(Receiver::Connected(mine)), Some(_)) => {
            (other(Some(mine))?, format!("its own walreceiver is connected from {mine}"), lasting)
        }
        (Own::Silent, Some(known)) => {
            let why = format!("pgvigil on {who} is silent, and its walreceiver was last connected from {known}");
            (other(Some(known))?, why, settings.standby_timeout_ms)
        }
        _ => return None,
    };
    let text = format!("a walsender of the same name as {who}'s is not known to be {who}'s: {row}; {why}");
    Some(Suspicion { row, text, patience: Some(patience) })
}

impl Observations {
    /// Why a walsender of `member`'s present name may not be its own.
    #[must_use]
    pub fn doubt(&self, member: &Member) -> Option<&Doubt> {
        let sight = self.sights.get(&member.spec.member).filter(|sight| sight.named == member.named)?;
        sight.doubt.as_ref()
    }

    /// Whether the member's own agent says that it streams: what a walsender alone does not say.
    pub(crate) fn says_it_streams(&self, member: &MemberId, now: Time, within: u64) -> bool {
        let streams =
            |report: &Report| matches!(&report.postgres, PostgresReport::Standby(standby) if standby.streaming);
        self.fresh(member, now, within).is_some_and(streams)
    }
}

impl fmt::Display for Walsender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.from {
            Some(remote) => write!(f, "{remote} (process {}, for {} ms)", self.pid, self.age_ms),
            None => write!(f, "a Unix-domain socket (process {}, for {} ms)", self.pid, self.age_ms),
        }
    }
}

#[cfg(test)]
#[path = "twin_test.rs"]
mod tests;
