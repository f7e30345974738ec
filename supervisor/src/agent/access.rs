//! From where the replication role is let in: the members' addresses and nowhere else, kept up to date in `pg_hba.conf`
//! without anybody's door being opened or closed.

use super::shared::Shared;
use crate::clock;
use pgvigil_core::time::Time;
use pgvigil_postgres::{
    fsio::{FsError, Written},
    hba::{self, Access, Door, Stands},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::{Arc, MutexGuard, PoisonError},
    time::Duration,
};

/// Between two looks at what names mean, and at the file.
const ROUND: Duration = Duration::from_secs(10);
/// How long it is told that files were put back, in milliseconds.
const NOTICE_MS: u64 = 60_000;
const LOOKUP: Duration = Duration::from_secs(3);

/// What host names were found to mean when they were last asked for.
pub type Names = BTreeMap<String, BTreeSet<IpAddr>>;

/// Starts the task.
pub fn start(shared: Arc<Shared>) {
    tokio::spawn(async move {
        let mut agreed = shared.agreed.subscribe();
        let mut told_until = Time(0);
        loop {
            resolve(&shared).await;
            mend(&shared, &mut told_until);
            tokio::select! {
                changed = agreed.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(ROUND) => {}
            }
        }
    });
}

impl Shared {
    /// Who may connect while the door is closed, as of now.
    #[must_use]
    pub fn access(&self) -> Access {
        let agreed = self.agreed();
        let hosts: BTreeSet<&str> = agreed
            .iter()
            .flat_map(|agreed| agreed.members.values().map(|member| member.spec.host.as_str()))
            .chain([self.config.host.as_str()])
            .collect();
        let mut addresses = addresses(hosts, &self.server().names);
        addresses.extend(self.config.replication_from.iter().cloned());
        Access { replication_addresses: addresses, ..self.access.clone() }
    }

    /// Writes `pg_hba.conf` with that door, as an act orders.
    pub fn write_door(&self, door: Door) -> Result<Written, FsError> {
        let _alone = self.door_alone();
        hba::write(&self.layout, door, &self.access(), &self.config.hba)
    }

    /// Held while the file is written: whoever only brings it up to date must not write over an act's door.
    fn door_alone(&self) -> MutexGuard<'_, ()> {
        self.door.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The addresses from which members may come, as `pg_hba.conf` writes them. A host on loopback may come from any
/// loopback address; a name that could not be looked up is left to PostgreSQL.
fn addresses<'a>(hosts: impl IntoIterator<Item = &'a str>, names: &Names) -> Vec<String> {
    let mut found = BTreeSet::new();
    for host in hosts {
        let known: BTreeSet<IpAddr> = match (host.parse::<IpAddr>(), names.get(host)) {
            (Ok(address), _) => BTreeSet::from([address]),
            (Err(_), Some(known)) if !known.is_empty() => known.clone(),
            _ => {
                found.insert(host.to_owned());
                continue;
            }
        };
        for address in known {
            if address.is_loopback() {
                found.extend(["127.0.0.0/8".to_owned(), "::1/128".to_owned()]);
            }
            found.insert(format!("{address}/{}", if address.is_ipv4() { 32 } else { 128 }));
        }
    }
    found.into_iter().collect()
}

/// Looks up the members' names. One that cannot be looked up now keeps what it meant before.
async fn resolve(shared: &Shared) {
    let Some(agreed) = shared.agreed() else { return };
    let hosts: BTreeSet<String> = agreed.members.values().map(|member| member.spec.host.clone()).collect();
    for host in hosts.into_iter().filter(|host| host.parse::<IpAddr>().is_err()) {
        let lookup = tokio::time::timeout(LOOKUP, tokio::net::lookup_host((host.as_str(), 0))).await;
        let found = lookup.ok().and_then(Result::ok).map(|found| found.map(|address| address.ip()).collect());
        if let Some(found) = found {
            shared.server().names.insert(host, found);
        }
    }
}

/// Writes the file anew where it does not say what it should, with the door as it stands.
fn mend(shared: &Shared, told_until: &mut Time) {
    let (postmaster, door) = {
        let inner = shared.lock();
        let Some(in_force) = inner.local.in_force.as_ref() else { return };
        if inner.local.busy || inner.local.marker.is_none() {
            return;
        }
        let Some(postmaster) = shared.server().postmaster.clone() else { return };
        (postmaster, if in_force.door_open { Door::Open } else { Door::Closed })
    };
    let _alone = shared.door_alone();
    let access = shared.access();
    let layout = &shared.layout;
    let user = &shared.config.hba;
    let Ok(stands) = hba::stands(layout, door, &access, user) else { return };
    let told = "pg_hba.conf or pg_ident.conf was replaced by hand, and with that pgvigil and the standbys may have been shut \
                out; both are written anew: lines for clients belong in hba of pgvigil's configuration";
    match stands {
        Stands::Right => {
            if clock::now() >= *told_until {
                shared.problem("access", None);
            }
            return;
        }
        Stands::OtherDoor => return,
        Stands::Behind => {}
        Stands::Replaced => *told_until = clock::now().plus(NOTICE_MS),
    }
    let written = hba::write(layout, door, &access, user).map_err(|error| error.to_string());
    let done =
        written.and_then(|_| postmaster.signal(nix::sys::signal::Signal::SIGHUP).map_err(|error| error.to_string()));
    let failed = done.err().map(|error| format!("pg_hba.conf cannot be brought up to date: {error}"));
    let replaced = (stands == Stands::Replaced).then(|| told.to_owned());
    shared.problem("access", failed.or(replaced));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_come_from_their_own_addresses_and_nobody_else() {
        let names = Names::from([
            ("db2".to_owned(), ["10.0.0.2", "fd00::2"].map(|a| a.parse().unwrap()).into()),
            ("gone".to_owned(), BTreeSet::new()),
        ]);
        let found = addresses(["10.0.0.1", "db2", "gone", "db9"], &names);
        assert_eq!(found, ["10.0.0.1/32", "10.0.0.2/32", "db9", "fd00::2/128", "gone"]);
        assert_eq!(addresses(["127.0.0.3"], &names), ["127.0.0.0/8", "127.0.0.3/32", "::1/128"]);
    }
}
