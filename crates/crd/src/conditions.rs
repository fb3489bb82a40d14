//! Condition types of a `CacheCluster`, and every reason that each may carry.
//!
//! Types and reasons are part of the interface: users wait for and alert on them. Messages are for people and may change.

/// `True` while every slot is served by a primary, every wanted replica is in sync, and the API has ready pods.
pub const READY: &str = "Ready";
/// `True` while the operator brings the cluster closer to its spec.
pub const PROGRESSING: &str = "Progressing";
/// `True` while the cluster, once complete, lacks something: a replica, a slot, a quorum.
pub const DEGRADED: &str = "Degraded";
/// `False` while the spec cannot be acted upon; the message says what to change.
pub const ACCEPTED: &str = "Accepted";
/// `True` while the operator keeps its hands off, as `spec.maintenance.paused` asks; absent if that was never so.
pub const PAUSED: &str = "Paused";
/// `True` while a server cannot, or soon will not, write to its disk; absent if that was never so. Ready does
/// not depend on it.
pub const PERSISTENCE_FAILING: &str = "PersistenceFailing";
/// `True` for 15 minutes after a process of a pod was killed for want of memory; absent if none ever was. Ready
/// does not depend on it.
pub const OUT_OF_MEMORY: &str = "OutOfMemory";

/// Reasons, in the form that meta/v1 wants: one CamelCase word.
pub mod reason {
    /// Ready: all is as asked for.
    pub const ALL_SLOTS_SERVED: &str = "AllSlotsServed";
    /// Ready, Progressing: pods are not running yet.
    pub const WAITING_FOR_PODS: &str = "WaitingForPods";
    /// Ready, Progressing: nodes are being joined, given slots or attached as replicas.
    pub const FORMING: &str = "Forming";
    /// Ready: some slots have no primary that serves them.
    pub const SLOTS_UNSERVED: &str = "SlotsUnserved";
    /// Ready, Degraded: slots are served, but some replica is missing or not in sync.
    pub const REPLICAS_MISSING: &str = "ReplicasMissing";
    /// Ready, Degraded: a shard of a durable cluster has lost its primary, and every replica that answers may lack an
    /// acknowledged write.
    pub const UNSAFE_PROMOTION_REFUSED: &str = "UnsafePromotionRefused";
    /// Ready: the HTTP API has no ready pod.
    pub const API_UNAVAILABLE: &str = "ApiUnavailable";
    /// Progressing: an action on the topology is being carried out, or its effect is awaited.
    pub const HEALING: &str = "Healing";
    /// Progressing, Degraded, PersistenceFailing, OutOfMemory: nothing to do.
    pub const STABLE: &str = "Stable";
    /// Accepted: the spec is acted upon.
    pub const VALID: &str = "Valid";
    /// Accepted: the spec contradicts itself in a way that admission could not see, or the API server calls an object that
    /// was made of it invalid.
    pub const INVALID_SPEC: &str = "InvalidSpec";
    /// Accepted: the password Secret that the spec names is missing or has no key `password`.
    pub const SECRET_MISSING: &str = "SecretMissing";
    /// Accepted: the password Secret holds another password than the nodes, which keep theirs.
    pub const SECRET_CHANGED: &str = "SecretChanged";
    /// Accepted: an object with a name that the cluster needs exists and belongs to somebody else.
    pub const NAME_TAKEN: &str = "NameTaken";
    /// Accepted: the port of `spec.api.service.nodePort` is out of the cluster's range, or somebody else's.
    pub const NODE_PORT_UNAVAILABLE: &str = "NodePortUnavailable";
    /// Paused: the spec asks for it.
    pub const REQUESTED: &str = "Requested";
    /// Paused: the spec asks for it no more.
    pub const RESUMED: &str = "Resumed";
    /// Progressing: something is left to do, and not done, because the cluster is paused.
    pub const PAUSED: &str = "Paused";
    /// Any: the last pass failed; the message says at what.
    pub const RECONCILE_FAILED: &str = "ReconcileFailed";
    /// PersistenceFailing: a server could not write a snapshot or its append-only file.
    pub const SAVE_FAILING: &str = "SaveFailing";
    /// PersistenceFailing: a volume has no room left.
    pub const DISK_FULL: &str = "DiskFull";
    /// PersistenceFailing: a volume is more than nine tenths full.
    pub const DISK_NEARLY_FULL: &str = "DiskNearlyFull";
    /// OutOfMemory: the system killed a process.
    pub const OOM_KILLED: &str = "OomKilled";
}
