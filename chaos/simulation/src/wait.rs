//! What tasks can wait for.

use crate::{
    exec::{Done, Micros, Notify, Watch},
    world::World,
};
use pgvigil_core::time::Time;
use std::{
    future::{Future, poll_fn},
    pin::pin,
    task::Poll,
};

/// Two things at once, until both are done.
pub async fn both<A, B>(a: impl Future<Output = A>, b: impl Future<Output = B>) -> (A, B) {
    let (mut a, mut b) = (pin!(a), pin!(b));
    let (mut first, mut second) = (None, None);
    poll_fn(|context| {
        if first.is_none()
            && let Poll::Ready(done) = a.as_mut().poll(context)
        {
            first = Some(done);
        }
        if second.is_none()
            && let Poll::Ready(done) = b.as_mut().poll(context)
        {
            second = Some(done);
        }
        match (first.take(), second.take()) {
            (Some(a), Some(b)) => Poll::Ready((a, b)),
            (a, b) => {
                (first, second) = (a, b);
                Poll::Pending
            }
        }
    })
    .await
}

impl World {
    /// Until true time `at`.
    pub async fn until(&self, at: Micros) {
        let mut asked = false;
        poll_fn(|_| {
            if self.exec.now() >= at {
                return Poll::Ready(());
            }
            self.ask(at, &mut asked);
            Poll::Pending
        })
        .await;
    }

    /// Has the current task polled at `at`, once.
    pub fn ask(&self, at: Micros, asked: &mut bool) {
        if !std::mem::replace(asked, true)
            && let Some(task) = self.exec.current()
        {
            self.exec.wake_at(at, task);
        }
    }

    /// For a while between two bounds, in true microseconds.
    pub async fn pause(&self, least: Micros, most: Micros) {
        let wait = self.rng.range(least, most);
        self.until(self.exec.now() + wait).await;
    }

    /// Until the disk of `host` has taken a write.
    pub async fn fsync(&self, host: usize) {
        self.until(self.exec.now() + self.disk_delay(host)).await;
        // A stall that began meanwhile.
        while self.hosts[host].disk.borrow().stalled_until > self.exec.now() {
            let until = self.hosts[host].disk.borrow().stalled_until;
            self.until(until).await;
        }
    }

    /// For `ms` on the clock of `host`, and a little more as timers do.
    pub async fn sleep(&self, host: usize, ms: u64) {
        let at = self.true_time(host, Time(self.now(host).0 + ms));
        self.until(at + self.rng.range(0, 300)).await;
    }

    /// Until `at` on the clock of `host`, or told; `true` by the clock.
    pub async fn until_or_told(&self, host: usize, at: Time, notify: &Notify) -> bool {
        let at = self.true_time(host, at) + self.rng.range(0, 300);
        let mut asked = false;
        poll_fn(|_| {
            if notify.poll(&self.exec).is_ready() {
                return Poll::Ready(false);
            }
            if self.exec.now() >= at {
                return Poll::Ready(true);
            }
            self.ask(at, &mut asked);
            Poll::Pending
        })
        .await
    }

    /// Until told.
    pub async fn told(&self, notify: &Notify) {
        poll_fn(|_| notify.poll(&self.exec)).await;
    }

    /// Until ended.
    pub async fn ended(&self, done: &Done) {
        poll_fn(|_| done.poll(&self.exec)).await;
    }

    /// Until the version has moved.
    pub async fn changed(&self, watch: &Watch, seen: &mut u64) {
        poll_fn(|_| watch.poll(&self.exec, seen)).await;
    }

    /// `work`, for at most `ms` on the clock of `host`.
    pub async fn within<T>(&self, host: usize, ms: u64, work: impl Future<Output = T>) -> Option<T> {
        let at = self.true_time(host, Time(self.now(host).0 + ms));
        let mut asked = false;
        let mut work = pin!(work);
        poll_fn(|context| {
            if let Poll::Ready(result) = work.as_mut().poll(context) {
                return Poll::Ready(Some(result));
            }
            if self.exec.now() >= at {
                return Poll::Ready(None);
            }
            self.ask(at, &mut asked);
            Poll::Pending
        })
        .await
    }
}

impl World {
    /// Until `at` on the clock of `host`, or until one of two has news; the news stays there.
    pub async fn either(&self, host: usize, at: Time, a: &Notify, b: &Notify) {
        let at = self.true_time(host, at) + self.rng.range(0, 300);
        let mut asked = false;
        poll_fn(|_| {
            let first = a.peek(&self.exec);
            let second = b.peek(&self.exec);
            if first || second || self.exec.now() >= at {
                b.take();
                return Poll::Ready(());
            }
            self.ask(at, &mut asked);
            Poll::Pending
        })
        .await;
    }

    /// Takes news without waiting.
    #[must_use]
    pub fn take_told(&self, notify: &Notify) -> bool {
        notify.take()
    }
}
