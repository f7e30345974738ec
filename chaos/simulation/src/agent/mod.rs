//! The agent's ports in the simulation: what its acts and tasks, which are the shipped ones, do to simulated servers, disks
//! and networks. Each `await` is a place where a crash may cut it off.

pub mod canary;
pub mod directory;
mod here;
pub mod prober;
pub mod right;
pub mod sampler;
mod scene;
mod server;
mod session;
pub mod shared;
pub mod uplink;
pub mod worker;

use crate::world::{W, World};
use pgvigil_agent::tasks;
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
    let c = || ctx.clone();
    w.exec.spawn(process, with(c(), async |c| tasks::right::run(c, c.clone()).await));
    w.exec.spawn(process, with(c(), async |c| tasks::sampler::run(c, c.clone()).await));
    w.exec.spawn(process, with(c(), async |c| tasks::canary::run(c, canary::Session::new(c.clone())).await));
    w.exec.spawn(process, with(c(), async |c| tasks::prober::run(c, c.clone()).await));
    w.exec.spawn(process, with(c(), async |c| tasks::uplink::run(c, uplink::Ways::new(c.clone())).await));
    w.exec.spawn(process, with(c(), async |c| tasks::worker::run(c).await));
    w.exec.spawn(process, with(c(), async |c| tasks::scene::run(c, c.clone()).await));
    w.exec.spawn(process, sampler::watch_exit(c()));
    if place.voter {
        w.exec.spawn(process, with(c(), async |c| tasks::learn::run(c, uplink::Own::new(c.clone())).await));
        crate::controller::start(w, host);
    }
    w.log_host(host, || "pgvigil starts".to_owned());
}

/// A task that owns its agent.
async fn with(c: Ctx, task: impl AsyncFnOnce(&Ctx)) {
    task(&c).await;
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
