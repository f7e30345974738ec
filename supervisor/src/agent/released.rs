//! Commits that somebody releases by hand (`pg_cancel_backend` on one that waits for standbys): PostgreSQL then tells the client
//! COMMIT, with a warning that no driver shows, and no standby need have it.

use super::{sampler::LIMIT, shared::Shared};
use pgvigil_core::{
    local::LocalPostgres,
    lsn::Lsn,
    rpo::{Cause, Waiter},
};
use pgvigil_postgres::{Link, Walsender};
use std::{collections::BTreeSet, sync::Arc};

/// How far commits may have been confirmed: what as many have flushed as the rule demands, of those that PostgreSQL counts.
fn confirmed(rule: &str, walsenders: &[Walsender]) -> Lsn {
    let k = rule.strip_prefix("ANY ").and_then(|rest| rest.split_whitespace().next()?.parse::<usize>().ok());
    let counts = |sender: &&Walsender| {
        rule.contains(&sender.application_name) && matches!(sender.state.as_deref(), Some("streaming" | "stopping"))
    };
    let mut flushed: Vec<Lsn> = walsenders.iter().filter(counts).filter_map(|sender| sender.flush_lsn).collect();
    flushed.sort_unstable_by(|one, other| other.cmp(one));
    flushed.get(k.unwrap_or(1).saturating_sub(1)).copied().unwrap_or_default()
}

/// Holds the newest sample against those before it.
pub(super) async fn look(shared: &Arc<Shared>, link: &Link) {
    let released: BTreeSet<Waiter> = {
        let mut guard = shared.lock();
        let inner = &mut *guard;
        let primary = matches!(&inner.local.postgres, LocalPostgres::Running(running) if !running.in_recovery);
        let Some((sample, _)) = inner.sample.as_ref().filter(|(sample, _)| primary && !sample.in_recovery) else {
            return inner.releases.forget();
        };
        let confirmed = confirmed(&sample.sync_names, &sample.walsenders);
        inner.releases.look(confirmed, sample.commit_waiters.clone())
    };
    if released.is_empty() {
        return;
    }
    let pids: Vec<i32> = released.iter().map(|waiter| waiter.pid).collect();
    // A session that was ended was told nothing.
    let Ok(told) = link.count_alive(&pids, LIMIT).await else { return };
    if told > 0 {
        let what = format!(
            "{told} commits that waited for standbys wait no more, and no standby has confirmed anything since: somebody \
             cancelled their wait (pg_cancel_backend), and PostgreSQL told the clients COMMIT with a warning"
        );
        shared.unproven_begins(Cause::ReleasedByHand, &what);
        shared.unproven_ends(Cause::ReleasedByHand);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sender(name: &str, state: &str, flush: &str) -> Walsender {
        serde_json::from_value(serde_json::json!({
            "pid": 1, "application_name": name, "role": null, "address": null, "encrypted": null, "port": null, "age_ms": 0,
            "replied": null, "state": state, "sync_state": null, "sent_lsn": null, "write_lsn": null, "flush_lsn": flush,
            "replay_lsn": null, "reply_age_ms": null,
        }))
        .unwrap()
    }

    /// With `ANY 2` one standby that goes on confirms nothing: whoever waits no more was let go by hand.
    #[test]
    fn confirmed_is_what_as_many_have_as_the_rule_demands() {
        let rows = [sender("b", "streaming", "0/30"), sender("c", "streaming", "0/20"), sender("d", "catchup", "0/90")];
        assert_eq!(confirmed("ANY 1 (\"b\",\"c\",\"d\")", &rows), Lsn(0x30));
        assert_eq!(confirmed("ANY 2 (\"b\",\"c\",\"d\")", &rows), Lsn(0x20));
        assert_eq!(confirmed("ANY 3 (\"b\",\"c\",\"d\")", &rows), Lsn(0));
        assert_eq!(confirmed("ANY 1 (\"c\")", &rows), Lsn(0x20));
    }
}
