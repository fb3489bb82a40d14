//! A Redis Cluster in memory, for tests: here, and of every crate that plans or carries out.
//!
//! [`Sim`] is the truth: places (pods) with servers that know, believe and refuse as Redis does. What a pass would see
//! of it is [`Sim::world`]; a planned action is carried out by [`Sim::apply`]; time passes only in [`Sim::gossip`];
//! and what goes wrong are the methods of `fault`.
//!
//! ```
//! use cachecluster_topology::{assess, plan, sim::Sim};
//!
//! let mut sim = Sim::new(3, 1);
//! assert!(sim.run(20).is_some());
//! sim.kill(0, 0);
//! sim.gossip();
//! let world = sim.world();
//! assert!(!assess(&world).is_healthy());
//! assert!(plan(&world).action.is_some());
//! ```
//!
//! Simplified: a round of gossip reaches everybody who can be reached, failure detection takes one round, replication
//! is instant within a round, and the 60 seconds for which a forgotten node is refused are not counted.

mod execute;
mod fault;
mod gossip;
mod table;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use crate::assess::assess;
use crate::model::{
    FailedSaves, KnownNode, LinkState, Member, NodeId, NodeView, Presence, Probe, Role, Standing,
    World,
};
use crate::plan::plan;
use crate::slots::SlotRanges;

/// A server process, or the volume that it left.
#[derive(Clone, Debug)]
struct Server {
    addr: (IpAddr, u16),
    up: bool,
    /// What it says of itself and believes of others.
    view: NodeView,
    /// Addresses that it was told to meet.
    meeting: Vec<(IpAddr, u16)>,
}

/// A pod's place.
#[derive(Clone, Debug)]
struct Place {
    name: String,
    shard: u32,
    ordinal: u32,
    machine: String,
    zone: Option<String>,
    presence: Presence,
    /// The server; also after its end, for the sake of its volume.
    server: Option<Server>,
    /// Whether its pod waits for a machine, and has neither server nor volume.
    unborn: bool,
    /// Whether a user has its server stopped, once it has stopped: none starts here before the fence is lifted.
    fenced: bool,
    /// Whether the observer can reach it.
    visible: bool,
    /// Whether the other nodes can.
    connected: bool,
}

/// The true state of a cluster and its surroundings.
#[derive(Clone, Debug)]
pub struct Sim {
    shards: u32,
    replicas: u32,
    places: Vec<Place>,
    /// Servers and addresses made so far: no two are ever the same.
    made: u32,
    /// How many replicas a server demands of a write when it starts.
    demand: u32,
}

impl Sim {
    /// Pods of a new cluster, started and blank, spread over three machines as the scheduler would: no shard has two
    /// pods on one machine while another is free.
    #[must_use]
    pub fn new(shards: u32, replicas: u32) -> Self {
        let mut sim = Self {
            shards,
            replicas,
            places: Vec::new(),
            made: 0,
            demand: 0,
        };
        sim.scale_replicas(replicas);
        sim
    }

    /// What a pass would observe now.
    #[must_use]
    pub fn world(&self) -> World {
        World {
            shards: self.shards,
            replicas: self.replicas,
            members: self.places.iter().map(Place::observe).collect(),
            durable: None,
        }
    }

    /// Observes, plans, applies and lets gossip happen, until the world is healthy, at most `passes` times. Returns
    /// how many passes it took; `None` when they did not suffice.
    pub fn run(&mut self, passes: usize) -> Option<usize> {
        for pass in 0..=passes {
            let world = self.world();
            if assess(&world).is_healthy() {
                return Some(pass);
            }
            if let Some(action) = plan(&world).action {
                self.apply(&action);
            }
            self.gossip();
        }
        None
    }

    /// Slots that some running server owns, by its own account.
    #[must_use]
    pub fn served(&self) -> SlotRanges {
        let views = self.places.iter().filter_map(Place::running);
        views
            .filter(|server| server.view.role == Role::Primary)
            .fold(SlotRanges::default(), |all, s| all.union(&s.view.slots))
    }

    /// The running server with this id, if there is one: its account of itself.
    #[must_use]
    pub fn alive(&self, id: &NodeId) -> Option<&NodeView> {
        let mut running = self.places.iter().filter_map(Place::running);
        running.find(|s| s.view.id == *id).map(|s| &s.view)
    }

    /// Whether a server runs there that owns slots by its own account, and that the other nodes can reach.
    #[must_use]
    pub fn is_connected_owner(&self, shard: u32, ordinal: u32) -> bool {
        let mut places = self.places.iter();
        let place = places.find(|p| (p.shard, p.ordinal) == (shard, ordinal));
        place.is_some_and(|place| {
            place.connected && place.running().is_some_and(|s| !s.view.slots.is_empty())
        })
    }

    /// Writes `keys` new keys to the primary of the shard, if it has one that serves. Replicas get them with the next
    /// round of gossip. Returns whether it was acknowledged.
    pub fn write(&mut self, shard: u32, keys: u64) -> bool {
        let places = self.places.iter_mut().filter(|p| p.shard == shard);
        let servers = places.filter_map(Place::running_mut);
        let serving = servers.filter(|s| !s.view.slots.is_empty() && s.view.cluster_ok);
        let primary = serving.max_by_key(|s| s.view.epoch);
        let demands = |s: &Server| s.view.standing.required.unwrap_or(0) as usize;
        if let Some(server) = primary
            && demands(server) <= server.view.standing.attached.len()
        {
            server.view.keys += keys;
            server.view.offset += keys * 100;
            return true;
        }
        false
    }

    /// A server that never ran before, at an address that nobody had before.
    fn blank(&mut self) -> Server {
        let addr = self.fresh_addr();
        // Spread, so that the order of ids says nothing about the order of pods; the rest keeps them distinct.
        let id = format!(
            "{:08x}{:032x}",
            self.made.wrapping_mul(2_654_435_761),
            self.made
        );
        let id = NodeId::parse(&id).unwrap_or_else(|| unreachable!("40 hexadecimal digits"));
        Server {
            addr,
            up: true,
            meeting: Vec::new(),
            view: NodeView {
                id,
                role: Role::Primary,
                primary: None,
                slots: SlotRanges::default(),
                cluster_ok: false,
                current_epoch: 0,
                epoch: 0,
                offset: 0,
                link_up: false,
                standing: Standing {
                    required: Some(self.demand),
                    ..Standing::default()
                },
                loading: false,
                keys: 0,
                used_memory: 1 << 20,
                failed_saves: FailedSaves::default(),
                uptime_seconds: 60,
                version: "8.2.0".to_owned(),
                known: BTreeMap::new(),
            },
        }
    }

    fn fresh_addr(&mut self) -> (IpAddr, u16) {
        self.made += 1;
        let [_, b, c, d] = self.made.to_be_bytes();
        (IpAddr::V4(Ipv4Addr::new(10, b, c, d)), 6379)
    }
}

impl Place {
    fn running(&self) -> Option<&Server> {
        self.server.as_ref().filter(|server| server.up)
    }

    fn running_mut(&mut self) -> Option<&mut Server> {
        self.server.as_mut().filter(|server| server.up)
    }

    fn observe(&self) -> Member {
        let exists = self.presence != Presence::Absent;
        let probe = match self.running() {
            Some(server) if self.visible => Probe::Answered(Box::new(server.account())),
            Some(_) => Probe::Silent("no answer in time".to_owned()),
            None if exists => Probe::Silent("connection refused".to_owned()),
            None => Probe::Silent("no such pod".to_owned()),
        };
        Member {
            name: self.name.clone(),
            shard: self.shard,
            ordinal: self.ordinal,
            addr: self.server.as_ref().filter(|_| exists).map(|s| s.addr),
            machine: (exists && !self.unborn).then(|| self.machine.clone()),
            zone: self.zone.clone().filter(|_| exists && !self.unborn),
            presence: self.presence,
            // A kubelet reaches its own pods whoever else is cut off from them.
            vouched: self.presence == Presence::Running && self.running().is_some(),
            unborn: self.unborn,
            fenced: self.fenced,
            probe,
        }
    }
}

impl Server {
    /// Its view as it would print it: introductions under way appear as nodes with invented ids.
    fn account(&self) -> NodeView {
        let mut view = self.view.clone();
        for (i, addr) in self.meeting.iter().enumerate() {
            if let Some(id) = NodeId::parse(&format!("{i:040}")) {
                view.known.insert(
                    id.clone(),
                    KnownNode {
                        id,
                        addr: Some(*addr),
                        role: Role::Primary,
                        primary: None,
                        link: LinkState::Unknown,
                        epoch: 0,
                        slots: SlotRanges::default(),
                    },
                );
            }
        }
        view
    }
}
