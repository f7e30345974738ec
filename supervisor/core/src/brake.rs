//! A brake on what keeps failing: after a few quick tries the pauses grow, each act with a memory of its own, and they end
//! at once when the cause may be gone.
//!
//! A cause may be gone when the scene has changed (whatever the caller looks at: files, disk space, an operator's word),
//! or when the act fails for another reason than before. Numbers and names that hold digits do not make a reason another.

use crate::time::Time;

/// How tries follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// The pause after each of the first failures, in milliseconds.
    pub first_ms: u64,
    /// How many failures are followed by no longer pause than that.
    pub quick: u32,
    /// The longest pause, in milliseconds.
    pub longest_ms: u64,
}

impl Pace {
    /// The pause after the `tries`-th failure in a row, in milliseconds.
    #[must_use]
    pub const fn pause(&self, tries: u32) -> u64 {
        let beyond = tries.saturating_sub(self.quick);
        let beyond = if beyond > 20 { 20 } else { beyond };
        let pause = self.first_ms << beyond;
        if pause > self.longest_ms { self.longest_ms } else { pause }
    }
}

/// An act that ended well and is wanted again within so many milliseconds did not last: that is a failure too.
pub const LASTING_MS: u64 = 10_000;
/// A failed act that nobody wants any more is forgotten after so many milliseconds.
pub const UNWANTED_MS: u64 = 5_000;
/// So many reasons of one act are told apart; another one is then no news.
const REASONS_MAX: usize = 8;

/// What failed, or may not have lasted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held<K, S> {
    /// The act.
    pub what: K,
    /// Failures in a row for the present reason.
    pub tries: u32,
    /// The newest reason.
    pub why: String,
    /// Not before that.
    pub next_at: Time,
    /// Since when it fails.
    pub since: Time,
    pace: Pace,
    /// When it last ended well, if it has not failed since.
    well_at: Option<Time>,
    /// Its newest failure was that it did not last.
    lapsed: bool,
    wanted_at: Time,
    /// The reasons seen, without what differs from try to try.
    reasons: Vec<String>,
    /// How things were when the newest try began.
    scene: Option<S>,
}

/// See the module. `K` says which act, `S` what must change for a held act to be promising again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Brake<K, S> {
    held: Vec<Held<K, S>>,
    scene: Option<S>,
}

impl<K, S> Default for Brake<K, S> {
    fn default() -> Self {
        Self { held: Vec::new(), scene: None }
    }
}

impl<K: Clone + PartialEq, S: Clone + PartialEq> Brake<K, S> {
    /// Whether `what`, which is wanted, may be tried now. If not, when.
    pub fn may_try(&mut self, what: &K, now: Time) -> Result<(), Time> {
        let Some(at) = self.held.iter().position(|held| held.what == *what) else { return Ok(()) };
        let held = &mut self.held[at];
        held.wanted_at = now;
        if let Some(well_at) = held.well_at.take() {
            if now.since(well_at) >= LASTING_MS {
                self.held.remove(at);
                return Ok(());
            }
            held.why = format!("it did not last: it was to be done again after {} ms", now.since(well_at));
            held.tries += 1;
            held.lapsed = true;
            held.next_at = well_at.plus(held.pace.pause(held.tries));
        }
        if now < held.next_at { Err(held.next_at) } else { Ok(()) }
    }

    /// `what`, of that pace, has failed at `now` after it was begun in the scene of that moment. `true`: for a reason that
    /// is new, which people should hear of.
    pub fn failed(&mut self, what: &K, pace: Pace, why: &str, began: Option<S>, now: Time) -> bool {
        let reason = bare(why);
        let at = self.held.iter().position(|held| held.what == *what).unwrap_or_else(|| {
            self.held.push(Held::new(what.clone(), pace, now));
            self.held.len() - 1
        });
        let held = &mut self.held[at];
        let new = !held.reasons.contains(&reason) && held.reasons.len() < REASONS_MAX;
        if new {
            held.reasons.push(reason);
            held.tries = 0;
        }
        held.tries += 1;
        why.clone_into(&mut held.why);
        held.well_at = None;
        held.lapsed = false;
        held.wanted_at = now;
        held.scene = began;
        held.next_at = now.plus(pace.pause(held.tries));
        new
    }

    /// `what`, of that pace, has ended well. One that has to last is a failure after all if it is soon wanted again. Gives
    /// the number of failures that went before.
    pub fn done(&mut self, what: &K, pace: Pace, has_to_last: bool, now: Time) -> u32 {
        let at = self.held.iter().position(|held| held.what == *what);
        let tries = at.map_or(0, |at| self.held[at].tries);
        match (at, has_to_last) {
            (Some(at), true) => self.held[at].well_at = Some(now),
            (Some(at), false) => drop(self.held.remove(at)),
            (None, true) => {
                let held = Held { well_at: Some(now), ..Held::new(what.clone(), pace, now) };
                self.held.push(held);
            }
            (None, false) => {}
        }
        tries
    }

    /// How things are now. `true`: something held may be tried at once, because they have changed since it began.
    pub fn look(&mut self, scene: S, now: Time) -> bool {
        let mut released = false;
        for held in self.held.iter_mut().filter(|held| held.well_at.is_none()) {
            match &held.scene {
                None => held.scene = Some(scene.clone()),
                Some(then) if *then == scene => {}
                Some(_) => {
                    held.scene = Some(scene.clone());
                    // The next failure is followed by a short pause again.
                    held.tries = held.tries.min(held.pace.quick.saturating_sub(1));
                    released |= held.next_at > now;
                    held.next_at = held.next_at.min(now);
                }
            }
        }
        self.scene = Some(scene);
        released
    }

    /// The scene as it was last looked at: to be kept when an act begins.
    #[must_use]
    pub fn scene(&self) -> Option<S> {
        self.scene.clone()
    }

    /// Forgets what nobody has wanted for a while, and what has lasted.
    pub fn forget(&mut self, now: Time) {
        self.held.retain(|held| match held.well_at {
            Some(at) => now.since(at) < LASTING_MS,
            None => now.since(held.wanted_at) < UNWANTED_MS,
        });
        if !self.is_holding() {
            // Whatever changed since then was no cure.
            self.scene = None;
        }
    }

    /// What has failed and not been done since. What had to be done once more is no failure yet.
    pub fn failing(&self) -> impl Iterator<Item = &Held<K, S>> {
        self.held.iter().filter(|held| held.well_at.is_none() && held.tries > u32::from(held.lapsed))
    }

    /// Whether anything waits for its next try, so that a look at the scene is worth its price.
    #[must_use]
    pub fn is_holding(&self) -> bool {
        self.held.iter().any(|held| held.well_at.is_none() && held.tries > 0)
    }
}

impl<K, S> Held<K, S> {
    fn new(what: K, pace: Pace, now: Time) -> Self {
        Self {
            what,
            tries: 0,
            why: String::new(),
            next_at: now,
            since: now,
            pace,
            well_at: None,
            lapsed: false,
            wanted_at: now,
            reasons: Vec::new(),
            scene: None,
        }
    }

    /// For people: what is being done about it.
    #[must_use]
    pub fn in_words(&self, now: Time) -> String {
        let left = self.next_at.since(now);
        let next = if left == 0 { "now".to_owned() } else { format!("in {} s", left.div_ceil(1_000)) };
        format!("{} (failed {} times; next try {next})", self.why, self.tries)
    }
}

/// A reason without the words that hold digits: positions, process ids, times.
#[must_use]
pub fn bare(why: &str) -> String {
    let words = why.split_whitespace().filter(|word| !word.contains(|c: char| c.is_ascii_digit()));
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
#[path = "brake_test.rs"]
mod tests;
