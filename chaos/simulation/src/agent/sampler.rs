//! What a look at the simulated server shows, and what its files do.

use super::shared::Ctx;
use pgvigil_agent::{
    in_force::Stamp,
    known::ServerId,
    tasks::{
        sampler::{Content, Looker, Origins, Running},
        server_ended,
    },
};
use pgvigil_core::{
    local::Marker,
    sample::{Sample, SlowSample},
    time::Time,
};

const LIMIT_MS: u64 = 1_500;

impl Looker for Ctx {
    type Postmaster = ();

    async fn sample(&mut self, _server: ServerId) -> Option<(Sample, Time)> {
        let began = self.now();
        if self.w.rng.chance(self.w.hosts[self.h].late_answers.get()) {
            // A busy host: what it shows in the end is new, the question was asked long ago.
            self.w.pause(20_000, 900_000).await;
        }
        Some((Self::sample(self, LIMIT_MS).await?, began))
    }

    async fn slow_sample(&mut self) -> Option<SlowSample> {
        self.query(LIMIT_MS).await?;
        self.w.slow_sample(self.h)
    }

    async fn origins(&mut self, names: &[String]) -> Option<Origins> {
        Some(Origins { of_session: Vec::new(), of_server: names.to_vec() })
    }

    async fn blocking_errors(&mut self) -> Vec<String> {
        Vec::new()
    }

    async fn sampled(&mut self, _sample: &Sample) {}

    async fn nothing_runs(&mut self, _busy: bool) -> Result<(), String> {
        Ok(())
    }

    fn stamps(&self, _sample: &Sample) -> Vec<Option<Stamp>> {
        let disk = self.w.hosts[self.h].disk.borrow();
        vec![disk.data.as_ref().map(|data| (0, 0, i64::from(data.conf.touched), 0))]
    }

    fn rule_written(&self) -> Option<String> {
        let disk = self.w.hosts[self.h].disk.borrow();
        disk.names_written.as_ref().map(|names| names.value.as_ref().to_owned())
    }

    fn major(&self) -> u32 {
        17
    }

    fn content(&self) -> Content {
        let data = self.w.hosts[self.h].disk.borrow().data.is_some();
        if data { Content::Data } else { Content::Empty }
    }

    fn running(&self) -> anyhow::Result<Option<Running<()>>> {
        if !self.w.server_runs(self.h) {
            return Ok(None);
        }
        let (signal, door) = {
            let disk = self.w.hosts[self.h].disk.borrow();
            (disk.data.as_ref().is_some_and(|data| data.signal), disk.door_noted != Some(false))
        };
        // In a primary's directory the fence lies for the next start only; a server that starts has found it there.
        let pg = self.w.hosts[self.h].pg.borrow();
        let primary = pg.ready && !pg.in_recovery;
        Ok(Some(Running {
            postmaster: (),
            server: pg.pid,
            start: stamp(pg.pid),
            fenced: signal && !primary,
            door_open: door,
        }))
    }

    fn last_start(&self) -> Option<Stamp> {
        last_start(self)
    }

    fn has_ended_clean(&self) -> bool {
        self.w.hosts[self.h].disk.borrow().data.as_ref().is_some_and(|data| data.clean)
    }

    fn marker(&self) -> Option<Marker> {
        self.w.hosts[self.h].disk.borrow().data.as_ref().and_then(|data| data.marker.clone())
    }

    fn watch(&self, (): ()) {
        watch(self);
    }
}

fn stamp(pid: ServerId) -> Option<Stamp> {
    (pid != 0).then_some((0, pid, 0, 0))
}

fn last_start(c: &Ctx) -> Option<Stamp> {
    stamp(c.w.hosts[c.h].pg.borrow().pid)
}

/// Keeps the server that runs now.
pub fn watch(c: &Ctx) {
    let pid = c.w.hosts[c.h].pg.borrow().pid;
    c.a.inner.borrow_mut().found_running(pid, stamp(pid));
    c.wake_look();
    // It may have ended already.
    c.a.exited.notify(&c.w.exec);
}

/// The task that notices a server's end.
pub async fn watch_exit(c: Ctx) {
    loop {
        c.w.told(&c.a.exited).await;
        c.w.pause(100, 2_000).await;
        let Some(pid) = c.a.inner.borrow().server else { continue };
        if !(c.w.server_runs(c.h) && c.w.hosts[c.h].pg.borrow().pid == pid) {
            server_ended(&c, pid);
        }
    }
}
