//! A cluster of three nodes, each on a host of its own, and what surrounds them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::{Control, Disk, Ground, HostError, Netns, Network, Place, Shim};
use crate::cluster::{Cluster, ClusterError, ClusterOptions, NODES};
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

/// The nodes, their hosts, and everybody's network.
#[derive(Debug)]
pub struct World {
    /// The nodes. First, so that nothing runs any more when the rest goes.
    pub cluster: Cluster,
    gear: BTreeMap<u64, Gear>,
    network: Option<Network>,
    shim: Option<Shim>,
    dir: PathBuf,
}

impl World {
    /// Starts three nodes; they form the cluster by themselves. On loopback there are no hosts, only folders.
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
        let (mut network, mut shim) = (None, None);
        if let Ground::Hosts(_) = ground {
            let library = shim.insert(Shim::build(&dir)?);
            // One switch for the whole run; the next world of the same run finds it empty again.
            let switch = network.insert(Network::new()?);
            for id in 1..=NODES as u64 {
                let (place, its_gear) = furnish(&dir, &nodes, switch, library, id)?;
                options.places.insert(id, place);
                gear.insert(id, its_gear);
            }
        }
        let mut cluster = Cluster::prepare(options)?;
        for gear in gear.values() {
            gear.disk.sync()?;
        }
        for id in cluster.nodes.iter().map(|node| node.id).collect::<Vec<_>>() {
            cluster.start_node(id)?;
        }
        Ok(World { cluster, gear, network, shim, dir })
    }

    /// Adds a host with a new node, which joins by itself; its id.
    pub fn add_host(&mut self) -> Result<u64, WorldError> {
        let id = self.cluster.next_id();
        let (Some(switch), Some(library)) = (&mut self.network, &self.shim) else {
            return Ok(self.cluster.add_node_at(Place::loopback())?);
        };
        let nodes = self.cluster.dir.clone();
        let (place, gear) = furnish(&self.dir, &nodes, switch, library, id)?;
        let id = self.cluster.add_node_at(place)?;
        gear.disk.sync()?;
        self.gear.insert(id, gear);
        Ok(id)
    }

    /// Takes a host away with everything on it.
    pub fn remove_host(&mut self, id: u64) -> Result<(), WorldError> {
        let node = self.cluster.forget_node(id)?;
        self.gear.remove(&id);
        if let Some(network) = &mut self.network {
            network.remove_host(id)?;
        }
        std::fs::remove_dir_all(&node.dir).map_err(HostError::io("removing a host's folder"))?;
        Ok(())
    }

    /// The network; an error on loopback.
    pub fn network(&mut self, what: &'static str) -> Result<&mut Network, WorldError> {
        self.network.as_mut().ok_or(WorldError::NoHosts(what))
    }

    /// Whether there are hosts, and not only folders.
    pub fn has_hosts(&self) -> bool {
        self.network.is_some()
    }

    /// The network that clients are in; `None` on loopback.
    pub fn clients(&self) -> Option<Netns> {
        self.network.as_ref().map(|network| network.clients().clone())
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

/// The cable, the disk and the page of a new host.
fn furnish(dir: &Path, nodes: &Path, network: &mut Network, shim: &Shim, id: u64) -> Result<(Place, Gear), WorldError> {
    network.add_host(id)?;
    let disk = Disk::create(dir.join(format!("disk{id}.img")), nodes.join(format!("n{id}")), DISK)?;
    let control = Control::create(dir.join(format!("control{id}")))?;
    let log = Some(dir.join(format!("pgvigil{id}.log")));
    let place = Place { environment: shim.environment(&control), log, ..network.place(id) };
    Ok((place, Gear { disk, control }))
}
