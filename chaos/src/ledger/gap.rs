//! For how long writes stopped, read from the books of clients that write all the time.

use std::time::Duration;

use serde::Serialize;

use super::{Op, Outcome};

/// One interruption of writes. Times count from the start of the workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Gap {
    /// The last acknowledgement before writes stopped, over all clients.
    pub last_before: Duration,
    /// The first acknowledgement after it, over all clients.
    pub first_after: Duration,
    /// The port of the server that gave the first acknowledgement over a new connection.
    pub resumed_on: u16,
    /// The longest time without an acknowledgement from then until now: what the healing cost.
    pub later: Duration,
}

impl Gap {
    /// For how long nobody could write.
    pub fn length(&self) -> Duration {
        self.first_after - self.last_before
    }
}

/// The longest time without an acknowledgement that ends after `fault` and no later than writes have resumed, which is
/// the first acknowledgement over a connection made after the fault (and not to `moved_from`). `None` if they have not.
///
/// Looking at all pairs up to there, not only at the one around `fault`, finds the true stop also where the fault bites
/// late, such as a switchover that begins some time after it was asked for.
pub(super) fn measure(books: &[Op], fault: Duration, moved_from: Option<u16>) -> Option<Gap> {
    let mut acks: Vec<&Op> = books.iter().filter(|op| !op.pinned && op.outcome == Outcome::Ok).collect();
    acks.sort_by_key(|op| op.ended);
    let resumed = acks.iter().position(|op| op.connected > fault && Some(op.port) != moved_from)?;
    let resumed_on = acks[resumed].port;
    let (before, after) = acks.split_at(resumed + 1);
    // Without any acknowledgement before the fault, writes count as stopped from the fault on.
    let begin = before.iter().rposition(|op| op.ended <= fault);
    let mut last = begin.map_or(fault, |i| before[i].ended);
    let mut longest = (last, last);
    for op in &before[begin.map_or(0, |i| i + 1)..] {
        if op.ended - last > longest.1 - longest.0 {
            longest = (last, op.ended);
        }
        last = op.ended;
    }
    let mut later = Duration::ZERO;
    for op in after {
        later = later.max(op.ended - last);
        last = op.ended;
    }
    Some(Gap { last_before: longest.0, first_after: longest.1, resumed_on, later })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn ack(ended: u64, connected: u64, port: u16) -> Op {
        let (sent, ended, connected) = (ms(ended - 1), ms(ended), ms(connected));
        Op { seq: ended.as_millis() as u64, sent, ended, connected, port, outcome: Outcome::Ok, pinned: false }
    }

    #[test]
    fn the_gap_runs_from_the_last_to_the_first_acknowledgement_of_anybody() {
        // The answer at 101 was under way when the fault struck at 100.
        let books = [ack(90, 0, 1), ack(101, 0, 1), ack(400, 380, 2), ack(405, 390, 2), ack(445, 390, 2)];
        let gap = measure(&books, ms(100), None).expect("writes resumed");
        assert_eq!((gap.length(), gap.resumed_on, gap.later), (ms(299), 2, ms(40)));
    }

    #[test]
    fn a_switchover_is_measured_from_where_writes_really_stop() {
        let books = [ack(90, 0, 1), ack(120, 0, 1), ack(150, 140, 1), ack(500, 480, 2)];
        let gap = measure(&books, ms(100), Some(1)).expect("writes resumed");
        assert_eq!((gap.last_before, gap.first_after), (ms(150), ms(500)));
    }

    #[test]
    fn without_a_write_over_a_new_connection_it_is_not_over() {
        assert_eq!(measure(&[ack(90, 0, 1), ack(101, 0, 1)], ms(100), None), None);
        assert_eq!(measure(&[ack(90, 0, 1), ack(150, 140, 1)], ms(100), Some(1)), None);
    }
}
