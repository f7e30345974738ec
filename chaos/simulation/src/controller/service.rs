//! The agents' side door at a leader: reports in, agreed state and lease renewals out. After `controller/service.rs`.
//!
//! Nothing is told to an agent before a quorum has confirmed, after its report came in, that this node still leads.
//! Keeps S5. A stream is a TCP connection: what cannot get through waits a while, and may arrive late, on a stream that
//! its agent has long left.

use super::AGREE_MS;
use crate::{
    agent::uplink::{Answer, Mail},
    exec::{Notify, Watch},
    planted::Planted,
    world::{W, World},
};
use pgvigil_core::{
    Outcome, Proposal,
    cluster::ClusterState,
    command::{Actor, Command},
    id::Revision,
    report::{Report, ShownToLeader},
    time::Time,
};
use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    future::poll_fn,
    rc::Rc,
    task::Poll,
};

const CONFIRM_MS: u64 = 1_000;

/// An agent's stream to a leader.
#[derive(Debug)]
pub struct Stream {
    /// Its number.
    pub id: u64,
    agent: usize,
    leader: usize,
    left: Cell<bool>,
    incoming: RefCell<VecDeque<Report>>,
    arrived: Notify,
    newest: RefCell<Option<(Rc<Report>, Time, bool)>>,
    heard: Watch,
    up_at: Cell<u64>,
    down_at: Cell<u64>,
}

/// Opens a stream; the leader's two tasks for it begin.
pub fn connect(w: &W, agent: usize, leader: usize) -> Rc<Stream> {
    let stream = Rc::new(Stream {
        id: w.fresh_id(),
        agent,
        leader,
        left: Cell::new(false),
        incoming: RefCell::default(),
        arrived: Notify::default(),
        newest: RefCell::default(),
        heard: Watch::default(),
        up_at: Cell::new(0),
        down_at: Cell::new(0),
    });
    let process = World::agent_process(leader);
    w.exec.spawn(process, read(Rc::clone(w), Rc::clone(&stream)));
    w.exec.spawn(process, answer(Rc::clone(w), Rc::clone(&stream)));
    stream
}

impl Stream {
    /// The agent has left: what is on its way may still arrive.
    pub fn close(self: &Rc<Self>, w: &W) {
        self.left.set(true);
        self.heard.bump(&w.exec);
    }

    /// Sends a report.
    pub fn send(self: &Rc<Self>, w: &W, report: Report) {
        let at = (w.exec.now() + w.latency(self.agent, self.leader)).max(self.up_at.get());
        self.up_at.set(at);
        self.up(w, at, 0, report);
    }

    fn up(self: &Rc<Self>, w: &W, at: u64, tries: u32, report: Report) {
        if w.rng.chance(w.net.borrow().loss(self.agent, self.leader)) {
            return;
        }
        let stream = Rc::clone(self);
        w.call_at(self.leader, at, move |w| {
            if w.reaches(stream.agent, stream.leader) {
                stream.incoming.borrow_mut().push_back(report);
                stream.arrived.notify(&w.exec);
            } else if tries < 20 {
                stream.up(w, w.exec.now() + 100_000, tries + 1, report);
            }
        });
    }

    fn post(self: &Rc<Self>, w: &W, mail: Mail) {
        let at = (w.exec.now() + w.latency(self.leader, self.agent)).max(self.down_at.get());
        self.down_at.set(at);
        self.down(w, at, 0, mail);
    }

    fn down(self: &Rc<Self>, w: &W, at: u64, tries: u32, mail: Mail) {
        if w.rng.chance(w.net.borrow().loss(self.leader, self.agent)) {
            return;
        }
        let stream = Rc::clone(self);
        w.call_at(self.agent, at, move |w| {
            if w.reaches(stream.leader, stream.agent) {
                if let Some(agent) = &*w.hosts[stream.agent].agent.borrow() {
                    agent.mail.borrow_mut().push_back(mail);
                    agent.posted.notify(&w.exec);
                }
            } else if tries < 20 {
                stream.down(w, w.exec.now() + 100_000, tries + 1, mail);
            }
        });
    }

    fn end(self: &Rc<Self>, w: &W) {
        self.post(w, Mail::End(self.id, w.raft.leader_known_to(self.leader)));
    }
}

fn listens(w: &W, host: usize) -> bool {
    w.hosts[host].controller.borrow().as_ref().is_some_and(|controller| controller.inbox.borrow().is_some())
}

/// Reads reports as they come in, and hands the newest one to the answering task.
async fn read(w: W, stream: Rc<Stream>) {
    if !listens(&w, stream.leader) {
        stream.end(&w);
        return;
    }
    loop {
        let report = stream.incoming.borrow_mut().pop_front();
        let Some(report) = report else {
            if stream.left.get() && w.rng.chance(50) {
                return;
            }
            let at = w.now(stream.leader).plus(5_000);
            let by_timer = w.until_or_told(stream.leader, at, &stream.arrived).await;
            if by_timer && stream.left.get() {
                return;
            }
            continue;
        };
        let at = w.now(stream.leader);
        let agreed = w.raft.state(stream.leader).and_then(|applied| applied.cluster.clone());
        let refused = match &agreed {
            Some(agreed) => register(&w, stream.leader, agreed, &report).await,
            None => true,
        };
        let report = Rc::new(report);
        let controller = w.hosts[stream.leader].controller.borrow().clone();
        let Some(controller) = controller else { return };
        if !refused && !controller.receive(&w, agreed.as_deref(), (*report).clone(), at) {
            stream.end(&w);
            return;
        }
        *stream.newest.borrow_mut() = Some((report, at, refused));
        stream.heard.bump(&w.exec);
    }
}

/// Has an unknown member agreed; `true` if it is refused.
async fn register(w: &W, host: usize, agreed: &ClusterState, report: &Report) -> bool {
    if agreed.members.get(&report.spec.member).is_some_and(|member| member.spec == report.spec) {
        return false;
    }
    let proposal = Proposal {
        cluster: report.cluster.clone(),
        based_on: None,
        at: w.wall(),
        by: Actor::Agent(report.spec.member.clone()),
        reason: format!("node {} has member {}", report.spec.node, report.spec.member),
        evidence: Vec::new(),
        command: Command::RegisterMember { spec: report.spec.clone() },
    };
    match w.propose(host, proposal, AGREE_MS).await {
        Ok(Outcome::Refused(_)) => {
            let now = w.raft.state(host).and_then(|applied| applied.cluster.clone());
            !now.is_some_and(|now| now.members.get(&report.spec.member).is_some_and(|m| m.spec == report.spec))
        }
        Ok(_) => false,
        Err(_) => true,
    }
}

/// Answers whenever a report came in or the state has moved.
async fn answer(w: W, stream: Rc<Stream>) {
    let host = stream.leader;
    let mut told = Revision(0);
    let mut first = true;
    let mut heard_version = 0;
    let mut state_version = w.raft.states[host].version();
    loop {
        let heard_new = poll_fn(|_| {
            if stream.heard.poll(&w.exec, &mut heard_version).is_ready() {
                return Poll::Ready(true);
            }
            match w.raft.states[host].poll(&w.exec, &mut state_version) {
                Poll::Ready(()) => Poll::Ready(false),
                Poll::Pending => Poll::Pending,
            }
        })
        .await;
        if stream.left.get() {
            return;
        }
        let newest = stream.newest.borrow().clone();
        let Some((report, at, refused)) = newest else { continue };
        if heard_new && first {
            told = report.revision;
            first = false;
        }
        let agreed = || w.raft.state(host).and_then(|applied| applied.cluster.clone());
        let mut quiet = agreed().is_some_and(|agreed| agreed.revision <= told && agreed.is_settled() && !refused);
        if w.planted != Some(Planted::NoConfirmation) {
            let version = w.raft.states[host].version();
            let mut confirmed = false;
            if quiet {
                // In quiet times the next heartbeats are confirmation enough.
                confirmed = w.led_since(host, at, CONFIRM_MS).await.is_ok();
                quiet = w.raft.states[host].version() == version;
            }
            if !quiet {
                let round = w.within(host, CONFIRM_MS, w.confirm_leadership(host)).await;
                confirmed = matches!(round, Some(Ok(())));
            }
            if !confirmed || !listens(&w, host) {
                stream.end(&w);
                return;
            }
        }
        // Only what was told already is spoken of in quiet times.
        let agreed = agreed().filter(|agreed| !quiet || agreed.revision <= told);
        let controller = w.hosts[host].controller.borrow().clone();
        let (Some(agreed), Some(controller)) = (agreed, controller) else { continue };
        let mut frame = Answer::default();
        if !refused && controller.renew(&agreed, &report, at) {
            frame.renewed = Some(report.seq);
        }
        frame.shown = controller.rule_shown(at).map(|(epoch, ago_ms)| ShownToLeader { epoch, ago_ms, seq: report.seq });
        if agreed.revision > told || (heard_new && report.revision < agreed.revision && report.revision < told) {
            told = agreed.revision;
            frame.state = Some(agreed);
        }
        frame.clock = controller.clock(w.now(host));
        if heard_new || frame.state.is_some() {
            stream.post(&w, Mail::Answer(stream.id, frame));
        }
    }
}
