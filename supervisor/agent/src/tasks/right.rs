//! The right to serve as its holder keeps it: the deadline goes to the guard, and only once the guard has confirmed it
//! is the right longer. Keeps S3.

use super::{Event, Tasks};
use crate::{bug::Bug, known::Known, ports::Wake};
use pgvigil_core::{
    guard::{self, Duty, Message, Order},
    keeper::{KEEP_MS, Keeper, Next, Renewal, Step},
    local::{Local, LocalPostgres},
};

/// What comes in for the keeper of the right, and the guard.
#[expect(async_fn_in_trait, reason = "as for the ports of acts")]
pub trait Guard {
    /// Everything that makes the right longer or ends it, as soon as there is something; nothing after `limit_ms`. `None`: the
    /// agent ends.
    async fn renewals(&mut self, limit_ms: u64) -> Option<Vec<Renewal>>;
    /// Tells the guard; what it has in force then.
    async fn tell(&mut self, message: Message) -> Result<Duty, String>;
    /// Starts a guard, and waits a while for it to listen.
    async fn start(&mut self);
    /// It has confirmed a deadline.
    async fn is_armed(&mut self) {}
}

/// The task.
pub async fn run<M: Tasks>(m: &M, mut guard: impl Guard) {
    let mut keeper = Keeper::default();
    while let Some(news) = guard.renewals(KEEP_MS).await {
        let due = news.is_empty();
        let Some(agreed) = m.agreed() else { continue };
        let step = {
            let now = m.now();
            let mut known = m.known();
            let Known { local, guarded, .. } = &mut *known;
            let seen = m.planted(Bug::RightOutlivesItsServer).then(|| believe_it_runs(local, &news));
            let step = keeper.hear(news, due, &agreed, local, guarded, now);
            if let Some(postgres) = seen {
                local.postgres = postgres;
            }
            step
        };
        match step {
            Step::Wait => {}
            Step::Fence => m.wake(Wake::Worker),
            Step::Tell(order) => {
                if tell(m, &mut guard, &mut keeper, order).await && m.known().guarded.until.is_some() {
                    guard.is_armed().await;
                }
            }
        }
    }
}

/// Tells the guard what it needs to know; starts one if there is none. `true`: it has confirmed.
async fn tell<M: Tasks>(m: &M, guard: &mut impl Guard, keeper: &mut Keeper, order: Order) -> bool {
    loop {
        let answer = guard.tell(order.message()).await;
        let next = {
            let mut known = m.known();
            let Known { local, guarded, .. } = &mut *known;
            keeper.told(answer.as_ref().ok().copied(), local, guarded)
        };
        if let (Next::Again | Next::GivenUp, Err(error)) = (next, answer) {
            m.problem("guard", Some(format!("the guard does not confirm: {error}")));
        }
        match next {
            Next::Start => {
                m.happens(Event::GuardStarts);
                guard.start().await;
            }
            Next::Again => {}
            Next::GivenUp | Next::Unwatched { stop: false } => return false,
            Next::Unwatched { stop: true } => {
                m.wake(Wake::Worker);
                return false;
            }
            Next::Watched => {
                m.problem("guard", None);
                m.wake(Wake::Worker);
                return true;
            }
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
