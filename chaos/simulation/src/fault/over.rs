//! How each fault ends, and how all of them do.

use super::{Fault, Target, begin, operator::ask, reach::set_pairs};
use crate::{
    agent,
    world::{Call, Event, LATE_ANSWERS, W, World},
};
use pgvigil_core::command::Command;

/// A fault ends.
pub fn over(w: &W, fault: Fault) {
    match fault {
        Fault::FreezePostgres(Target::Host(host), _) => w.exec.thaw(World::postgres_process(host)),
        Fault::FreezeAgent(Target::Host(host), _) => w.exec.thaw(World::agent_process(host)),
        Fault::FreezeGuard(Target::Host(host), _) => w.exec.thaw(World::guard_process(host)),
        Fault::FreezeHost(Target::Host(host), _) => w.thaw_host(host),
        Fault::KillAgent(Target::Host(host), _) => agent::start(w, host),
        Fault::GiveUp(host) => {
            w.hosts[host].held_off.set(false);
            power_on(w, host);
        }
        Fault::PowerOff(Target::Host(host), _) => power_on(w, host),
        Fault::LateAnswers(Target::Host(host), _) => w.hosts[host].late_answers.set(LATE_ANSWERS),
        Fault::Cut(Target::Host(host), other, _) => {
            let mut net = w.net.borrow_mut();
            net.cut(host, other, false);
            net.cut(other, host, false);
        }
        Fault::CutOneWay(Target::Host(host), other, _) => w.net.borrow_mut().cut(host, other, false),
        Fault::Isolate(Target::Host(host), _) => w.isolate(host, true, true, false),
        Fault::Deaf(Target::Host(host), _) => w.isolate(host, true, false, false),
        Fault::Mute(Target::Host(host), _) => w.isolate(host, false, true, false),
        Fault::Flap(Target::Host(host), left) => {
            w.isolate(host, true, true, false);
            if left > 0 && !w.quiet.get() {
                let again = Fault::Flap(Target::Host(host), left);
                let call = Call(Box::new(move |w: &W| {
                    if !w.quiet.get() {
                        begin::begin(w, again);
                    }
                }));
                w.exec.at(w.exec.now() + w.rng.range(50_000, 900_000), None, Event::Call(call));
            }
        }
        Fault::Slow(Target::Host(host), ..) => set_pairs(w, host, |net, a, b| net.set_slow(a, b, 0)),
        Fault::Lossy(Target::Host(host), ..) => set_pairs(w, host, |net, a, b| net.set_loss(a, b, 0)),
        Fault::PauseReplay(Target::Host(host), _) => {
            w.hosts[host].pg.borrow_mut().replay_paused = false;
            w.replay(host);
        }
        Fault::PutBack(Target::Host(host), _) => begin::put_back(w, host),
        Fault::Pause(_) => ask(w, Command::Resume),
        _ => {}
    }
}

fn power_on(w: &W, host: usize) {
    if !w.hosts[host].held_off.get() && !w.hosts[host].powered.replace(true) {
        w.log_host(host, || "has power again".to_owned());
        if w.rng.chance(25) {
            // The distribution's own unit starts PostgreSQL at boot.
            w.start_server(host);
        }
        agent::start(w, host);
    }
}

/// All faults off.
pub fn heal(w: &W) {
    w.quiet.set(true);
    w.log("fault", || "all faults are over".to_owned());
    w.net.borrow_mut().heal();
    w.ambush.borrow_mut().clear();
    for host in 0..w.hosts.len() {
        w.hosts[host].held_off.set(false);
        w.hosts[host].late_answers.set(LATE_ANSWERS);
        w.hosts[host].disk.borrow_mut().stalled_until = 0;
        w.exec.thaw_for_good(World::guard_process(host));
        w.guard_goes_first(host);
        for process in [World::postgres_process(host), World::agent_process(host)] {
            w.exec.thaw_for_good(process);
        }
        {
            let mut pg = w.hosts[host].pg.borrow_mut();
            pg.replay_paused = false;
            pg.replay_slow_until = 0;
        }
        w.replay(host);
        power_on(w, host);
        agent::start(w, host);
    }
}
