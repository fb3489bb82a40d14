//! Values in Redis, through the slot-aware client.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use redis::{Cmd, Value};

use super::{Health, ShardStats, Store, StoreError};
use crate::metrics::{Command, Metrics};
use crate::redis::Cluster;
use crate::redis::map::Primary;
use crate::redis::node::Sent;
use crate::settings::RedisSettings;

/// How long a shard may take to tell its counters.
const COUNTERS_TIMEOUT: Duration = Duration::from_secs(1);

/// What is told of a shard, by `INFO`'s own names.
const COUNTERS: [&str; 9] = [
    "connected_clients",
    "evicted_keys",
    "expired_keys",
    "instantaneous_ops_per_sec",
    "keyspace_hits",
    "keyspace_misses",
    "maxmemory",
    "uptime_in_seconds",
    "used_memory",
];

/// See the module's documentation.
pub struct RedisStore {
    cluster: Cluster,
    metrics: Arc<Metrics>,
    /// Whether a map that covers something was ever known.
    known: AtomicBool,
}

impl RedisStore {
    /// A store over the cluster behind the seeds. Does not wait for it.
    #[must_use]
    pub fn open(settings: RedisSettings, metrics: Arc<Metrics>) -> Self {
        Self {
            cluster: Cluster::open(settings, metrics.clone()),
            metrics,
            known: AtomicBool::new(false),
        }
    }

    /// Asks each of the primaries, all at once. `None` from those who do not answer in time.
    async fn ask_all(primaries: &[Primary], command: Cmd, until: Instant) -> Vec<Option<Value>> {
        let answers = primaries.iter().map(|primary| {
            let command = &command;
            async move {
                let sent = Sent::default();
                let answer = primary.node.send_unbounded(command, false, &sent);
                tokio::time::timeout_at(until.into(), answer)
                    .await
                    .ok()?
                    .ok()
            }
        });
        futures::future::join_all(answers).await
    }
}

fn unexpected(value: &Value) -> StoreError {
    StoreError::Refused(format!(
        "an answer of another kind than asked for: {value:?}"
    ))
}

impl Store for RedisStore {
    async fn get(&self, key: &[u8], deadline: Instant) -> Result<Option<Bytes>, StoreError> {
        let began = Instant::now();
        let outcome = self
            .cluster
            .run(key, || command(b"GET", key), deadline)
            .await;
        self.metrics.upstream(Command::Get, began.elapsed());
        // Whether a question was heard makes no difference to anybody.
        let outcome = outcome.map_err(|error| match error {
            StoreError::Unanswered(why) => StoreError::Unavailable(why),
            other => other,
        });
        match outcome?.value {
            Value::Nil => Ok(None),
            Value::BulkString(value) => Ok(Some(value.into())),
            other => Err(unexpected(&other)),
        }
    }

    async fn set(
        &self,
        key: &[u8],
        value: Bytes,
        ttl: Option<Duration>,
        deadline: Instant,
    ) -> Result<(), StoreError> {
        let began = Instant::now();
        let make = || {
            let mut set = command(b"SET", key);
            set.arg(&*value);
            if let Some(ttl) = ttl {
                // What is left of it: a later attempt must not prolong the value's life.
                let left = ttl.saturating_sub(began.elapsed()).as_millis().max(1);
                set.arg("PX").arg(left as u64);
            }
            set
        };
        let outcome = self.cluster.run(key, make, deadline).await;
        self.metrics.upstream(Command::Set, began.elapsed());
        match outcome?.value {
            Value::Okay => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    async fn delete(&self, key: &[u8], deadline: Instant) -> Result<bool, StoreError> {
        let began = Instant::now();
        let outcome = self
            .cluster
            .run(key, || command(b"DEL", key), deadline)
            .await;
        self.metrics.upstream(Command::Del, began.elapsed());
        let outcome = outcome?;
        match outcome.value {
            Value::Int(removed) => Ok(removed > 0 || outcome.uncertain),
            other => Err(unexpected(&other)),
        }
    }

    async fn stats(&self, deadline: Instant) -> Result<Vec<ShardStats>, StoreError> {
        let (primaries, _) = self.cluster.primaries();
        if primaries.is_empty() {
            return Err(StoreError::Unavailable("no shard is known yet".to_owned()));
        }
        let until = deadline.min(Instant::now() + COUNTERS_TIMEOUT);
        let mut info = Cmd::new();
        info.arg("INFO");
        let answers = Self::ask_all(&primaries, info, until).await;
        let shards = primaries.iter().zip(answers).map(|(primary, answer)| {
            let text = match answer {
                Some(Value::BulkString(text)) => Some(String::from_utf8_lossy(&text).into_owned()),
                Some(Value::VerbatimString { text, .. } | Value::SimpleString(text)) => Some(text),
                _ => None,
            };
            ShardStats {
                name: primary.name.clone(),
                error: text.is_none().then(|| "no answer".to_owned()),
                counted: text.as_deref().map(counters).unwrap_or_default(),
            }
        });
        Ok(shards.collect())
    }

    async fn health(&self, deadline: Instant) -> Health {
        let (primaries, covered) = self.cluster.primaries();
        let mut ping = Cmd::new();
        ping.arg("PING");
        let answers = Self::ask_all(&primaries, ping, deadline).await;
        Health {
            shards: primaries.len(),
            up: answers.iter().flatten().count(),
            covered,
        }
    }

    /// Once a map was known, for ever: while Redis is away, clients are to be told 503 and when to come back, which they are
    /// not when no pod is behind the Service. A new pod that knows nothing stays out, so that an update made meanwhile stops
    /// at its first pod.
    fn ready(&self) -> Result<(), String> {
        if self.known.load(Ordering::Relaxed) {
            return Ok(());
        }
        match self.cluster.last_heard() {
            (None, _) => Err("no Redis node has told its slot map yet".to_owned()),
            (Some(_), 0) => Err("no slot is covered".to_owned()),
            (Some(_), _) => {
                self.known.store(true, Ordering::Relaxed);
                Ok(())
            }
        }
    }
}

fn command(name: &[u8], key: &[u8]) -> Cmd {
    let mut command = Cmd::with_capacity(5, key.len() + 32);
    command.arg(name).arg(key);
    command
}

/// The counters in a reply to `INFO`; `keys` is summed over what `INFO` lists as databases.
fn counters(info: &str) -> BTreeMap<&'static str, u64> {
    let mut counted = BTreeMap::from([("keys", 0)]);
    for (name, value) in info
        .lines()
        .filter_map(|line| line.trim_end().split_once(':'))
    {
        if let Some(known) = COUNTERS.iter().find(|counter| **counter == name) {
            if let Ok(number) = value.parse() {
                counted.insert(known, number);
            }
        } else if let Some(keys) = value
            .strip_prefix("keys=")
            .filter(|_| name.starts_with("db"))
        {
            let keys = keys
                .split(',')
                .next()
                .and_then(|keys| keys.parse::<u64>().ok());
            *counted.entry("keys").or_default() += keys.unwrap_or(0);
        }
    }
    counted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_found_in_what_info_tells() {
        let info = "# Stats\r\nkeyspace_hits:7\r\nkeyspace_misses:x\r\nother:1\r\n# Keyspace\r\ndb0:keys=5,expires=1\r\n";
        assert_eq!(
            counters(info),
            BTreeMap::from([("keys", 5), ("keyspace_hits", 7)])
        );
    }
}
