//! The clients of a scenario: where they are, what they do, and their history.

use crate::history::clock::now_us;
use crate::history::{History, Operation, Outcome, Server, Work};
use crate::host::{Netns, World};
use crate::ledger::{self, LedgerError, PinnedClient, Workload, WorkloadOptions};
use crate::libpq::Address;

use std::time::Duration;

/// Clients that name every host, and one for each server that writes to it alone.
#[derive(Debug)]
pub(super) struct Clients {
    workload: Workload,
    pinned: Vec<PinnedClient>,
    addresses: Vec<Address>,
    netns: Option<Netns>,
    origin: u64,
    read: usize,
}

impl Clients {
    /// Starts them, in the clients' network.
    pub(super) fn start(world: &World) -> Result<Clients, LedgerError> {
        let netns = world.clients();
        let addresses: Vec<Address> = world.cluster.nodes.iter().map(crate::cluster::Node::address).collect();
        let options = WorkloadOptions { clients: 3, ..WorkloadOptions::new(world.cluster.dsn()) };
        let start = || {
            let workload = Workload::start(options)?;
            let pin = |address: &Address| workload.pin(address.clone(), Duration::from_secs(1));
            let pinned = addresses.iter().map(pin).collect();
            Ok::<_, LedgerError>((workload, pinned))
        };
        let (workload, pinned) = inside(&netns, start)?;
        let origin = now_us().saturating_sub(workload.now().as_micros() as u64);
        Ok(Clients { workload, pinned, addresses, netns, origin, read: 0 })
    }

    /// Microseconds since they began.
    pub(super) fn now_us(&self) -> u64 {
        self.workload.now().as_micros() as u64
    }

    /// What `history::clock::now_us` was when they began.
    pub(super) fn origin_us(&self) -> u64 {
        self.origin
    }

    /// Adds what they have done since the last call.
    pub(super) fn read_new(&mut self, into: &mut Vec<Operation>) {
        let new = self.workload.entries(self.read);
        self.read += new.len();
        into.extend(new.iter().map(|op| self.operation(op)));
    }

    fn operation(&self, op: &ledger::Op) -> Operation {
        let us = |time: Duration| time.as_micros() as u64;
        let address = self.addresses.iter().find(|address| address.port == op.port).cloned();
        Operation {
            client: 0,
            direct: op.pinned,
            began: us(op.sent),
            ended: us(op.ended),
            connected: us(op.connected),
            server: address.map(|address| Server { address, timeline: None, lsn: None }),
            outcome: match op.outcome {
                ledger::Outcome::Ok => Outcome::Ok,
                ledger::Outcome::Fail => Outcome::Fail,
                ledger::Outcome::Unknown => Outcome::Unknown,
            },
            why: None,
            work: Work::Insert { seq: op.seq },
        }
    }

    /// Stops them; everything they did, what their tables hold, and how both compare.
    pub(super) fn stop(mut self) -> Result<(History, crate::check::Tables, ledger::Verdict), LedgerError> {
        self.pinned.clear();
        self.workload.stop();
        let (rows, verdict) = inside(&self.netns, || Ok((self.workload.rows()?, self.workload.check()?)))?;
        let mut operations = Vec::new();
        self.read = 0;
        self.read_new(&mut operations);
        Ok((History { operations }, crate::check::Tables { ledger: rows, ..Default::default() }, verdict))
    }
}

fn inside<T: Send>(netns: &Option<Netns>, act: impl FnOnce() -> T + Send) -> T {
    match netns {
        Some(netns) => netns.inside(act),
        None => act(),
    }
}
