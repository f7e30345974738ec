//! The agent, in the real one's order of steps: each task of `supervisor/src/agent` has its counterpart here, each
//! `await` is a place where a crash may cut it off, and the deciding is done by the shipped `reconcile`.

pub mod canary;
pub mod directory;
mod here;
pub mod prober;
pub mod report;
pub mod right;
pub mod sampler;
mod server;
mod session;
pub mod shared;
pub mod uplink;
pub mod worker;

use crate::world::{W, World};
use pgvigil_core::trace::Line;
use shared::{Agent, Ctx};
use std::rc::Rc;

/// Starts pgvigil on `host`: reads the promise and the mark, then lets its tasks begin. PostgreSQL, if it runs, is left
/// as it is.
pub fn start(w: &W, host: usize) {
    if w.hosts[host].agent.borrow().is_some() || !w.hosts[host].powered.get() {
        return;
    }
    let place = &w.hosts[host];
    place.life.set(place.life.get() + 1);
    w.record(|| Line::Began { node: World::node(host) });
    let agent = Rc::new(Agent::new(w, host));
    *place.agent.borrow_mut() = Some(Rc::clone(&agent));
    w.raft.restarted(w, host);
    let ctx = Ctx { w: Rc::clone(w), a: agent, h: host };
    let process = World::agent_process(host);
    w.exec.spawn(process, right::run(ctx.clone()));
    w.exec.spawn(process, sampler::run(ctx.clone()));
    w.exec.spawn(process, canary::run(ctx.clone()));
    w.exec.spawn(process, prober::run(ctx.clone()));
    w.exec.spawn(process, uplink::run(ctx.clone()));
    w.exec.spawn(process, worker::run(ctx.clone()));
    w.exec.spawn(process, sampler::watch_exit(ctx.clone()));
    if place.voter {
        w.exec.spawn(process, uplink::learn_own(ctx));
        crate::controller::start(w, host);
    }
    w.log_host(host, || "pgvigil starts".to_owned());
}

/// pgvigil on `host` is gone, with everything it knew; PostgreSQL and the guard go on.
pub fn kill(w: &W, host: usize) {
    let place = &w.hosts[host];
    if place.agent.borrow_mut().take().is_none() {
        return;
    }
    place.life.set(place.life.get() + 1);
    place.controller.borrow_mut().take();
    w.exec.kill(World::agent_process(host));
    w.raft.restarted(w, host);
    w.log_host(host, || "pgvigil is killed".to_owned());
}
