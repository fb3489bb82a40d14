//! Clusters and worlds for the unit tests of the pure steps.

use std::sync::Arc;

use cachecluster_crd::{CacheCluster, CacheClusterSpec};
use cachecluster_redis_admin::Password;
use cachecluster_topology::World;
use cachecluster_topology::sim::Sim;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::fence::Fences;
use super::observe::{Observed, Secrecy};
use super::validate::{ValidatedCluster, validate};
use crate::settings::Workload;

/// The password of every cluster here.
pub(super) const PASSWORD: &str = "correct-horse";

/// A resource as the API server has it. The name is that of the simulation's pods.
pub(super) fn resource(spec: Value) -> CacheCluster {
    let spec: CacheClusterSpec = serde_json::from_value(spec).unwrap();
    let mut cluster = CacheCluster::new("quickstart", spec);
    cluster.metadata.namespace = Some("ns".to_owned());
    cluster.metadata.uid = Some("1234".to_owned());
    cluster.metadata.generation = Some(1);
    cluster
}

pub(super) fn valid(spec: Value) -> ValidatedCluster {
    let nothing = observed(Vec::new(), Vec::new());
    validate(&resource(spec), &nothing, &Password::new("unused")).unwrap()
}

/// A world with its nodes, and as many ready API pods as the default wants.
pub(super) fn world(world: World) -> Observed {
    observed(world.members, vec![pod("api-0", true), pod("api-1", true)])
}

fn observed(members: Vec<cachecluster_topology::Member>, api_pods: Vec<Arc<Pod>>) -> Observed {
    Observed {
        at: tokio::time::Instant::now(),
        secrecy: Secrecy::Known(Password::new(PASSWORD)),
        members,
        redis_pods: Vec::new(),
        api_pods,
        stateful_sets: 0,
        durable: None,
        reports: std::collections::BTreeMap::new(),
        fences: Fences::default(),
    }
}

pub(super) fn nothing() -> Observed {
    observed(Vec::new(), Vec::new())
}

/// A simulated cluster that has come to rest.
pub(super) fn formed(shards: u32, replicas: u32) -> Sim {
    let mut sim = Sim::new(shards, replicas);
    sim.run(50).unwrap();
    sim
}

pub(super) fn pod(name: &str, ready: bool) -> Arc<Pod> {
    let ready = if ready { "True" } else { "False" };
    Arc::new(
        serde_json::from_value(json!({
            "metadata": {"name": name},
            "status": {"conditions": [{"type": "Ready", "status": ready}]},
        }))
        .unwrap(),
    )
}

pub(super) fn workload() -> Workload {
    Workload {
        agent_image: "cachecluster/agent:1".to_owned(),
        api_image: "cachecluster/api:1".to_owned(),
        image_pull_policy: "IfNotPresent".to_owned(),
        image_pull_secrets: Vec::new(),
        operator_namespace: "cachecluster-system".to_owned(),
        node_timeout: 2000,
    }
}
