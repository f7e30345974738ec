//! A path through the service model, told in sentences.

use super::{Service, Tick, next};
use crate::state::letter;
use stateright::Model;

/// Tells the path of `ticks` from the beginning, each with its tick of the clock.
#[must_use]
pub fn tell(model: &Service, ticks: &[Tick]) -> Vec<String> {
    let Some(mut state) = model.init_states().pop() else { return Vec::new() };
    let mut told = Vec::new();
    let mut now = 0;
    for tick in ticks {
        now += i32::from(*tick == Tick::Time);
        told.push(sentence(now, *tick));
        let Some(after) = model.next_state(&state, *tick) else { break };
        state = after;
    }
    let right = now - i32::from(super::NOW) + i32::from(state.right + super::LEASE);
    let serves = if next::serves(model, &state) { "serves" } else { "serves no more" };
    told.push(format!("t{now}: a {serves}; its right ends at t{right}"));
    told
}

fn sentence(now: i32, tick: Tick) -> String {
    let standby = |number: u8| letter(number + 1);
    let what = match tick {
        Tick::Time => return format!("t{now}: time passes"),
        Tick::Heartbeat => "a's agent sends a heartbeat".to_owned(),
        Tick::Receive => "the leader receives it".to_owned(),
        Tick::Confirm => "the leader answers it".to_owned(),
        Tick::Renewed => "the answer arrives: a's lease is renewed".to_owned(),
        Tick::Canary => "a's agent begins a canary".to_owned(),
        Tick::CanaryDone => "the canary is acknowledged".to_owned(),
        Tick::Flush(number) => format!("{} flushes what a has written", standby(number)),
        Tick::SampleBegins(number) => format!("{}'s agent begins a sample", standby(number)),
        Tick::SampleEnds(number) => format!("{}'s sample is answered", standby(number)),
        Tick::Seal(number) => format!("{} seals", standby(number)),
        Tick::NewLeader => "another Raft leader is elected".to_owned(),
        Tick::Begin => "agreed: an election begins".to_owned(),
        Tick::Appoint => "agreed: b is appointed; it promotes behind its closed door".to_owned(),
        Tick::Fence => "a's agent reports it fenced".to_owned(),
        Tick::Open => "agreed: b opens".to_owned(),
    };
    format!("t{now}: {what}")
}
