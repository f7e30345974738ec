//! Acts as simulated tasks.

use super::shared::Ctx;
use crate::{
    exec::{Done, TaskId},
    world::World,
};
use pgvigil_agent::{
    scene::Scene,
    tasks::worker::{Acting, UnderWay, carry_out, carry_out_aside},
};
use pgvigil_core::reconcile::Action;
use std::{future::Future, rc::Rc};

/// An act under way.
pub struct Act {
    c: Ctx,
    task: TaskId,
    done: Rc<Done>,
}

impl Ctx {
    fn spawn(&self, work: impl Future<Output = ()> + 'static) -> Act {
        let done = Rc::new(Done::default());
        let (end, c) = (Rc::clone(&done), self.clone());
        let task = self.w.exec.spawn(World::agent_process(self.h), async move {
            work.await;
            end.end(&c.w.exec);
        });
        Act { c: self.clone(), task, done }
    }
}

impl Acting for Ctx {
    type Act = Act;

    fn begin(&self, action: Action, scene: Option<Scene>) -> Act {
        self.spawn(carry_out(self.clone(), action, scene))
    }

    fn begin_aside(&self, action: Action) -> Act {
        self.spawn(carry_out_aside(self.clone(), action))
    }
}

impl UnderWay for Act {
    fn is_over(&self) -> bool {
        !self.c.w.exec.is_alive(self.task)
    }

    async fn ends_within(&mut self, ms: u64) -> bool {
        self.c.w.within(self.c.h, ms, self.c.w.ended(&self.done)).await.is_some()
    }

    fn cut_off(self) {
        self.c.w.exec.abort(self.task);
    }
}
