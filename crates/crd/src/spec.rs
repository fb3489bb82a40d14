//! What a user may ask for.

// KubeSchema derives shadow types that are `pub` inside a function body.
#![allow(unreachable_pub)]

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::core::Message;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::bytes::ByteSize;
use crate::durable::{Durability, Profile, directives_message, directives_rule};
use crate::maintenance::Maintenance;
use crate::status::CacheClusterStatus;

/// A cache cluster: `shards` × (1 + `replicas`) Redis nodes in Redis Cluster mode, and an HTTP cache API before them.
/// Every field has a default, so that `spec: {}` is a working cluster.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "cachecluster.io",
    version = "v1alpha1",
    kind = "CacheCluster",
    plural = "cacheclusters",
    shortname = "cc",
    category = "all",
    namespaced,
    status = "CacheClusterStatus",
    derive = "PartialEq",
    cel,
    doc = "A cache cluster: Redis Cluster behind an HTTP cache API, deployed and kept healthy by the CacheCluster operator.",
    scale(
        spec_replicas_path = ".spec.shards",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Shards", type_ = "integer", json_path = ".spec.shards"),
    printcolumn(name = "Replicas", type_ = "integer", json_path = ".spec.replicas"),
    printcolumn(name = "Endpoint", type_ = "string", json_path = ".status.endpoint", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("self.metadata.name.size() <= 42")
        .message("metadata.name may have at most 42 characters, because pods are called <name>-shard-<i>-<j>: choose a shorter name"),
    validation = Rule::new("self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')")
        .message("metadata.name becomes the name of Services: use lower-case letters, digits and '-', starting with a letter")
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("self.shards == oldSelf.shards")
    .message("spec.shards cannot be changed while the cluster lives, because slots would have to move: create a CacheCluster with the number you need"))]
#[x_kube(validation = Rule::new("self.engine == oldSelf.engine")
    .message("spec.engine cannot be changed while the cluster lives, because every pod would have to restart: create a CacheCluster with the engine you need"))]
#[x_kube(validation = Rule::new("self.memory == oldSelf.memory")
    .message("spec.memory cannot be changed while the cluster lives, because every pod would have to restart: create a CacheCluster with the memory you need"))]
#[x_kube(validation = Rule::new("has(self.storage) == has(oldSelf.storage) && (!has(self.storage) || (self.storage.size == oldSelf.storage.size && (has(self.storage.storageClassName) ? self.storage.storageClassName : '') == (has(oldSelf.storage.storageClassName) ? oldSelf.storage.storageClassName : '')))")
    .message("spec.storage cannot be added, removed or resized while the cluster lives (only onDelete may change): create a CacheCluster with the storage you need"))]
#[x_kube(validation = Rule::new("self.profile == oldSelf.profile && (has(self.durability) ? self.durability.fsync : 'EverySecond') == (has(oldSelf.durability) ? oldSelf.durability.fsync : 'EverySecond')")
    .message("spec.profile and spec.durability cannot be changed while the cluster lives, because every pod would have to restart: create a CacheCluster with the profile you need"))]
#[x_kube(validation = Rule::new("self.profile != 'Durable' || has(self.storage)")
    .message("spec.profile Durable needs volumes to keep what was acknowledged: add spec.storage, e.g. size twice spec.memory"))]
#[x_kube(validation = Rule::new("!has(self.durability) || self.profile == 'Durable'")
    .message("spec.durability has a meaning only with profile Durable: set spec.profile to Durable, or leave spec.durability out"))]
#[x_kube(validation = Rule::new(directives_rule()).message(directives_message()))]
#[x_kube(validation = Rule::new("self.auth == oldSelf.auth")
    .message("spec.auth cannot be changed while the cluster lives: create a CacheCluster with the Secret you need"))]
pub struct CacheClusterSpec {
    /// What goes before what when not both can be had: serving, or keeping every acknowledged write.
    #[serde(default)]
    pub profile: Profile,

    /// How acknowledged writes are kept, with profile Durable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub durability: Option<Durability>,

    /// Number of shards: how many primaries share the 16384 hash slots.
    #[serde(default = "default_shards")]
    #[schemars(range(min = 1, max = 160))]
    pub shards: u32,

    /// Replicas of each shard's primary. With 0, a shard's keys are lost with its pod, unless there is storage.
    #[serde(default = "default_replicas")]
    #[schemars(range(min = 0, max = 5))]
    pub replicas: u32,

    /// The Redis-compatible server that holds the data.
    #[serde(default)]
    pub engine: Engine,

    /// Memory for data in each pod, e.g. 512Mi. The server's maxmemory is this; the container's limit adds headroom for
    /// replication buffers, fragmentation and copy-on-write.
    #[serde(default = "default_memory")]
    #[schemars(length(max = 24))]
    #[x_kube(validation = Rule::new("self.matches('^[1-9][0-9]*(Ki|Mi|Gi|Ti|k|M|G|T)?$')")
        .message("spec.memory is a whole number of bytes with an optional unit: write it like 512Mi or 4Gi"))]
    #[x_kube(validation = Rule::new("!self.matches('^[1-9][0-9]*(Ki|Mi|Gi|Ti|k|M|G|T)?$') || quantity(self).compareTo(quantity('32Mi')) >= 0")
        .message("spec.memory is too small for a Redis node: use at least 32Mi"))]
    #[x_kube(validation = Rule::new("!self.matches('^[1-9][0-9]*(Ki|Mi|Gi|Ti|k|M|G|T)?$') || quantity(self).compareTo(quantity('1Ti')) <= 0")
        .message("spec.memory is what each Redis pod holds, and no machine has so much: use at most 1Ti, and more shards for more data"))]
    pub memory: ByteSize,

    /// A volume for each pod. Absent: data lives in memory only and survives through replicas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<Storage>,

    /// Where the password comes from. There is always one.
    #[serde(default)]
    pub auth: Auth,

    /// The HTTP cache API.
    #[serde(default)]
    pub api: Api,

    /// What the operator shall leave alone for a while.
    #[serde(default)]
    pub maintenance: Maintenance,
}

/// The Redis-compatible server that holds the data.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Engine {
    /// Image with a redis-server (7.0 or later) or valkey-server (8 or later) on its PATH. Any stock image will do.
    #[serde(default = "default_image")]
    #[schemars(length(min = 1, max = 512))]
    #[x_kube(validation = Rule::new("self.matches('^[^\\\\s]+$')").message("spec.engine.image is an image reference without spaces, e.g. redis:8.2 or valkey/valkey:9.1"))]
    pub image: String,

    /// What the server does when memory is full.
    #[serde(default)]
    pub eviction: Eviction,

    /// Further directives of redis.conf, by lower-case name, e.g. `slowlog-log-slower-than: "5000"`. Directives that the
    /// cluster depends on are refused by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64, "additionalProperties" = directive_value_schema()))]
    #[x_kube(validation = Rule::new("self.all(k, k.matches('^[a-z][a-z0-9-]{1,63}$'))")
        .message("spec.engine.config: names of directives are lower case, e.g. slowlog-log-slower-than"))]
    #[x_kube(validation = Rule::new(reserved_rule()).message(reserved_message()))]
    pub config: BTreeMap<String, String>,
}

/// What the server does when memory is full: the values of Redis's `maxmemory-policy`.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Eviction {
    /// Refuse writes.
    #[serde(rename = "noeviction")]
    NoEviction,
    /// Evict the keys that were used least recently.
    AllkeysLru,
    /// Evict the keys that are used least often.
    #[default]
    AllkeysLfu,
    /// Evict any key.
    AllkeysRandom,
    /// Evict the least recently used among keys with a TTL.
    VolatileLru,
    /// Evict the least often used among keys with a TTL.
    VolatileLfu,
    /// Evict any key with a TTL.
    VolatileRandom,
    /// Evict the keys that expire soonest.
    VolatileTtl,
}

impl Eviction {
    /// The value as Redis spells it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoEviction => "noeviction",
            Self::AllkeysLru => "allkeys-lru",
            Self::AllkeysLfu => "allkeys-lfu",
            Self::AllkeysRandom => "allkeys-random",
            Self::VolatileLru => "volatile-lru",
            Self::VolatileLfu => "volatile-lfu",
            Self::VolatileRandom => "volatile-random",
            Self::VolatileTtl => "volatile-ttl",
        }
    }
}

/// A volume for each pod: what is in its append-only file survives restarts.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Storage {
    /// Size of each volume. Twice spec.memory leaves room for an append-only file that is being rewritten.
    #[schemars(length(max = 24))]
    #[x_kube(validation = Rule::new("self.matches('^[1-9][0-9]*(Ki|Mi|Gi|Ti|k|M|G|T)?$')")
        .message("spec.storage.size is a whole number of bytes with an optional unit: write it like 10Gi"))]
    #[x_kube(validation = Rule::new("!self.matches('^[1-9][0-9]*(Ki|Mi|Gi|Ti|k|M|G|T)?$') || quantity(self).compareTo(quantity('64Mi')) >= 0")
        .message("spec.storage.size is too small for any cache: use at least 64Mi, better twice spec.memory"))]
    #[x_kube(validation = Rule::new("!self.matches('^[1-9][0-9]*(Ki|Mi|Gi|Ti|k|M|G|T)?$') || quantity(self).compareTo(quantity('64Ti')) <= 0")
        .message("spec.storage.size is more than any volume has: use at most 64Ti; twice spec.memory is enough"))]
    pub size: ByteSize,

    /// StorageClass of the volumes. Absent: the cluster's default class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new(object_name_rule())
        .message("spec.storage.storageClassName is the name of a StorageClass: lower-case letters, digits, '-' and '.', as kubectl get storageclass shows it"))]
    pub storage_class_name: Option<String>,

    /// What becomes of the volumes when the CacheCluster is deleted.
    #[serde(default)]
    pub on_delete: OnDelete,
}

/// What becomes of the volumes when the CacheCluster is deleted.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnDelete {
    /// They stay, with their data; a CacheCluster of the same name finds them again.
    #[default]
    Retain,
    /// They are deleted, data included.
    Delete,
}

/// Where the password comes from.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Auth {
    /// A Secret in the same namespace whose key `password` is the password. Absent: the operator generates one in
    /// `<name>-auth`, once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new(object_name_rule())
        .message("spec.auth.secretName is the name of a Secret: lower-case letters, digits, '-' and '.', as kubectl get secrets shows it"))]
    pub secret_name: Option<String>,
}

/// The HTTP cache API.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Api {
    /// Number of pods that serve HTTP.
    #[serde(default = "default_api_replicas")]
    #[schemars(range(min = 0, max = 100))]
    pub replicas: u32,

    /// Compute resources of each API pod. Absent members keep the operator's defaults.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ApiResources>,

    /// How the API is reached, port 5000.
    #[serde(default)]
    pub service: ApiService,
}

/// Compute resources of each API pod, by name: cpu, memory.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ApiResources {
    /// What a pod is sure to have, e.g. `cpu: 100m`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 8, "additionalProperties" = amount_schema()))]
    pub requests: BTreeMap<String, Quantity>,

    /// What a pod may use at most, e.g. `memory: 256Mi`. A request without a limit of its own may raise the default one.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 8, "additionalProperties" = amount_schema()))]
    pub limits: BTreeMap<String, Quantity>,
}

/// How the HTTP API is reached.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("!has(self.nodePort) || self.type != 'ClusterIP'")
    .message("spec.api.service.nodePort needs type NodePort or LoadBalancer: set spec.api.service.type, or leave nodePort out"))]
pub struct ApiService {
    /// Kind of Service.
    #[serde(default, rename = "type")]
    pub kind: ServiceType,

    /// Port on every node, from the cluster's node port range (30000-32767 unless configured otherwise). Absent: the
    /// API server chooses one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub node_port: Option<u16>,

    /// Annotations on the Service, e.g. for a cloud's load balancer.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// Kind of a Service.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ServiceType {
    /// Reached from inside the cluster.
    #[default]
    ClusterIP,
    /// Also on a port of every node.
    NodePort,
    /// Also through a load balancer of the environment.
    LoadBalancer,
}

impl ServiceType {
    /// The value as core/v1 spells it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ClusterIP => "ClusterIP",
            Self::NodePort => "NodePort",
            Self::LoadBalancer => "LoadBalancer",
        }
    }
}

impl Default for CacheClusterSpec {
    fn default() -> Self {
        Self {
            profile: Profile::default(),
            durability: None,
            shards: default_shards(),
            replicas: default_replicas(),
            engine: Engine::default(),
            memory: default_memory(),
            storage: None,
            auth: Auth::default(),
            api: Api::default(),
            maintenance: Maintenance::default(),
        }
    }
}

impl Default for Engine {
    fn default() -> Self {
        Self {
            image: default_image(),
            eviction: Eviction::default(),
            config: BTreeMap::new(),
        }
    }
}

impl Default for Api {
    fn default() -> Self {
        Self {
            replicas: default_api_replicas(),
            resources: None,
            service: ApiService::default(),
        }
    }
}

fn default_shards() -> u32 {
    3
}

fn default_replicas() -> u32 {
    1
}

fn default_image() -> String {
    "redis:8.2".to_owned()
}

fn default_api_replicas() -> u32 {
    2
}

fn default_memory() -> ByteSize {
    ByteSize::new("512Mi")
}

/// A bound on the length keeps the rule within the API server's cost budget.
fn directive_value_schema() -> serde_json::Value {
    serde_json::json!({
        "type": "string",
        "maxLength": 256,
        "x-kubernetes-validations": [{
            "rule": "!self.matches('[\\r\\n]')",
            "message": "spec.engine.config: a value is one line",
        }],
    })
}

/// An amount of a compute resource. A pattern, because CEL on what may be a number or a text has no bound on its cost.
fn amount_schema() -> serde_json::Value {
    serde_json::json!({
        "description": "A number with an optional unit: CPU like 100m or 2, memory like 256Mi.",
        "x-kubernetes-int-or-string": true,
        "pattern": "^[0-9]+([.][0-9]+)?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei|[eE][0-9]+)?$",
        "minimum": 0,
        "maxLength": 32,
    })
}

/// That a text can be the name of an object: what Kubernetes calls a DNS-1123 subdomain.
fn object_name_rule() -> &'static str {
    "self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$')"
}

/// CEL that is true while none of the operator's directives is there, from the one list that the agent also keeps.
fn reserved_rule() -> String {
    let names: Vec<String> = cachecluster_contract::agent::RESERVED_DIRECTIVES
        .iter()
        .map(|d| format!("'{d}'"))
        .collect();
    format!("self.all(k, !(k in [{}]))", names.join(", "))
}

/// CEL that names the directives that are refused. Made of constants, one after the other, because the API server has no
/// bound on the cost of joining what a user wrote.
fn reserved_message() -> Message {
    // In groups: parsers go as deep as a sum is long.
    let names: Vec<String> = cachecluster_contract::agent::RESERVED_DIRECTIVES
        .chunks(8)
        .map(|group| {
            let named = |d: &&str| format!("('{d}' in self ? ' {d}' : '')");
            let all: Vec<String> = group.iter().map(named).collect();
            format!("({})", all.join(" + "))
        })
        .collect();
    let names = names.join(" + ");
    Message::Expression(format!(
        "'spec.engine.config: set by the operator:' + {names} + '. Use spec.memory and spec.engine.eviction for memory, \
         spec.storage for persistence, spec.auth for passwords; ports, cluster, replication, paths, modules and \
         included files cannot be changed'"
    ))
}
