//! openraft's asynchronous runtime: tasks, timers and clocks of the simulated host whose process asks.
//!
//! openraft takes its runtime from a type and wants everything to be `Send`, so the world is found through this thread. It is
//! never kept across an `await`. Channels and locks are Tokio's, which wake in the order of asking and need no Tokio runtime;
//! its watch does not, so that one is `openraft-rt-sim`'s.

use crate::world::{Event, W, World};
use futures::FutureExt;
use openraft::{AsyncRuntime, OptionalSend};
use openraft_rt_sim::SimWatch;
use openraft_rt_tokio::{TokioMpsc, TokioMutex, TokioOneshot};
use pin_project_lite::pin_project;
use rand::{SeedableRng, rngs::SmallRng};
use std::{
    cell::RefCell,
    fmt, io,
    ops::{Add, AddAssign, Sub, SubAssign},
    panic::AssertUnwindSafe,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
    time::Duration,
};
use tokio::sync::oneshot;

thread_local! {
    static WORLD: RefCell<Option<W>> = const { RefCell::new(None) };
}

/// While this lives, the thread's world is the one that it was made with.
#[derive(Debug)]
pub struct Entered(());

impl Entered {
    /// Enters `w`. One world at a time.
    #[must_use]
    pub fn new(w: &W) -> Self {
        WORLD.set(Some(Rc::clone(w)));
        Self(())
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        WORLD.take();
    }
}

/// The world of this thread.
pub(super) fn world() -> W {
    WORLD.with_borrow(Clone::clone).expect("a world was entered")
}

/// The host whose process is being polled.
fn host(w: &World) -> usize {
    World::host_of_process(w.exec.current_process().expect("openraft runs in a task"))
}

/// A moment on the clock of the host that asks, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostInstant(pub u64);

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

impl Add<Duration> for HostInstant {
    type Output = Self;
    fn add(self, more: Duration) -> Self {
        Self(self.0.saturating_add(micros(more)))
    }
}

impl AddAssign<Duration> for HostInstant {
    fn add_assign(&mut self, more: Duration) {
        *self = *self + more;
    }
}

impl Sub<Duration> for HostInstant {
    type Output = Self;
    fn sub(self, less: Duration) -> Self {
        Self(self.0.saturating_sub(micros(less)))
    }
}

impl SubAssign<Duration> for HostInstant {
    fn sub_assign(&mut self, less: Duration) {
        *self = *self - less;
    }
}

impl Sub for HostInstant {
    type Output = Duration;
    fn sub(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

impl openraft::Instant for HostInstant {
    fn now() -> Self {
        let w = world();
        Self(w.clock_micros(host(&w)))
    }
}

/// Until a moment on the clock of the host whose process waits.
#[derive(Debug)]
pub struct Sleep {
    until: HostInstant,
    /// When and by whom a wake-up was asked for.
    asked: Option<(u64, Waker)>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let w = world();
        let host = host(&w);
        if w.clock_micros(host) >= self.until.0 {
            return Poll::Ready(());
        }
        let asked = self.asked.as_ref();
        if asked.is_none_or(|(at, waker)| *at <= w.exec.now() || !waker.will_wake(context.waker())) {
            let at = w.true_time_micros(host, self.until.0);
            w.exec.at(at, Some(World::agent_process(host)), Event::Wake(context.waker().clone()));
            self.asked = Some((at, context.waker().clone()));
        }
        Poll::Pending
    }
}

/// It took too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elapsed;

impl fmt::Display for Elapsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("it took too long")
    }
}

pin_project! {
    /// A future and a limit.
    #[derive(Debug)]
    pub struct Limited<F> {
        #[pin]
        future: F,
        limit: Sleep,
    }
}

impl<F: Future> Future for Limited<F> {
    type Output = Result<F::Output, Elapsed>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Poll::Ready(output) = this.future.poll(context) {
            return Poll::Ready(Ok(output));
        }
        Pin::new(this.limit).poll(context).map(|()| Err(Elapsed))
    }
}

/// A task ended without a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// With its process.
    Killed,
    /// By a panic, which is a violation.
    Panicked,
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Killed => "the process was killed",
            Self::Panicked => "the task panicked",
        })
    }
}

/// Waits for a task.
#[derive(Debug)]
pub struct Handle<T>(oneshot::Receiver<Result<T, Ended>>);

impl<T> Future for Handle<T> {
    type Output = Result<T, Ended>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map(|result| result.unwrap_or(Err(Ended::Killed)))
    }
}

fn said(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default()
}

/// See the module.
#[derive(Debug)]
pub struct Runtime;

impl AsyncRuntime for Runtime {
    type JoinError = Ended;
    type JoinHandle<T: OptionalSend + 'static> = Handle<T>;
    type Sleep = Sleep;
    type Instant = HostInstant;
    type TimeoutError = Elapsed;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = Limited<T>;
    type ThreadLocalRng = SmallRng;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        let (tell, told) = oneshot::channel();
        let w = world();
        let host = host(&w);
        w.exec.spawn(World::agent_process(host), async move {
            let result = AssertUnwindSafe(future).catch_unwind().await.map_err(|panic| {
                world().check.borrow_mut().panicked(&world(), host, &said(&*panic));
                Ended::Panicked
            });
            // Nobody may be waiting.
            tell.send(result).ok();
        });
        Handle(told)
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        Self::sleep_until(<HostInstant as openraft::Instant>::now() + duration)
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        Sleep { until: deadline, asked: None }
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(duration: Duration, future: F) -> Self::Timeout<R, F> {
        Limited { future, limit: Self::sleep(duration) }
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(deadline: Self::Instant, future: F) -> Self::Timeout<R, F> {
        Limited { future, limit: Self::sleep_until(deadline) }
    }

    fn is_panic(error: &Self::JoinError) -> bool {
        *error == Ended::Panicked
    }

    fn thread_rng() -> Self::ThreadLocalRng {
        SmallRng::seed_from_u64(world().rng.bits())
    }

    type Mpsc = TokioMpsc;
    type Watch = SimWatch;
    type Oneshot = TokioOneshot;
    type Mutex<T: OptionalSend + 'static> = TokioMutex<T>;

    fn new(_threads: usize) -> Self {
        Self
    }

    fn block_on<F, T>(&mut self, _future: F) -> T
    where
        F: Future<Output = T>,
    {
        unreachable!("openraft only blocks in its own tests")
    }

    fn spawn_blocking<F, T>(_work: F) -> impl Future<Output = Result<T, io::Error>> + Send
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        std::future::ready(Err(io::Error::new(io::ErrorKind::Unsupported, "there is one thread")))
    }
}
