//! PostgreSQL as far as safety knows it: histories, what a walreceiver takes, and when a walsender lets a commit go.

use crate::state::{Acked, Branch, Held, Member, Run, Server, Wal, World};

/// Whether the history that ends at `long` holds everything that ends at `short`.
#[must_use]
pub fn contains(branches: &[Branch], long: Wal, short: Wal) -> bool {
    short.len == 0 || (short.len <= long.len && owner(branches, long, short.len) == owner(branches, short, short.len))
}

/// The branch that owns record `record` (counted from 1) of the history that ends at `wal`.
#[must_use]
pub fn owner(branches: &[Branch], wal: Wal, record: u8) -> u8 {
    let mut branch = wal.branch;
    while branch != 0 && record <= branches[branch as usize].fork {
        branch = branches[branch as usize].parent;
    }
    branch
}

/// The history that ends at `wal`, cut off after `len` records.
#[must_use]
pub fn cut(branches: &[Branch], wal: Wal, len: u8) -> Wal {
    let len = len.min(wal.len);
    Wal { branch: if len == 0 { 0 } else { owner(branches, wal, len) }, len }
}

/// The last record that two histories share.
#[must_use]
pub fn fork(branches: &[Branch], one: Wal, other: Wal) -> u8 {
    let shortest = one.len.min(other.len);
    (1..=shortest).rev().find(|record| owner(branches, one, *record) == owner(branches, other, *record)).unwrap_or(0)
}

/// Where its configuration file says its walreceiver connects, a primary serves it: connects if it must, takes one
/// record and reports what it has flushed. `false`: nothing has changed.
///
/// The walsender that sends a record written after a reload has looked at that reload: it does so at the head of its
/// loop. That is what makes a marker's flush a proof of its setting (protocol review D3 c).
pub fn stream(world: &mut World, member: Member, diverged_replies: bool) -> bool {
    let (upstream, inc, epoch) = world.servers[member as usize].follows;
    let before = (world.servers[member as usize].wal, world.servers[upstream as usize].senders[member as usize]);
    let source = world.servers[upstream as usize];
    let mine = world.servers[member as usize].wal;
    let fits = contains(&world.branches, source.wal, mine);
    if !fits && !diverged_replies {
        return false;
    }
    let next = if fits { cut(&world.branches, source.wal, mine.len + 1) } else { mine };
    world.servers[member as usize].wal = next;
    let primary = &mut world.servers[upstream as usize];
    let setting = primary.setting;
    let marking = primary.marking;
    let sender = &mut primary.senders[member as usize];
    if (sender.inc, sender.epoch) != (inc, epoch) {
        sender.inc = inc;
        sender.epoch = epoch;
        sender.held = setting;
        sender.flush = 0;
    }
    sender.flush = sender.flush.max(next.len);
    if marking != 0 && sender.flush >= marking {
        sender.held = setting;
    }
    before != (next, *sender)
}

/// How far a walsender lets commits go when it handles a reply: with its own number, over the candidates that all of
/// them declared by the names each of them holds (history A1).
fn released_by(server: &Server, sender: &crate::state::Sender) -> u8 {
    if !candidate(sender) {
        return 0;
    }
    if sender.held.k == 0 {
        return server.wal.len;
    }
    let mut flushed: Vec<u8> = server.senders.iter().filter(|other| candidate(other)).map(|s| s.flush).collect();
    flushed.sort_unstable_by(|a, b| b.cmp(a));
    flushed.get(sender.held.k as usize - 1).copied().unwrap_or(0)
}

fn candidate(sender: &crate::state::Sender) -> bool {
    sender.inc != 0 && sender.held.epoch == sender.epoch && sender.held.names & (1 << sender.inc) != 0
}

/// Acknowledges at once whatever can be: the earlier a commit is acknowledged, the more may be lost, and nothing else
/// looks at it, so later acknowledgements need no exploring.
pub fn acknowledge(world: &mut World) {
    for member in 0..world.servers.len() {
        let server = world.servers[member];
        if server.run != Run::Primary {
            continue;
        }
        let mut best: Option<(Held, u8)> = (server.setting.k == 0).then_some((server.setting, server.wal.len));
        for sender in &server.senders {
            let len = released_by(&server, sender).min(server.wal.len);
            if len > best.map_or(0, |(_, len)| len) {
                best = Some((sender.held, len));
            }
        }
        if let Some((held, len)) = best {
            let epoch = held.epoch.max(1);
            let wal = cut(&world.branches, server.wal, len);
            note(&mut world.acked, epoch, wal, &world.branches);
        }
    }
}

/// Raises what is on record for an epoch. A history that does not extend it is kept beside it, for S2 to find.
pub fn note(list: &mut Vec<Acked>, epoch: u8, wal: Wal, branches: &[Branch]) {
    if wal.len == 0 || list.iter().any(|a| a.epoch == epoch && contains(branches, a.wal, wal)) {
        return;
    }
    list.retain(|a| a.epoch != epoch || !contains(branches, wal, a.wal));
    list.push(Acked { epoch, wal });
    list.sort_unstable_by_key(|a| (a.epoch, a.wal.branch, a.wal.len));
}
