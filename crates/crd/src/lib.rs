//! The `CacheCluster` resource, `cachecluster.io/v1alpha1`: what a user may ask for, what is refused and with which
//! words, and what the operator reports back.
//!
//! A field exists here only if the operator acts on it. Rules stand beside the fields that they guard, as CEL, so that
//! the API server refuses a mistake at once and tells what to do instead.

mod bytes;
pub mod conditions;
mod durable;
mod maintenance;
mod spec;
mod status;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};

pub use bytes::ByteSize;
pub use durable::{Durability, Fsync, Profile};
pub use maintenance::Maintenance;
pub use spec::{
    Api, ApiResources, ApiService, Auth, CacheCluster, CacheClusterSpec, Engine, Eviction,
    OnDelete, ServiceType, Storage,
};
pub use status::{CacheClusterStatus, Phase, ShardStatus};

/// The largest `spec.shards`: with 5 replicas each they are 960 nodes, and Redis Cluster is made for 1,000 or so.
pub const MAX_SHARDS: u32 = 160;

/// The longest name of a `CacheCluster`, in characters: StatefulSets are called `<name>-shard-<i>` and may have 52.
pub const MAX_NAME: usize = 42;

/// The CustomResourceDefinition, as `cachecluster-operator crd` prints it.
#[must_use]
pub fn definition() -> CustomResourceDefinition {
    let mut definition = <CacheCluster as kube::CustomResourceExt>::crd();
    for version in &mut definition.spec.versions {
        if let Some(schema) = version
            .schema
            .as_mut()
            .and_then(|s| s.open_api_v3_schema.as_mut())
        {
            drop_rust_formats(schema);
        }
    }
    definition
}

/// schemars names Rust's integer types as formats (`uint32`), of which the API server warns at each install. The ranges
/// say the same.
fn drop_rust_formats(schema: &mut JSONSchemaProps) {
    if schema
        .format
        .as_deref()
        .is_some_and(|format| format.starts_with("uint"))
    {
        schema.format = None;
    }
    for property in schema.properties.iter_mut().flat_map(|p| p.values_mut()) {
        drop_rust_formats(property);
    }
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &mut schema.items {
        drop_rust_formats(items);
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = &mut schema.additional_properties {
        drop_rust_formats(values);
    }
}
