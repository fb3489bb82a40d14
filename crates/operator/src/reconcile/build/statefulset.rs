//! The Redis pods of one shard.

use std::collections::BTreeMap;

use cachecluster_contract::{labels, names, paths, ports};
use k8s_openapi::api::apps::v1::{
    StatefulSet, StatefulSetPersistentVolumeClaimRetentionPolicy, StatefulSetSpec,
    StatefulSetUpdateStrategy,
};
use k8s_openapi::api::core::v1::{
    Affinity, ConfigMapVolumeSource, Container, EmptyDirVolumeSource, EnvVar, EnvVarSource,
    ObjectFieldSelector, PersistentVolumeClaim, PersistentVolumeClaimSpec, PodAntiAffinity,
    PodSpec, PodTemplateSpec, Probe, ResourceRequirements, Volume, VolumeResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::pod::{
    AUTH, away_from, mount, over_zones, password_volume, port, probe, pull_secrets, quantities,
    readiness, restricted_container, restricted_pod,
};
use super::{all_labels, memory, metadata, selector, selector_labels};
use crate::reconcile::decide::Plan;
use crate::reconcile::validate::ValidatedCluster;
use crate::settings::Workload;

/// Name of the container in which the server runs under the agent.
pub const CONTAINER: &str = "redis";
/// User and group of the server: `redis` in the official image. Other images do not mind.
const REDIS_ID: i64 = 999;
/// The agent's binary in its own image.
const AGENT_IN_IMAGE: &str = "/cachecluster-agent";
/// Time for a handover, and for an append-only file to reach the disk, in seconds.
const GRACE_PERIOD: i64 = 60;

/// The end of the log becomes what a container that failed leaves in its pod's status, and the operator in the cluster's.
const LAST_WORDS: &str = "FallbackToLogsOnError";

const AGENT: &str = "agent";
const RUN: &str = "run";
const DATA: &str = "data";
const SETTINGS: &str = "settings";

/// The StatefulSet of shard `shard`, with as many pods as the plan shows Kubernetes.
#[must_use]
pub fn redis_statefulset(
    cluster: &ValidatedCluster,
    plan: &Plan,
    shard: u32,
    workload: &Workload,
) -> StatefulSet {
    let pods = plan
        .pods
        .get(&shard)
        .copied()
        .unwrap_or(1 + cluster.replicas);
    StatefulSet {
        metadata: metadata(
            cluster,
            names::shard(&cluster.name, shard),
            labels::COMPONENT_REDIS,
            Some(shard),
        ),
        spec: Some(StatefulSetSpec {
            service_name: Some(names::headless(&cluster.name)),
            replicas: Some(i32::try_from(pods).unwrap_or(i32::MAX)),
            pod_management_policy: Some("Parallel".to_owned()),
            update_strategy: Some(StatefulSetUpdateStrategy {
                type_: Some("OnDelete".to_owned()),
                rolling_update: None,
            }),
            revision_history_limit: Some(2),
            selector: selector(cluster, labels::COMPONENT_REDIS, Some(shard)),
            template: pod_template(cluster, shard, workload),
            volume_claim_templates: cluster
                .storage
                .is_some()
                .then(|| vec![volume_claim(cluster, shard)]),
            persistent_volume_claim_retention_policy: cluster.storage.as_ref().map(|volume| {
                let policy = if volume.delete { "Delete" } else { "Retain" };
                StatefulSetPersistentVolumeClaimRetentionPolicy {
                    when_deleted: Some(policy.to_owned()),
                    when_scaled: Some(policy.to_owned()),
                }
            }),
            ..StatefulSetSpec::default()
        }),
        status: None,
    }
}

fn pod_template(cluster: &ValidatedCluster, shard: u32, workload: &Workload) -> PodTemplateSpec {
    PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some(all_labels(cluster, labels::COMPONENT_REDIS, Some(shard))),
            annotations: Some(BTreeMap::from([(
                "kubectl.kubernetes.io/default-container".to_owned(),
                CONTAINER.to_owned(),
            )])),
            ..ObjectMeta::default()
        }),
        spec: Some(PodSpec {
            service_account_name: Some(names::agent(&cluster.name)),
            automount_service_account_token: Some(false),
            enable_service_links: Some(false),
            termination_grace_period_seconds: Some(GRACE_PERIOD),
            security_context: Some(restricted_pod(REDIS_ID)),
            affinity: Some(apart(cluster, shard)),
            topology_spread_constraints: Some(vec![over_zones(selector(
                cluster,
                labels::COMPONENT_REDIS,
                Some(shard),
            ))]),
            image_pull_secrets: pull_secrets(workload),
            init_containers: Some(vec![install(workload)]),
            containers: vec![server(cluster, workload)],
            volumes: Some(volumes(cluster)),
            ..PodSpec::default()
        }),
    }
}

/// Copies the agent out of its image, so that any engine's image will do.
fn install(workload: &Workload) -> Container {
    Container {
        name: "install-agent".to_owned(),
        image: Some(workload.agent_image.clone()),
        image_pull_policy: Some(workload.image_pull_policy.clone()),
        command: Some(words(&[AGENT_IN_IMAGE, "install", paths::AGENT_DIR])),
        resources: Some(resources(
            [("cpu", "10m"), ("memory", "32Mi")],
            [("memory", "32Mi")],
        )),
        termination_message_policy: Some(LAST_WORDS.to_owned()),
        security_context: Some(restricted_container()),
        volume_mounts: Some(vec![mount(AGENT, paths::AGENT_DIR, false)]),
        ..Container::default()
    }
}

fn server(cluster: &ValidatedCluster, workload: &Workload) -> Container {
    let memory = memory::limit_quantity(cluster.maxmemory);
    Container {
        name: CONTAINER.to_owned(),
        image: Some(cluster.image.clone()),
        image_pull_policy: Some(workload.image_pull_policy.clone()),
        command: Some(words(&[paths::AGENT_BINARY, "run"])),
        env: Some(vec![
            field(paths::env::POD_NAME, "metadata.name"),
            field(paths::env::POD_IP, "status.podIP"),
        ]),
        ports: Some(vec![
            port(ports::REDIS_NAME, ports::REDIS),
            port(ports::REDIS_BUS_NAME, ports::REDIS_BUS),
            port(ports::AGENT_NAME, ports::AGENT),
        ]),
        // The agent restarts a server that died; the kubelet restarts the agent only when that itself hangs.
        liveness_probe: Some(Probe {
            period_seconds: Some(5),
            timeout_seconds: Some(3),
            failure_threshold: Some(6),
            ..probe(ports::AGENT_NAME, ports::LIVEZ_PATH)
        }),
        readiness_probe: Some(readiness(ports::AGENT_NAME)),
        resources: Some(resources(
            [("cpu", "100m"), ("memory", &memory)],
            [("memory", &memory)],
        )),
        termination_message_policy: Some(LAST_WORDS.to_owned()),
        security_context: Some(restricted_container()),
        volume_mounts: Some(vec![
            mount(AGENT, paths::AGENT_DIR, true),
            mount(RUN, paths::RUN_DIR, false),
            mount(DATA, paths::DATA_DIR, false),
            mount(SETTINGS, paths::AGENT_SETTINGS_DIR, true),
            mount(AUTH, paths::AUTH_DIR, true),
        ]),
        ..Container::default()
    }
}

fn volumes(cluster: &ValidatedCluster) -> Vec<Volume> {
    let mut volumes = vec![
        Volume {
            name: AGENT.to_owned(),
            empty_dir: Some(EmptyDirVolumeSource {
                size_limit: Some(Quantity("64Mi".to_owned())),
                medium: None,
            }),
            ..Volume::default()
        },
        Volume {
            name: RUN.to_owned(),
            empty_dir: Some(EmptyDirVolumeSource {
                medium: Some("Memory".to_owned()),
                size_limit: Some(Quantity("1Mi".to_owned())),
            }),
            ..Volume::default()
        },
        Volume {
            name: SETTINGS.to_owned(),
            config_map: Some(ConfigMapVolumeSource {
                name: names::agent(&cluster.name),
                ..ConfigMapVolumeSource::default()
            }),
            ..Volume::default()
        },
        password_volume(cluster),
    ];
    if cluster.storage.is_none() {
        volumes.push(Volume {
            name: DATA.to_owned(),
            empty_dir: Some(EmptyDirVolumeSource::default()),
            ..Volume::default()
        });
    }
    volumes
}

fn volume_claim(cluster: &ValidatedCluster, shard: u32) -> PersistentVolumeClaim {
    PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(DATA.to_owned()),
            // Kubernetes does not let a template of volumes change: only labels that never do.
            labels: Some(selector_labels(
                cluster,
                labels::COMPONENT_REDIS,
                Some(shard),
            )),
            ..ObjectMeta::default()
        },
        spec: cluster
            .storage
            .as_ref()
            .map(|volume| PersistentVolumeClaimSpec {
                access_modes: Some(vec!["ReadWriteOnce".to_owned()]),
                storage_class_name: volume.class.clone(),
                volume_mode: Some("Filesystem".to_owned()),
                resources: Some(VolumeResourceRequirements {
                    requests: Some(BTreeMap::from([(
                        "storage".to_owned(),
                        volume.size.clone(),
                    )])),
                    limits: None,
                }),
                ..PersistentVolumeClaimSpec::default()
            }),
        status: None,
    }
}

/// Never a shard's primary and replica on one machine while another fits, and few of the cluster's pods on one.
fn apart(cluster: &ValidatedCluster, shard: u32) -> Affinity {
    let away_from =
        |weight, shard| away_from(weight, selector(cluster, labels::COMPONENT_REDIS, shard));
    Affinity {
        pod_anti_affinity: Some(PodAntiAffinity {
            preferred_during_scheduling_ignored_during_execution: Some(vec![
                away_from(100, Some(shard)),
                away_from(10, None),
            ]),
            required_during_scheduling_ignored_during_execution: None,
        }),
        ..Affinity::default()
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn field(name: &str, path: &str) -> EnvVar {
    EnvVar {
        name: name.to_owned(),
        value: None,
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector {
                api_version: Some("v1".to_owned()),
                field_path: path.to_owned(),
            }),
            ..EnvVarSource::default()
        }),
    }
}

fn resources<const R: usize, const L: usize>(
    requests: [(&str, &str); R],
    limits: [(&str, &str); L],
) -> ResourceRequirements {
    ResourceRequirements {
        requests: Some(quantities(requests)),
        limits: Some(quantities(limits)),
        claims: None,
    }
}
