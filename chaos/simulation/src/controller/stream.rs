//! An agent's stream to a leader: a TCP connection. What cannot get through waits a while, and may arrive late, on a stream
//! that its agent has long left. What is said on it is the shipped controller's.

use super::{Agreed, Voter};
use crate::{
    agent::uplink::{Answer, Mail},
    exec::{Notify, Watch},
    planted::Planted,
    world::{W, World},
};
use pgvigil_controller::{
    attend,
    ports::{Answers, Ended, Led, Reports, Turn},
};
use pgvigil_core::{
    id::ClusterId,
    report::Report,
    session::{Heard, Reply},
    time::Time,
};
use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    future::{Future, poll_fn},
    pin::pin,
    rc::Rc,
    task::Poll,
};

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
    newest: RefCell<Option<Heard>>,
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
    let controller = w.hosts[leader].controller.borrow().clone();
    let Some(controller) = controller.filter(|controller| controller.inbox.borrow().since().is_some()) else {
        stream.end(w);
        return stream;
    };
    let node = Voter { w: Rc::clone(w), host: leader, controller };
    let incoming = Incoming { w: Rc::clone(w), stream: Rc::clone(&stream) };
    let states = w.raft.states[leader].version();
    let outgoing = Outgoing { w: Rc::clone(w), stream: Rc::clone(&stream), heard: 0, states };
    let (process, reader) = (World::agent_process(leader), node.clone());
    w.exec.spawn(process, async move { attend::read(&reader, incoming).await });
    w.exec.spawn(process, async move { attend::answer(&node, outgoing).await });
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

    fn end_because(self: &Rc<Self>, w: &W, why: Ended) {
        match why {
            Ended::NotLeading => self.end(w),
            // Said by agents that cannot start; those here can.
            Ended::Heard => {}
        }
    }
}

/// Where an agent's reports come in.
struct Incoming {
    w: W,
    stream: Rc<Stream>,
}

impl Reports for Incoming {
    type Moment = Time;

    async fn next(&mut self) -> Option<(Report, Time, Time)> {
        let Self { w, stream } = self;
        loop {
            let report = stream.incoming.borrow_mut().pop_front();
            if let Some(report) = report {
                let at = w.now(stream.leader);
                return Some((report, at, at));
            }
            if stream.left.get() && w.rng.chance(50) {
                return None;
            }
            let at = w.now(stream.leader).plus(5_000);
            let by_timer = w.until_or_told(stream.leader, at, &stream.arrived).await;
            if by_timer && stream.left.get() {
                return None;
            }
        }
    }

    fn hand_on(&self, heard: Heard, _: Time) {
        *self.stream.newest.borrow_mut() = Some(heard);
        self.stream.heard.bump(&self.w.exec);
    }

    async fn end(&self, why: Ended) {
        self.stream.end_because(&self.w, why);
    }
}

/// Where the answers to an agent go out.
struct Outgoing {
    w: W,
    stream: Rc<Stream>,
    /// The versions looked at last.
    heard: u64,
    states: u64,
}

impl Outgoing {
    /// The planted bug: agents are answered without asking a quorum.
    fn asks_nobody(&self) -> bool {
        self.w.planted == Some(Planted::NoConfirmation)
    }
}

impl Answers<Voter> for Outgoing {
    type Moment = Time;

    async fn turn(&mut self) -> Option<Turn<Time>> {
        loop {
            let Self { w, stream, heard, states } = self;
            let news = poll_fn(|_| {
                if stream.heard.poll(&w.exec, heard).is_ready() {
                    return Poll::Ready(true);
                }
                w.raft.states[stream.leader].poll(&w.exec, states).map(|()| false)
            })
            .await;
            if stream.left.get() {
                return None;
            }
            let newest = stream.newest.borrow().clone();
            if let Some(heard) = newest {
                return Some(Turn { moment: heard.at, heard, news });
            }
        }
    }

    fn newest(&mut self) -> Agreed {
        self.states = self.w.raft.states[self.stream.leader].version();
        Agreed::of(&self.w, self.stream.leader)
    }

    async fn led_since(&mut self, since: Time, limit_ms: u64) -> Led {
        if self.asks_nobody() {
            return Led::Yes;
        }
        let Self { w, stream, states, .. } = self;
        let mut led = pin!(w.led_since(stream.leader, since, limit_ms));
        poll_fn(|context| {
            if w.raft.states[stream.leader].poll(&w.exec, states).is_ready() {
                return Poll::Ready(Led::Moved);
            }
            led.as_mut().poll(context).map(|led| if led.is_ok() { Led::Yes } else { Led::No })
        })
        .await
    }

    async fn confirm(&self, limit_ms: u64) -> bool {
        let (w, leader) = (&self.w, self.stream.leader);
        self.asks_nobody() || w.within(leader, limit_ms, w.confirm_leadership(leader)).await == Some(Ok(()))
    }

    async fn send(&self, reply: Reply, state: Option<(&Agreed, &ClusterId)>) -> bool {
        let state = state.and_then(|(agreed, _)| agreed.cluster());
        self.stream
            .post(&self.w, Mail::Answer(self.stream.id, Answer { state, refused: reply.refused, said: reply.said }));
        true
    }

    async fn end(&self, why: Ended) {
        self.stream.end_because(&self.w, why);
    }
}
