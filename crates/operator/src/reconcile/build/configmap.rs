//! The agents' settings.

use std::collections::BTreeMap;

use cachecluster_contract::{AgentSettings, Persistence, labels, names, paths};
use k8s_openapi::api::core::v1::ConfigMap;

use super::metadata;
use crate::reconcile::validate::ValidatedCluster;
use crate::settings::Workload;

/// The ConfigMap with the settings document of all agents of the cluster.
#[must_use]
pub fn agent_config_map(cluster: &ValidatedCluster, workload: &Workload) -> ConfigMap {
    let settings = AgentSettings {
        cluster: cluster.name.clone(),
        peers: format!(
            "{}.{}.svc",
            names::headless(&cluster.name),
            cluster.namespace
        ),
        maxmemory: cluster.maxmemory,
        eviction: cluster.eviction.to_owned(),
        node_timeout: workload.node_timeout,
        persistence: match cluster.storage {
            Some(_) => Persistence::Volume,
            None => Persistence::Ephemeral,
        },
        durable: cluster.durable,
        directives: cluster.directives.clone(),
    };
    // Maps with text keys, numbers and texts always have a JSON form.
    let document = serde_json::to_string_pretty(&settings).unwrap_or_default();
    ConfigMap {
        metadata: metadata(
            cluster,
            names::agent(&cluster.name),
            labels::COMPONENT_REDIS,
            None,
        ),
        data: Some(BTreeMap::from([(paths::SETTINGS_KEY.to_owned(), document)])),
        ..ConfigMap::default()
    }
}
