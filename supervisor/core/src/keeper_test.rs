//! Goal: no right without a guard that has confirmed its end, none for a reign that is over, and no longer one than was
//! granted. Method: each branch by itself; then random histories against a guard, with fences in between.

use super::*;
use crate::{
    settings::Settings,
    testing::{World, agent::running},
};
use proptest::prelude::*;

const LEASE_MS: u64 = 1_300;
const HEARTBEAT_MS: u64 = 250;

/// A primary of epoch 1 with its keeper, and the time.
struct Bench {
    keeper: Keeper,
    agreed: ClusterState,
    local: Local,
    guarded: Guarded,
    now: Time,
}

impl Bench {
    fn new() -> Self {
        let world = World::serving(3, 1);
        let local = Local { right: Right::default(), ..world.primary() };
        let mut agreed = world.cluster().clone();
        agreed.settings = Settings { lease_ms: LEASE_MS, heartbeat_ms: HEARTBEAT_MS, ..agreed.settings };
        Self { keeper: Keeper::default(), agreed, local, guarded: Guarded::default(), now: world.now }
    }

    fn hear(&mut self, news: &[Renewal]) -> Step {
        let (news, due) = (news.iter().copied(), news.is_empty());
        self.keeper.hear(news, due, &self.agreed, &mut self.local, &self.guarded, self.now)
    }

    fn told(&mut self, answer: Option<Duty>) -> Next {
        self.keeper.told(answer, &mut self.local, &mut self.guarded)
    }

    /// Heard, told and confirmed.
    fn granted(sent_at: Time) -> Self {
        let mut bench = Self::new();
        let until = sent_at.plus(LEASE_MS);
        assert_eq!(bench.hear(&[lease(1, sent_at)]), Step::Tell(Order::Arm(until)));
        assert_eq!(bench.told(Some(Duty::Armed(until))), Next::Watched);
        bench
    }

    fn until(&self) -> Option<Time> {
        self.local.right.until(&self.agreed.settings)
    }
}

const fn lease(epoch: u64, sent_at: Time) -> Renewal {
    Renewal::Lease { epoch: Epoch(epoch), sent_at }
}

const fn canary(epoch: u64, began_at: Time) -> Renewal {
    Renewal::Canary { epoch: Epoch(epoch), began_at }
}

const STOPPED: LocalPostgres = LocalPostgres::Stopped { crashed: true };

#[test]
fn the_right_is_longer_only_once_the_guard_has_confirmed_it() {
    let mut bench = Bench::new();
    let at = bench.now.minus(7);
    let until = at.plus(LEASE_MS);
    assert_eq!(bench.hear(&[lease(1, at)]), Step::Tell(Order::Arm(until)));
    assert_eq!(bench.until(), None);
    for (answer, next) in [
        (None, Next::Start),
        // Another deadline than the one it was told.
        (Some(Duty::Armed(until.plus(1))), Next::Again),
        (Some(Duty::Disarmed), Next::GivenUp),
        (Some(Duty::Armed(until)), Next::GivenUp),
    ] {
        assert_eq!(bench.told(answer), next);
        assert_eq!(bench.until(), None);
        assert!(!bench.guarded.confirmed);
    }
    let _ = bench.hear(&[canary(1, at)]);
    assert_eq!(bench.told(Some(Duty::Armed(until))), Next::Watched);
    assert_eq!(bench.guarded, Guarded { until: Some(until), confirmed: true, held: false });
    // The lease that was never confirmed is forgotten: no right before it is told.
    assert_eq!(bench.local.right, Right { renewed_sent_at: None, canary_began_at: Some(at) });
}

#[test]
fn what_is_granted_for_another_reign_or_after_the_end_counts_for_nothing() {
    let mut bench = Bench::granted(Time(100_000));
    let right = bench.local.right;
    bench.now = bench.now.plus(900);
    assert_eq!(bench.hear(&[lease(2, bench.now), canary(2, bench.now)]), Step::Wait);
    bench.local.postgres = running(true, 1);
    let _ = bench.hear(&[lease(1, bench.now), canary(1, bench.now)]);
    assert_eq!(bench.keeper.pending, right);
    assert_eq!(bench.hear(&[Renewal::Revoked]), Step::Tell(Order::Disarm));
    assert_eq!(bench.told(Some(Duty::Disarmed)), Next::Watched);
    assert_eq!((bench.local.right, bench.guarded.until), (Right::default(), None));
}

#[test]
fn the_guard_hears_of_each_half_heartbeat_and_of_every_second() {
    let mut bench = Bench::granted(Time(100_000));
    let from = bench.now;
    bench.now = bench.now.plus(300);
    assert_eq!(bench.hear(&[canary(1, from.plus(HEARTBEAT_MS / 2 - 1))]), Step::Wait);
    assert_eq!(bench.local.right.canary_began_at, None);
    // What was granted meanwhile is told with the next.
    let until = from.plus(HEARTBEAT_MS / 2 - 1 + LEASE_MS);
    assert_eq!(bench.hear(&[]), Step::Tell(Order::Arm(until)));
    assert_eq!(bench.told(Some(Duty::Armed(until))), Next::Watched);
    assert_eq!(bench.until(), Some(until));
    // Neither an unconfirmed guard waits for half a heartbeat, nor one that holds still.
    for guarded in [Guarded { confirmed: false, ..bench.guarded }, Guarded { held: true, ..bench.guarded }] {
        bench.guarded = guarded;
        assert!(matches!(bench.hear(&[lease(1, from.plus(125))]), Step::Tell(Order::Arm(_))), "{guarded:?}");
    }
}

#[test]
fn a_right_that_is_over_is_no_order_for_the_guard() {
    let mut bench = Bench::granted(Time(100_000));
    bench.now = bench.now.plus(LEASE_MS);
    assert_eq!(bench.hear(&[]), Step::Fence);
    assert_eq!(bench.until(), Some(bench.now), "the worker sees that it is over");
    // It ended by itself and the reign is over: told of the deadline for ever, the guard would never be disarmed.
    bench.local.postgres = STOPPED;
    assert_eq!(bench.hear(&[]), Step::Tell(Order::Disarm));
    assert_eq!(bench.told(Some(Duty::Disarmed)), Next::Watched);
    assert_eq!((bench.until(), bench.guarded.until), (None, None));
}

#[test]
fn a_pause_holds_the_guard_and_the_end_of_one_arms_it_at_once() {
    let mut bench = Bench::granted(Time(100_000));
    bench.agreed.paused = Some("maintenance".to_owned());
    bench.now = bench.now.plus(60_000);
    assert_eq!(bench.hear(&[]), Step::Tell(Order::Hold), "also when the right is over");
    assert_eq!(bench.told(Some(Duty::Held)), Next::Watched);
    assert!(!bench.guarded.would_kill_in_time());
    bench.agreed.paused = None;
    let until = bench.now.plus(LEASE_MS);
    assert_eq!(bench.hear(&[lease(1, bench.now)]), Step::Tell(Order::Arm(until)));
}

#[test]
fn a_server_without_a_right_is_stopped_unless_its_guard_has_a_deadline() {
    for (duty, next) in [
        (Duty::Armed(Time(100_500)), Next::Watched),
        (Duty::Held, Next::Watched),
        (Duty::Disarmed, Next::Unwatched { stop: true }),
        (Duty::Fired(Time(99_000)), Next::Unwatched { stop: true }),
    ] {
        let mut bench = Bench::new();
        assert_eq!(bench.hear(&[]), Step::Tell(Order::Keep { or_stop: true }));
        assert_eq!(bench.told(Some(duty)), next, "{duty:?}");
        let stops = next != Next::Watched;
        assert_eq!(bench.until(), stops.then_some(Time(LEASE_MS)), "{duty:?}");
        assert_eq!(bench.guarded.confirmed, !stops, "{duty:?}");
    }
}

#[test]
fn one_that_is_starting_has_a_moment_before_it_is_stopped_for_want_of_a_deadline() {
    let mut bench = Bench::new();
    bench.local.postgres = LocalPostgres::Starting;
    bench.local.in_force = None;
    assert_eq!(bench.hear(&[]), Step::Tell(Order::KEEP));
    assert_eq!(bench.told(Some(Duty::Disarmed)), Next::Unwatched { stop: false });
    assert_eq!(bench.until(), None);
    assert_eq!(bench.hear(&[]), Step::Tell(Order::Keep { or_stop: true }));
    // Each start has its own.
    bench.local.postgres = STOPPED;
    let _ = bench.hear(&[]);
    bench.local.postgres = LocalPostgres::Starting;
    assert_eq!(bench.hear(&[]), Step::Tell(Order::KEEP));
}

/// One step of a random history.
#[derive(Clone, Copy, Debug)]
enum Event {
    Passes(u64),
    /// A renewal for that epoch of a heartbeat sent so long ago.
    Renewed(u64, u64),
    Acknowledged(u64, u64),
    Pauses(bool),
    /// It ends by itself.
    Ends,
    Fenced,
    /// It serves under that epoch.
    Serves(u64),
    /// What the guard answers does not come in so many times.
    Lost(u8),
    /// It is fenced while the guard is being told.
    FencedMeanwhile,
}

fn events() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => (0_u64..500).prop_map(Event::Passes),
        4 => (1_u64..3, 0_u64..400).prop_map(|(epoch, ago)| Event::Renewed(epoch, ago)),
        4 => (1_u64..3, 0_u64..400).prop_map(|(epoch, ago)| Event::Acknowledged(epoch, ago)),
        1 => any::<bool>().prop_map(Event::Pauses),
        1 => Just(Event::Ends),
        1 => Just(Event::Fenced),
        2 => (1_u64..3).prop_map(Event::Serves),
        1 => (1_u8..5).prop_map(Event::Lost),
        1 => Just(Event::FencedMeanwhile),
    ]
}

/// The bench, its guard, and what was granted.
struct History {
    bench: Bench,
    guard: Duty,
    /// The latest beginning of a renewal or a canary that was heard of while its reign ran.
    granted: Option<Time>,
    lost: u8,
    news: Vec<Renewal>,
}

impl History {
    fn fence(&mut self) {
        self.bench.local.postgres = LocalPostgres::Stopped { crashed: false };
        self.bench.local.right = Right::default();
        self.news.push(Renewal::Revoked);
        self.granted = None;
    }

    fn obey(&mut self, order: Order) -> Duty {
        self.guard = match order {
            Order::Hold => Duty::Held,
            Order::Arm(until) => Duty::Armed(until),
            Order::Disarm => Duty::Disarmed,
            Order::Keep { .. } => self.guard,
        };
        self.guard
    }

    /// The keeper's turn.
    fn turn(&mut self, fenced_meanwhile: bool) {
        let news = std::mem::take(&mut self.news);
        for renewal in &news {
            if let Renewal::Lease { epoch, sent_at: at } | Renewal::Canary { epoch, began_at: at } = renewal
                && self.bench.local.reigns_in(*epoch)
            {
                self.granted = self.granted.max(Some(*at));
            }
        }
        let Step::Tell(order) = self.bench.hear(&news) else { return };
        if fenced_meanwhile {
            self.fence();
        }
        loop {
            let duty = self.obey(order);
            let answer = Some(duty).filter(|_| self.lost == 0);
            self.lost = self.lost.saturating_sub(1);
            match self.bench.told(answer) {
                Next::Start | Next::Again => {}
                Next::GivenUp | Next::Unwatched { .. } | Next::Watched => return,
            }
        }
    }

    fn happen(&mut self, event: Event) {
        let now = self.bench.now;
        match event {
            Event::Passes(ms) => self.bench.now = now.plus(ms),
            Event::Renewed(epoch, ago) => self.news.push(lease(epoch, now.minus(ago))),
            Event::Acknowledged(epoch, ago) => self.news.push(canary(epoch, now.minus(ago))),
            Event::Pauses(paused) => {
                self.bench.agreed.paused = paused.then(|| "maintenance".to_owned());
            }
            Event::Ends => self.bench.local.postgres = STOPPED,
            Event::Fenced => self.fence(),
            Event::Serves(epoch) if self.bench.local.promise.reigned != Epoch(epoch) => {
                // Whoever starts a server anew has fenced what was before.
                self.fence();
                self.turn(false);
                self.bench.local.postgres = running(false, 1);
                self.bench.local.promise.reigned = Epoch(epoch);
            }
            Event::Serves(_) => {}
            Event::Lost(times) => self.lost = times,
            Event::FencedMeanwhile => {}
        }
        self.turn(matches!(event, Event::FencedMeanwhile));
    }
}

proptest! {
    /// Keeps S3: who has a right has a guard with a deadline that is no earlier; neither outlasts what was granted.
    #[test]
    fn whatever_happens_a_right_is_guarded_and_granted(events in proptest::collection::vec(events(), 1..60)) {
        let bench = Bench::new();
        let mut history = History { bench, guard: Duty::Disarmed, granted: None, lost: 0, news: Vec::new() };
        for event in events {
            history.happen(event);
            let History { bench, guard, granted, .. } = &history;
            let until = bench.until().filter(|until| *until > bench.now);
            let latest = granted.map(|from| from.plus(LEASE_MS));
            prop_assert!(until <= latest, "{event:?}: a right until {until:?}, granted until {latest:?}");
            if let (Some(until), true) = (until, bench.guarded.would_kill_in_time()) {
                prop_assert!(matches!(guard, Duty::Armed(at) if *at >= until), "{event:?}: {guard:?} beside {until:?}");
            }
            if let (Duty::Armed(at), true) = (guard, bench.guarded.confirmed) {
                prop_assert!(Some(*at) <= latest || *at <= bench.now || latest.is_none(), "{event:?}: {guard:?}, {latest:?}");
            }
        }
    }
}
