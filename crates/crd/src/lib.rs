//! The `CacheCluster` resource, `cachecluster.io/v1alpha1`: what a user may ask for, what is refused and with which
//! words, and what the operator reports back.
//!
//! A field exists here only if the operator acts on it. Rules stand beside the fields that they guard, as CEL, so that
//! the API server refuses a mistake at once and tells what to do instead.

pub mod bytes;
pub mod conditions;
pub mod spec;
pub mod status;

pub use bytes::ByteSize;
pub use spec::{
    Api, ApiService, Auth, CacheCluster, CacheClusterSpec, Engine, Eviction, OnDelete, ServiceType,
    Storage,
};
pub use status::{CacheClusterStatus, Phase, ShardStatus};

/// The largest `spec.shards`: with 5 replicas each, 1,200 nodes would pass what Redis Cluster's gossip is made for.
pub const MAX_SHARDS: u32 = 160;

/// The longest name of a `CacheCluster`, in characters: StatefulSets are called `<name>-shard-<i>` and may have 52.
pub const MAX_NAME: usize = 42;

/// The CustomResourceDefinition, as `cachecluster-operator crd` prints it.
#[must_use]
pub fn definition()
-> k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition {
    <CacheCluster as kube::CustomResourceExt>::crd()
}
