//! How tasks tell each other: news that is kept once, an end, a version that goes up.

use crate::exec::{Exec, TaskId};
use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    task::Poll,
};

/// Wakes tasks that wait for news; news that nobody waits for is kept once.
#[derive(Debug, Default)]
pub struct Notify {
    told: Cell<bool>,
    waiting: RefCell<Vec<TaskId>>,
}

impl Notify {
    /// Tells.
    pub fn notify<E>(&self, exec: &Exec<E>) {
        self.told.set(true);
        for task in self.waiting.borrow_mut().drain(..) {
            exec.wake_at(exec.now(), task);
        }
    }

    /// Takes the news, if there is any.
    pub fn take(&self) -> bool {
        self.told.replace(false)
    }

    /// Whether there is news; if not, the current task will be woken by it.
    pub fn peek<E>(&self, exec: &Exec<E>) -> bool {
        if self.told.get() {
            return true;
        }
        let _ = self.poll(exec);
        false
    }

    /// Ready once told; takes the news.
    pub fn poll<E>(&self, exec: &Exec<E>) -> Poll<()> {
        if self.told.replace(false) {
            return Poll::Ready(());
        }
        if let Some(task) = exec.current() {
            let mut waiting = self.waiting.borrow_mut();
            if !waiting.contains(&task) {
                waiting.push(task);
            }
        }
        Poll::Pending
    }
}

/// An end that somebody may wait for.
#[derive(Debug, Default)]
pub struct Done {
    done: Cell<bool>,
    notify: Notify,
}

impl Done {
    /// Shared by the one that ends and those that wait.
    #[must_use]
    pub fn new() -> Rc<Self> {
        Rc::default()
    }

    /// It has ended.
    pub fn end<E>(&self, exec: &Exec<E>) {
        self.done.set(true);
        self.notify.notify(exec);
    }

    /// Whether it has.
    pub fn is_done(&self) -> bool {
        self.done.get()
    }

    /// Ready once it has.
    pub fn poll<E>(&self, exec: &Exec<E>) -> Poll<()> {
        if self.done.get() {
            return Poll::Ready(());
        }
        let _ = self.notify.poll(exec);
        Poll::Pending
    }
}

/// A version that goes up, for any number of tasks that wait for the next one.
#[derive(Debug, Default)]
pub struct Watch {
    version: Cell<u64>,
    waiting: RefCell<Vec<TaskId>>,
}

impl Watch {
    /// The version now.
    pub fn version(&self) -> u64 {
        self.version.get()
    }

    /// The next version.
    pub fn bump<E>(&self, exec: &Exec<E>) {
        self.version.set(self.version.get() + 1);
        for task in self.waiting.borrow_mut().drain(..) {
            exec.wake_at(exec.now(), task);
        }
    }

    /// Ready when the version is no longer `seen`, which is then set to it.
    pub fn poll<E>(&self, exec: &Exec<E>, seen: &mut u64) -> Poll<()> {
        if *seen != self.version.get() {
            *seen = self.version.get();
            return Poll::Ready(());
        }
        if let Some(task) = exec.current() {
            let mut waiting = self.waiting.borrow_mut();
            if !waiting.contains(&task) {
                waiting.push(task);
            }
        }
        Poll::Pending
    }
}
