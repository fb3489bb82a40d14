//! The words of the domain. A [`World`] is everything that one pass knows; nothing in it is inferred from memory.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

/// Number of hash slots in every Redis Cluster.
pub const SLOT_COUNT: u16 = 16384;

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

/// Slots `start..=end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotRange {
    /// First slot.
    pub start: u16,
    /// Last slot, included.
    pub end: u16,
}

/// A set of slots as sorted, disjoint, non-adjacent ranges.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct SlotRanges(Vec<SlotRange>);

impl SlotRanges {
    /// Builds the set from ranges in any order, which may overlap.
    #[must_use]
    pub fn from_ranges(ranges: impl IntoIterator<Item = SlotRange>) -> Self {
        let mut sorted: Vec<SlotRange> = ranges.into_iter().filter(|r| r.start <= r.end).collect();
        sorted.sort_unstable();
        let mut merged: Vec<SlotRange> = Vec::with_capacity(sorted.len());
        for range in sorted {
            match merged.last_mut() {
                Some(last) if u32::from(range.start) <= u32::from(last.end) + 1 => {
                    last.end = last.end.max(range.end)
                }
                _ => merged.push(range),
            }
        }
        Self(merged)
    }

    /// The ranges, sorted.
    #[must_use]
    pub fn ranges(&self) -> &[SlotRange] {
        &self.0
    }

    /// Number of slots.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0
            .iter()
            .map(|r| usize::from(r.end - r.start) + 1)
            .sum()
    }

    /// Whether no slot is in the set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `slot` is in the set.
    #[must_use]
    pub fn contains(&self, slot: u16) -> bool {
        self.0.iter().any(|r| (r.start..=r.end).contains(&slot))
    }
}

impl fmt::Display for SlotRanges {
    /// As in `CLUSTER NODES`: `0-5460 10923`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, r) in self.0.iter().enumerate() {
            let gap = if i == 0 { "" } else { " " };
            if r.start == r.end {
                write!(f, "{gap}{}", r.start)?
            } else {
                write!(f, "{gap}{}-{}", r.start, r.end)?
            }
        }
        Ok(())
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
    /// Whether it still loads its data set.
    pub loading: bool,
    /// Keys, in all databases.
    pub keys: u64,
    /// Used memory, in bytes.
    pub used_memory: u64,
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
    /// It did not, within the deadline; the text says how. This is data, not an error.
    Silent(String),
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
    /// What Kubernetes says of the pod.
    pub presence: Presence,
    /// What the server itself says.
    pub probe: Probe,
}

impl Member {
    /// The server's own account, if it answered.
    #[must_use]
    pub fn view(&self) -> Option<&NodeView> {
        match &self.probe {
            Probe::Answered(view) => Some(view),
            Probe::Silent(_) => None,
        }
    }
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
}
