//! Names of the objects of a cache cluster, derived from the resource's name.

/// StatefulSet of a shard. At most 52 characters are allowed in all, because Kubernetes appends a revision hash to it
/// in a label of 63; the resource's admission rules keep to that.
#[must_use]
pub fn shard(cluster: &str, shard: u32) -> String {
    format!("{cluster}-shard-{shard}")
}

/// Pod `ordinal` of a shard.
#[must_use]
pub fn shard_pod(cluster: &str, shard_index: u32, ordinal: u32) -> String {
    format!("{}-{ordinal}", shard(cluster, shard_index))
}

/// Headless Service over all Redis pods, ready or not: the pods' DNS names, and how agents find their peers.
#[must_use]
pub fn headless(cluster: &str) -> String {
    format!("{cluster}-nodes")
}

/// Client Service over the ready Redis pods, for Redis Cluster clients.
#[must_use]
pub fn redis(cluster: &str) -> String {
    format!("{cluster}-redis")
}

/// Service to the one primary while the cluster has one shard, so that plain Redis clients work.
#[must_use]
pub fn primary(cluster: &str) -> String {
    format!("{cluster}-primary")
}

/// The generated password's Secret.
#[must_use]
pub fn auth(cluster: &str) -> String {
    format!("{cluster}-auth")
}

/// ConfigMap with the agents' settings; also the Redis pods' ServiceAccount.
#[must_use]
pub fn agent(cluster: &str) -> String {
    format!("{cluster}-agent")
}

/// The HTTP API's Deployment, Service, ServiceAccount and disruption budget.
#[must_use]
pub fn api(cluster: &str) -> String {
    format!("{cluster}-api")
}
