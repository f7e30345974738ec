//! One thread that makes writes durable: it takes everybody who waits, flushes once, and tells them all.
//!
//! That is group commit: under load one flush serves many appends, and no Tokio worker ever waits for the disk.

use crate::db::Db;
use crate::error::StoreError;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use tokio::sync::oneshot;

/// Told whether everything written before it was queued is durable.
type Waiter = Box<dyn FnOnce(Result<(), io::Error>) + Send>;

/// Handle to the thread, which has ended when the last handle is gone. Fields drop in order: the queue closes first.
#[derive(Clone, Debug)]
pub(crate) struct Flusher {
    queue: Sender<Waiter>,
    _thread: Arc<Ended>,
}

/// Waits for the thread. It holds the database, and a process that exits while another thread still closes RocksDB is
/// aborted by RocksDB's own destructors.
#[derive(Debug)]
struct Ended(Option<JoinHandle<()>>);

impl Drop for Ended {
    fn drop(&mut self) {
        // The last handle may be dropped by a waiter, in the thread itself: nobody waits for himself.
        if let Some(thread) = self.0.take().filter(|thread| thread.thread().id() != std::thread::current().id()) {
            // Its panic was made a failure of the store already.
            let _ = thread.join();
        }
    }
}

impl Flusher {
    /// Starts the thread.
    pub(crate) fn start(db: Arc<Db>) -> Result<Self, StoreError> {
        let (queue, waiters) = channel();
        let thread = std::thread::Builder::new()
            .name("raft-flush".to_owned())
            .spawn(move || run(&db, &waiters))
            .map_err(|source| StoreError::File {
                action: "start the thread that flushes",
                path: "raft-flush".into(),
                source,
            })?;
        Ok(Self { queue, _thread: Arc::new(Ended(Some(thread))) })
    }

    /// Calls `waiter` once everything written so far is durable, or known not to be.
    pub(crate) fn then(&self, waiter: impl FnOnce(Result<(), io::Error>) + Send + 'static) {
        if let Err(unsent) = self.queue.send(Box::new(waiter)) {
            let gone = StoreError::Failed("the thread that flushes is gone".to_owned());
            (unsent.0)(Err(gone.into()));
        }
    }

    /// Waits until everything written so far is durable.
    pub(crate) async fn flushed(&self) -> Result<(), io::Error> {
        let (tell, told) = oneshot::channel();
        self.then(move |result| {
            // A caller that stopped waiting needs no answer.
            let _ = tell.send(result);
        });
        let gone = || StoreError::Failed("the thread that flushes ended without an answer".to_owned());
        told.await.unwrap_or_else(|_| Err(gone().into()))
    }
}

/// Makes the end of the thread by a panic a failure of the store: those who wait would otherwise wait for ever.
struct Guard<'a>(&'a Db);

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail(StoreError::Refused("the thread that flushes has panicked".to_owned()));
        }
    }
}

fn run(db: &Db, waiters: &Receiver<Waiter>) {
    let _guard = Guard(db);
    while let Ok(first) = waiters.recv() {
        let mut waiting = vec![first];
        waiting.extend(waiters.try_iter());
        // `io::Error` cannot be cloned, so every waiter gets the text.
        let result = db.flush().map_err(|e| e.full());
        for waiter in waiting {
            waiter(result.clone().map_err(io::Error::other));
        }
        db.reported();
    }
}

#[cfg(test)]
mod tests {
    use crate::open;

    #[test]
    fn the_database_is_closed_as_soon_as_the_last_handle_is_gone() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        for _ in 0..50 {
            // RocksDB's lock on the folder shows whether a thread still has it open.
            let (store, _closed) = open(dir.path(), 1, None).expect("nobody else has it open");
            drop(store);
        }
    }
}
