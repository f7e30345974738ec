//! The guard: the small process that ends a primary's service when its right has run out and the agent is dead or stuck.
//! It knows one number, the deadline, and one act.

use crate::{
    exec::Done,
    planted::Planted,
    world::{Event, W, World},
};
use pgvigil_core::{
    guard::{Duty, Message},
    keeper::CONFIRM_MS,
};
use std::{cell::RefCell, rc::Rc};

/// How long before the deadline the killing begins; as in the real program.
const KILL_MARGIN_MS: u64 = 100;

/// The answer, and who waits for it.
#[derive(Debug, Default)]
pub struct Reply {
    /// What was in force afterwards; `None` until it answers. A deadline already over is refused.
    pub answer: RefCell<Option<Result<Duty, &'static str>>>,
    /// Tells the agent.
    pub done: Done,
}

/// Something that happens at a guard.
#[derive(Debug)]
pub enum GuardEvent {
    /// The timer of that setting.
    Timer(u64),
    /// A message has come in.
    Told(Message, Rc<Reply>),
    /// The killing is over.
    Killed(u64),
}

/// A guard.
#[derive(Debug, Default)]
pub struct Guard {
    /// It runs.
    pub alive: bool,
    /// What is in force.
    pub duty: Duty,
    /// Tells one setting of the timer from the next.
    pub setting: u64,
}

impl World {
    /// One event at a guard.
    pub fn guard_event(&self, host: usize, event: GuardEvent) {
        if !self.hosts[host].guard.borrow().alive {
            return;
        }
        // The clock comes before any message: a flood of them must not delay it.
        self.look_at_the_clock(host);
        match event {
            GuardEvent::Timer(_) => {}
            GuardEvent::Told(message, reply) => {
                *reply.answer.borrow_mut() = Some(self.obey_agent(host, message));
                reply.done.end(&self.exec);
            }
            GuardEvent::Killed(setting) => {
                if self.hosts[host].guard.borrow().setting == setting {
                    self.kill_server(host);
                    self.hosts[host].guard.borrow_mut().duty = Duty::Fired(self.now(host));
                }
            }
        }
    }

    fn obey_agent(&self, host: usize, message: Message) -> Result<Duty, &'static str> {
        let mut guard = self.hosts[host].guard.borrow_mut();
        match message {
            Message::Status => return Ok(guard.duty),
            Message::Disarm => guard.duty = Duty::Disarmed,
            Message::Hold => guard.duty = Duty::Held,
            Message::Arm(deadline) => {
                guard.duty = Duty::Armed(deadline);
                guard.setting = self.fresh_id();
                let at = deadline.minus(KILL_MARGIN_MS);
                let setting = guard.setting;
                drop(guard);
                let process = Some(Self::guard_process(host));
                self.exec.at(self.true_time(host, at), process, Event::Guard(host, GuardEvent::Timer(setting)));
                let late = at <= self.now(host);
                return if late { Err("late") } else { Ok(Duty::Armed(deadline)) };
            }
        }
        guard.setting = self.fresh_id();
        Ok(guard.duty)
    }

    /// The host goes on after it stood still: its guard is the first to run.
    pub fn guard_goes_first(&self, host: usize) {
        if self.hosts[host].guard.borrow().alive && !self.exec.is_frozen(Self::guard_process(host)) {
            self.look_at_the_clock(host);
        }
    }

    /// Kills when the deadline has come. SIGKILL takes a moment; after a thaw the deadline is long over and the guard,
    /// which is the first to run, has killed before anybody else gets to run.
    fn look_at_the_clock(&self, host: usize) {
        let (deadline, setting) = {
            let guard = self.hosts[host].guard.borrow();
            let Duty::Armed(deadline) = guard.duty else { return };
            (deadline, guard.setting)
        };
        if self.now(host) < deadline.minus(KILL_MARGIN_MS) {
            return;
        }
        self.cover.hit("guard", "fired");
        self.log_host(host, || "the guard kills PostgreSQL: its right has run out".to_owned());
        if self.planted == Some(Planted::GuardDoesNotKill) {
            self.hosts[host].guard.borrow_mut().duty = Duty::Fired(self.now(host));
            return;
        }
        self.with_data(host, |data| data.signal = true);
        if self.now(host) >= deadline {
            self.kill_server(host);
            self.hosts[host].guard.borrow_mut().duty = Duty::Fired(self.now(host));
            return;
        }
        let at = self.exec.now() + self.rng.range(500, 30_000);
        self.exec.at(at, Some(Self::guard_process(host)), Event::Guard(host, GuardEvent::Killed(setting)));
    }

    /// A guard begins: it knows nothing.
    pub fn start_guard(&self, host: usize) {
        let mut guard = self.hosts[host].guard.borrow_mut();
        if !guard.alive {
            *guard = Guard { alive: true, duty: Duty::Disarmed, setting: self.fresh_id() };
        }
    }
}

/// Tells the guard of `host`; an error if there is none, or it does not answer in time.
pub async fn tell(w: &W, host: usize, message: Message) -> Result<Duty, &'static str> {
    if !w.hosts[host].guard.borrow().alive {
        return Err("no guard");
    }
    let reply = Rc::new(Reply::default());
    let at = w.exec.now() + w.rng.range(30, 300);
    let event = Event::Guard(host, GuardEvent::Told(message, Rc::clone(&reply)));
    w.exec.at(at, Some(World::guard_process(host)), event);
    if w.within(host, CONFIRM_MS, w.ended(&reply.done)).await.is_none() {
        return Err("no answer");
    }
    let answer = *reply.answer.borrow();
    answer.unwrap_or(Err("no answer"))
}
