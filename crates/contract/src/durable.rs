//! What a durable cluster's servers are told beyond those of a cache, and the times that its safety hangs on.

use serde::{Deserialize, Serialize};

/// What the servers of a durable cluster are told beyond those of a cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Durable {
    /// When the append-only file is forced to disk.
    pub fsync: Fsync,
    /// `min-replicas-to-write` at the server's start; the operator changes it live.
    pub least_replicas: u32,
}

/// When the append-only file is forced to disk: the values of `appendfsync`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fsync {
    /// Once a second.
    Everysec,
    /// Before each write is acknowledged.
    Always,
}

impl Fsync {
    /// The value as Redis spells it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Everysec => "everysec",
            Self::Always => "always",
        }
    }
}

/// Directives that are refused from users of a durable cluster only: what it promises hangs on them.
pub const DIRECTIVES: &[&str] = &[
    "aof-load-truncated",
    "appendfsync",
    "no-appendfsync-on-rewrite",
    "repl-ping-replica-period",
    "repl-ping-slave-period",
    "repl-timeout",
];

/// `repl-ping-replica-period`, in seconds.
pub const PING_SECONDS: u64 = 1;
/// `min-replicas-max-lag`, in seconds.
pub const MAX_LAG_SECONDS: u64 = 2;
/// `cluster-replica-validity-factor`.
pub const VALIDITY_FACTOR: u64 = 1;

/// For how many milliseconds a replica may not have heard its primary and be promoted by an agent that does not know the
/// in-sync set. Servers tell whole seconds.
#[must_use]
pub fn promotable_ms(node_timeout: u64) -> u64 {
    2 * node_timeout
}

/// After how many milliseconds out of step nobody promotes a replica any more: neither agents, by [`promotable_ms`], nor
/// the cluster's votes. Those take a replica that has heard its primary in the last node timeout × ([`VALIDITY_FACTOR`]
/// + 1) + [`PING_SECONDS`]; a second more for times that are told in whole seconds.
///
/// Source: `clusterHandleSlaveFailover` in Redis 7 and 8 and in Valkey 8 and 9.
#[must_use]
pub fn expired_ms(node_timeout: u64) -> u64 {
    node_timeout * (VALIDITY_FACTOR + 1) + (PING_SECONDS + 1) * 1000
}
