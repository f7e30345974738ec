//! The model of how PostgreSQL counts under `ANY 2`: can two walsenders of one member confirm a commit that only this
//! member has?
//!
//! Drawn is one member, b, whose connection breaks and comes back, and one commit. Nobody else has the commit, so it must
//! never be acknowledged: it would be as soon as two walsenders of b count. A walsender ends in two steps, as
//! PostgreSQL's do: it lets go of its slot before it leaves shared memory, and it counts in between (from knowledge of
//! PostgreSQL 15: `ReplicationSlotShmemExit` runs before shared memory is detached from, `WalSndKill` while it is; what
//! counts are entries with a process and in state streaming).

use stateright::{Checker, HasDiscoveries, Model, Property};

/// What keeps a member from being counted twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Nothing: one name, as it is for k = 1.
    OneName,
    /// One name, and a physical slot without which no walsender streams.
    Slot,
    /// The primary's agent makes it a condition of the name's place in the rule that one walsender of it is there, and
    /// no other of this member; a new name for each connection, but one that its walreceiver may use again.
    NewNames,
    /// The same, and a name lets in one connection: the member's agent takes the password away once it is used, and the
    /// name is counted only after that.
    NamesForOne,
}

/// A walsender of b and the connection it serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Sender {
    name: u8,
    phase: Phase,
    /// It was told that b has flushed the commit.
    flushed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Phase {
    Starting,
    Streaming,
    /// Its standby is gone, which it does not know yet.
    Deaf,
    /// It has let go of its slot.
    Ending,
    Gone,
}

/// The world.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Counting {
    senders: Vec<Sender>,
    /// The names that a walsender may hold to be in the rule: two while a reload is under way.
    listed: Vec<u8>,
    /// The newest name of b, and whether it still lets in a connection.
    name: u8,
    lets_in: bool,
    has_commit: bool,
}

/// The steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The walreceiver connects.
    Connect,
    /// The walsender of that connection begins to stream.
    Start(usize),
    /// The connection breaks: the walreceiver ends, the walsender does not notice.
    Break(usize),
    /// b receives the commit and flushes it.
    Flush,
    /// The walsender hears of it.
    Reply(usize),
    /// The walsender ends: it has let go of its slot.
    LetsGo(usize),
    /// It leaves shared memory.
    Leaves(usize),
    /// b's agent gives its walreceiver another name.
    Rename,
    /// b's agent takes the password away.
    Close,
    /// The primary's agent puts the newest name into the rule.
    List,
    /// It has proven that no walsender holds the old one.
    Proven,
}

/// The model with one way.
#[derive(Clone, Copy, Debug)]
pub struct Counts(pub Way);

const CONNECTIONS: usize = 4;
/// The property.
pub const TWICE: &str = "one member is counted once";
const COUNTED: &str = "a connection that came back is counted";

impl Counts {
    const fn renames(self) -> bool {
        matches!(self.0, Way::NewNames | Way::NamesForOne)
    }
}

impl Counting {
    fn connected(&self) -> bool {
        self.senders.iter().any(|sender| matches!(sender.phase, Phase::Starting | Phase::Streaming))
    }

    fn counted(&self) -> usize {
        let counts = |sender: &&Sender| {
            let there = matches!(sender.phase, Phase::Streaming | Phase::Deaf | Phase::Ending);
            there && sender.flushed && self.listed.contains(&sender.name)
        };
        self.senders.iter().filter(counts).count()
    }

    /// One walsender of the newest name is there, and none of any other.
    fn alone(&self) -> bool {
        let mut there = self.senders.iter().filter(|sender| sender.phase != Phase::Gone);
        there.next().is_some_and(|one| one.name == self.name && one.phase == Phase::Streaming) && there.next().is_none()
    }
}

impl Model for Counts {
    type State = Counting;
    type Action = Step;

    fn init_states(&self) -> Vec<Counting> {
        // Where names are listed only once somebody streams under them, the first one listed is nobody's.
        let name = u8::from(self.renames());
        vec![Counting { listed: vec![0], name, lets_in: true, ..Counting::default() }]
    }

    fn actions(&self, world: &Counting, steps: &mut Vec<Step>) {
        steps.extend([Step::Connect, Step::Flush, Step::Rename, Step::Close, Step::List, Step::Proven]);
        for number in 0..world.senders.len() {
            let each = [Step::Start, Step::Break, Step::Reply, Step::LetsGo, Step::Leaves];
            steps.extend(each.map(|step| step(number)));
        }
    }

    fn next_state(&self, world: &Counting, step: Step) -> Option<Counting> {
        let mut after = world.clone();
        let sender = |number: usize| &world.senders[number];
        let allowed = match step {
            Step::Connect => {
                after.senders.push(Sender { name: world.name, phase: Phase::Starting, flushed: false });
                world.lets_in && !world.connected() && world.senders.len() < CONNECTIONS
            }
            Step::Start(number) => {
                after.senders[number].phase = Phase::Streaming;
                let taken = world.senders.iter().any(|s| matches!(s.phase, Phase::Streaming | Phase::Deaf));
                sender(number).phase == Phase::Starting && !(self.0 == Way::Slot && taken)
            }
            Step::Break(number) => {
                let started = sender(number).phase == Phase::Streaming;
                after.senders[number].phase = if started { Phase::Deaf } else { Phase::Gone };
                started || sender(number).phase == Phase::Starting
            }
            Step::Flush => {
                after.has_commit = true;
                !world.has_commit && world.senders.iter().any(|sender| sender.phase == Phase::Streaming)
            }
            Step::Reply(number) => {
                after.senders[number].flushed = true;
                // What b sent before the connection broke may still arrive.
                let heard = matches!(sender(number).phase, Phase::Streaming | Phase::Deaf);
                heard && world.has_commit && !sender(number).flushed
            }
            Step::LetsGo(number) => {
                after.senders[number].phase = Phase::Ending;
                sender(number).phase == Phase::Deaf
            }
            Step::Leaves(number) => {
                after.senders[number] = Sender { phase: Phase::Gone, flushed: false, ..*sender(number) };
                sender(number).phase == Phase::Ending
            }
            Step::Rename => {
                (after.name, after.lets_in) = (world.name + 1, true);
                self.renames() && !world.connected() && usize::from(world.name) < CONNECTIONS
            }
            Step::Close => {
                after.lets_in = false;
                self.0 == Way::NamesForOne && world.lets_in
            }
            Step::List => {
                after.listed.push(world.name);
                let closed = self.0 == Way::NewNames || !world.lets_in;
                self.renames()
                    && closed
                    && world.alone()
                    && !world.listed.contains(&world.name)
                    && world.listed.len() < 2
            }
            Step::Proven => {
                after.listed.remove(0);
                world.listed.len() > 1
            }
        };
        allowed.then_some(after)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(TWICE, |_, world: &Counting| world.counted() < 2),
            Property::sometimes(COUNTED, |_, world: &Counting| {
                world.senders.len() > 1 && world.senders.last().is_some_and(|s| s.flushed) && world.counted() == 1
            }),
        ]
    }
}

/// The shortest history in which a member is counted twice; `None` if there is none. What must happen sometimes does.
///
/// # Panics
/// If a connection that came back is never counted: then nothing was searched.
#[must_use]
pub fn history(way: Way) -> Option<Vec<Step>> {
    let search = |depth: usize| {
        let checker = Counts(way).checker().finish_when(HasDiscoveries::AnyFailures);
        // 0: as deep as there is something to be seen.
        checker.target_max_depth(depth).spawn_bfs().join().discoveries()
    };
    let mut whole = search(0);
    if whole.remove(TWICE).is_none() {
        assert!(whole.contains_key(COUNTED), "{way:?}: nobody is ever counted");
        return None;
    }
    // The checker looks at many states before it stops, and keeps the last history that it met.
    (1..).find_map(|depth| search(depth).remove(TWICE).map(stateright::Path::into_actions))
}

#[cfg(test)]
mod tests {
    use super::{Step::*, *};

    #[test]
    fn with_one_name_a_standby_that_comes_back_is_counted_twice() {
        let found = history(Way::OneName).unwrap();
        assert_eq!(found.len(), 8, "{found:?}");
        assert!(!found.iter().any(|step| matches!(step, LetsGo(_))), "{found:?}");
    }

    /// The instant in which an ending walsender has let go of its slot: why slots alone do not allow k of 2.
    #[test]
    fn with_a_slot_it_is_counted_twice_beside_one_that_ends() {
        let found = history(Way::Slot).unwrap();
        assert_eq!(found.len(), 9, "{found:?}");
        let at = |wanted: Step| found.iter().position(|step| *step == wanted);
        assert!(at(LetsGo(0)) < at(Start(1)) && at(LetsGo(0)).is_some() && at(Leaves(0)).is_none(), "{found:?}");
    }

    /// That the newest connection was alone when its name was listed does not help if its walreceiver may come again.
    #[test]
    fn with_new_names_that_can_be_used_again_it_is_counted_twice() {
        let found = history(Way::NewNames).unwrap();
        assert!(found.iter().filter(|step| matches!(step, Connect)).count() >= 2, "{found:?}");
    }

    #[test]
    fn names_that_let_in_one_connection_close_it() {
        assert_eq!(history(Way::NamesForOne), None);
    }
}
