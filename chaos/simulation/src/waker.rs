//! Wakers for futures that know nothing of this executor: what they wake is noted, and polled in that order.

use crate::exec::TaskId;
use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Wake, Waker},
};

/// Tasks whose wakers were used.
#[derive(Debug, Default)]
pub struct Woken {
    /// Whether there are any: spares the lock where nobody uses wakers.
    any: AtomicBool,
    tasks: Mutex<Vec<TaskId>>,
}

impl Woken {
    /// Those that were noted since this was asked last.
    pub fn take(&self) -> Vec<TaskId> {
        if !self.any.swap(false, Ordering::Relaxed) {
            return Vec::new();
        }
        std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

struct TaskWaker {
    task: TaskId,
    woken: Arc<Woken>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.tasks.lock().unwrap_or_else(PoisonError::into_inner).push(self.task);
        self.woken.any.store(true, Ordering::Relaxed);
    }
}

/// The waker of `task`.
#[must_use]
pub fn waker_of(woken: &Arc<Woken>, task: TaskId) -> Waker {
    Waker::from(Arc::new(TaskWaker { task, woken: Arc::clone(woken) }))
}
