//! The HTTP API's pods.

use std::collections::BTreeMap;

use cachecluster_contract::{labels, names, paths, ports};
use k8s_openapi::api::apps::v1::{
    Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment,
};
use k8s_openapi::api::core::v1::{
    Affinity, Container, EnvVar, PodAntiAffinity, PodSpec, PodTemplateSpec, Probe,
    ResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::pod::{
    AUTH, away_from, mount, over_zones, password_volume, port, probe, pull_secrets, quantities,
    readiness, restricted_container, restricted_pod,
};
use super::{all_labels, metadata, selector};
use crate::reconcile::validate::ValidatedCluster;
use crate::settings::Workload;

/// Name of the container.
pub const CONTAINER: &str = "api";
/// User and group of the API: nobody in particular.
const API_ID: i64 = 65532;
/// How long a pod goes on serving after it was told to stop, until nobody sends it new requests.
const DRAIN_DELAY: &str = "5s";
/// Drain delay, drain timeout and some room, in seconds.
const GRACE_PERIOD: i64 = 30;

/// The Deployment of the HTTP API. New pods are ready before old ones go.
#[must_use]
pub fn api_deployment(cluster: &ValidatedCluster, workload: &Workload) -> Deployment {
    Deployment {
        metadata: metadata(
            cluster,
            names::api(&cluster.name),
            labels::COMPONENT_API,
            None,
        ),
        spec: Some(DeploymentSpec {
            replicas: Some(i32::try_from(cluster.api.replicas).unwrap_or(i32::MAX)),
            revision_history_limit: Some(2),
            selector: selector(cluster, labels::COMPONENT_API, None),
            strategy: Some(DeploymentStrategy {
                type_: Some("RollingUpdate".to_owned()),
                rolling_update: Some(RollingUpdateDeployment {
                    max_surge: Some(IntOrString::String("25%".to_owned())),
                    max_unavailable: Some(IntOrString::Int(0)),
                }),
            }),
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta {
                    labels: Some(all_labels(cluster, labels::COMPONENT_API, None)),
                    ..ObjectMeta::default()
                }),
                spec: Some(pod(cluster, workload)),
            },
            ..DeploymentSpec::default()
        }),
        status: None,
    }
}

fn pod(cluster: &ValidatedCluster, workload: &Workload) -> PodSpec {
    let pods = selector(cluster, labels::COMPONENT_API, None);
    PodSpec {
        service_account_name: Some(names::api(&cluster.name)),
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        termination_grace_period_seconds: Some(GRACE_PERIOD),
        security_context: Some(restricted_pod(API_ID)),
        affinity: Some(Affinity {
            pod_anti_affinity: Some(PodAntiAffinity {
                preferred_during_scheduling_ignored_during_execution: Some(vec![away_from(
                    100,
                    pods.clone(),
                )]),
                required_during_scheduling_ignored_during_execution: None,
            }),
            ..Affinity::default()
        }),
        topology_spread_constraints: Some(vec![over_zones(pods)]),
        image_pull_secrets: pull_secrets(workload),
        containers: vec![container(cluster, workload)],
        volumes: Some(vec![password_volume(cluster)]),
        ..PodSpec::default()
    }
}

fn container(cluster: &ValidatedCluster, workload: &Workload) -> Container {
    Container {
        name: CONTAINER.to_owned(),
        image: Some(workload.api_image.clone()),
        image_pull_policy: Some(workload.image_pull_policy.clone()),
        env: Some(vec![
            value("CACHE_REDIS_URL", &seeds(cluster)),
            value("CACHE_REDIS_PASSWORD_FILE", paths::PASSWORD_FILE),
            value("CACHE_DRAIN_DELAY", DRAIN_DELAY),
            value("CACHE_LOG_FORMAT", "json"),
        ]),
        ports: Some(vec![
            port(ports::API_NAME, ports::API),
            port(ports::ADMIN_NAME, ports::API_ADMIN),
        ]),
        liveness_probe: Some(Probe {
            period_seconds: Some(10),
            timeout_seconds: Some(3),
            failure_threshold: Some(3),
            ..probe(ports::ADMIN_NAME, ports::LIVEZ_PATH)
        }),
        readiness_probe: Some(readiness(ports::ADMIN_NAME)),
        resources: Some(resources(&cluster.api.resources)),
        security_context: Some(restricted_container()),
        volume_mounts: Some(vec![mount(AUTH, paths::AUTH_DIR, true)]),
        ..Container::default()
    }
}

/// Whom the API asks first: a ready node; while none is ready, any.
fn seeds(cluster: &ValidatedCluster) -> String {
    let (name, namespace) = (&cluster.name, &cluster.namespace);
    [names::redis(name), names::headless(name)]
        .map(|service| format!("redis://{service}.{namespace}.svc:{}", ports::REDIS))
        .join(",")
}

/// The defaults, with what the user says in place of them, member by member.
fn resources(user: &ResourceRequirements) -> ResourceRequirements {
    let over = |defaults: BTreeMap<String, Quantity>, own: &Option<BTreeMap<String, Quantity>>| {
        let mut merged = defaults;
        merged.extend(own.clone().unwrap_or_default());
        Some(merged)
    };
    let mut merged = ResourceRequirements {
        requests: over(
            quantities([("cpu", "50m"), ("memory", "32Mi")]),
            &user.requests,
        ),
        limits: over(quantities([("memory", "256Mi")]), &user.limits),
        claims: None,
    };
    // A default must not contradict what the user says: no request above its limit.
    for (name, limit) in user.limits.iter().flatten() {
        if !user
            .requests
            .as_ref()
            .is_some_and(|own| own.contains_key(name))
        {
            merged
                .requests
                .get_or_insert_with(BTreeMap::new)
                .insert(name.clone(), limit.clone());
        }
    }
    for (name, request) in user.requests.iter().flatten() {
        let limited = user
            .limits
            .as_ref()
            .is_some_and(|own| own.contains_key(name));
        if let Some(limits) = merged.limits.as_mut().filter(|_| !limited)
            && limits.contains_key(name)
        {
            limits.insert(name.clone(), request.clone());
        }
    }
    merged
}

fn value(name: &str, value: &str) -> EnvVar {
    EnvVar {
        name: name.to_owned(),
        value: Some(value.to_owned()),
        value_from: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resources_of_the_user_replace_defaults_member_by_member() {
        let user = ResourceRequirements {
            requests: Some(quantities([("cpu", "2")])),
            limits: Some(quantities([("memory", "16Mi")])),
            claims: None,
        };
        let merged = resources(&user);
        assert_eq!(
            merged.requests,
            Some(quantities([("cpu", "2"), ("memory", "16Mi")]))
        );
        assert_eq!(merged.limits, Some(quantities([("memory", "16Mi")])));
    }

    #[test]
    fn a_request_above_the_default_limit_raises_it() {
        let user = ResourceRequirements {
            requests: Some(quantities([("memory", "1Gi")])),
            ..ResourceRequirements::default()
        };
        assert_eq!(
            resources(&user).limits,
            Some(quantities([("memory", "1Gi")]))
        );
    }
}
