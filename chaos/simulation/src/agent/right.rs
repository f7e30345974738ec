//! The task that keeps the right to serve: the shipped [`Keeper`], and a way to the guard.

use super::shared::Ctx;
use crate::{guard::tell as tell_guard, planted::Planted, world::World};
use pgvigil_agent::known::Known;
use pgvigil_core::{
    guard::{self, Order},
    keeper::{KEEP_MS, Keeper, Next, Renewal, Step},
    local::{Local, LocalPostgres},
};

impl Ctx {
    /// Hands a renewal to the task that keeps the right.
    pub fn renew(&self, renewal: Renewal) {
        self.a.renewals.borrow_mut().push_back(renewal);
        self.a.renewed.notify(&self.w.exec);
    }
}

/// The task.
pub async fn run(c: Ctx) {
    let mut keeper = Keeper::default();
    loop {
        let mut due = false;
        if c.a.renewals.borrow().is_empty() {
            let at = c.now().plus(KEEP_MS);
            due = c.w.until_or_told(c.h, at, &c.a.renewed).await;
        }
        let news: Vec<Renewal> = c.a.renewals.borrow_mut().drain(..).collect();
        let Some(agreed) = c.agreed() else { continue };
        let step = {
            let mut inner = c.a.inner.borrow_mut();
            let Known { local, guarded, .. } = &mut *inner;
            let planted = c.w.planted == Some(Planted::RightOutlivesItsServer);
            let seen = planted.then(|| believe_it_runs(local, &news));
            let step = keeper.hear(news, due, &agreed, local, guarded, c.now());
            if let Some(postgres) = seen {
                local.postgres = postgres;
            }
            step
        };
        match step {
            Step::Wait => {}
            Step::Fence => c.wake_work(),
            Step::Tell(order) => tell(&c, &mut keeper, order).await,
        }
    }
}

/// The planted bug: the keeper does not see that the server whose right it has has ended. What was seen.
fn believe_it_runs(local: &mut Local, news: &[Renewal]) -> LocalPostgres {
    let seen = local.postgres.clone();
    let has_right = local.right.renewed_sent_at.max(local.right.canary_began_at).is_some();
    if has_right && !guard::may_serve(local) && !news.contains(&Renewal::Revoked) {
        local.postgres = LocalPostgres::Unknown;
    }
    seen
}

async fn tell(c: &Ctx, keeper: &mut Keeper, order: Order) {
    loop {
        let answer = tell_guard(&c.w, c.h, order.message()).await;
        let next = {
            let mut inner = c.a.inner.borrow_mut();
            let Known { local, guarded, .. } = &mut *inner;
            keeper.told(answer.ok(), local, guarded)
        };
        match next {
            Next::Start => {
                c.w.cover.hit("guard", "not-confirmed");
                spawn_guard(c).await;
            }
            Next::Again => {}
            Next::GivenUp | Next::Unwatched { stop: false } => return,
            Next::Unwatched { stop: true } | Next::Watched => return c.wake_work(),
        }
    }
}

async fn spawn_guard(c: &Ctx) {
    c.w.pause(2_000, 30_000).await;
    // A frozen one keeps its lock: no second one begins beside it.
    if !c.w.exec.is_frozen(World::guard_process(c.h)) {
        c.w.start_guard(c.h);
    }
}
