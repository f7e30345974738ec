//! Who is connected with whom, and what can be the trouble with it.

use std::collections::BTreeMap;
use std::fmt;

/// Somebody on the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// The host of that node.
    Host(u64),
    /// Where the clients are.
    Clients,
    /// Where the suite asks from.
    Operator,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::Host(id) => write!(f, "host {id}"),
            End::Clients => f.write_str("the clients"),
            End::Operator => f.write_str("the operator"),
        }
    }
}

/// One direction between two ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// The sender.
    pub from: End,
    /// The receiver.
    pub to: End,
}

/// What happens to frames on a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// All are dropped.
    Cut,
    /// So many of a hundred are dropped, at random.
    Loss(u8),
    /// Those from and to the servers of that kind are dropped; the others pass.
    CutService(Service),
}

/// A kind of server that hosts have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// PostgreSQL: clients and replication.
    Postgres,
    /// pgvigil: Raft, agents, commands.
    Pgvigil,
}

/// A trouble that can be ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct CutId(u64);

impl Link {
    /// From any of the first to any of the second.
    pub fn from_to(some: &[End], others: &[End]) -> Vec<Link> {
        let pairs = some.iter().flat_map(|a| others.iter().map(|b| Link { from: *a, to: *b }));
        pairs.filter(|link| link.from != link.to).collect()
    }

    /// Both directions between any of the first and any of the second.
    pub fn between(some: &[End], others: &[End]) -> Vec<Link> {
        [Link::from_to(some, others), Link::from_to(others, some)].concat()
    }
}

/// The troubles there are.
#[derive(Debug, Default)]
pub(super) struct Troubles {
    under_way: BTreeMap<CutId, Vec<(Link, Trouble)>>,
    last: u64,
}

impl Troubles {
    /// One more, on these links.
    pub(super) fn add(&mut self, links: &[Link], trouble: Trouble) -> CutId {
        self.last += 1;
        let id = CutId(self.last);
        self.under_way.insert(id, links.iter().map(|link| (*link, trouble)).collect());
        id
    }

    /// That one is over.
    pub(super) fn end(&mut self, id: CutId) {
        self.under_way.remove(&id);
    }

    /// All are over.
    pub(super) fn clear(&mut self) {
        self.under_way.clear();
    }

    /// All of them, link by link.
    pub(super) fn all(&self) -> impl Iterator<Item = (Link, Trouble)> {
        self.under_way.values().flatten().copied()
    }

    /// Whether nothing that is from or for a server of this kind passes there.
    pub(super) fn cut(&self, link: Link, service: Service) -> bool {
        self.all().any(|(on, trouble)| on == link && [Trouble::Cut, Trouble::CutService(service)].contains(&trouble))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn between_groups_every_pair_is_named_both_ways() {
        let links = Link::between(&[End::Host(1)], &[End::Host(2), End::Clients]);
        assert_eq!(links.len(), 4);
        assert!(links.contains(&Link { from: End::Clients, to: End::Host(1) }));
    }

    #[test]
    fn a_link_is_cut_until_the_last_cut_is_over_and_one_way_only() {
        let (there, back) =
            (Link { from: End::Host(1), to: End::Host(2) }, Link { from: End::Host(2), to: End::Host(1) });
        let mut troubles = Troubles::default();
        let one = troubles.add(&[there], Trouble::Cut);
        let other = troubles.add(&[there, back], Trouble::CutService(Service::Postgres));
        assert!(troubles.cut(there, Service::Pgvigil) && !troubles.cut(back, Service::Pgvigil));
        assert!(troubles.cut(back, Service::Postgres));
        troubles.end(one);
        assert!(!troubles.cut(there, Service::Pgvigil) && troubles.cut(there, Service::Postgres));
        troubles.end(other);
        assert!(!troubles.cut(there, Service::Postgres));
    }
}
