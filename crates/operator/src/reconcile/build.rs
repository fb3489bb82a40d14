//! How every object of a cluster shall be. Pure: no client, no clock, no randomness beyond what comes in.
//!
//! The pod templates are pinned by snapshots: a new version of the operator must not roll everybody's pods by itself.

pub mod access;
pub mod api;
pub mod configmap;
pub mod disruption;
mod memory;
pub mod network;
mod pod;
pub mod secret;
pub mod services;
pub mod statefulset;

use std::collections::BTreeMap;
use std::marker::PhantomData;

use cachecluster_contract::labels;
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};

use super::decide::Plan;
use super::validate::ValidatedCluster;
use crate::settings::Workload;

/// Objects as they shall be.
#[derive(Clone, Copy, Debug)]
pub struct Prepared;
/// Objects as the API server has them.
#[derive(Clone, Copy, Debug)]
pub struct Applied;

/// Every object of a cluster. `apply` takes it apart without `..`: a kind that is added here and not applied there
/// does not compile.
#[derive(Clone, Debug)]
pub struct Resources<State> {
    /// Identities of the pods.
    pub service_accounts: Vec<ServiceAccount>,
    /// The generated password, when it has to be made.
    pub secret: Option<Secret>,
    /// Settings of the agents.
    pub config_maps: Vec<ConfigMap>,
    /// How nodes and clients find each other.
    pub services: Vec<Service>,
    /// Who may reach Redis.
    pub policies: Vec<NetworkPolicy>,
    /// Who may be evicted when.
    pub budgets: Vec<PodDisruptionBudget>,
    /// One a shard.
    pub stateful_sets: Vec<StatefulSet>,
    /// The HTTP API.
    pub deployments: Vec<Deployment>,
    /// What has been done with them.
    pub state: PhantomData<State>,
}

/// Builds every object of `cluster`, as `plan` wants it to be shown this time.
#[must_use]
pub fn resources(
    cluster: &ValidatedCluster,
    plan: &Plan,
    workload: &Workload,
) -> Resources<Prepared> {
    Resources {
        service_accounts: access::service_accounts(cluster),
        secret: cluster.auth.create.then(|| secret::auth_secret(cluster)),
        config_maps: vec![configmap::agent_config_map(cluster, workload)],
        services: services::services(cluster),
        policies: vec![network::redis_policy(cluster, workload)],
        budgets: disruption::budgets(cluster),
        stateful_sets: (0..cluster.shards)
            .map(|shard| statefulset::redis_statefulset(cluster, plan, shard, workload))
            .collect(),
        deployments: vec![api::api_deployment(cluster, workload)],
        state: PhantomData,
    }
}

/// Name, namespace, owner and labels of a child. Cluster-wide parts have no shard.
fn metadata(
    cluster: &ValidatedCluster,
    name: String,
    component: &str,
    shard: Option<u32>,
) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: Some(cluster.namespace.clone()),
        labels: Some(all_labels(cluster, component, shard)),
        owner_references: Some(vec![cluster.owner.clone()]),
        ..ObjectMeta::default()
    }
}

/// The labels of a child: the selector's, and those that may change.
fn all_labels(
    cluster: &ValidatedCluster,
    component: &str,
    shard: Option<u32>,
) -> BTreeMap<String, String> {
    let mut labels = selector_labels(cluster, component, shard);
    labels.insert(
        labels::MANAGED_BY.to_owned(),
        labels::MANAGED_BY_VALUE.to_owned(),
    );
    labels.insert(labels::PART_OF.to_owned(), labels::NAME_VALUE.to_owned());
    labels
}

/// The labels that select pods. Kubernetes does not let these change.
fn selector_labels(
    cluster: &ValidatedCluster,
    component: &str,
    shard: Option<u32>,
) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::from([
        (labels::NAME.to_owned(), labels::NAME_VALUE.to_owned()),
        (labels::INSTANCE.to_owned(), cluster.name.clone()),
        (labels::COMPONENT.to_owned(), component.to_owned()),
    ]);
    if let Some(shard) = shard {
        labels.insert(labels::SHARD.to_owned(), shard.to_string());
    }
    labels
}

fn selector(cluster: &ValidatedCluster, component: &str, shard: Option<u32>) -> LabelSelector {
    LabelSelector {
        match_labels: Some(selector_labels(cluster, component, shard)),
        match_expressions: None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::reconcile::decide::decide;
    use crate::reconcile::fixture::{PASSWORD, nothing, valid, workload};
    use crate::reconcile::validate::ValidatedCluster;

    fn built(cluster: &ValidatedCluster) -> Resources<Prepared> {
        resources(cluster, &decide(cluster, &nothing()), &workload())
    }

    // A change of these templates rolls pods: of the Redis pods at their next restart, of the API at once. Change them
    // knowingly.

    #[test]
    fn the_redis_pods_of_an_empty_spec() {
        let resources = built(&valid(json!({})));
        insta::assert_yaml_snapshot!(resources.stateful_sets[0]);
    }

    #[test]
    fn pods_pull_with_the_secrets_that_the_operator_is_given() {
        let cluster = valid(json!({}));
        let workload = Workload {
            image_pull_secrets: vec!["registry".to_owned()],
            ..workload()
        };
        let resources = resources(&cluster, &decide(&cluster, &nothing()), &workload);
        let redis = resources.stateful_sets[0].spec.as_ref().unwrap();
        let api = resources.deployments[0].spec.as_ref().unwrap();
        for template in [&redis.template, &api.template] {
            let secrets = &template.spec.as_ref().unwrap().image_pull_secrets;
            assert_eq!(json!(secrets), json!([{"name": "registry"}]));
        }
    }

    #[test]
    fn the_redis_pods_with_volumes() {
        let spec =
            json!({"storage": {"size": "1Gi", "storageClassName": "fast", "onDelete": "Delete"}});
        let resources = built(&valid(spec));
        let spec = resources.stateful_sets[0].spec.as_ref().unwrap();
        insta::assert_yaml_snapshot!((
            &spec.volume_claim_templates,
            &spec.persistent_volume_claim_retention_policy,
            &spec.template.spec.as_ref().unwrap().volumes,
        ));
    }

    #[test]
    fn the_api_pods_of_an_empty_spec() {
        let resources = built(&valid(json!({})));
        insta::assert_yaml_snapshot!(resources.deployments[0]);
    }

    #[test]
    fn the_services_of_one_shard() {
        let spec =
            json!({"shards": 1, "api": {"service": {"type": "NodePort", "nodePort": 30500}}});
        insta::assert_yaml_snapshot!(built(&valid(spec)).services);
    }

    #[test]
    fn the_policy_lets_in_the_cluster_and_the_operator_only() {
        let resources = built(&valid(json!({})));
        insta::assert_yaml_snapshot!(resources.policies[0].spec);
    }

    #[test]
    fn the_agents_settings() {
        let spec = json!({"memory": "64Mi", "engine": {"config": {"slowlog-max-len": "10"}}});
        let resources = built(&valid(spec));
        let document = &resources.config_maps[0].data.as_ref().unwrap()["settings.json"];
        let settings: cachecluster_contract::AgentSettings =
            serde_json::from_str(document).unwrap();
        assert_eq!(settings.maxmemory, 64 << 20);
        assert_eq!(settings.peers, "quickstart-nodes.ns.svc");
        assert_eq!(settings.directives["slowlog-max-len"], "10");
    }

    #[test]
    fn no_password_appears_in_any_object_but_the_secret() {
        let mut cluster = valid(json!({}));
        cluster.auth.create = true;
        let resources = built(&cluster);
        let secret = resources.secret.as_ref().unwrap().data.as_ref().unwrap();
        assert_eq!(secret["password"].0, PASSWORD.as_bytes());
        let others = Resources {
            secret: None,
            ..resources
        };
        assert!(!format!("{others:?}").contains(PASSWORD));
    }
}
