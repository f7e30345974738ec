//! The network of a world: one bridge, a port for every host and one for the clients, and what can go wrong on it.
//!
//! Cuts and losses are rules of nftables on the bridge, replaced as a whole at every change. They work on whole ports,
//! so that a host that is cut off is silent for ARP too. The operator's commands come from the bridge itself.

use std::collections::BTreeMap;

use super::links::{CutId, End, Link, Service, Trouble, Troubles};
use super::relay::{self, Relay, Weather};
use super::{HostError, Netns, Place, tool};

/// The first three numbers of every address: a range set aside for tests of networks.
const PREFIX: &str = "198.18.7";
/// The last number of the operator's address, and of the clients'.
const OPERATOR: u64 = 254;
const CLIENTS: u64 = 200;

/// The switch and all that is plugged in.
#[derive(Debug)]
pub struct Network {
    hosts: BTreeMap<u64, Netns>,
    clients: Netns,
    troubles: Troubles,
    relays: BTreeMap<u64, Relay>,
}

impl Drop for Network {
    fn drop(&mut self) {
        // The bridge and its cables would be in the way of the run's next world. Those of the hosts end with them.
        self.relays.clear();
        for port in self.hosts.keys().map(|id| End::Host(*id)).chain([End::Clients, End::Operator]).map(End::port) {
            if let Err(error) = tool("ip", &["link", "del", &port], None) {
                eprintln!("{port} could not be removed from the switch: {error}");
            }
        }
    }
}

impl Network {
    /// The switch in the calling thread's network (which must be the run's own), with the clients plugged in.
    pub fn new() -> Result<Network, HostError> {
        let ip = |line: &str| tool("ip", &line.split(' ').collect::<Vec<_>>(), None);
        ip("link set lo up")?;
        ip("link add br0 type bridge forward_delay 0 mcast_snooping 0")?;
        ip("link set br0 addrgenmode none")?;
        ip(&format!("addr add {PREFIX}.{OPERATOR}/24 dev br0"))?;
        ip("link set br0 up")?;
        let clients = Netns::new()?;
        plug(End::Clients, &clients, CLIENTS)?;
        let network =
            Network { hosts: BTreeMap::new(), clients, troubles: Troubles::default(), relays: BTreeMap::new() };
        network.write_rules()?;
        Ok(network)
    }

    /// Plugs in a new host, of a node whose id is below 200.
    pub fn add_host(&mut self, id: u64) -> Result<(), HostError> {
        assert!((1..CLIENTS).contains(&id), "host {id} has no address here");
        let netns = Netns::new()?;
        plug(End::Host(id), &netns, id)?;
        self.hosts.insert(id, netns);
        Ok(())
    }

    /// Unplugs a host for good.
    pub fn remove_host(&mut self, id: u64) -> Result<(), HostError> {
        self.relays.remove(&id);
        self.hosts.remove(&id);
        tool("ip", &["link", "del", &End::Host(id).port()], None).map(drop)
    }

    /// The place of a host, for the servers on it.
    pub fn place(&self, id: u64) -> Place {
        Place {
            address: format!("{PREFIX}.{id}"),
            behind: None,
            clients: format!("{PREFIX}.0/24"),
            netns: self.hosts.get(&id).cloned(),
            environment: Vec::new(),
            log: None,
        }
    }

    /// The network that clients are in.
    pub fn clients(&self) -> &Netns {
        &self.clients
    }

    /// From now on there is trouble on these links.
    pub fn trouble(&mut self, links: &[Link], trouble: Trouble) -> Result<CutId, HostError> {
        let id = self.troubles.add(links, trouble);
        self.write_rules()?;
        Ok(id)
    }

    /// That trouble is over.
    pub fn mend(&mut self, id: CutId) -> Result<(), HostError> {
        self.troubles.end(id);
        self.write_rules()
    }

    /// All frames to and from a host go through this weather from now on; `None`: straight again.
    pub fn weather(&mut self, id: u64, weather: Option<Weather>) -> Result<(), HostError> {
        match weather {
            None => {
                self.relays.remove(&id);
                Ok(())
            }
            Some(weather) => {
                self.relays.remove(&id);
                self.relays.insert(id, Relay::start(&End::Host(id).port(), weather)?);
                Ok(())
            }
        }
    }

    /// Everything is well again.
    pub fn mend_all(&mut self) -> Result<(), HostError> {
        self.troubles.clear();
        self.relays.clear();
        self.write_rules()
    }

    fn write_rules(&self) -> Result<(), HostError> {
        let all: Vec<(Link, Trouble)> = self.troubles.all().collect();
        tool("nft", &["-f", "-"], Some(&rules(&all))).map(drop)
    }
}

/// One end with its cable.
fn plug(end: End, netns: &Netns, number: u64) -> Result<(), HostError> {
    let port = end.port();
    let ip = |line: &str| tool("ip", &line.split(' ').collect::<Vec<_>>(), None);
    ip(&format!("link add {port} type veth peer name eth0 netns {}", netns.path()))?;
    ip(&format!("link set {port} addrgenmode none"))?;
    ip(&format!("link set {port} master br0 up"))?;
    netns.inside(|| {
        ip("link set lo up")?;
        ip("link set eth0 addrgenmode none")?;
        ip(&format!("addr add {PREFIX}.{number}/24 dev eth0"))?;
        ip("link set eth0 up").map(drop)
    })
}

impl End {
    /// Its port on the bridge.
    fn port(self) -> String {
        match self {
            End::Host(id) => format!("h{id}"),
            End::Clients => "clients".to_owned(),
            End::Operator => "br0".to_owned(),
        }
    }
}

impl Service {
    /// Its ports, on any host.
    fn ports(self) -> &'static str {
        match self {
            Service::Postgres => "5432-5499",
            Service::Pgvigil => "7400",
        }
    }
}

/// A port, also while a relay has put another in its place.
fn ports(end: End) -> String {
    let port = end.port();
    format!("{{ \"{port}\", \"{}\" }}", relay::substitute(&port))
}

/// The rules as nftables reads them; the table is replaced in one step.
fn rules(troubles: &[(Link, Trouble)]) -> String {
    let mut chains: BTreeMap<&str, String> = BTreeMap::new();
    for (Link { from, to }, trouble) in troubles {
        let (hook, rule) = match (from, to) {
            (End::Operator, to) => ("output", format!("oifname {}", ports(*to))),
            (from, End::Operator) => ("input", format!("iifname {}", ports(*from))),
            (from, to) => ("forward", format!("iifname {} oifname {}", ports(*from), ports(*to))),
        };
        let chain = chains.entry(hook).or_default();
        match trouble {
            Trouble::Cut => chain.push_str(&format!("    {rule} drop\n")),
            Trouble::Loss(percent) => {
                chain.push_str(&format!("    {rule} numgen random mod 100 < {percent} drop\n"));
            }
            Trouble::CutService(service) => {
                for end in ["sport", "dport"] {
                    chain.push_str(&format!("    {rule} tcp {end} {} drop\n", service.ports()));
                }
            }
        }
    }
    let mut text = "table bridge pgvigil_chaos {}\ndelete table bridge pgvigil_chaos\n\
                    table bridge pgvigil_chaos {\n"
        .to_owned();
    for (hook, rules) in chains {
        text.push_str(&format!("  chain {hook} {{\n    type filter hook {hook} priority 0;\n{rules}  }}\n"));
    }
    text + "}\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_is_a_rule_for_each_direction() {
        let links = Link::between(&[End::Host(1)], &[End::Host(2)]);
        let links: Vec<_> = links.into_iter().map(|link| (link, Trouble::Cut)).collect();
        let text = rules(&links);
        assert!(text.contains("chain forward"), "{text}");
        assert!(text.contains("iifname { \"h1\", \"h1w\" } oifname { \"h2\", \"h2w\" } drop"), "{text}");
        assert!(text.contains("iifname { \"h2\", \"h2w\" } oifname { \"h1\", \"h1w\" } drop"), "{text}");
        assert!(!text.contains("numgen"), "{text}");
    }

    #[test]
    fn the_operator_is_the_bridge_itself() {
        let links = [(Link { from: End::Operator, to: End::Host(3) }, Trouble::Loss(30))];
        let text = rules(&links);
        assert!(text.contains("chain output"), "{text}");
        assert!(text.contains("oifname { \"h3\", \"h3w\" } numgen random mod 100 < 30 drop"), "{text}");
        assert!(!text.contains("forward"), "{text}");
    }
}
