//! What comes in for the keeper of the right, and the way to the simulated guard.

use super::shared::Ctx;
use crate::{guard::tell, world::World};
use pgvigil_agent::tasks::right::Guard;
use pgvigil_core::{
    guard::{Duty, Message},
    keeper::Renewal,
};

impl Ctx {
    /// Hands a renewal to the task that keeps the right.
    pub fn renew(&self, renewal: Renewal) {
        self.a.renewals.borrow_mut().push_back(renewal);
        self.a.renewed.notify(&self.w.exec);
    }
}

impl Guard for Ctx {
    async fn renewals(&mut self, limit_ms: u64) -> Option<Vec<Renewal>> {
        let at = self.now().plus(limit_ms);
        while self.a.renewals.borrow().is_empty() {
            if self.w.until_or_told(self.h, at, &self.a.renewed).await {
                break;
            }
        }
        Some(self.a.renewals.borrow_mut().drain(..).collect())
    }

    async fn tell(&mut self, message: Message) -> Result<Duty, String> {
        tell(&self.w, self.h, message).await.map_err(str::to_owned)
    }

    async fn start(&mut self) {
        self.w.pause(2_000, 30_000).await;
        // A frozen one keeps its lock: no second one begins beside it.
        if !self.w.exec.is_frozen(World::guard_process(self.h)) {
            self.w.start_guard(self.h);
        }
    }
}
