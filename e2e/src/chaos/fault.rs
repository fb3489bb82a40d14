//! What can be done to a cluster, and to whom.

use std::fmt;
use std::time::Duration;

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    /// A pod is deleted, with its grace period.
    DeletePod,
    /// A pod is deleted with no grace period: the kubelet still tells it to stop.
    ForceDeletePod,
    /// The Redis server of a pod gets SIGKILL; the agent lives.
    KillServer,
    /// The Redis server of a pod gets SIGSTOP.
    HangServer,
    /// A primary is asked for more than its container may hold: the kernel kills the server.
    OutOfMemory,
    /// A server cannot write its append-only file anew.
    FailSaves,
    /// Agent and server of a pod get SIGKILL at once.
    KillContainer,
    /// The process that holds a pod's network gets SIGKILL: the kubelet stops the pod's containers, and makes it anew with
    /// another address.
    KillSandbox,
    /// Every pod of a shard is deleted at once.
    DeleteShard,
    /// Every pod of the cluster is deleted at once, also those of the API.
    DeleteAll,
    /// Every process of the operator gets SIGKILL.
    KillOperator,
    /// The same, again and again.
    KillOperatorLoop,
    /// An API pod gets SIGKILL.
    KillApi,
    /// A node loses its power, and gets it back.
    PowerOff,
    /// Every node does.
    PowerOffAll,
    /// A node is cut off, and healed.
    Partition,
    /// The API server is stopped, and started.
    StopApiServer,
    /// A node is drained, and may be used again.
    Drain,
}

/// How a Redis pod is struck.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    /// It is told to stop, and may hand over.
    Told,
    /// The same, and Kubernetes waits for the others of its shard first (disruption budgets).
    Guarded,
    /// Its memory is gone without a word.
    Crashed,
    /// It lives, and others cannot reach it.
    Cut,
    /// Nothing happens to Redis pods.
    Spared,
}

impl Kind {
    /// Every kind.
    pub(crate) const ALL: [Self; 18] = [
        Self::DeletePod,
        Self::ForceDeletePod,
        Self::KillServer,
        Self::HangServer,
        Self::OutOfMemory,
        Self::FailSaves,
        Self::KillContainer,
        Self::KillSandbox,
        Self::DeleteShard,
        Self::DeleteAll,
        Self::KillOperator,
        Self::KillOperatorLoop,
        Self::KillApi,
        Self::PowerOff,
        Self::PowerOffAll,
        Self::Partition,
        Self::StopApiServer,
        Self::Drain,
    ];

    /// Its name in the tables.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::DeletePod => "pod-delete",
            Self::ForceDeletePod => "pod-force-delete",
            Self::KillServer => "server-kill",
            Self::HangServer => "server-hang",
            Self::OutOfMemory => "server-oom",
            Self::FailSaves => "save-fail",
            Self::KillContainer => "container-kill",
            Self::KillSandbox => "sandbox-kill",
            Self::DeleteShard => "shard-delete",
            Self::DeleteAll => "all-delete",
            Self::KillOperator => "operator-kill",
            Self::KillOperatorLoop => "operator-kill-loop",
            Self::KillApi => "api-kill",
            Self::PowerOff => "node-off",
            Self::PowerOffAll => "all-nodes-off",
            Self::Partition => "node-partition",
            Self::StopApiServer => "apiserver-stop",
            Self::Drain => "node-drain",
        }
    }

    /// Whether it takes the testbed: power, network and processes of nodes.
    pub(crate) fn needs_testbed(self) -> bool {
        matches!(
            self,
            Self::KillContainer
                | Self::KillSandbox
                | Self::KillApi
                | Self::PowerOff
                | Self::PowerOffAll
                | Self::Partition
                | Self::StopApiServer
                | Self::Drain
        )
    }

    /// Whether it takes volumes.
    pub(crate) fn needs_storage(self) -> bool {
        self == Self::FailSaves
    }

    /// Whether it is done from within a pod.
    pub(crate) fn needs_shell(self) -> bool {
        matches!(self, Self::OutOfMemory | Self::FailSaves)
    }

    /// Whether it leaves nobody who could write meanwhile.
    pub(crate) fn strikes_writers(self) -> bool {
        self == Self::PowerOffAll
    }

    /// Whether it happens to a node.
    pub(crate) fn strikes_node(self) -> bool {
        matches!(self, Self::PowerOff | Self::Partition | Self::Drain)
    }

    /// Whether it is done through the API server.
    pub(crate) fn needs_api_server(self) -> bool {
        matches!(
            self,
            Self::OutOfMemory
                | Self::FailSaves
                | Self::DeletePod
                | Self::ForceDeletePod
                | Self::DeleteShard
                | Self::DeleteAll
                | Self::Drain
        )
    }

    /// How it strikes Redis pods.
    pub(crate) fn manner(self) -> Manner {
        match self {
            Self::DeletePod
            | Self::ForceDeletePod
            | Self::KillSandbox
            | Self::DeleteShard
            | Self::DeleteAll => Manner::Told,
            Self::Drain => Manner::Guarded,
            Self::KillServer
            | Self::HangServer
            | Self::OutOfMemory
            | Self::KillContainer
            | Self::PowerOff
            | Self::PowerOffAll => Manner::Crashed,
            Self::Partition => Manner::Cut,
            Self::FailSaves
            | Self::KillOperator
            | Self::KillOperatorLoop
            | Self::KillApi
            | Self::StopApiServer => Manner::Spared,
        }
    }

    /// Whether a primary that dies so leaves nobody behind who knows at once.
    pub(crate) fn is_silent(self) -> bool {
        matches!(
            self,
            Self::KillContainer | Self::PowerOff | Self::PowerOffAll | Self::Partition
        )
    }

    /// Whether the operator cannot work for a while.
    pub(crate) fn disturbs_operator(self) -> bool {
        matches!(
            self,
            Self::KillOperator | Self::KillOperatorLoop | Self::PowerOffAll | Self::StopApiServer
        )
    }
}

/// Which member of a shard, by its role when the fault strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// The primary.
    Primary,
    /// One of the replicas.
    Replica,
}

/// From what a node is cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// From the other nodes; the control plane sees it.
    Nodes,
    /// From the control plane; the other nodes see it.
    ControlPlane,
    /// From all.
    All,
    /// From one other node.
    Node(u32),
}

/// Whom a fault strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// A member of a shard.
    Member(u32, Role),
    /// A shard.
    Shard(u32),
    /// A node, from 1.
    Node(u32),
    /// The link of a node, from 1.
    Link(u32, Cut),
    /// The kind says it all.
    TheOne,
}

/// One fault of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    /// What.
    pub(crate) kind: Kind,
    /// To whom.
    pub(crate) target: Target,
    /// How long after the round's first fault.
    pub(crate) after: Duration,
    /// How long until it is undone; zero where there is nothing to undo.
    pub(crate) lasts: Duration,
}

impl Fault {
    /// The numbers of the nodes on which nothing that must live may run.
    pub(crate) fn nodes(&self) -> Vec<u32> {
        match self.target {
            Target::Link(node, Cut::Node(other)) => vec![node, other],
            Target::Node(node) | Target::Link(node, _) => vec![node],
            _ => Vec::new(),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.name())?;
        match self.target {
            Target::Member(shard, Role::Primary) => write!(f, "(primary of {shard})")?,
            Target::Member(shard, Role::Replica) => write!(f, "(replica of {shard})")?,
            Target::Shard(shard) => write!(f, "({shard})")?,
            Target::Node(node) => write!(f, "(node{node})")?,
            Target::Link(node, Cut::Nodes) => write!(f, "(node{node} from the nodes)")?,
            Target::Link(node, Cut::ControlPlane) => write!(f, "(node{node} from cp)")?,
            Target::Link(node, Cut::All) => write!(f, "(node{node} from all)")?,
            Target::Link(node, Cut::Node(other)) => write!(f, "(node{node} from node{other})")?,
            Target::TheOne => {}
        }
        if !self.lasts.is_zero() {
            write!(f, " for {} s", self.lasts.as_secs())?;
        }
        if !self.after.is_zero() {
            write!(f, " after {} ms", self.after.as_millis())?;
        }
        Ok(())
    }
}
