//! The stream to the Raft leader: reports up, agreed state and lease renewals down. After `agent/uplink.rs`.

use super::{report, shared::Ctx};
use crate::{controller, planted::Planted};
use pgvigil_core::{
    cluster::ClusterState,
    id::Epoch,
    keeper::Renewal,
    report::{LeaderClock, PostgresReport, ShownToLeader},
    time::Time,
};
use std::{collections::VecDeque, rc::Rc};

const CONNECT_MS: u64 = 500;
const RETRY_MS: u64 = 30;
const REMEMBERED: usize = 64;
const PATIENCE_BEATS: u64 = 4;

/// A heartbeat that was sent.
#[derive(Clone, Copy, Debug)]
struct Beat {
    seq: u64,
    at: Time,
    /// The epoch as whose primary it spoke.
    reigning: Option<Epoch>,
}

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
    pub state: Option<Rc<ClusterState>>,
    /// The heartbeat as of whose sending the lease is renewed.
    pub renewed: Option<u64>,
    /// When this leader has seen the rule in force last.
    pub shown: Option<ShownToLeader>,
    /// When this was sent.
    pub clock: Option<LeaderClock>,
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
    let mut sent: VecDeque<Beat> = VecDeque::new();
    let mut seq = 0;
    beat(c, &stream, &mut seq, &mut sent);
    let mut heard_at = c.now();
    loop {
        let beat_ms = c.agreed().map_or(250, |agreed| agreed.settings.heartbeat_ms);
        let due = sent.back().map_or(Time(0), |beat| beat.at).plus(beat_ms);
        c.w.either(c.h, due, &c.a.report, &c.a.posted).await;
        loop {
            let mail = c.a.mail.borrow_mut().pop_front();
            let Some(mail) = mail else { break };
            match mail {
                Mail::Answer(of, answer) if of == stream.id => {
                    heard_at = c.now();
                    if let Some(state) = answer.state {
                        c.learn(state);
                    }
                    if let Some(clock) = answer.clock {
                        c.a.inner.borrow_mut().leader_clock = Some((clock, heard_at));
                    }
                    if let Some(shown) = answer.shown
                        && let Some(beat) = sent.iter().find(|beat| beat.seq == shown.seq)
                    {
                        c.a.inner.borrow_mut().shown_to_leader = Some((shown.epoch, beat.at.minus(shown.ago_ms)));
                    }
                    let renewed = answer.renewed.and_then(|seq| sent.iter().find(|beat| beat.seq == seq));
                    if let Some(Beat { at, reigning: Some(epoch), .. }) = renewed {
                        c.w.cover.hit("lease", "renewed");
                        let late = c.w.planted == Some(Planted::RightFromReceipt);
                        c.renew(Renewal::Lease { epoch: *epoch, sent_at: if late { heard_at } else { *at } });
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
            beat(c, &stream, &mut seq, &mut sent);
        }
        let moved = c.w.hosts[c.h].voter && c.w.raft.leader_known_to(c.h).is_some_and(|known| known != leader);
        if moved || c.now().since(heard_at) > PATIENCE_BEATS * beat_ms {
            stream.close(&c.w);
            return None;
        }
    }
}

fn beat(c: &Ctx, stream: &Rc<controller::stream::Stream>, seq: &mut u64, sent: &mut VecDeque<Beat>) {
    *seq += 1;
    // The holder counts its lease from before the sending. Keeps S3.
    let at = c.now();
    let report = report::make(c, *seq);
    let reigning = report.as_ref().and_then(|report| match &report.postgres {
        PostgresReport::Primary(primary) => Some(primary.epoch),
        _ => None,
    });
    sent.push_back(Beat { seq: *seq, at, reigning });
    if sent.len() > REMEMBERED {
        sent.pop_front();
    }
    if let Some(report) = report {
        stream.send(&c.w, report);
    }
}
