//! How each fault begins.

use super::{
    Fault, Target,
    operator::{ask, give_up, variant},
    reach::set_pairs,
};
use crate::{
    agent,
    planted::Planted,
    postgres::{
        data::{DataDir, Names},
        wal::Point,
    },
    world::{Call, Event, Host, W, World},
};
use pgvigil_core::{
    command::Command,
    lineage::{OwnEnd, place},
    lsn::Lsn,
    member::Tier,
    reign::ElectionKind,
};
use std::collections::BTreeSet;

/// A fault begins. `false` if it is not allowed now, or hits nothing.
pub fn begin(w: &W, fault: Fault) -> bool {
    let over_after = |ms: u64, with: Fault| w.exec.at(w.exec.now() + ms * 1_000, None, Event::Over(with));
    let here = |host: usize| Target::Host(host);
    match fault {
        Fault::KillPostgres(target) => {
            let Some(host) = w.aim(target) else { return false };
            let ran = w.server_runs(host);
            w.kill_server(host);
            return ran;
        }
        Fault::FreezePostgres(target, ms) => {
            let Some(host) = w.aim(target).filter(|host| w.server_runs(*host)) else { return false };
            w.exec.freeze(World::postgres_process(host));
            over_after(ms, Fault::FreezePostgres(here(host), ms));
        }
        Fault::KillAgent(target, ms) => {
            let Some(host) = w.aim(target).filter(|host| w.guard_watches(*host)) else { return false };
            agent::kill(w, host);
            over_after(ms, Fault::KillAgent(here(host), ms));
        }
        Fault::FreezeAgent(target, ms) => {
            let Some(host) = w.aim(target).filter(|host| w.guard_watches(*host)) else { return false };
            w.exec.freeze(World::agent_process(host));
            over_after(ms, Fault::FreezeAgent(here(host), ms));
        }
        Fault::KillGuard(target) => {
            let Some(host) = w.aim(target).filter(|host| w.agent_watches(*host)) else { return false };
            w.hosts[host].guard.borrow_mut().alive = false;
            w.exec.kill(World::guard_process(host));
        }
        Fault::FreezeGuard(target, ms) => {
            let Some(host) = w.aim(target).filter(|host| w.agent_watches(*host) && w.guard_watches(*host)) else {
                return false;
            };
            w.exec.freeze(World::guard_process(host));
            over_after(ms, Fault::FreezeGuard(here(host), ms));
        }
        Fault::PowerOff(target, ms) => {
            let Some(host) = w.aim(target) else { return false };
            w.power_off(host);
            over_after(ms, Fault::PowerOff(here(host), ms));
        }
        Fault::FreezeHost(target, ms) => {
            // A guard that is gone or stuck cannot be the first to act when the host goes on.
            let Some(host) = w.aim(target).filter(|host| w.guard_watches(*host)) else { return false };
            w.exec.hold(World::agent_process(host));
            w.exec.hold(World::guard_process(host));
            w.exec.hold(World::postgres_process(host));
            over_after(ms, Fault::FreezeHost(here(host), ms));
        }
        Fault::Cut(target, other, ms) => {
            let Some(host) = w.aim(target).filter(|host| *host != other) else { return false };
            let mut net = w.net.borrow_mut();
            net.cut(host, other, true);
            net.cut(other, host, true);
            over_after(ms, Fault::Cut(here(host), other, ms));
        }
        Fault::CutOneWay(target, other, ms) => {
            let Some(host) = w.aim(target).filter(|host| *host != other) else { return false };
            w.net.borrow_mut().cut(host, other, true);
            over_after(ms, Fault::CutOneWay(here(host), other, ms));
        }
        Fault::Isolate(target, ms) | Fault::Flap(target, ms) => {
            let Some(host) = w.aim(target) else { return false };
            w.isolate(host, true, true, true);
            match fault {
                Fault::Flap(..) => over_after(ms.min(700), Fault::Flap(here(host), ms.saturating_sub(700))),
                _ => over_after(ms, Fault::Isolate(here(host), ms)),
            }
        }
        Fault::Deaf(target, ms) => {
            let Some(host) = w.aim(target) else { return false };
            w.isolate(host, true, false, true);
            over_after(ms, Fault::Deaf(here(host), ms));
        }
        Fault::Mute(target, ms) => {
            let Some(host) = w.aim(target) else { return false };
            w.isolate(host, false, true, true);
            over_after(ms, Fault::Mute(here(host), ms));
        }
        Fault::Slow(target, micros, ms) => {
            let Some(host) = w.aim(target) else { return false };
            set_pairs(w, host, |net, a, b| net.set_slow(a, b, micros));
            over_after(ms, Fault::Slow(here(host), 0, ms));
        }
        Fault::Lossy(target, percent, ms) => {
            let Some(host) = w.aim(target) else { return false };
            set_pairs(w, host, |net, a, b| net.set_loss(a, b, percent));
            over_after(ms, Fault::Lossy(here(host), 0, ms));
        }
        Fault::StallDisk(target, ms) => {
            let Some(host) = w.aim(target) else { return false };
            w.hosts[host].disk.borrow_mut().stalled_until = w.exec.now() + ms * 1_000;
        }
        Fault::CancelWaits(target) => {
            let Some(host) = w.aim(target) else { return false };
            return w.cancel_waits(host) > 0;
        }
        Fault::PauseReplay(target, ms) => {
            let Some(host) = w.aim(target).filter(|host| w.hosts[*host].pg.borrow().in_recovery) else { return false };
            w.hosts[host].pg.borrow_mut().replay_paused = true;
            over_after(ms, Fault::PauseReplay(here(host), ms));
        }
        Fault::SlowReplay(target, ms) => {
            let Some(host) = w.aim(target).filter(|host| w.hosts[*host].pg.borrow().in_recovery) else { return false };
            w.hosts[host].pg.borrow_mut().replay_slow_until = w.exec.now() + ms * 1_000;
        }
        Fault::StrangerStarts(target) => {
            let lives = |host: &usize| w.hosts[*host].powered.get() && !w.exec.is_held(World::agent_process(*host));
            let Some(host) = w.aim(target).filter(lives) else { return false };
            return !w.server_runs(host) && w.start_server(host);
        }
        Fault::ChangeByHand(target) => {
            let Some(host) = w.aim(target).filter(|host| w.server_runs(*host)) else { return false };
            // Only what makes commits wait for more than the rule wants: less is history A2 by the operator's own hand.
            w.write_conf(host, |conf| {
                conf.names = Names::somebody();
                conf.by_hand = true;
                conf.touched += 1;
            });
            w.reload(host);
        }
        Fault::Weaken(target) => {
            let primary = |host: &usize| w.server_runs(*host) && !w.hosts[*host].pg.borrow().in_recovery;
            let Some(host) = w.aim(target).filter(primary) else { return false };
            w.check.borrow_mut().weakened(w, host);
            w.write_conf(host, |conf| {
                conf.names = Names::none();
                conf.by_hand = true;
                conf.touched += 1;
            });
            w.reload(host);
        }
        Fault::Wipe(target) => {
            let Some(host) = w.aim(target) else { return false };
            if w.ailing(0).is_some() {
                // One loss at a time: more than that only an operator's word can mend.
                return false;
            }
            wipe(w, host);
        }
        Fault::PromoteByHand(target) => {
            // Not the one that is left while others are given up: nobody could take over, and nobody who is given up may.
            let given_up = w.hosts.iter().any(|host| host.held_off.get());
            let Some(host) = w.aim(target).filter(|host| !given_up && w.agent_watches(*host)) else { return false };
            return w.promote_by_hand(host);
        }
        Fault::PutBack(target, ms) => {
            let Some(host) = w.aim(target).filter(|host| w.primary() != Some(*host)) else { return false };
            let copy = w.hosts[host].disk.borrow().data.clone();
            if copy.is_none() {
                return false;
            }
            *w.hosts[host].copy.borrow_mut() = copy;
            over_after(ms, Fault::PutBack(here(host), ms));
        }
        Fault::Switchover(to) => {
            let to = to.map(|host| w.member(host).clone());
            ask(w, Command::RequestElection { kind: ElectionKind::Switchover { to } });
        }
        Fault::Force(to) => {
            let to = to.map(|host| w.member(host).clone());
            let kind = ElectionKind::Forced { to, old_primary_is_off: false, give_up: BTreeSet::new() };
            ask(w, Command::RequestElection { kind });
        }
        Fault::GiveUp(other) => return give_up(w, other),
        Fault::Pause(ms) => {
            ask(w, Command::Pause);
            over_after(ms, Fault::Pause(ms));
        }
        Fault::ChangeSettings(number) => {
            let settings = variant(&w.scenario.settings, number, w.scenario.more_than_one);
            ask(w, Command::ChangeSettings { settings });
        }
        Fault::Reinit(target) => {
            let Some(member) = w.aim(target).map(|host| w.member(host).clone()) else { return false };
            ask(w, Command::RequestReinit { member });
        }
        Fault::Restart(target) => {
            let Some(member) = w.aim(target).map(|host| w.member(host).clone()) else { return false };
            ask(w, Command::RequestRestart { member });
        }
        Fault::Leave(host) => {
            // Nobody lets a member go whom the rule then lacks.
            let countable = |place: &&Host| place.spec.tier != Tier::Backup;
            let left = w.hosts.iter().filter(countable).count().saturating_sub(2);
            if left < w.scenario.settings.sync_standbys as usize || w.ailing(0).is_some() {
                return false;
            }
            ask(w, Command::RequestLeave { member: w.member(host).clone() });
        }
        Fault::MoveLeader(to) => {
            let Some(from) = w.raft.leader().filter(|_| w.raft.voters.contains(&to)) else { return false };
            w.hand_over(from, to);
        }
        Fault::LateAnswers(target, ms) => {
            let Some(host) = w.aim(target) else { return false };
            w.hosts[host].late_answers.set(70);
            over_after(ms, Fault::LateAnswers(Target::Host(host), ms));
        }
        Fault::StickSenders(target, ms) => {
            let Some(host) = w.aim(target) else { return false };
            w.hosts[host].pg.borrow_mut().sticky_until = w.exec.now() + ms * 1_000;
        }
        Fault::DieTogether(host, ms) => {
            let changing =
                w.raft.newest().and_then(|applied| applied.cluster.clone()).is_none_or(|c| c.change.is_some());
            if changing {
                let again = Call(Box::new(move |w: &W| {
                    if !w.quiet.get() {
                        begin(w, Fault::DieTogether(host, ms));
                    }
                }));
                w.exec.at(w.exec.now() + 2_000, None, Event::Call(again));
                return true;
            }
            begin(w, Fault::PowerOff(Target::Primary, ms));
            return begin(w, Fault::FreezeHost(Target::Host(host), ms));
        }
        Fault::Lie(ambush) => w.ambush.borrow_mut().push(ambush),
    }
    true
}

/// The data directory is emptied under a running server, which dies of it.
fn wipe(w: &W, host: usize) {
    w.kill_server(host);
    let mut disk = w.hosts[host].disk.borrow_mut();
    if w.planted == Some(Planted::WipedKeepsIncarnation) {
        let branch = disk.data.as_ref().map(|data| data.end.branch);
        if let (Some(data), Some(branch)) = (&mut disk.data, branch) {
            // Restored from an old copy, mark and all: as if nothing had happened.
            data.end = Point { branch, lsn: data.end.lsn.saturating_sub(40_000) };
            data.synced = data.end.lsn;
            return;
        }
    }
    disk.data = None;
    disk.data_synced = None;
    drop(disk);
    // The marker an agent once read is no longer there to be read: it dies with the disk it was on.
    if w.guard_watches(host) {
        agent::kill(w, host);
        w.exec.at(w.exec.now() + 500_000, None, Event::Over(Fault::KillAgent(Target::Host(host), 0)));
    }
}

/// The directory goes back to the copy that was made of it, under an agent that dies of it.
pub(super) fn put_back(w: &W, host: usize) {
    let copy = w.hosts[host].copy.borrow_mut().take();
    // One loss at a time; and no copy that nobody could tell from what it had: the last seconds before a change of leader
    // are not remembered.
    let Some(copy) = copy.filter(|_| !w.quiet.get() && w.ailing(0).is_none() && w.guard_watches(host)) else { return };
    if !told_apart(w, host, &copy) && w.planted != Some(Planted::FlushNotRemembered) {
        return;
    }
    w.cover.hit("fault", "was-put-back");
    w.log_host(host, || format!("goes back to a copy that ends at {:?}", copy.end));
    w.kill_server(host);
    {
        let mut disk = w.hosts[host].disk.borrow_mut();
        disk.data = Some(DataDir { synced: copy.end.lsn, clean: false, ..copy });
        disk.data_synced = None;
    }
    agent::kill(w, host);
    w.exec.at(w.exec.now() + 20_000, None, Event::Over(Fault::KillAgent(Target::Host(host), 0)));
}

/// The copy is of the directory that counts, and what is agreed of that says that it had more.
fn told_apart(w: &W, host: usize, copy: &DataDir) -> bool {
    let Some(newest) = w.raft.newest() else { return false };
    let Some(cluster) = &newest.cluster else { return false };
    let (Some(member), Some(marker)) = (cluster.members.get(w.member(host)), &copy.marker) else { return false };
    let own = OwnEnd { history: w.tree.borrow().history(copy.end.branch), end: Lsn(copy.end.lsn) };
    let at = place(cluster, &member.key(), &own).ok();
    marker.incarnation == member.incarnation && at.is_some() && at < member.proven
}
