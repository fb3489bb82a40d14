//! The agent's settings: what the operator decides for the Redis servers of one cluster.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Settings document of the agents of one cluster, the same for all of its pods.
///
/// Unknown members are refused, so that an older agent says that it is older instead of ignoring a setting.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AgentSettings {
    /// Name of the cluster.
    pub cluster: String,
    /// Fully qualified name of the headless Service that resolves to every Redis pod of the cluster, ready or not.
    pub peers: String,
    /// `maxmemory`, in bytes.
    pub maxmemory: u64,
    /// `maxmemory-policy`, e.g. `allkeys-lfu`.
    pub eviction: String,
    /// `cluster-node-timeout`, in milliseconds: after how much silence the cluster's votes may replace a primary.
    pub node_timeout: u64,
    /// What survives a restart of the server.
    pub persistence: Persistence,
    /// Further directives as the user gave them, rendered last. Names are lower case.
    #[serde(default)]
    pub directives: BTreeMap<String, String>,
}

/// What survives a restart of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Persistence {
    /// Nothing: the data directory goes with the pod, and no snapshot is written.
    Ephemeral,
    /// Snapshots and an append-only file on the pod's volume.
    Volume,
}
