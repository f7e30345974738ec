//! The guard: the small process that ends a primary's service when its right has run out and the agent is dead or stuck.
//! Its rules are the shipped [`Watch`]; here are its timer, its mail and its one act.

use crate::{
    exec::Done,
    planted::Planted,
    world::{Event, W, World},
};
use pgvigil_core::{
    guard::{Answer, Duty, Message, Watch},
    keeper::CONFIRM_MS,
};
use std::{cell::RefCell, collections::VecDeque, rc::Rc};

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
    /// Its timer.
    Timer,
    /// A message has come in.
    Told(Message, Rc<Reply>),
    /// The killing by the guard of that life is over.
    Killed(u64),
}

/// A guard.
#[derive(Debug, Default)]
pub struct Guard {
    /// It runs.
    pub alive: bool,
    /// Its rules.
    watch: Watch,
    /// Messages that came while it kills.
    waiting: VecDeque<(Message, Rc<Reply>)>,
    /// Tells one process from the next.
    life: u64,
}

impl World {
    /// One event at a guard.
    pub fn guard_event(&self, host: usize, event: GuardEvent) {
        if !self.hosts[host].guard.borrow().alive {
            return;
        }
        self.look_at_the_clock(host);
        match event {
            GuardEvent::Timer => {}
            GuardEvent::Told(message, reply) => {
                self.hosts[host].guard.borrow_mut().waiting.push_back((message, reply));
            }
            GuardEvent::Killed(life) => {
                let guard = self.hosts[host].guard.borrow();
                let over = guard.life == life && guard.watch.is_killing();
                drop(guard);
                if over {
                    self.has_killed(host);
                }
            }
        }
        self.answer_agents(host);
    }

    fn answer_agents(&self, host: usize) {
        let now = self.now(host);
        loop {
            let mut guard = self.hosts[host].guard.borrow_mut();
            let Some((message, _)) = guard.waiting.front() else { return };
            let message = *message;
            let Some(answer) = guard.watch.obey(message, now) else { return };
            let reply = guard.waiting.pop_front().map(|(_, reply)| reply);
            let wake_at = guard.watch.wake_at().filter(|_| matches!(message, Message::Arm(_)));
            drop(guard);
            if let Some(at) = wake_at {
                let process = Some(Self::guard_process(host));
                self.exec.at(self.true_time(host, at), process, Event::Guard(host, GuardEvent::Timer));
            }
            if let Some(reply) = reply {
                *reply.answer.borrow_mut() = Some(match answer {
                    Answer::InForce(duty) => Ok(duty),
                    Answer::Late => Err("late"),
                });
                reply.done.end(&self.exec);
            }
        }
    }

    /// The host goes on after it stood still: its guard is the first to run.
    pub fn guard_goes_first(&self, host: usize) {
        let guard = self.hosts[host].guard.borrow();
        let (runs, killing) =
            (guard.alive && !self.exec.is_frozen(Self::guard_process(host)), guard.watch.is_killing());
        drop(guard);
        match (runs, killing) {
            (true, true) => self.has_killed(host),
            (true, false) => self.look_at_the_clock(host),
            (false, _) => {}
        }
    }

    /// Kills when the deadline has come. SIGKILL takes a moment; after a thaw the deadline is long over and the guard,
    /// which is the first to run, has killed before anybody else gets to run.
    fn look_at_the_clock(&self, host: usize) {
        let now = self.now(host);
        let (deadline, life) = {
            let mut guard = self.hosts[host].guard.borrow_mut();
            let Duty::Armed(deadline) = guard.watch.duty() else { return };
            if !guard.watch.look(now) {
                return;
            }
            (deadline, guard.life)
        };
        self.cover.hit("guard", "fired");
        self.log_host(host, || "the guard kills PostgreSQL: its right has run out".to_owned());
        if self.planted == Some(Planted::GuardDoesNotKill) {
            self.hosts[host].guard.borrow_mut().watch.killed(now);
            return;
        }
        self.with_data(host, |data| data.signal = true);
        if now >= deadline {
            self.has_killed(host);
            return;
        }
        let at = self.exec.now() + self.rng.range(500, 30_000);
        self.exec.at(at, Some(Self::guard_process(host)), Event::Guard(host, GuardEvent::Killed(life)));
    }

    fn has_killed(&self, host: usize) {
        self.kill_server(host);
        self.hosts[host].guard.borrow_mut().watch.killed(self.now(host));
    }

    /// A guard begins: it knows nothing.
    pub fn start_guard(&self, host: usize) {
        let mut guard = self.hosts[host].guard.borrow_mut();
        if !guard.alive {
            *guard = Guard { alive: true, life: self.fresh_id(), ..Guard::default() };
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
