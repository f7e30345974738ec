//! The model of durability (S1, S2) as stateright sees it.

use crate::{
    actions::Step,
    agreed::{Book, inc, name, small},
    heal::Arriving,
    local::Wishes,
    next, properties,
    sizes::Size,
    state::{Branch, Force, Held, MEMBERS_MAX, Member, Proven, Run, Sender, Server, Wal, World},
};
use stateright::{Model, Property};
use std::sync::{Arc, atomic::AtomicU32};

/// The model: a size, the book of agreed states, and the answers of `reconcile`.
#[derive(Clone, Debug)]
pub struct Durability {
    /// The size.
    pub size: Size,
    /// Every agreed state met.
    pub book: Arc<Book>,
    /// Every answer of `reconcile`.
    pub wishes: Arc<Wishes>,
    /// States from which the fair run arrives.
    pub arriving: Arc<Arriving>,
    /// Which properties were discovered: only the first discovery of each is kept, since that is the shortest.
    pub discovered: Arc<AtomicU32>,
}

impl Durability {
    /// The model of `size`.
    #[must_use]
    pub fn new(size: Size) -> Self {
        Self {
            size,
            book: Arc::default(),
            wishes: Arc::default(),
            arriving: Arc::default(),
            discovered: Arc::default(),
        }
    }

    /// A founded cluster that replicates: a is the primary of epoch 1, every other member streams from it.
    #[must_use]
    pub fn founded(&self) -> World {
        let agreed = self.book.founded(self.size.members, self.size.outside, self.size.k);
        let cluster = self.book.get(agreed);
        let incarnation = |member: Member| cluster.key_of(&name(member)).map_or(0, |key| inc(&key));
        let version = cluster.reign().map_or(0, |reign| small(reign.version.0));
        let setting = cluster.reign().map_or(Held::NOBODY, |reign| next::held(&reign.setting, 1));
        let first = incarnation(0);
        let mut senders = [Sender::default(); MEMBERS_MAX];
        let mut servers = Vec::new();
        for member in 0..self.size.members {
            let mine = incarnation(member);
            let mut server = Server { up: true, marker: mine, promised: 1, view: agreed, ..Server::default() };
            if member == 0 {
                server.run = Run::Primary;
                server.reigned = 1;
                server.promotion = Some((0, 0));
                server.setting = setting;
                if self.size.proven {
                    let mut flushed = [0; MEMBERS_MAX];
                    for other in 1..self.size.members - self.size.outside {
                        flushed[other as usize] = incarnation(other);
                    }
                    server.proof = Some(Proven { version, marker: 0, flushed });
                    server.proven = version;
                }
                server.force = Some(Force { epoch: 1, version, door: true, upstream: (0, 0) });
            } else {
                server.run = Run::Standby;
                server.fence = true;
                server.setting = self.size.planted.without_rule();
                server.follows = (0, mine, 1);
                server.force = Some(Force { epoch: 1, version: 0, door: true, upstream: (0, first) });
                senders[member as usize] = Sender { inc: mine, epoch: 1, held: setting, flush: 0 };
            }
            servers.push(server);
        }
        servers[0].senders = senders;
        let timeline = cluster.reign().map_or(1, |reign| small(u64::from(reign.timeline.0)));
        World {
            agreed,
            servers,
            branches: vec![Branch { parent: 0, fork: 0, epoch: 1, timeline }],
            acked: Vec::new(),
            shown: Vec::new(),
            told: [None; MEMBERS_MAX],
            budget: self.size.budget,
        }
    }

    /// The WAL of a member.
    #[must_use]
    pub fn wal(world: &World, member: Member) -> Wal {
        world.servers[member as usize].wal
    }
}

impl Model for Durability {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        let mut world = self.founded();
        for step in self.size.before {
            let Some(after) = next::next(self, &world, *step) else { return Vec::new() };
            world = after;
        }
        vec![world]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Step>) {
        next::steps(self, world, actions);
    }

    fn next_state(&self, world: &World, step: Step) -> Option<World> {
        next::next(self, world, step)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties::all(&self.size)
    }
}
