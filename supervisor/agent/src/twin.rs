//! What this agent sees of the connections under a member's name, so that the leader can tell a standby's own walsender
//! from that of a copy of its data directory (`pgvigil_core::twin`).

use pgvigil_core::{
    cluster::ClusterState,
    id::Epoch,
    report::{self, Remote},
    sample::{Sample, Walsender},
    time::Time,
};
use std::{collections::BTreeMap, net::IpAddr};

/// How long a walsender of a name that was given up must have been there to be spoken of, in milliseconds.
const LASTING_MS: u64 = 2_000;

/// When each walsender was last seen to have replied anew.
#[derive(Clone, Debug, Default)]
pub struct Replies(BTreeMap<i32, (Option<i64>, Option<Time>)>);

impl Replies {
    /// Takes in the walsenders of a sample that began at `now`.
    pub fn note(&mut self, walsenders: &[Walsender], now: Time) {
        let before = std::mem::take(&mut self.0);
        self.0 = walsenders
            .iter()
            .map(|row| {
                let changed = match before.get(&row.pid) {
                    // One whose process id was another's before: nothing is known of it.
                    Some((_, changed)) if changed.is_some_and(|at| now.since(at) > age(row)) => None,
                    Some((replied, _)) if *replied != row.replied => Some(now),
                    Some((_, changed)) => *changed,
                    None => None,
                };
                (row.pid, (row.replied, changed))
            })
            .collect();
    }

    /// The row as it is reported, `later` after the sample that showed it.
    #[must_use]
    pub fn walsender(&self, row: &Walsender, later: u64, now: Time) -> report::Walsender {
        let age_ms = age(row) + later;
        let changed = self.0.get(&row.pid).and_then(|(_, changed)| *changed);
        let from = row.address.as_ref().zip(row.port).map(|(address, port)| Remote {
            address: canonical(address),
            port: u16::try_from(port).unwrap_or_default(),
        });
        report::Walsender { pid: row.pid, from, age_ms, quiet_ms: changed.map_or(age_ms, |at| now.since(at)) }
    }
}

fn age(row: &Walsender) -> u64 {
    u64::try_from(row.age_ms).unwrap_or_default()
}

/// One spelling for each address.
fn canonical(address: &str) -> String {
    address.parse::<IpAddr>().map_or_else(|_| address.to_owned(), |ip| ip.to_canonical().to_string())
}

/// The names of `epoch` that members had and gave up.
#[must_use]
pub fn given_up(agreed: &ClusterState, epoch: Epoch) -> Vec<String> {
    let of = |member: &pgvigil_core::member::Member| {
        let key = member.key();
        (0..member.named).map(move |named| key.sync_name(epoch, named))
    };
    agreed.members.values().flat_map(of).collect()
}

/// What there is to say about walsenders of names that were given up: they confirm nothing, but somebody should know.
#[must_use]
pub fn copies(agreed: &ClusterState, epoch: Epoch, sample: &Sample) -> Option<String> {
    let names = given_up(agreed, epoch);
    // The member's own is ended and comes back under its new name within a moment.
    let lasting = sample.walsenders.iter().filter(|row| age(row) >= LASTING_MS);
    let rows = lasting.filter(|row| names.iter().any(|name| row.application_name.eq_ignore_ascii_case(name)));
    let rows: Vec<String> = rows
        .map(|row| {
            let from = match (&row.address, row.port) {
                (Some(address), Some(port)) => format!("{address} port {port}"),
                _ => "a Unix-domain socket".to_owned(),
            };
            format!("{} from {from} (process {})", row.application_name, row.pid)
        })
        .collect();
    (!rows.is_empty()).then(|| {
        format!(
            "a walsender streams under a name that was given up because two walsenders had the same: {}. It confirms no \
             commits. It serves a copy of the member's data directory (stop that server, or empty its primary_conninfo), or \
             the member itself while pgvigil does not run there (start it)",
            rows.join("; ")
        )
    })
}
