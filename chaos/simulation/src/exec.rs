//! Virtual time and the tasks that live in it: a queue of events, polled in one thread, in one order.
//!
//! Agents and controllers are written as `async` functions like the real ones, so that every `await` is a place where
//! a crash can cut them off. A task belongs to a simulated process: a frozen process's events wait until it is thawed,
//! a killed one's tasks are dropped where they stand, without running anything more.

use std::{
    cell::{Cell, RefCell},
    cmp::{Ordering, Reverse},
    collections::BinaryHeap,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Waker},
};

use crate::waker::{Woken, waker_of};

pub use crate::signal::{Done, Notify, Watch};

/// True time since the beginning of the simulation, in microseconds.
pub type Micros = u64;

/// A simulated process: its number in the executor.
pub type ProcessId = usize;

/// A task; a stale one names nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TaskId {
    slot: usize,
    generation: u64,
}

/// What is due: a task, or an event of the world outside of tasks.
#[derive(Clone, Copy)]
enum Due {
    Task(TaskId),
    /// For the world, and for the process that must not be frozen for it to happen. The event lies in [`Exec::events`]:
    /// the queue moves its entries about, and is where most of the time goes.
    World(Option<ProcessId>, usize),
}

/// Ordered by time, then by the order in which they were asked for.
#[derive(Clone, Copy)]
struct Entry {
    at: Micros,
    order: u64,
    due: Due,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// Events that are due, in places that are used again.
struct Events<E> {
    places: Vec<Option<E>>,
    free: Vec<usize>,
}

impl<E> Events<E> {
    fn keep(&mut self, event: E) -> usize {
        let place = self.free.pop().unwrap_or_else(|| {
            self.places.push(None);
            self.places.len() - 1
        });
        self.places[place] = Some(event);
        place
    }

    fn take(&mut self, place: usize) -> Option<E> {
        self.free.push(place);
        self.places[place].take()
    }
}

type Work = Pin<Box<dyn Future<Output = ()>>>;

struct Slot {
    generation: u64,
    process: ProcessId,
    alive: bool,
    work: Option<Work>,
    waker: Waker,
    /// It was woken and has not been polled since.
    woken: bool,
}

impl Default for Slot {
    fn default() -> Self {
        Self { generation: 0, process: 0, alive: false, work: None, waker: Waker::noop().clone(), woken: false }
    }
}

#[derive(Default)]
struct Process {
    /// Stopped so many times by itself.
    stopped: u32,
    /// Stopped so many times with its host.
    held: u32,
    parked: Vec<Due>,
}

impl Process {
    const fn is_frozen(&self) -> bool {
        self.stopped > 0 || self.held > 0
    }
}

/// The queue of events and the tasks.
pub struct Exec<E> {
    now: Cell<Micros>,
    order: Cell<u64>,
    queue: RefCell<BinaryHeap<Reverse<Entry>>>,
    events: RefCell<Events<E>>,
    slots: RefCell<Vec<Slot>>,
    free: RefCell<Vec<usize>>,
    current: Cell<Option<TaskId>>,
    processes: RefCell<Vec<Process>>,
    /// Tasks whose wakers were used; futures of this crate ask for their turns by [`Self::wake_at`] instead.
    woken: Arc<Woken>,
    /// Folded over everything that happened: the trace hash.
    pub hash: Cell<u64>,
    /// Events handled so far.
    pub handled: Cell<u64>,
}

impl<E> Exec<E> {
    /// An empty queue at time 0 for `processes` processes.
    #[must_use]
    pub fn new(processes: usize) -> Self {
        Self {
            now: Cell::new(0),
            order: Cell::new(0),
            queue: RefCell::default(),
            slots: RefCell::default(),
            free: RefCell::default(),
            current: Cell::new(None),
            events: RefCell::new(Events { places: Vec::new(), free: Vec::new() }),
            processes: RefCell::new((0..processes).map(|_| Process::default()).collect()),
            woken: Arc::default(),
            hash: Cell::new(0xCBF2_9CE4_8422_2325),
            handled: Cell::new(0),
        }
    }

    /// True time.
    pub fn now(&self) -> Micros {
        self.now.get()
    }

    /// Mixes `value` into the trace hash.
    pub fn mix(&self, value: u64) {
        let mut hash = self.hash.get() ^ value;
        hash = hash.wrapping_mul(0x0000_0100_0000_01B3);
        self.hash.set(hash ^ (hash >> 29));
    }

    fn push(&self, at: Micros, due: Due) {
        let order = self.order.get() + 1;
        self.order.set(order);
        self.queue.borrow_mut().push(Reverse(Entry { at: at.max(self.now()), order, due }));
    }

    /// Lets `event` happen at `at`, as soon as `process` is not frozen.
    pub fn at(&self, at: Micros, process: Option<ProcessId>, event: E) {
        let place = self.events.borrow_mut().keep(event);
        self.push(at, Due::World(process, place));
    }

    /// Polls `task` at `at`.
    pub fn wake_at(&self, at: Micros, task: TaskId) {
        self.push(at, Due::Task(task));
    }

    /// The task that is being polled.
    pub fn current(&self) -> Option<TaskId> {
        self.current.get()
    }

    /// The process of the task that is being polled.
    pub fn current_process(&self) -> Option<ProcessId> {
        self.current.get().map(|task| self.slots.borrow()[task.slot].process)
    }

    /// Starts `work` as a task of `process`.
    pub fn spawn(&self, process: ProcessId, work: impl Future<Output = ()> + 'static) -> TaskId {
        let mut slots = self.slots.borrow_mut();
        let slot = self.free.borrow_mut().pop().unwrap_or_else(|| {
            slots.push(Slot::default());
            slots.len() - 1
        });
        let place = &mut slots[slot];
        place.generation += 1;
        place.process = process;
        place.alive = true;
        place.work = Some(Box::pin(work));
        let task = TaskId { slot, generation: place.generation };
        place.waker = waker_of(&self.woken, task);
        place.woken = false;
        drop(slots);
        self.push(self.now(), Due::Task(task));
        task
    }

    /// Whether `task` has not ended.
    pub fn is_alive(&self, task: TaskId) -> bool {
        self.slots.borrow().get(task.slot).is_some_and(|slot| slot.alive && slot.generation == task.generation)
    }

    /// Drops `task` where it stands.
    pub fn abort(&self, task: TaskId) {
        let mut slots = self.slots.borrow_mut();
        let Some(slot) = slots.get_mut(task.slot).filter(|slot| slot.alive && slot.generation == task.generation)
        else {
            return;
        };
        slot.alive = false;
        let work = slot.work.take();
        drop(slots);
        if work.is_some() {
            self.free.borrow_mut().push(task.slot);
        }
        drop(work);
    }

    /// Drops every task of `process` and everything parked for it.
    pub fn kill(&self, process: ProcessId) {
        let tasks: Vec<TaskId> = {
            let slots = self.slots.borrow();
            let of = slots.iter().enumerate().filter(|(_, slot)| slot.alive && slot.process == process);
            of.map(|(slot, place)| TaskId { slot, generation: place.generation }).collect()
        };
        for task in tasks {
            self.abort(task);
        }
        let mut processes = self.processes.borrow_mut();
        processes[process].stopped = 0;
        let parked = std::mem::take(&mut processes[process].parked);
        drop(processes);
        for due in parked {
            if let Due::World(_, place) = due {
                let event = self.events.borrow_mut().take(place);
                drop(event);
            }
        }
    }

    /// Whether `process` is frozen, by itself or with its host.
    pub fn is_frozen(&self, process: ProcessId) -> bool {
        self.processes.borrow()[process].is_frozen()
    }

    /// Whether `process` is frozen with its host.
    pub fn is_held(&self, process: ProcessId) -> bool {
        self.processes.borrow()[process].held > 0
    }

    /// Freezes `process`: what is due for it waits. A second time, it needs to be thawed twice.
    pub fn freeze(&self, process: ProcessId) {
        self.processes.borrow_mut()[process].stopped += 1;
    }

    /// Freezes `process` with its host.
    pub fn hold(&self, process: ProcessId) {
        self.processes.borrow_mut()[process].held += 1;
    }

    /// Thaws `process`: what was due meanwhile happens now, in its old order, unless its host is frozen.
    pub fn thaw(&self, process: ProcessId) {
        let stopped = self.processes.borrow()[process].stopped;
        self.processes.borrow_mut()[process].stopped = stopped.saturating_sub(1);
        self.unpark(process);
    }

    /// Thaws `process` with its host.
    pub fn release(&self, process: ProcessId) {
        let held = self.processes.borrow()[process].held;
        self.processes.borrow_mut()[process].held = held.saturating_sub(1);
        self.unpark(process);
    }

    /// Thaws `process`, however often it was frozen.
    pub fn thaw_for_good(&self, process: ProcessId) {
        let mut processes = self.processes.borrow_mut();
        processes[process].stopped = 0;
        processes[process].held = 0;
        drop(processes);
        self.unpark(process);
    }

    fn unpark(&self, process: ProcessId) {
        let parked = {
            let mut processes = self.processes.borrow_mut();
            if processes[process].is_frozen() {
                return;
            }
            std::mem::take(&mut processes[process].parked)
        };
        for due in parked {
            self.push(self.now(), due);
        }
    }

    /// Drops everything: tasks hold the world that holds this executor.
    pub fn clear(&self) {
        let slots = std::mem::take(&mut *self.slots.borrow_mut());
        drop(slots);
        self.queue.borrow_mut().clear();
        let events = std::mem::replace(&mut *self.events.borrow_mut(), Events { places: Vec::new(), free: Vec::new() });
        drop(events);
        self.processes.borrow_mut().clear();
    }

    /// Whether `process` is frozen, so that `due` now waits for it.
    fn parked(&self, process: ProcessId, due: Due) -> bool {
        let mut processes = self.processes.borrow_mut();
        match processes.get_mut(process) {
            Some(place) if place.is_frozen() => {
                place.parked.push(due);
                true
            }
            _ => false,
        }
    }

    /// Lets those be polled now whose wakers were used, in that order.
    fn take_woken(&self) {
        for task in self.woken.take() {
            if self.is_alive(task) && !std::mem::replace(&mut self.slots.borrow_mut()[task.slot].woken, true) {
                self.push(self.now(), Due::Task(task));
            }
        }
    }

    /// Handles what is due until `until`; world events are returned to the caller, one at a time.
    pub fn next(&self, until: Micros) -> Option<E> {
        loop {
            self.take_woken();
            let Reverse(Entry { at, order, due }) = {
                let mut queue = self.queue.borrow_mut();
                if queue.peek().is_none_or(|Reverse(entry)| entry.at > until) {
                    self.now.set(until.max(self.now()));
                    return None;
                }
                queue.pop()?
            };
            self.now.set(at);
            self.handled.set(self.handled.get() + 1);
            self.mix(at ^ order.rotate_left(32));
            match due {
                Due::Task(task) => {
                    if !self.is_alive(task) {
                        continue;
                    }
                    let process = self.slots.borrow()[task.slot].process;
                    if !self.parked(process, due) {
                        self.poll(task);
                    }
                }
                Due::World(process, place) => {
                    if !process.is_some_and(|process| self.parked(process, due)) {
                        return self.events.borrow_mut().take(place);
                    }
                }
            }
        }
    }

    fn poll(&self, task: TaskId) {
        let (work, waker) = {
            let mut slots = self.slots.borrow_mut();
            let slot = &mut slots[task.slot];
            slot.woken = false;
            (slot.work.take(), slot.waker.clone())
        };
        let Some(mut work) = work else { return };
        self.current.set(Some(task));
        let done = work.as_mut().poll(&mut Context::from_waker(&waker)).is_ready();
        self.current.set(None);
        let mut slots = self.slots.borrow_mut();
        let slot = &mut slots[task.slot];
        if !done && slot.alive && slot.generation == task.generation {
            slot.work = Some(work);
            return;
        }
        slot.alive = false;
        drop(slots);
        self.free.borrow_mut().push(task.slot);
        drop(work);
    }
}
