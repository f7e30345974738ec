//! The ways to the nodes that may lead: simulated connections.

use super::shared::Ctx;
use crate::controller;
pub use pgvigil_agent::tasks::uplink::Answer;
use pgvigil_agent::tasks::{
    learn::Applied,
    uplink::{Stream, Turn, Uplink},
};
use pgvigil_core::{cluster::ClusterState, report::Report, time::Time};
use std::{rc::Rc, sync::Arc};

const CONNECT_MS: u64 = 500;

/// A frame from a leader, or the end of its stream.
#[derive(Clone, Debug)]
pub enum Mail {
    /// An answer on the stream of that number.
    Answer(u64, Answer),
    /// The stream of that number has ended; the leader, if it was named.
    End(u64, Option<usize>),
}

/// What the Raft node on this host has applied.
pub struct Own {
    c: Ctx,
    seen: u64,
}

impl Own {
    /// Nothing is seen yet.
    #[must_use]
    pub const fn new(c: Ctx) -> Self {
        Self { c, seen: u64::MAX }
    }
}

impl Applied for Own {
    async fn next(&mut self) -> Option<Arc<ClusterState>> {
        loop {
            let c = &self.c;
            c.w.changed(&c.w.raft.states[c.h], &mut self.seen).await;
            let state = c.w.raft.state(c.h).and_then(|applied| applied.cluster.clone());
            if state.is_some() {
                return state;
            }
        }
    }
}

/// The ways to the voters.
pub struct Ways {
    c: Ctx,
    turn: usize,
}

impl Ways {
    /// None is tried yet.
    #[must_use]
    pub const fn new(c: Ctx) -> Self {
        Self { c, turn: 0 }
    }
}

/// A connection.
pub struct Connection {
    c: Ctx,
    leader: usize,
    stream: Rc<controller::stream::Stream>,
}

impl Uplink for Ways {
    type Address = usize;
    type Stream = Connection;

    fn known_leader(&self) -> Option<usize> {
        let c = &self.c;
        c.w.hosts[c.h].voter.then(|| c.w.raft.leader_known_to(c.h)).flatten()
    }

    fn next_voter(&mut self) -> usize {
        let voters = &self.c.w.raft.voters;
        self.turn += 1;
        voters[self.turn % voters.len()]
    }

    async fn connect(&mut self, to: &usize) -> Option<Connection> {
        let (c, leader) = (&self.c, *to);
        let trip = c.w.latency(c.h, leader) + c.w.latency(leader, c.h);
        c.w.pause(trip, trip + 500).await;
        if !c.w.reaches_both(c.h, leader) || c.w.hosts[leader].agent.borrow().is_none() {
            // Refused at once, or no answer until the time is over.
            let refused = c.w.reaches_both(c.h, leader);
            c.w.sleep(c.h, if refused { 1 } else { CONNECT_MS }).await;
            return None;
        }
        let stream = controller::stream::connect(&c.w, c.h, leader);
        c.a.mail.borrow_mut().clear();
        Some(Connection { c: c.clone(), leader, stream })
    }
}

impl Stream<usize> for Connection {
    async fn send(&mut self, report: Report) -> bool {
        self.stream.send(&self.c.w, report);
        true
    }

    async fn opened(&mut self) -> Result<(), Option<usize>> {
        Ok(())
    }

    async fn next(&mut self, due: Time, _every_ms: u64) -> Turn<usize> {
        let c = &self.c;
        loop {
            let mail = c.a.mail.borrow_mut().pop_front();
            match mail {
                Some(Mail::Answer(of, answer)) if of == self.stream.id => return Turn::Answer(answer),
                Some(Mail::End(of, named)) if of == self.stream.id => return Turn::Ended(named),
                Some(_) => continue,
                None => {}
            }
            if c.w.take_told(&c.a.report) || c.now() >= due {
                return Turn::Due;
            }
            if c.w.hosts[c.h].voter && c.w.raft.leader_known_to(c.h).is_some_and(|known| known != self.leader) {
                return Turn::Moved;
            }
            c.w.either(c.h, due, &c.a.report, &c.a.posted).await;
        }
    }

    fn leave(self) {
        self.stream.close(&self.c.w);
    }
}
