//! What the prober reports, written by it and read by the scenarios.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// The line that a prober prints when its first requests are on their way.
pub(crate) const STARTED: &str = r#"{"event":"started"}"#;

/// The contract: how many statements held, and which did not.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct ContractReport {
    /// Statements that held.
    pub(crate) passed: usize,
    /// Statements that did not, with what was seen instead.
    pub(crate) failures: Vec<String>,
}

/// What a load saw.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct LoadReport {
    /// Requests answered as promised.
    pub(crate) ok: u64,
    /// Requests that failed: no answer, a 5xx, or an answer that is not this key's.
    pub(crate) failed: u64,
    /// Median latency of answered requests, in milliseconds.
    pub(crate) p50_ms: f64,
    /// Latency that 99 of 100 answered requests kept below, in milliseconds.
    pub(crate) p99_ms: f64,
    /// Longest latency, in milliseconds.
    pub(crate) max_ms: f64,
    /// Longest time between two good answers to anybody, in milliseconds.
    pub(crate) gap_ms: u64,
    /// How long the load lasted, in seconds.
    pub(crate) seconds: f64,
    /// Failures by kind.
    pub(crate) failures: BTreeMap<String, u64>,
}

/// What became of acknowledged writes.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct WriterReport {
    /// Writes that were acknowledged.
    pub(crate) acked: u64,
    /// Writes that were refused or not answered; they may or may not be there.
    pub(crate) failed: u64,
    /// Keys whose value at the end is older than the last acknowledged one, or gone.
    pub(crate) lost: u64,
    /// When the first of those was acknowledged, in milliseconds since 1970.
    #[serde(default)]
    pub(crate) lost_first_ms: Option<i64>,
    /// When the last of those was acknowledged.
    #[serde(default)]
    pub(crate) lost_last_ms: Option<i64>,
    /// Keys that could not be read at the end.
    pub(crate) unread: u64,
    /// Longest time between two acknowledgements, in milliseconds.
    pub(crate) gap_ms: u64,
    /// Longest time that an acknowledged write took, in milliseconds.
    #[serde(default)]
    pub(crate) max_ms: f64,
    /// Some lost keys and failures, in words.
    pub(crate) examples: Vec<String>,
}

/// What a Redis Cluster client saw, and what became of its acknowledged writes.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct RedisWriterReport {
    /// Writes that were acknowledged.
    pub(crate) acked: u64,
    /// Writes that were not acknowledged within their time; they may or may not be there.
    pub(crate) failed: u64,
    /// Keys whose value at the end is older than the last acknowledged one, or gone.
    pub(crate) lost: u64,
    /// When the first of those was acknowledged, in milliseconds since 1970.
    pub(crate) lost_first_ms: Option<i64>,
    /// When the last of those was acknowledged.
    pub(crate) lost_last_ms: Option<i64>,
    /// Keys that could not be read at the end.
    pub(crate) unread: u64,
    /// Longest time between two acknowledgements of the same shard, in milliseconds.
    pub(crate) gap_ms: u64,
    /// Reads that gave an older value than one acknowledged before they began, and not because it is lost.
    pub(crate) stale: u64,
    /// The longest time, in milliseconds, that such a read came after the shard's first acknowledgement by the primary
    /// of then. Nothing if the shard has had only one.
    pub(crate) stale_after_ms: Option<i64>,
    /// Reads in all.
    pub(crate) reads: u64,
    /// Each shard as it was at the start, by its lowest slot.
    pub(crate) shards: Vec<ShardReport>,
    /// What went wrong on the way, by kind; a write that succeeds at last leaves its troubles here.
    pub(crate) troubles: BTreeMap<String, u64>,
    /// Some lost keys and failures, in words.
    pub(crate) examples: Vec<String>,
}

/// What a Redis Cluster client saw of one shard. A shard is the slots that one primary had at the start.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct ShardReport {
    /// Its slots, e.g. `0-5460`.
    pub(crate) slots: String,
    /// Writes that were acknowledged.
    pub(crate) acked: u64,
    /// Writes that were not acknowledged within their time.
    pub(crate) failed: u64,
    /// Longest time between two acknowledgements, in milliseconds.
    pub(crate) gap_ms: u64,
    /// When that gap began, in milliseconds since 1970.
    pub(crate) gap_at_ms: i64,
    /// Keys lost.
    pub(crate) lost: u64,
    /// When the first of those was acknowledged, in milliseconds since 1970.
    pub(crate) lost_first_ms: Option<i64>,
    /// When the last of those was acknowledged.
    pub(crate) lost_last_ms: Option<i64>,
    /// Stale reads, as in the whole report.
    #[serde(default)]
    pub(crate) stale: u64,
    /// When the first of those was answered, in milliseconds since 1970.
    #[serde(default)]
    pub(crate) stale_first_ms: Option<i64>,
    /// When the last of those was answered.
    #[serde(default)]
    pub(crate) stale_last_ms: Option<i64>,
    /// Who acknowledged, in order.
    pub(crate) served: Vec<Served>,
}

/// A time in which one node acknowledged a shard's writes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Served {
    /// Its address.
    pub(crate) node: String,
    /// Its first acknowledgement, in milliseconds since 1970.
    pub(crate) first_ms: i64,
    /// Its last.
    pub(crate) last_ms: i64,
    /// How many.
    pub(crate) acked: u64,
}

/// What a look at numbered keys found.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct KeysReport {
    /// Keys that were written, or found with the right value.
    pub(crate) present: u64,
    /// Keys that are not there.
    pub(crate) absent: u64,
    /// Keys with another value, or without an answer.
    pub(crate) other: u64,
    /// Some of the others, in words.
    pub(crate) examples: Vec<String>,
}

/// What plain Redis clients saw.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct RedisReport {
    /// Statements that did not hold.
    pub(crate) failures: Vec<String>,
    /// `CLUSTER INFO`'s numbers and words.
    pub(crate) info: BTreeMap<String, String>,
    /// Ids of every node that the cluster knows.
    pub(crate) nodes: BTreeSet<String>,
    /// How many of them are primaries that serve slots.
    pub(crate) primaries: usize,
}
