//! Whom a fault means, whether it may hit there now, and the blunt acts themselves.

use super::{Strike, Target};
use crate::world::World;

impl World {
    /// The host of the primary of this moment.
    #[must_use]
    pub fn primary(&self) -> Option<usize> {
        let newest = self.raft.newest()?;
        let primary = newest.cluster.as_ref()?.reign()?.primary.member.clone();
        self.host_of(&primary)
    }

    /// The host that `target` means now.
    #[must_use]
    pub fn aim(&self, target: Target) -> Option<usize> {
        match target {
            Target::Primary => self.primary(),
            Target::Host(host) => Some(host),
        }
    }

    /// The agent runs, is not stuck and has its guard's word: it would stop PostgreSQL in time.
    #[must_use]
    pub fn agent_watches(&self, host: usize) -> bool {
        self.hears(host)
            && self.hosts[host]
                .agent
                .borrow()
                .as_ref()
                .is_some_and(|agent| agent.inner.borrow().guarded.confirmed && agent.agreed.borrow().is_some())
    }

    /// The guard runs and is not stuck.
    #[must_use]
    pub fn guard_watches(&self, host: usize) -> bool {
        self.hosts[host].guard.borrow().alive && !self.exec.is_frozen(Self::guard_process(host))
    }

    /// Whether an ambush waits for `host` at `step`.
    pub fn struck(&self, host: usize, step: &'static str) -> Option<Strike> {
        self.cover.hit("step", step);
        let mut ambush = self.ambush.borrow_mut();
        let at = ambush.iter().position(|ambush| ambush.step == step)?;
        let strike = ambush[at].strike;
        if strike == Strike::Agent && !self.guard_watches(host) {
            return None;
        }
        ambush.remove(at);
        self.cover.hit("struck", step);
        Some(strike)
    }

    /// Loss of power.
    pub fn power_off(&self, host: usize) {
        let place = &self.hosts[host];
        if !place.powered.replace(false) {
            return;
        }
        self.kill_server(host);
        if place.agent.borrow_mut().take().is_some() {
            place.controller.borrow_mut().take();
            place.life.set(place.life.get() + 1);
        }
        self.exec.kill(Self::agent_process(host));
        self.exec.kill(Self::guard_process(host));
        self.exec.kill(Self::postgres_process(host));
        self.raft.lose_power(self, host);
        self.raft.restarted(self, host);
        place.guard.borrow_mut().alive = false;
        place.disk.borrow_mut().lose_power();
        self.log_host(host, || "loses power".to_owned());
    }

    /// Thaws what was frozen: the guard first, whose timer is overdue, then the rest.
    pub fn thaw_host(&self, host: usize) {
        self.exec.release(Self::guard_process(host));
        self.guard_goes_first(host);
        self.exec.release(Self::postgres_process(host));
        self.exec.release(Self::agent_process(host));
    }

    pub(super) fn isolate(&self, host: usize, into: bool, out: bool, cut: bool) {
        let mut net = self.net.borrow_mut();
        for other in (0..self.hosts.len()).filter(|other| *other != host) {
            if into {
                net.cut(other, host, cut);
            }
            if out {
                net.cut(host, other, cut);
            }
        }
    }
}

pub(super) fn set_pairs(w: &World, host: usize, set: impl Fn(&mut crate::network::Network, usize, usize)) {
    let mut net = w.net.borrow_mut();
    for other in (0..w.hosts.len()).filter(|other| *other != host) {
        set(&mut net, host, other);
        set(&mut net, other, host);
    }
}
