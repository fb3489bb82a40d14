//! The agent's settings: what the operator decides for the Redis servers of one cluster.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::durable::Durable;

/// Settings document of the agents of one cluster, the same for all of its pods.
///
/// Unknown members are passed over: a newer operator writes the document before the agents are replaced, and a container
/// that is restarted meanwhile has to come up. The agent names them in its log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
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
    /// For a durable cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub durable: Option<Durable>,
    /// Further directives as the user gave them, rendered last. Names are lower case.
    #[serde(default)]
    pub directives: BTreeMap<String, String>,
}

/// For how many milliseconds a server may live without an answer before its agent kills it, where the cluster's node
/// timeout is not longer. Loading, and refusing because of a script that runs for long, are answers.
pub const HANG_LIMIT_MS: u64 = 5000;

/// For how many milliseconds a server may stand still, stopped by a signal or a debugger, before its agent kills it: it
/// will not go on by itself, and nobody can tell it from a dead one.
pub const STOPPED_LIMIT_MS: u64 = 300;
/// The same for one that is silent and asleep all the while, as one that waits for something that does not come. One that
/// computes or waits for a disk has until [`HANG_LIMIT_MS`].
pub const ASLEEP_LIMIT_MS: u64 = 2000;

/// Every so many milliseconds a replica's agent asks its primary, and the primary's agent, whether they live.
pub const VIGIL_PERIOD_MS: u64 = 100;
/// After so many milliseconds without an answer one such question was in vain.
pub const VIGIL_DEADLINE_MS: u64 = 250;
/// After so many milliseconds in which neither was heard, the other agents of the cluster are asked. One question in
/// vain and the pause before it fit in, so that a lost packet alone makes no suspicion.
pub const VIGIL_LIMIT_MS: u64 = 400;

/// What survives a restart of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Persistence {
    /// Nothing: the data directory goes with the pod, and no snapshot is written.
    Ephemeral,
    /// Snapshots and an append-only file on the pod's volume.
    Volume,
}

/// Directives of redis.conf that belong to the operator and the agent, sorted. Both refuse them by name when a user
/// sets them: the resource's admission rule and the agent's renderer are made from this one list. A directive that has
/// two names is here with both.
///
/// Source: the configuration files of Redis 7.0 to 8.2 and Valkey 8 and 9.
pub const RESERVED_DIRECTIVES: &[&str] = &[
    "aclfile",
    "always-show-logo",
    "appenddirname",
    "appendfilename",
    "appendonly",
    "bind",
    "bind-source-addr",
    "cluster-allow-replica-migration",
    "cluster-announce-bus-port",
    "cluster-announce-client-ipv4",
    "cluster-announce-client-ipv6",
    "cluster-announce-hostname",
    "cluster-announce-human-nodename",
    "cluster-announce-ip",
    "cluster-announce-port",
    "cluster-announce-tls-port",
    "cluster-config-file",
    "cluster-enabled",
    "cluster-migration-barrier",
    "cluster-node-timeout",
    "cluster-port",
    "cluster-preferred-endpoint-type",
    "cluster-replica-no-failover",
    "cluster-replica-validity-factor",
    "cluster-require-full-coverage",
    "cluster-slave-no-failover",
    "cluster-slave-validity-factor",
    "daemonize",
    "databases",
    "dbfilename",
    "dir",
    "enable-debug-command",
    "enable-module-command",
    "enable-protected-configs",
    "include",
    "loadmodule",
    "locale-collate",
    "logfile",
    "masterauth",
    "masteruser",
    "maxmemory",
    "maxmemory-policy",
    "min-replicas-max-lag",
    "min-replicas-to-write",
    "min-slaves-max-lag",
    "min-slaves-to-write",
    "pidfile",
    "port",
    "primaryauth",
    "primaryuser",
    "protected-mode",
    "rdb-del-sync-files",
    "rename-command",
    "replica-announce-ip",
    "replica-announce-port",
    "replica-read-only",
    "replica-serve-stale-data",
    "replicaof",
    "requirepass",
    "save",
    "shutdown-on-sigint",
    "shutdown-on-sigterm",
    "slave-announce-ip",
    "slave-announce-port",
    "slave-read-only",
    "slave-serve-stale-data",
    "slaveof",
    "supervised",
    "syslog-enabled",
    "tls-auth-clients",
    "tls-auth-clients-user",
    "tls-cluster",
    "tls-port",
    "tls-replication",
    "unixsocket",
    "unixsocketperm",
    "user",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_settings_document_reads_back_also_from_a_newer_operator() {
        let settings = AgentSettings {
            cluster: "demo".to_owned(),
            peers: "demo-nodes.default.svc".to_owned(),
            maxmemory: 64 << 20,
            eviction: "allkeys-lfu".to_owned(),
            node_timeout: 2000,
            persistence: Persistence::Ephemeral,
            durable: None,
            directives: BTreeMap::from([("hz".to_owned(), "20".to_owned())]),
        };
        let text = serde_json::to_string(&settings).unwrap();
        assert_eq!(
            serde_json::from_str::<AgentSettings>(&text).unwrap(),
            settings
        );
        let newer = text.replacen('{', "{\"fromTheFuture\":1,", 1);
        assert_eq!(
            serde_json::from_str::<AgentSettings>(&newer).unwrap(),
            settings
        );
    }

    #[test]
    fn reserved_directives_are_sorted_and_named_once() {
        assert!(
            RESERVED_DIRECTIVES.windows(2).all(|pair| pair[0] < pair[1]),
            "sort the list"
        );
        assert!(
            RESERVED_DIRECTIVES
                .iter()
                .all(|name| *name == name.to_ascii_lowercase())
        );
    }
}
