//! Clients: on every host, at every server that lets them in, right or wrong, they commit and hope for an answer.

use crate::{
    postgres::server::Waiter,
    world::{Event, World},
};

/// Commits under way at one server at most.
const UNDER_WAY: usize = 24;

impl World {
    /// Clients on `host` try their luck, and come back later.
    pub fn clients(&self, host: usize) {
        let serves = {
            let mut pg = self.hosts[host].pg.borrow_mut();
            let takes = pg.serves() && !pg.stopping && !self.exec.is_frozen(Self::postgres_process(host));
            if takes && pg.door && !pg.orphaned {
                pg.sessions = true;
            }
            takes && pg.sessions && pg.waiters.len() < UNDER_WAY
        };
        let mut next = self.rng.range(20_000, 120_000);
        if serves {
            let bytes = if self.rng.chance(2) { self.rng.range(1 << 20, 24 << 20) } else { self.rng.range(64, 8_192) };
            self.commit(host, bytes, Waiter::Client);
            if self.rng.chance(10) {
                next = self.rng.range(200, 3_000);
            }
        }
        self.exec.at(self.exec.now() + next, None, Event::Clients(host));
    }
}
