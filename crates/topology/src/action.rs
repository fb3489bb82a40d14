//! The one next step, self-contained: it carries the ids and addresses that it needs, so that carrying it out reads
//! nothing again. Each is idempotent and may be cut short at any point.

use std::net::IpAddr;

use crate::model::{NodeId, SlotRanges};

/// A node with the address at which it answered in this pass.
///
/// Whoever carries an action out first checks that the server at `addr` still has this `id`: an IP address may have
/// gone to another cluster's pod meanwhile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRef {
    /// Its id.
    pub id: NodeId,
    /// Name of its pod, for logs and events.
    pub name: String,
    /// Address of its server.
    pub addr: (IpAddr, u16),
}

/// A change to the live cluster. There is no destructive one: no flush, no reset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Introduce `peers` to `via` (`CLUSTER MEET`, by IP). Gossip introduces everybody else.
    Meet {
        /// The node that is told.
        via: NodeRef,
        /// Whom it shall meet.
        peers: Vec<NodeRef>,
    },
    /// Give slots that nobody claims to primaries (`CLUSTER ADDSLOTSRANGE`), each with the configuration epoch that it
    /// shall start with when the node is blank (`CLUSTER SET-CONFIG-EPOCH`). A node that knows others refuses that, and
    /// then is given a newer epoch of its own choice after the slots (`CLUSTER BUMPEPOCH`): its claim must outrank what
    /// a node that was away remembers of the slots' former owner.
    AssignSlots {
        /// Node, its slots, and its first epoch.
        assignments: Vec<(NodeRef, SlotRanges, u64)>,
    },
    /// Make nodes without slots follow a primary (`CLUSTER REPLICATE`), also the one that they follow already when they
    /// look for it at an address that it has left.
    Replicate {
        /// Node, and the id of the primary that it shall follow.
        pairs: Vec<(NodeRef, NodeId)>,
    },
    /// Ask a replica to take over from its live primary without loss (`CLUSTER FAILOVER`).
    Failover {
        /// The replica.
        replica: NodeRef,
    },
    /// Ask the other primaries' votes for a replica whose primary is known to be gone (`CLUSTER FAILOVER FORCE`).
    ForceFailover {
        /// The replica with the best offset.
        replica: NodeRef,
    },
    /// Promote a replica without votes (`CLUSTER FAILOVER TAKEOVER`). Planned only when nobody can vote and the old
    /// primary is fenced: it is gone, by every account that there is.
    Takeover {
        /// The replica with the best offset.
        replica: NodeRef,
    },
    /// Let servers take writes only while so many replicas are attached (`CONFIG SET min-replicas-to-write`), each read
    /// back.
    RequireReplicas {
        /// The servers.
        nodes: Vec<NodeRef>,
        /// How many replicas; 0 to take writes without any.
        least: u32,
    },
    /// Make `everyone` forget nodes that are gone for good (`CLUSTER FORGET`), all within the 60 seconds for which a
    /// node refuses to learn of a forgotten one again. A node that answers `Unknown node` has forgotten already.
    Forget {
        /// Who is gone.
        gone: Vec<NodeId>,
        /// Who must forget.
        everyone: Vec<NodeRef>,
    },
}
