//! What a server shows of itself to a new connection.

use super::wal::Point;
use crate::world::World;
use pgvigil_core::{
    id::TimelineId,
    lsn::Lsn,
    sample::{Receiver, Sample, SlowSample, Walsender},
};

/// The cluster's system identifier.
pub const SYSTEM: u64 = 7_777;

impl World {
    /// What a new connection shows now; `None` if there is none to be had.
    pub fn sample(&self, host: usize) -> Option<Sample> {
        let pg = self.hosts[host].pg.borrow();
        if pg.pid == 0 || !pg.ready || pg.orphaned || pg.stopping {
            return None;
        }
        let disk = self.hosts[host].disk.borrow();
        let data = disk.data.as_ref()?;
        let tree = self.tree.borrow();
        let names = &pg.conf.names;
        let walsenders = pg.senders.iter().map(|s| Walsender {
            pid: i32::try_from(s.id).unwrap_or(i32::MAX),
            application_name: s.name.as_ref().to_owned(),
            state: Some("streaming".to_owned()),
            sync_state: (s.flag && names.k > 0).then(|| "quorum".to_owned()),
            flush_lsn: s.flushed.map(Lsn),
            ..Walsender::default()
        });
        let at = TimelineId(if pg.in_recovery {
            tree.timeline(tree.owner(Point { branch: data.end.branch, lsn: pg.replay }).branch)
        } else {
            tree.timeline(data.end.branch)
        });
        let receiver = pg.receiver.as_ref().filter(|receiver| receiver.streaming).map(|receiver| Receiver {
            pid: i32::try_from(receiver.id).unwrap_or(i32::MAX),
            status: "streaming".to_owned(),
            timeline: Some(at),
            ..Receiver::default()
        });
        let watched = [
            ("synchronous_standby_names", names.value.as_ref()),
            ("synchronous_commit", names.commit),
            ("fsync", "on"),
            ("full_page_writes", "on"),
        ];
        let of_primary = |value: u64| (!pg.in_recovery).then_some(Lsn(value));
        Some(Sample {
            in_recovery: pg.in_recovery,
            timeline: (!pg.in_recovery).then_some(at),
            insert_lsn: of_primary(pg.insert),
            flush_lsn: of_primary(pg.flush),
            receive_lsn: pg.receive_shown.map(Lsn),
            replay_lsn: Some(Lsn(pg.replay)),
            replay_paused: pg.replay_paused,
            receiver,
            walsenders: walsenders.collect(),
            sync_names: names.value.as_ref().to_owned(),
            sync_commit: names.commit.to_owned(),
            watched: watched.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
            loaded_us: i64::try_from(pg.loaded_us).unwrap_or(i64::MAX),
            ..Sample::default()
        })
    }

    /// The richer look.
    #[must_use]
    pub fn slow_sample(&self, host: usize) -> Option<SlowSample> {
        let checkpoint_timeline = TimelineId(self.own_timeline(host));
        self.sample(host).map(|_| SlowSample {
            system_identifier: SYSTEM,
            checkpoint_timeline,
            ..SlowSample::default()
        })
    }
}
