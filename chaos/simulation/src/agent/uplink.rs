//! The stream to the Raft leader: reports up, agreed state and lease renewals down. After `agent/uplink.rs`.

use super::{report, shared::Ctx};
use crate::{controller, planted::Planted};
use pgvigil_core::{
    beats::{self, Beats, Said},
    cluster::ClusterState,
    keeper::Renewal,
};
use std::{rc::Rc, sync::Arc};

const CONNECT_MS: u64 = 500;
const RETRY_MS: u64 = 30;

/// A frame from a leader, or the end of its stream.
#[derive(Clone, Debug)]
pub enum Mail {
    /// An answer on the stream of that number.
    Answer(u64, Answer),
    /// The stream of that number has ended; the leader, if it was named.
    End(u64, Option<usize>),
}

/// What a leader answers; the program's `report::Answer` with the state shared instead of copied.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// The agreed state.
    pub state: Option<Arc<ClusterState>>,
    /// The rest of it.
    pub said: Said,
}

/// The shorter way for a voter: its own applied state is agreed too.
pub async fn learn_own(c: Ctx) {
    let mut seen = u64::MAX;
    loop {
        c.w.changed(&c.w.raft.states[c.h], &mut seen).await;
        let state = c.w.raft.state(c.h).and_then(|applied| applied.cluster.clone());
        if let Some(state) = state {
            c.learn(state);
        }
    }
}

/// The task.
pub async fn run(c: Ctx) {
    let mut hint: Option<usize> = None;
    let mut turn = 0;
    loop {
        let voters = &c.w.raft.voters;
        let known = c.w.hosts[c.h].voter.then(|| c.w.raft.leader_known_to(c.h)).flatten();
        let leader = hint.take().or(known).unwrap_or_else(|| {
            turn += 1;
            voters[turn % voters.len()]
        });
        hint = attend(&c, leader).await.filter(|named| *named != leader);
        if hint.is_none() {
            c.w.sleep(c.h, RETRY_MS).await;
        }
    }
}

async fn attend(c: &Ctx, leader: usize) -> Option<usize> {
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
    let mut beats = Beats::new(c.now());
    beat(c, &stream, &mut beats);
    loop {
        let beat_ms = beats::interval_ms(c.agreed().as_deref());
        let due = beats.due(beat_ms);
        c.w.either(c.h, due, &c.a.report, &c.a.posted).await;
        loop {
            let mail = c.a.mail.borrow_mut().pop_front();
            let Some(mail) = mail else { break };
            match mail {
                Mail::Answer(of, answer) if of == stream.id => {
                    if let Some(state) = answer.state {
                        c.learn(state);
                    }
                    let renewal = beats.heard(answer.said, &mut c.a.inner.borrow_mut().leader, c.now());
                    if let Some(renewal) = renewal {
                        c.w.cover.hit("lease", "renewed");
                        c.renew(renewal_as_planted(c, renewal));
                    }
                }
                Mail::End(of, named) if of == stream.id => {
                    stream.close(&c.w);
                    return named;
                }
                _ => {}
            }
        }
        let asked = c.w.take_told(&c.a.report);
        if asked || c.now() >= due {
            beat(c, &stream, &mut beats);
        }
        let moved = c.w.hosts[c.h].voter && c.w.raft.leader_known_to(c.h).is_some_and(|known| known != leader);
        if moved || beats.is_silent(beat_ms, c.now()) {
            stream.close(&c.w);
            return None;
        }
    }
}

fn beat(c: &Ctx, stream: &Rc<controller::stream::Stream>, beats: &mut Beats) {
    if let Some(report) = beats.next(c.now(), |seq| report::make(c, seq)) {
        stream.send(&c.w, report);
    }
}

/// With the planted bug, a lease is counted from when the answer came.
fn renewal_as_planted(c: &Ctx, renewal: Renewal) -> Renewal {
    match renewal {
        Renewal::Lease { epoch, .. } if c.w.planted == Some(Planted::RightFromReceipt) => {
            Renewal::Lease { epoch, sent_at: c.now() }
        }
        renewal => renewal,
    }
}
