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
    /// Ready: the HTTP API has no ready pod.
    pub const API_UNAVAILABLE: &str = "ApiUnavailable";
    /// Progressing: an action on the topology is being carried out, or its effect is awaited.
    pub const HEALING: &str = "Healing";
    /// Progressing, Degraded: nothing to do.
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
    /// Any: the last pass failed; the message says at what.
    pub const RECONCILE_FAILED: &str = "ReconcileFailed";
}
