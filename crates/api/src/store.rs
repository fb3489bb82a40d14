//! Where values are kept. The HTTP side knows this trait only; keys and values are bytes.

pub mod memory;
pub mod redis;

use std::collections::BTreeMap;
use std::future::Future;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::Serialize;

pub use self::memory::MemoryStore;
pub use self::redis::RedisStore;

/// A key-value store with expiry. Every operation ends by `deadline`, with an error if need be.
pub trait Store: Send + Sync + 'static {
    /// The value under `key`, if there is one that has not expired.
    fn get(
        &self,
        key: &[u8],
        deadline: Instant,
    ) -> impl Future<Output = Result<Option<Bytes>, StoreError>> + Send;

    /// Keeps `value` under `key`, in place of any other, for ever or for `ttl` from now.
    fn set(
        &self,
        key: &[u8],
        value: Bytes,
        ttl: Option<Duration>,
        deadline: Instant,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Removes `key`; tells whether there was a value.
    fn delete(
        &self,
        key: &[u8],
        deadline: Instant,
    ) -> impl Future<Output = Result<bool, StoreError>> + Send;

    /// What each shard counted, in a stable order.
    fn stats(
        &self,
        deadline: Instant,
    ) -> impl Future<Output = Result<Vec<ShardStats>, StoreError>> + Send;

    /// Asks every shard for a sign of life now.
    fn health(&self, deadline: Instant) -> impl Future<Output = Health> + Send;

    /// Whether requests are worth sending here, from what is known already: no waiting.
    ///
    /// # Errors
    /// The reason why not.
    fn ready(&self) -> Result<(), String>;
}

/// Why a store did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// It cannot be reached or cannot work now; later it may.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    /// It was asked to change something and did not answer: that may have been done, or not.
    #[error("the store did not answer, so that it is not known whether this was done: {0}")]
    Unanswered(String),
    /// Somebody else keeps something that is no plain value under this key.
    #[error("the key holds a value of another type, written by another client")]
    WrongType,
    /// It answered with an error that trying again does not cure.
    #[error("the store refused: {0}")]
    Refused(String),
}

/// What a shard counted since it started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ShardStats {
    /// The shard's name: `memory`, or the host name or address of its primary.
    pub name: String,
    /// What was counted; empty if the shard did not answer.
    #[serde(flatten)]
    pub counted: BTreeMap<&'static str, u64>,
    /// Why nothing was counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// How many shards answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Health {
    /// Shards that there are, as far as known.
    pub shards: usize,
    /// Shards that answered.
    pub up: usize,
    /// Whether each slot has a shard that serves it.
    pub covered: bool,
}
