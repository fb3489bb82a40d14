//! What the operator reports back.

// KubeSchema derives shadow types that are `pub` inside a function body.
#![allow(unreachable_pub)]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the operator saw at its last pass.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct CacheClusterStatus {
    /// The generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// The conditions in one word, for people; programs read `conditions`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,

    /// Ready, Progressing, Degraded, Accepted; Paused, if the cluster ever was.
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    #[serde(default)]
    pub conditions: Vec<Condition>,

    /// One entry a shard.
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    #[serde(default)]
    pub shards: Vec<ShardStatus>,

    /// Pods that are fenced or about to be, and those that were and have not said yet that they are not any more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fenced: Vec<String>,

    /// Where the HTTP API is reached from inside the cluster, e.g. `http://quickstart-api.default.svc:5000`. Absent with `api.replicas` 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,

    /// Number of shards that exist, for the scale subresource.
    #[serde(default)]
    pub replicas: u32,

    /// Selects the Redis pods, for the scale subresource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
}

/// The conditions in one word.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The spec cannot be acted upon; see the condition Accepted.
    Invalid,
    /// Pods are being made, or nodes joined, for the first time.
    Creating,
    /// All is as asked for.
    Ready,
    /// Was complete, and now lacks something.
    Degraded,
    /// The operator keeps its hands off; the conditions tell how the cluster is.
    Paused,
    /// Is being deleted.
    Deleting,
}

/// One shard.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ShardStatus {
    /// Name of its StatefulSet.
    pub name: String,
    /// Pod of its primary; absent while it has none that answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub primary: Option<String>,
    /// Pods of its replicas that are in sync.
    #[serde(default)]
    pub replicas: Vec<String>,
    /// With profile Durable: pods that hold every acknowledged write, up to the replication lag, its primary first. The
    /// operator promotes only them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub in_sync: Vec<String>,
    /// The slots that it serves, e.g. `0-5460`.
    #[serde(default)]
    pub slots: String,
    /// Keys on its primary, rounded to two significant digits so that traffic alone does not rewrite the status; exact
    /// figures are metrics.
    #[serde(default)]
    pub keys: u64,
}
