//! Goal: what keeps failing is tried ever more rarely, and at once when its cause may be gone. Method: a small machine
//! tries whenever it may, on a clock of steps of 50 ms.

use super::*;
use proptest::prelude::*;

const PACE: Pace = Pace { first_ms: 300, quick: 3, longest_ms: 10_000 };
const STEP: u64 = 50;

/// A worker that wants each of `acts` all the time, and one try a step.
struct Bench {
    brake: Brake<u8, u32>,
    now: Time,
    scene: u32,
    tries: Vec<(Time, u8)>,
}

impl Bench {
    fn new() -> Self {
        Self { brake: Brake::default(), now: Time(1_000_000), scene: 0, tries: Vec::new() }
    }

    /// Runs for so long; `outcome` says of a try why it fails, or `None`.
    fn run(&mut self, ms: u64, acts: &[u8], mut outcome: impl FnMut(u8, Time) -> Option<String>) {
        let end = self.now.plus(ms);
        while self.now < end {
            self.brake.look(self.scene, self.now);
            for act in acts {
                if self.brake.may_try(act, self.now).is_err() {
                    continue;
                }
                let began = self.brake.scene();
                self.tries.push((self.now, *act));
                match outcome(*act, self.now) {
                    Some(why) => drop(self.brake.failed(act, PACE, &why, began, self.now)),
                    None => drop(self.brake.done(act, PACE, false, self.now)),
                }
            }
            self.brake.forget(self.now);
            self.now = self.now.plus(STEP);
        }
    }

    fn tried(&self, act: u8, from: Time, within: u64) -> usize {
        self.tries.iter().filter(|(at, what)| *what == act && *at >= from && at.since(from) < within).count()
    }
}

#[test]
fn the_first_tries_are_quick_and_the_pauses_then_grow_to_their_bound() {
    let pauses: Vec<u64> = (1..=10).map(|tries| PACE.pause(tries)).collect();
    assert_eq!(pauses, [300, 300, 300, 600, 1_200, 2_400, 4_800, 9_600, 10_000, 10_000]);
    assert_eq!(PACE.pause(u32::MAX), 10_000);
}

/// Trial T2.10: an act that fails and one that succeeds take turns. Each has a memory of its own.
#[test]
fn an_act_that_ends_well_does_not_take_the_brake_off_another() {
    let mut bench = Bench::new();
    bench.run(60_000, &[1, 2], |act, _| (act == 1).then(|| "could not bind".to_owned()));
    assert!(bench.tried(1, Time(0), u64::MAX) <= 16, "{}", bench.tried(1, Time(0), u64::MAX));
    assert!(bench.tried(2, Time(0), u64::MAX) > 1_000);
}

#[test]
fn what_fails_is_shown_until_it_is_done_or_no_longer_wanted() {
    let mut bench = Bench::new();
    bench.run(20_000, &[1, 2], |act, _| (act == 1).then(|| "port 5432 is in use".to_owned()));
    let shown: Vec<_> = bench.brake.failing().map(|held| (held.what, held.in_words(bench.now))).collect();
    assert!(matches!(&shown[..], [(1, text)] if text.contains("in use") && text.contains("next try in")), "{shown:?}");
    bench.run(20_000, &[1, 2], |_, _| None);
    assert_eq!(bench.brake.failing().count(), 0);

    let mut bench = Bench::new();
    bench.run(2_000, &[1], |_, _| Some("no".to_owned()));
    bench.run(UNWANTED_MS - STEP, &[2], |_, _| None);
    assert_eq!(bench.brake.failing().count(), 1);
    bench.run(2 * STEP, &[2], |_, _| None);
    assert_eq!(bench.brake.failing().count(), 0);
}

/// A server that starts and dies a moment later is started no oftener than one that does not start.
#[test]
fn what_does_not_last_is_braked_too() {
    let mut brake: Brake<u8, u32> = Brake::default();
    let (mut now, mut starts) = (Time(0), 0);
    while now < Time(60_000) {
        if brake.may_try(&1, now).is_ok() {
            starts += 1;
            brake.done(&1, PACE, true, now);
        }
        brake.forget(now);
        now = now.plus(STEP);
    }
    assert!((2..=16).contains(&starts), "{starts}");
    assert!(brake.failing().all(|held| held.why.contains("did not last")));
    // It lasts at last.
    brake.forget(now.plus(LASTING_MS));
    assert!(brake.may_try(&1, now.plus(LASTING_MS)).is_ok());
}

#[test]
fn people_hear_of_a_reason_once() {
    let mut brake: Brake<u8, u32> = Brake::default();
    let mut say = |why: &str| brake.failed(&1, PACE, why, None, Time(0));
    assert!(say("could not bind 127.0.0.1:5432 (pid 71)"));
    assert!(!say("could not bind 127.0.0.1:5432 (pid 4711)"), "another number is no news");
    assert!(say("no space left on device"));
    assert!(!say("could not bind 127.0.0.1:5432 (pid 3)"), "and back again neither");
}

proptest! {
    /// However long one takes, whatever else is done and whatever the reasons look like: a lasting cause is not tried more
    /// than so often in any minute, and not more rarely than the longest pause.
    #[test]
    fn a_lasting_cause_is_tried_seldom(reasons in proptest::collection::vec("[a-z ]{1,12}", 1..12), others in 1_u8..4) {
        let mut bench = Bench::new();
        let acts: Vec<u8> = (0..=others).collect();
        let mut turn = 0_usize;
        bench.run(300_000, &acts, |act, _| {
            turn += 1;
            (act == 0).then(|| reasons[turn % reasons.len()].clone())
        });
        let begun = Time(1_000_000);
        for minute in 0..5 {
            let tried = bench.tried(0, begun.plus(minute * 60_000), 60_000);
            // Each reason that is new gives it a few more quick tries, once.
            let bound = if minute == 0 { 16 + 3 * REASONS_MAX } else { 7 + 8 };
            prop_assert!(tried <= bound, "{tried} in minute {minute}");
            prop_assert!(minute == 0 || tried >= 5, "{tried} in minute {minute}");
        }
    }

    /// When the scene changes it is tried at once; when the cause ends unseen, after one pause; and in either case the
    /// pauses begin small again.
    #[test]
    fn after_the_cause_ends_it_is_done_soon(lasting in 0_u64..400_000, seen in any::<bool>()) {
        let mut bench = Bench::new();
        bench.run(lasting, &[0], |_, _| Some("disk full".to_owned()));
        if seen {
            bench.scene += 1;
        }
        let (ended, mut done) = (bench.now, None);
        bench.run(PACE.longest_ms + 2 * STEP, &[0], |_, now| {
            done.get_or_insert(now);
            None
        });
        let took = done.expect("it was never tried").since(ended);
        prop_assert!(took <= if seen { 0 } else { PACE.longest_ms + STEP }, "{took}");
    }

    /// A change that does not help brings one more try at once, and short pauses after it.
    #[test]
    fn a_change_that_does_not_help_brings_a_quick_try(lasting in 60_000_u64..200_000) {
        let mut bench = Bench::new();
        bench.run(lasting, &[0], |_, _| Some("disk full".to_owned()));
        bench.scene += 1;
        let changed = bench.now;
        bench.run(60_000, &[0], |_, _| Some("disk full".to_owned()));
        prop_assert_eq!(bench.tried(0, changed, STEP), 1);
        prop_assert!((2..=3).contains(&bench.tried(0, changed, 700)));
        prop_assert!(bench.tried(0, changed, 60_000) <= 16);
    }
}
