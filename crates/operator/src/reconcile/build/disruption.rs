//! How many pods may be evicted at a time.

use cachecluster_contract::{labels, names};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{metadata, selector};
use crate::reconcile::validate::ValidatedCluster;

/// One pod at a time of each shard, and one of the API: a node can always be drained, step by step.
#[must_use]
pub fn budgets(cluster: &ValidatedCluster) -> Vec<PodDisruptionBudget> {
    let shards = (0..cluster.shards).map(|shard| {
        budget(
            cluster,
            names::shard(&cluster.name, shard),
            labels::COMPONENT_REDIS,
            Some(shard),
        )
    });
    let api = budget(
        cluster,
        names::api(&cluster.name),
        labels::COMPONENT_API,
        None,
    );
    shards.chain([api]).collect()
}

fn budget(
    cluster: &ValidatedCluster,
    name: String,
    component: &str,
    shard: Option<u32>,
) -> PodDisruptionBudget {
    PodDisruptionBudget {
        metadata: metadata(cluster, name, component, shard),
        spec: Some(PodDisruptionBudgetSpec {
            selector: Some(selector(cluster, component, shard)),
            max_unavailable: Some(IntOrString::Int(1)),
            // A pod that does not work must not keep a node from being drained.
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
            min_available: None,
        }),
        status: None,
    }
}
