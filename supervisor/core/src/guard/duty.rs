//! The guard's own rules: what an agent tells it, what is in force then, and when it kills. Pure: whoever runs it waits,
//! reads the clock, kills and speaks with agents. Keeps S3.

use crate::time::Time;

/// How long before the deadline the killing begins, in milliseconds: it must be over by then. The agent itself has stopped
/// PostgreSQL long before; this is for an agent that is dead or stuck, and killing takes milliseconds.
pub const KILL_MARGIN_MS: u64 = 100;

/// What an agent tells its guard, or asks it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// PostgreSQL must be gone then, unless a later deadline comes.
    Arm(Time),
    /// Not primary: nothing to guard.
    Disarm,
    /// Paused: the deadline is no longer enforced, until the next [`Message::Arm`].
    Hold,
    /// What is in force?
    Status,
}

/// What a guard has in force.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Duty {
    /// Not primary: nothing to guard.
    #[default]
    Disarmed,
    /// Paused by the operators: the right is not bounded by time.
    Held,
    /// PostgreSQL must be gone at this time.
    Armed(Time),
    /// A deadline came, and everything had been killed at this time.
    Fired(Time),
}

/// What a guard answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Answer {
    /// This is in force.
    InForce(Duty),
    /// The deadline is in force and leaves no time to kill: the killing begins at the next look at the clock.
    Late,
}

/// A guard; a new one knows nothing and guards nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Watch {
    duty: Duty,
    killing: bool,
}

impl Watch {
    /// What is in force.
    #[must_use]
    pub const fn duty(&self) -> Duty {
        self.duty
    }

    /// [`Self::look`] has said so, and [`Self::killed`] was not said yet.
    #[must_use]
    pub const fn is_killing(&self) -> bool {
        self.killing
    }

    /// When the clock is to be looked at even if no message comes.
    #[must_use]
    pub const fn wake_at(&self) -> Option<Time> {
        match self.duty {
            Duty::Armed(deadline) if !self.killing => Some(kills_at(deadline)),
            _ => None,
        }
    }

    /// Whether everything is to be killed now. Said once: [`Self::killed`] follows, however long it takes.
    #[must_use]
    pub fn look(&mut self, now: Time) -> bool {
        let kill = self.wake_at().is_some_and(|at| at <= now);
        self.killing |= kill;
        kill
    }

    /// Nothing of the server is left.
    pub const fn killed(&mut self, now: Time) {
        self.duty = Duty::Fired(now);
        self.killing = false;
    }

    /// Carries out a message. `None`: not yet; the clock comes before any message, so what is due is killed first.
    pub fn obey(&mut self, message: Message, now: Time) -> Option<Answer> {
        if self.killing || self.wake_at().is_some_and(|at| at <= now) {
            return None;
        }
        match message {
            Message::Arm(deadline) => {
                self.duty = Duty::Armed(deadline);
                if kills_at(deadline) <= now {
                    return Some(Answer::Late);
                }
            }
            Message::Disarm => self.duty = Duty::Disarmed,
            Message::Hold => self.duty = Duty::Held,
            Message::Status => {}
        }
        Some(Answer::InForce(self.duty))
    }

    /// Whether it may end: nothing depends on it.
    #[must_use]
    pub const fn may_quit(&self) -> bool {
        !matches!(self.duty, Duty::Armed(_))
    }
}

/// When the killing for `deadline` begins.
const fn kills_at(deadline: Time) -> Time {
    deadline.minus(KILL_MARGIN_MS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: Time = Time(10_000);

    fn armed(deadline: Time) -> Watch {
        let mut watch = Watch::default();
        assert_eq!(watch.obey(Message::Arm(deadline), NOW), Some(Answer::InForce(Duty::Armed(deadline))));
        watch
    }

    #[test]
    fn it_kills_a_tenth_of_a_second_before_the_deadline_and_once() {
        let mut watch = armed(NOW.plus(1_000));
        assert_eq!(watch.wake_at(), Some(NOW.plus(900)));
        assert!(!watch.look(NOW.plus(899)));
        assert!(watch.look(NOW.plus(900)));
        assert!(!watch.look(NOW.plus(5_000)), "it is being done");
        assert_eq!((watch.duty(), watch.wake_at(), watch.may_quit()), (Duty::Armed(NOW.plus(1_000)), None, false));
        watch.killed(NOW.plus(930));
        assert_eq!(watch.duty(), Duty::Fired(NOW.plus(930)));
        assert!(!watch.look(NOW.plus(5_000)) && watch.may_quit());
    }

    #[test]
    fn the_clock_comes_before_any_message() {
        let all = [Message::Arm(NOW.plus(9_000)), Message::Disarm, Message::Hold, Message::Status];
        for message in all {
            let mut watch = armed(NOW.plus(200));
            assert_eq!(watch.obey(message, NOW.plus(100)), None, "{message:?}: it is due, and was not looked at yet");
            assert!(watch.look(NOW.plus(100)));
            assert_eq!(watch.obey(message, NOW.plus(110)), None, "{message:?}: it is being killed");
            watch.killed(NOW.plus(120));
            assert!(watch.obey(message, NOW.plus(121)).is_some());
        }
    }

    #[test]
    fn a_deadline_that_leaves_no_time_to_kill_is_refused_and_obeyed() {
        for ago in [0, 50, 100] {
            let mut watch = Watch::default();
            assert_eq!(watch.obey(Message::Arm(NOW.plus(100).minus(ago)), NOW), Some(Answer::Late));
            assert!(watch.look(NOW), "{ago}");
        }
        assert!(Watch::default().obey(Message::Arm(Time(0)), Time(0)) == Some(Answer::Late));
        assert!(!armed(NOW.plus(101)).look(NOW));
    }

    #[test]
    fn what_is_disarmed_or_holds_still_kills_nobody() {
        for (message, duty) in [(Message::Disarm, Duty::Disarmed), (Message::Hold, Duty::Held)] {
            let mut watch = armed(NOW.plus(1_000));
            assert!(!watch.may_quit());
            assert_eq!(watch.obey(message, NOW), Some(Answer::InForce(duty)));
            assert_eq!(watch.obey(Message::Status, NOW), Some(Answer::InForce(duty)));
            assert!(!watch.look(NOW.plus(60_000)) && watch.may_quit());
        }
    }

    fn messages() -> impl Strategy<Value = Message> {
        prop_oneof![
            4 => (0_u64..20_000).prop_map(|at| Message::Arm(Time(at))),
            1 => Just(Message::Disarm),
            1 => Just(Message::Hold),
            2 => Just(Message::Status),
        ]
    }

    proptest! {
        /// Whatever it is told, and however late it looks: it kills when the newest deadline it took in demands it, and
        /// never else.
        #[test]
        fn it_kills_at_the_newest_deadline_and_never_else(
            steps in proptest::collection::vec((messages(), 0_u64..400, 0_u64..50), 1..60),
        ) {
            let (mut watch, mut now) = (Watch::default(), Time(0));
            let mut newest = None;
            for (message, passes, takes) in steps {
                now = now.plus(passes);
                let due = newest.is_some_and(|deadline: Time| deadline.minus(KILL_MARGIN_MS) <= now);
                prop_assert_eq!(watch.look(now), due);
                if due {
                    prop_assert_eq!(watch.obey(message, now), None);
                    now = now.plus(takes);
                    watch.killed(now);
                }
                prop_assert!(watch.obey(message, now).is_some());
                newest = match message {
                    Message::Arm(deadline) => Some(deadline),
                    Message::Disarm | Message::Hold => None,
                    Message::Status if due => None,
                    Message::Status => newest,
                };
            }
        }
    }
}
