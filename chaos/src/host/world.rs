//! A cluster of three nodes, each on a host of its own, and what surrounds them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::{
    Control, CutId, Disk, Fronts, Ground, HostError, Link, Netns, Network, Place, Service, Shim, Trouble, Weather,
};
use crate::cluster::{Cluster, ClusterError, ClusterOptions, NODES, Node};
use crate::processes::SignalError;

/// Mebibytes of a host's disk.
const DISK: u64 = 3072;

/// Why the world could not be made or changed.
#[derive(Debug, Error)]
pub enum WorldError {
    /// On this ground it cannot be done.
    #[error("{0} needs hosts of their own")]
    NoHosts(&'static str),
    /// See there.
    #[error(transparent)]
    Host(#[from] HostError),
    /// See there.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// See there.
    #[error(transparent)]
    Signal(#[from] SignalError),
}

/// What belongs to one host beside its processes and its cable.
#[derive(Debug)]
struct Gear {
    disk: Disk,
    control: Control,
}

/// How everybody is connected.
#[derive(Debug)]
enum Links {
    /// By a switch.
    Network(Network),
    /// By loopback, where a front is before every server.
    Fronts(Fronts),
}

/// The nodes, their hosts, and everybody's network.
#[derive(Debug)]
pub struct World {
    /// The nodes. First, so that nothing runs any more when the rest goes.
    pub cluster: Cluster,
    gear: BTreeMap<u64, Gear>,
    links: Links,
    shim: Option<Shim>,
    dir: PathBuf,
}

impl World {
    /// Starts three nodes; they form the cluster by themselves. On loopback there are no hosts, only folders and fronts.
    /// `number`: which world of this run.
    pub fn start(ground: &Ground, number: usize, pgvigil: Option<PathBuf>) -> Result<World, WorldError> {
        let dir = ground.dir().join(format!("world{number}"));
        let nodes = dir.join("hosts");
        std::fs::create_dir_all(&nodes).map_err(HostError::io("making the hosts' folder"))?;
        let mut options = ClusterOptions {
            pgvigil,
            dir: Some(nodes.clone()),
            // A disk is small: neither checkpoints nor absent standbys may fill it.
            parameters: [("max_wal_size", "96MB"), ("min_wal_size", "32MB")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
            settings: [("slot_wal_max_mib", "192")].map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
            ..ClusterOptions::default()
        };
        let mut gear = BTreeMap::new();
        let mut shim = None;
        let mut links = match ground {
            Ground::Hosts(_) => {
                shim = Some(Shim::build(&dir)?);
                // One switch for the whole run; the next world of the same run finds it empty again.
                Links::Network(Network::new()?)
            }
            Ground::Loopback(_) => Links::Fronts(Fronts::default()),
        };
        for id in 1..=NODES as u64 {
            let place = match (&mut links, &shim) {
                (Links::Network(switch), Some(library)) => {
                    let (place, its_gear) = furnish(&dir, &nodes, switch, library, id)?;
                    gear.insert(id, its_gear);
                    place
                }
                _ => Fronts::place(id),
            };
            options.places.insert(id, place);
        }
        let mut cluster = Cluster::prepare(options)?;
        for gear in gear.values() {
            gear.disk.sync()?;
        }
        if let Links::Fronts(fronts) = &mut links {
            for node in &cluster.nodes {
                open(fronts, node)?;
            }
        }
        for id in cluster.nodes.iter().map(|node| node.id).collect::<Vec<_>>() {
            cluster.start_node(id)?;
        }
        Ok(World { cluster, gear, links, shim, dir })
    }

    /// Adds a host with a new node, which joins by itself; its id.
    pub fn add_host(&mut self) -> Result<u64, WorldError> {
        let id = self.cluster.next_id();
        match (&mut self.links, &self.shim) {
            (Links::Network(switch), Some(library)) => {
                let nodes = self.cluster.dir.clone();
                let (place, gear) = furnish(&self.dir, &nodes, switch, library, id)?;
                self.cluster.prepare_node_at(place)?;
                gear.disk.sync()?;
                self.gear.insert(id, gear);
            }
            (Links::Fronts(fronts), _) => {
                self.cluster.prepare_node_at(Fronts::place(id))?;
                open(fronts, self.cluster.node(id)?)?;
            }
            (Links::Network(_), None) => unreachable!("hosts have their library"),
        }
        self.cluster.start_node(id)?;
        Ok(id)
    }

    /// Takes a host away with everything on it.
    pub fn remove_host(&mut self, id: u64) -> Result<(), WorldError> {
        let node = self.cluster.forget_node(id)?;
        self.gear.remove(&id);
        match &mut self.links {
            Links::Network(network) => network.remove_host(id)?,
            Links::Fronts(fronts) => fronts.remove_host(id),
        }
        std::fs::remove_dir_all(&node.dir).map_err(HostError::io("removing a host's folder"))?;
        Ok(())
    }

    /// From now on there is trouble on these links; an error on loopback, where it is frames that are to be lost.
    pub fn trouble(&mut self, links: &[Link], trouble: Trouble) -> Result<CutId, WorldError> {
        match &mut self.links {
            Links::Network(network) => Ok(network.trouble(links, trouble)?),
            Links::Fronts(fronts) => fronts.trouble(links, trouble).ok_or(WorldError::NoHosts("loss of frames")),
        }
    }

    /// That trouble is over.
    pub fn mend(&mut self, id: CutId) -> Result<(), WorldError> {
        match &mut self.links {
            Links::Network(network) => network.mend(id)?,
            Links::Fronts(fronts) => fronts.mend(id),
        }
        Ok(())
    }

    /// All frames to and from a host go through this weather from now on; `None`: straight again. An error on loopback.
    pub fn weather(&mut self, id: u64, weather: Option<Weather>) -> Result<(), WorldError> {
        match &mut self.links {
            Links::Network(network) => Ok(network.weather(id, weather)?),
            Links::Fronts(_) => Err(WorldError::NoHosts("weather")),
        }
    }

    /// Whether there are hosts, and not only folders.
    pub fn has_hosts(&self) -> bool {
        matches!(self.links, Links::Network(_))
    }

    /// The network that clients are in; `None` on loopback.
    pub fn clients(&self) -> Option<Netns> {
        match &self.links {
            Links::Network(network) => Some(network.clients().clone()),
            Links::Fronts(_) => None,
        }
    }

    /// The disk of a host.
    pub fn disk(&mut self, id: u64, what: &'static str) -> Result<&mut Disk, WorldError> {
        self.gear.get_mut(&id).map(|gear| &mut gear.disk).ok_or(WorldError::NoHosts(what))
    }

    /// The page that controls a host's clock and fsync.
    pub fn control(&self, id: u64, what: &'static str) -> Result<&Control, WorldError> {
        self.gear.get(&id).map(|gear| &gear.control).ok_or(WorldError::NoHosts(what))
    }

    /// The run's folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

/// The fronts before a node's servers.
fn open(fronts: &mut Fronts, node: &Node) -> Result<(), WorldError> {
    let (Some(pgvigil), Some(behind)) = (node.behind(), &node.place.behind) else { return Ok(()) };
    let address = |text: &str| text.parse().expect("a loopback address and a port");
    let (front, server) = (format!("{}:{}", node.place.address, node.port), format!("{behind}:{}", node.port));
    fronts.open(node.id, &node.dir, Service::Pgvigil, address(&node.listen), address(&pgvigil))?;
    fronts.open(node.id, &node.dir, Service::Postgres, address(&front), address(&server))?;
    Ok(())
}

/// The cable, the disk and the page of a new host.
fn furnish(dir: &Path, nodes: &Path, network: &mut Network, shim: &Shim, id: u64) -> Result<(Place, Gear), WorldError> {
    network.add_host(id)?;
    let disk = Disk::create(dir.join(format!("disk{id}.img")), nodes.join(format!("n{id}")), DISK)?;
    let control = Control::create(dir.join(format!("control{id}")))?;
    let log = Some(dir.join(format!("pgvigil{id}.log")));
    let place = Place { environment: shim.environment(&control), log, ..network.place(id) };
    Ok((place, Gear { disk, control }))
}
