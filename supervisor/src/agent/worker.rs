//! Acts as Tokio tasks.

use super::here::Here;
use pgvigil_agent::{
    scene::Scene,
    tasks::worker::{Acting, UnderWay, carry_out, carry_out_aside, note, run},
};
use pgvigil_core::reconcile::Action;
use std::time::Duration;
use tokio::task::{AbortHandle, JoinHandle};

/// Starts the worker.
pub fn start(here: Here) {
    tokio::spawn(async move { run(&here).await });
}

/// An act under way, and who waits for its end.
pub struct Act {
    running: AbortHandle,
    ended: JoinHandle<()>,
}

/// An act that panicked is tried again like one that failed.
fn watched(here: Here, action: Action, task: JoinHandle<()>) -> Act {
    let running = task.abort_handle();
    let ended = tokio::spawn(async move {
        if let Err(error) = task.await
            && error.is_panic()
        {
            note(&here, &action, None, Err(anyhow::anyhow!("{error}")));
        }
        here.work.notify_one();
    });
    Act { running, ended }
}

impl Acting for Here {
    type Act = Act;

    fn begin(&self, action: Action, scene: Option<Scene>) -> Act {
        let task = tokio::spawn(carry_out(self.clone(), action.clone(), scene));
        watched(self.clone(), action, task)
    }

    fn begin_aside(&self, action: Action) -> Act {
        let task = tokio::spawn(carry_out_aside(self.clone(), action.clone()));
        watched(self.clone(), action, task)
    }
}

impl UnderWay for Act {
    fn is_over(&self) -> bool {
        self.ended.is_finished()
    }

    async fn ends_within(&mut self, ms: u64) -> bool {
        tokio::time::timeout(Duration::from_millis(ms), &mut self.ended).await.is_ok()
    }

    fn cut_off(self) {
        self.running.abort();
    }
}
