//! The canary's session: a commit in the simulated server.

use super::shared::Ctx;
use crate::{
    exec::Done,
    postgres::server::{Ended, Flight},
};
use pgvigil_agent::{
    known::ServerId,
    tasks::canary::{Beat, Canary},
};
use pgvigil_core::{lsn::Lsn, time::Time};
use std::{cell::Cell, rc::Rc};

/// See the module.
pub struct Session {
    c: Ctx,
    server: ServerId,
    flight: Option<(Time, Rc<Flight>)>,
}

impl Session {
    /// None yet.
    #[must_use]
    pub const fn new(c: Ctx) -> Self {
        Self { c, server: 0, flight: None }
    }

    /// Sends a commit.
    async fn send(&self) -> (Time, Rc<Flight>) {
        let (c, began) = (&self.c, self.c.now());
        let flight = Rc::new(Flight { ended: Cell::new(Ended::Waiting), lsn: Cell::new(0), done: Done::new() });
        c.w.pause(50, 400).await;
        let there = c.w.server_runs(c.h) && c.w.hosts[c.h].pg.borrow().pid == self.server;
        if !there || !c.w.commit_canary(c.h, &flight) {
            flight.ended.set(Ended::Failed);
            flight.done.end(&c.w.exec);
        }
        (began, flight)
    }
}

impl Canary for Session {
    fn ask(&mut self, server: ServerId) {
        self.server = server;
        self.flight = None;
    }

    async fn beat(&mut self, wait_ms: u64) -> Result<Beat, String> {
        let (began, flight) = match &self.flight {
            Some(flight) => flight.clone(),
            None => self.send().await,
        };
        self.flight = Some((began, Rc::clone(&flight)));
        let c = &self.c;
        if c.w.within(c.h, wait_ms, c.w.ended(&flight.done)).await.is_none() {
            return Ok(Beat::Pending { began });
        }
        self.flight = None;
        if flight.ended.get() != Ended::Acknowledged {
            return Err("the session has ended".to_owned());
        }
        c.w.pause(50, 300).await;
        let took_us = c.now().since(began) * 1_000;
        Ok(Beat::Acknowledged { began, lsn: Lsn(flight.lsn.get()), xid: 0, took_us })
    }

    fn rest(&mut self) {
        self.reset();
    }

    fn reset(&mut self) {
        self.flight = None;
    }
}
