//! The words of the domain. A [`World`] is everything that one pass knows; nothing in it is inferred from memory.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

pub use crate::slots::{SLOT_COUNT, SlotRange, SlotRanges};

/// A node's identity on the cluster bus: 40 hexadecimal characters that the server chose at its first start and keeps
/// in `nodes.conf`. It outlives IP addresses and, with a volume, pods.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(String);

impl NodeId {
    /// Takes an id as Redis prints it. `None` unless it is 40 hexadecimal characters.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        (text.len() == 40 && text.bytes().all(|b| b.is_ascii_hexdigit()))
            .then(|| Self(text.to_owned()))
    }

    /// The id as Redis prints it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for NodeId {
    /// The first 8 characters tell nodes apart in a test's output.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0[..8])
    }
}

/// What a node does in its shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Serves writes for the slots that it owns (it may own none).
    Primary,
    /// Follows a primary.
    Replica,
}

/// How well one node hears another, as `CLUSTER NODES` flags it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LinkState {
    /// Answers.
    Ok,
    /// Flag `fail?`: this observer has not heard it for a node timeout.
    Suspected,
    /// Flag `fail`: a majority agreed.
    Failed,
    /// Flag `handshake` or `noaddr` (without `fail`): not, or no longer, a member that can be talked to.
    Unknown,
}

/// One line of `CLUSTER NODES`: what an observer believes of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownNode {
    /// The node spoken of.
    pub id: NodeId,
    /// Where the observer thinks it is. `None` with flag `noaddr`.
    pub addr: Option<(IpAddr, u16)>,
    /// Its role.
    pub role: Role,
    /// The primary that it follows, for a replica.
    pub primary: Option<NodeId>,
    /// How well the observer hears it.
    pub link: LinkState,
    /// Its configuration epoch.
    pub epoch: u64,
    /// The slots that the observer believes it owns.
    pub slots: SlotRanges,
}

impl KnownNode {
    /// Whether this is no node yet but an introduction under way: `CLUSTER MEET` was sent to the address, and until
    /// somebody answers from there the id is an invented one that will vanish by itself.
    #[must_use]
    pub fn is_handshake(&self) -> bool {
        self.link == LinkState::Unknown && self.addr.is_some()
    }

    /// Whether the observer would look for the node in vain, because it is at `addr` now. Another address *family* is
    /// no such sign: a node with several addresses announces one of them.
    #[must_use]
    pub fn is_elsewhere(&self, addr: (IpAddr, u16)) -> bool {
        self.addr.is_none_or(|known| differ(known, addr))
    }
}

/// Whether two addresses of one family are not the same.
fn differ(one: (IpAddr, u16), other: (IpAddr, u16)) -> bool {
    one != other && one.0.is_ipv4() == other.0.is_ipv4()
}

/// What a server last failed to write to its disk, by its own account.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FailedSaves {
    /// The last snapshot (`rdb_last_bgsave_status:err`).
    pub snapshot: bool,
    /// The last write to the append-only file (`aof_last_write_status:err`): it takes no writes until one succeeds.
    pub append: bool,
    /// The last rewrite of the append-only file (`aof_last_bgrewrite_status:err`).
    pub rewrite: bool,
}

impl FailedSaves {
    /// Whether anything failed.
    #[must_use]
    pub fn any(self) -> bool {
        self.snapshot || self.append || self.rewrite
    }
}

/// How a server stands in its shard's replication, beyond its offset: what the in-sync set of a durable cluster is
/// made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// For a replica: for how many seconds it has not heard its primary. `None` when it has not since its start, and for
    /// a primary.
    pub unheard_seconds: Option<u64>,
    /// For a replica: where it looks for its primary's stream. That is not always where it knows the primary to be: word
    /// of a new address that comes from a third node does not make every engine dial there.
    pub dials: Option<(IpAddr, u16)>,
    /// For a primary: where the replicas are that read its stream and acknowledged some of it in the last
    /// [`Standing::LAG_SECONDS`].
    pub attached: Vec<(IpAddr, u16)>,
    /// `min-replicas-to-write` as it is set now. `None` when that is not known.
    pub required: Option<u32>,
}

impl Standing {
    /// After how many seconds without a word from the other side a replica is not in step any more: twice the second
    /// that passes between two acknowledgements, and between two pings.
    pub const LAG_SECONDS: u64 = 2;
}

/// What one live node says of itself and of the others, read over its own connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeView {
    /// Its own id.
    pub id: NodeId,
    /// Its own role.
    pub role: Role,
    /// The primary that it follows, for a replica.
    pub primary: Option<NodeId>,
    /// The slots that it owns, by its own account.
    pub slots: SlotRanges,
    /// `cluster_state:ok`: it serves.
    pub cluster_ok: bool,
    /// Its `cluster_current_epoch`.
    pub current_epoch: u64,
    /// Its own configuration epoch.
    pub epoch: u64,
    /// Replication offset: what it has written (primary) or applied (replica), in bytes of the replication stream.
    pub offset: u64,
    /// `master_link_status:up`, for a replica; `false` for a primary.
    pub link_up: bool,
    /// How it stands in its shard's replication.
    pub standing: Standing,
    /// Whether it still loads its data set.
    pub loading: bool,
    /// Keys, in all databases.
    pub keys: u64,
    /// Used memory, in bytes.
    pub used_memory: u64,
    /// What it failed to write to its disk.
    pub failed_saves: FailedSaves,
    /// For how long the server's process has run, in seconds.
    pub uptime_seconds: u64,
    /// Server version, e.g. `8.0.2`, as the engine reports it.
    pub version: String,
    /// Everything it knows about the others, by id; itself left out.
    pub known: BTreeMap<NodeId, KnownNode>,
}

impl NodeView {
    /// Whether the node has never been part of a cluster and holds nothing: no slot, no key, no peer, no primary.
    #[must_use]
    pub fn is_blank(&self) -> bool {
        self.slots.is_empty() && self.keys == 0 && self.known.is_empty() && self.primary.is_none()
    }

    /// Whether it is a replica without a link that looks for its primary where that is not, because it is at `addr` now.
    #[must_use]
    pub fn dials_in_vain(&self, addr: (IpAddr, u16)) -> bool {
        let dials = self.standing.dials;
        self.role == Role::Replica && !self.link_up && dials.is_some_and(|at| differ(at, addr))
    }

    /// For how many seconds after its start a replica is [late](Self::is_late).
    pub const LATE_SECONDS: u64 = 30;

    /// Whether it is a replica that has not heard its primary since it was started, so that it may lack what that one
    /// acknowledged after this server had stopped.
    #[must_use]
    pub fn is_unheard_since_start(&self) -> bool {
        let unheard = !self.link_up && self.standing.unheard_seconds.is_none();
        self.role == Role::Replica && unheard
    }

    /// Whether it is a replica that came back with data from its disk a short while ago and [has not heard its
    /// primary](Self::is_unheard_since_start): what it lacks may be on the other disk, and on its way back as well. So this
    /// one waits until its primary has had time to return.
    #[must_use]
    pub fn is_late(&self) -> bool {
        let recent = self.uptime_seconds < Self::LATE_SECONDS;
        self.keys > 0 && recent && self.is_unheard_since_start()
    }

    /// Whether it is a replica that hears its primary.
    #[must_use]
    pub fn is_in_step(&self) -> bool {
        let unheard = self.standing.unheard_seconds;
        let heard = unheard.is_some_and(|seconds| seconds <= Standing::LAG_SECONDS);
        self.role == Role::Replica && self.link_up && !self.loading && heard
    }
}

/// Whether the process behind a [`Member`] can still be running: what Kubernetes says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// No pod of that name exists: no process of it can be running.
    Absent,
    /// A pod exists but its server has not been started yet or has ended (pending, init, waiting, terminated).
    Starting,
    /// The pod's containers run, as far as its kubelet said last.
    Running,
    /// A deletion was asked for; the process may run until its kubelet confirms.
    Terminating,
}

/// What came of asking a member directly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// It answered.
    Answered(Box<NodeView>),
    /// It is alive, and says no more while it loads its data set.
    Loading,
    /// It is alive, and gives no account for another reason: a script keeps it busy, or it takes no more clients. The text is
    /// what it says. (A password that is not its own proves nothing about who it is, and is silence.)
    Refused(String),
    /// It did not, within the deadline; the text says how. This is data, not an error.
    Silent(String),
}

impl Probe {
    /// Whether the server is alive but still loads its data set: it says so in its account, or by refusing to give one.
    #[must_use]
    pub fn is_loading(&self) -> bool {
        match self {
            Self::Answered(view) => view.loading,
            Self::Loading => true,
            Self::Refused(_) | Self::Silent(_) => false,
        }
    }

    /// The server's account, if it gave one.
    #[must_use]
    pub fn view(&self) -> Option<&NodeView> {
        match self {
            Self::Answered(view) => Some(view),
            Self::Loading | Self::Refused(_) | Self::Silent(_) => None,
        }
    }
}

/// One place for a Redis server: a pod of a shard's StatefulSet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Name of the pod.
    pub name: String,
    /// Index of its shard, counted from 0.
    pub shard: u32,
    /// Ordinal within the shard, counted from 0.
    pub ordinal: u32,
    /// Address of its server, once it has one.
    pub addr: Option<(IpAddr, u16)>,
    /// Machine that it runs on, once it is scheduled.
    pub machine: Option<String>,
    /// Zone of that machine, where machines are labelled with one.
    pub zone: Option<String>,
    /// What Kubernetes says of the pod.
    pub presence: Presence,
    /// Whether Kubernetes says that the pod serves. Its kubelet looks from another place than we do: a server that is
    /// silent to us and vouched for is cut off from us, not dead.
    pub vouched: bool,
    /// Whether it is certain that no server has run here and no data waits for one: the pod never got a machine, and
    /// has no volume. Such a place has nothing to say that a birth must wait for.
    pub unborn: bool,
    /// Whether a user has its server stopped, and kept stopped: it may still be stopping, and does not come back before
    /// the user wants it. Nothing new is given to it, and no data that it may hold are given up.
    pub fenced: bool,
    /// What the server itself says.
    pub probe: Probe,
}

impl Member {
    /// Whether the place is part of the wanted shape; others are on their way out.
    #[must_use]
    pub fn is_wanted(&self, world: &World) -> bool {
        self.shard < world.shards && self.ordinal <= world.replicas
    }

    /// [`Probe::is_loading`].
    #[must_use]
    pub fn is_loading(&self) -> bool {
        self.probe.is_loading()
    }

    /// The server's own account, if it answered.
    #[must_use]
    pub fn view(&self) -> Option<&NodeView> {
        self.probe.view()
    }
}

/// What is known of a cluster that promotes nobody who may lack an acknowledged write.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Durable {
    /// By shard: the pods that hold every acknowledged write, its primary first, as the status says and the API server
    /// has confirmed. A shard that is not here has not been looked at before: of its pods nothing is known.
    pub in_sync: BTreeMap<u32, Vec<String>>,
    /// Pods that have been seen out of step for so long that neither votes nor agents promote them any more.
    pub expired: BTreeSet<String>,
    /// The pod that may be promoted whatever it lacks, because the user says so.
    pub allowed: Option<String>,
}

/// Everything that one pass knows about one cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct World {
    /// Wanted number of shards, at least 1.
    pub shards: u32,
    /// Wanted number of replicas in each shard.
    pub replicas: u32,
    /// Every place that exists or is wanted, in any order; names are unique.
    pub members: Vec<Member>,
    /// For a cluster that promotes nobody who may lack an acknowledged write: who lacks none.
    pub durable: Option<Durable>,
}
