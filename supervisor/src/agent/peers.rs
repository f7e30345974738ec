//! Knows of every other member whether this one would be let in there to stream, and whether it may be given the password.
//!
//! A standby that is locked out says so in PostgreSQL's words. And where libpq cannot be told to answer SCRAM alone (before
//! 16), nobody is given the password who has not shown that he knows it: a server that speaks TLS must also bind the
//! channel, at every connection; one that does not is only as good as this check.

use super::shared::{Server, Shared};
use crate::clock;
use anyhow::bail;
use pgvigil_core::{id::MemberId, local::LocalPostgres, reconcile::Upstream, time::Time};
use pgvigil_postgres::handshake::{Caller, Met, Refused, meet};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// Between two rounds.
const ROUND: Duration = Duration::from_millis(500);
/// Between two looks at a server that let us in, or did not answer.
const CALM_MS: u64 = 60_000;
/// Between two looks at one that refuses, or from which this member should stream and does not.
const TROUBLE_MS: u64 = 2_000;
/// A standby that has not streamed for so long looks why.
const MISSED_MS: u64 = 1_000;
/// After this a server that was met is met anew before it is given the password.
const TRUSTED_MS: u64 = 10 * 60_000;
const LIMIT: Duration = Duration::from_secs(2);
/// Nobody who waits for a follower waits longer for this.
const QUICK: Duration = Duration::from_millis(500);

/// The newest look at one server.
#[derive(Clone, Debug)]
pub struct Peer {
    at: Time,
    answer: Result<Met, Refused>,
}

/// Servers by host and port.
pub type Peers = BTreeMap<(String, u16), Peer>;

/// Starts the task.
pub fn start(shared: Arc<Shared>) {
    tokio::spawn(async move {
        let mut missed: Option<Time> = None;
        loop {
            tokio::time::sleep(ROUND).await;
            let upstream = unserved(&shared, &mut missed);
            if let Some(name) = &upstream {
                moved(&shared, name);
            }
            look(&shared, upstream.as_ref()).await;
        }
    });
}

/// From whom this standby should stream and has not done so for a while.
fn unserved(shared: &Shared, missed: &mut Option<Time>) -> Option<MemberId> {
    let inner = shared.lock();
    let LocalPostgres::Running(running) = &inner.local.postgres else { return None };
    let upstream = inner.local.in_force.as_ref().and_then(|f| f.upstream.as_ref()).filter(|_| running.in_recovery);
    let Some(upstream) = upstream.filter(|_| !running.streaming && !inner.local.busy) else {
        *missed = None;
        return None;
    };
    let since = *missed.get_or_insert_with(clock::now);
    (clock::now().since(since) >= MISSED_MS).then(|| upstream.member.clone())
}

/// It is known by another address by now, or speaks TLS where it did not: this member is pointed at it anew.
fn moved(shared: &Shared, upstream: &MemberId) {
    let Some(agreed) = shared.agreed() else { return };
    let Some(member) = agreed.members.get(upstream) else { return };
    let place = (member.spec.host.clone(), member.spec.port);
    let stale = {
        let server = shared.server();
        let plus = plus(shared, &server, &place);
        server.pointed_at.as_ref().is_some_and(|(to, with)| *to != place || plus.is_some_and(|plus| plus != *with))
    };
    let mut inner = shared.lock();
    if stale && let Some(in_force) = inner.local.in_force.as_mut() {
        in_force.upstream = None;
        drop(inner);
        tracing::info!(member = %shared.me(), "{upstream} is to be reached in another way than before; following it anew");
        shared.work.notify_one();
    }
}

/// Looks at every server whose turn it is, one after the other, and says who refuses.
async fn look(shared: &Shared, upstream: Option<&MemberId>) {
    let Some(agreed) = shared.agreed() else { return };
    let now = clock::now();
    let mut refusing = Vec::new();
    for member in agreed.members.values().filter(|member| member.spec.member != *shared.me()) {
        let place = (member.spec.host.clone(), member.spec.port);
        let known = shared.server().peers.get(&place).cloned();
        let trouble = upstream == Some(&member.spec.member)
            || known.as_ref().is_some_and(|peer| peer.answer.as_ref().is_err_and(Refused::lasts));
        let pause = if trouble { TROUBLE_MS } else { CALM_MS };
        let answer = match known {
            Some(peer) if now.since(peer.at) < pause => peer.answer,
            _ => ask(shared, &place, LIMIT).await,
        };
        if let Err(refused) = answer
            && refused.lasts()
        {
            refusing.push(format!("{} refuses its replication connection: {refused}", member.spec.member));
        }
    }
    shared.problem("peers", (!refusing.is_empty()).then(|| refusing.join("; ")));
}

async fn ask(shared: &Shared, place: &(String, u16), limit: Duration) -> Result<Met, Refused> {
    let (role, password) = (&shared.access.replication_role, shared.secret.password());
    let answer = meet(Caller { host: &place.0, port: place.1, role, password }, limit).await;
    let peer = Peer { at: clock::now(), answer: answer.clone() };
    shared.server().peers.insert(place.clone(), peer);
    answer
}

/// Whether a connection there must bind its channel; `None`: not known.
fn plus(shared: &Shared, server: &Server, place: &(String, u16)) -> Option<bool> {
    if shared.binaries.version().major >= 16 {
        return Some(false);
    }
    server.peers.get(place).and_then(|peer| peer.answer.as_ref().ok()).map(|met| met.tls)
}

/// Whether the upstream may be given the password, and if so whether only over a bound channel.
pub async fn trusted(shared: &Shared, upstream: &Upstream) -> anyhow::Result<bool> {
    let place = (upstream.host.clone(), upstream.port);
    let known = {
        let server = shared.server();
        let fresh = server.peers.get(&place).is_some_and(|peer| clock::now().since(peer.at) < TRUSTED_MS);
        plus(shared, &server, &place).filter(|_| fresh || shared.binaries.version().major >= 16)
    };
    if let Some(plus) = known {
        return Ok(plus);
    }
    match ask(shared, &place, QUICK).await {
        Ok(met) => Ok(met.tls),
        Err(Refused::NotTrusted(why)) => {
            bail!("{} at {}:{} is not given the password: {why}", upstream.key, place.0, place.1)
        }
        // It cannot be asked now; libpq will try again and again.
        Err(_) => Ok(false),
    }
}
