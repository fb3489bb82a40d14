//! What the pods of Redis and of the API have in common.

use std::collections::BTreeMap;

use cachecluster_contract::{paths, ports};
use k8s_openapi::api::core::v1::{
    Capabilities, ContainerPort, HTTPGetAction, KeyToPath, LocalObjectReference, PodAffinityTerm,
    PodSecurityContext, Probe, SeccompProfile, SecretVolumeSource, SecurityContext,
    TopologySpreadConstraint, Volume, VolumeMount, WeightedPodAffinityTerm,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::reconcile::validate::ValidatedCluster;
use crate::settings::Workload;

/// Name of the volume with the password.
pub(super) const AUTH: &str = "auth";

/// What the `restricted` Pod Security Standard wants of a pod, run as `id`.
pub(super) fn restricted_pod(id: i64) -> PodSecurityContext {
    PodSecurityContext {
        run_as_non_root: Some(true),
        run_as_user: Some(id),
        run_as_group: Some(id),
        fs_group: Some(id),
        fs_group_change_policy: Some("OnRootMismatch".to_owned()),
        seccomp_profile: Some(SeccompProfile {
            type_: "RuntimeDefault".to_owned(),
            localhost_profile: None,
        }),
        ..PodSecurityContext::default()
    }
}

/// What the `restricted` Pod Security Standard wants of a container, and a read-only root besides.
pub(super) fn restricted_container() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        read_only_root_filesystem: Some(true),
        capabilities: Some(Capabilities {
            drop: Some(vec!["ALL".to_owned()]),
            add: None,
        }),
        ..SecurityContext::default()
    }
}

/// Secrets for registries that want to know who pulls. `None` without any, which leaves templates as they were.
pub(super) fn pull_secrets(workload: &Workload) -> Option<Vec<LocalObjectReference>> {
    let secrets = workload.image_pull_secrets.iter();
    let secrets: Vec<_> = secrets
        .map(|name| LocalObjectReference { name: name.clone() })
        .collect();
    (!secrets.is_empty()).then_some(secrets)
}

/// Asked often, so that clients come and go soon.
pub(super) fn readiness(port: &str) -> Probe {
    Probe {
        period_seconds: Some(1),
        timeout_seconds: Some(2),
        failure_threshold: Some(2),
        ..probe(port, ports::READYZ_PATH)
    }
}

/// Asks over HTTP, at a port of that name.
pub(super) fn probe(port: &str, path: &str) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::String(port.to_owned()),
            ..HTTPGetAction::default()
        }),
        ..Probe::default()
    }
}

pub(super) fn port(name: &str, number: u16) -> ContainerPort {
    ContainerPort {
        name: Some(name.to_owned()),
        container_port: i32::from(number),
        protocol: Some("TCP".to_owned()),
        ..ContainerPort::default()
    }
}

/// Not on a machine with these pods while another fits.
pub(super) fn away_from(weight: i32, pods: LabelSelector) -> WeightedPodAffinityTerm {
    WeightedPodAffinityTerm {
        weight,
        pod_affinity_term: PodAffinityTerm {
            topology_key: "kubernetes.io/hostname".to_owned(),
            label_selector: Some(pods),
            ..PodAffinityTerm::default()
        },
    }
}

/// As many of these pods in each zone, as far as that can be had.
pub(super) fn over_zones(pods: LabelSelector) -> TopologySpreadConstraint {
    TopologySpreadConstraint {
        max_skew: 1,
        topology_key: "topology.kubernetes.io/zone".to_owned(),
        when_unsatisfiable: "ScheduleAnyway".to_owned(),
        label_selector: Some(pods),
        ..TopologySpreadConstraint::default()
    }
}

/// The password as a file that the pod's group may read.
pub(super) fn password_volume(cluster: &ValidatedCluster) -> Volume {
    Volume {
        name: AUTH.to_owned(),
        secret: Some(SecretVolumeSource {
            secret_name: Some(cluster.auth.secret.clone()),
            default_mode: Some(0o440),
            items: Some(vec![KeyToPath {
                key: paths::PASSWORD_KEY.to_owned(),
                path: paths::PASSWORD_KEY.to_owned(),
                mode: None,
            }]),
            optional: None,
        }),
        ..Volume::default()
    }
}

pub(super) fn mount(name: &str, path: &str, read_only: bool) -> VolumeMount {
    VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        read_only: read_only.then_some(true),
        ..VolumeMount::default()
    }
}

pub(super) fn quantities<const N: usize>(pairs: [(&str, &str); N]) -> BTreeMap<String, Quantity> {
    pairs
        .into_iter()
        .map(|(name, amount)| (name.to_owned(), Quantity(amount.to_owned())))
        .collect()
}
