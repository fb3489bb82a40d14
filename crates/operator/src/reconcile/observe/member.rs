//! The place that a Redis pod fills, and what Kubernetes says of its process.

use std::net::IpAddr;

use cachecluster_contract::{labels, ports};
use cachecluster_crd::CacheCluster;
use cachecluster_topology::{Member, Presence, Probe};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Resource;

use crate::stores::label;

/// How long a birth waits for pods that get no machine: they could be the better primaries, and a new machine may come.
const PATIENCE: SignedDuration = SignedDuration::from_secs(15);

/// The zone of a pod's machine. Kubernetes 1.35 and later copies it from the machine's labels; before that, or where
/// machines have none, no zones are known.
const ZONE: &str = "topology.kubernetes.io/zone";

/// Whether a pod with the cluster's labels is this cluster's, and not of a deleted one of the same name, whose pods
/// outlive it for a while. `set` is the StatefulSet with the name of the pod's controller.
pub(super) fn is_ours(
    pod: &Pod,
    set: Option<&StatefulSet>,
    cluster: &CacheCluster,
    owner: &OwnerReference,
) -> bool {
    let made_by = controller(pod).map(|controller| controller.uid.as_str());
    match set.filter(|set| set.metadata.uid.as_deref() == made_by) {
        Some(set) => controller(set).is_some_and(|controller| controller.uid == owner.uid),
        // Its StatefulSet is gone, or it has none: this may still be a running server of this cluster, unless it is
        // older than the cluster.
        None => match (
            &pod.metadata.creation_timestamp,
            &cluster.metadata.creation_timestamp,
        ) {
            (Some(pod), Some(cluster)) => pod.0 >= cluster.0,
            _ => true,
        },
    }
}

pub(super) fn controller<K: Resource>(object: &K) -> Option<&OwnerReference> {
    let owners = object.meta().owner_references.as_ref()?;
    owners.iter().find(|owner| owner.controller == Some(true))
}

/// The place that a Redis pod fills. `None` if its name is none of ours.
pub(super) fn member(pod: &Pod, now: Timestamp) -> Option<Member> {
    let name = pod.metadata.name.clone()?;
    let shard = label(pod, labels::SHARD)?.parse().ok()?;
    let ordinal = name.rsplit_once('-')?.1.parse().ok()?;
    let status = pod.status.as_ref();
    let presence = presence(pod);
    let addr = status
        .and_then(|status| status.pod_ip.as_deref())
        .and_then(|ip| ip.parse::<IpAddr>().ok())
        // The address of a pod that has ended may be another's by now.
        .filter(|_| !has_ended(pod))
        .map(|ip| (ip, ports::REDIS));
    Some(Member {
        name,
        shard,
        ordinal,
        addr,
        machine: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
        zone: label(pod, ZONE).map(str::to_owned),
        presence,
        vouched: presence == Presence::Running && is_ready(pod),
        unborn: presence == Presence::Starting && is_unborn(pod, now),
        // Its agent says.
        fenced: false,
        probe: Probe::Silent("not asked".to_owned()),
    })
}

/// Whether the pod's kubelet says that it serves. Once a kubelet itself is silent for a while, Kubernetes says no.
fn is_ready(pod: &Pod) -> bool {
    pod.status
        .iter()
        .filter_map(|status| status.conditions.as_ref())
        .flatten()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Whether the pod has waited for a machine for so long that nobody should wait with it, and finds no data once it has
/// one. As long as it has none, nothing of it can have run.
fn is_unborn(pod: &Pod, now: Timestamp) -> bool {
    let Some(spec) = &pod.spec else {
        return false;
    };
    let mut volumes = spec.volumes.iter().flatten();
    if spec.node_name.is_some() || volumes.any(|it| it.persistent_volume_claim.is_some()) {
        return false;
    }
    let status = pod.status.iter();
    let mut conditions = status.filter_map(|it| it.conditions.as_ref()).flatten();
    let refused = conditions.find(|it| it.type_ == "PodScheduled" && it.status == "False");
    let since = refused.and_then(|it| it.last_transition_time.as_ref());
    since.is_some_and(|since| now.duration_since(since.0) >= PATIENCE)
}

/// Whether none of a pod's containers will run again.
fn has_ended(pod: &Pod) -> bool {
    let phase = pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// What Kubernetes says of the process behind a pod.
fn presence(pod: &Pod) -> Presence {
    let status = pod.status.as_ref();
    if pod.metadata.deletion_timestamp.is_some() {
        return Presence::Terminating;
    }
    let runs = status
        .and_then(|status| status.container_statuses.as_ref())
        .is_some_and(|containers| {
            containers.iter().any(|container| {
                container.name == crate::reconcile::build::statefulset::CONTAINER
                    && container
                        .state
                        .as_ref()
                        .is_some_and(|state| state.running.is_some())
            })
        });
    if runs && !has_ended(pod) {
        Presence::Running
    } else {
        Presence::Starting
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn redis_pod(metadata: Value, status: Value) -> Pod {
        let mut pod = json!({
            "metadata": {"name": "demo-shard-2-1", "labels": {"cachecluster.io/shard": "2"}},
            "spec": {"containers": [], "nodeName": "n1"},
            "status": {"podIP": "10.0.0.7", "phase": "Running", "containerStatuses": [{
                "name": "redis", "image": "", "imageID": "", "ready": true, "restartCount": 0,
                "state": {"running": {}},
            }]},
        });
        for (part, changes) in [("metadata", metadata), ("status", status)] {
            for (key, value) in changes.as_object().unwrap() {
                pod[part][key] = value.clone();
            }
        }
        serde_json::from_value(pod).unwrap()
    }

    fn now() -> Timestamp {
        "2026-01-01T00:00:15Z".parse().unwrap()
    }

    #[test]
    fn a_pod_that_gets_no_machine_is_not_waited_for_unless_it_has_a_volume() {
        let unborn = |since: &str, spec: Value| {
            let mut pod = redis_pod(
                json!({}),
                json!({"phase": "Pending", "podIP": null, "containerStatuses": null, "conditions": [{
                    "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "lastTransitionTime": since,
                }]}),
            );
            pod.spec = serde_json::from_value(spec).unwrap();
            member(&pod, now()).unwrap().unborn
        };
        let (long_ago, just_now) = ("2026-01-01T00:00:00Z", "2026-01-01T00:00:01Z");
        let memory = json!({"containers": [], "volumes": [{"name": "data", "emptyDir": {}}]});
        assert!(unborn(long_ago, memory.clone()));
        assert!(!unborn(just_now, memory));
        let volume =
            json!({"name": "data", "persistentVolumeClaim": {"claimName": "data-demo-shard-2-1"}});
        assert!(!unborn(
            long_ago,
            json!({"containers": [], "volumes": [volume]})
        ));
        assert!(!unborn(
            long_ago,
            json!({"containers": [], "nodeName": "n1"})
        ));
        // One that has a machine is waited for, whatever it does there.
        let starting = redis_pod(json!({}), json!({"containerStatuses": []}));
        assert!(!member(&starting, now()).unwrap().unborn);
    }

    #[test]
    fn a_pod_is_the_place_that_its_name_and_label_say() {
        let member = member(&redis_pod(json!({}), json!({})), now()).unwrap();
        assert_eq!((member.shard, member.ordinal), (2, 1));
        assert_eq!(member.addr, Some(("10.0.0.7".parse().unwrap(), 6379)));
        assert_eq!(member.machine.as_deref(), Some("n1"));
        assert_eq!(member.zone, None);
        assert_eq!(member.presence, Presence::Running);
    }

    #[test]
    fn the_zone_is_what_kubernetes_copied_from_the_machine() {
        let labels = json!({"cachecluster.io/shard": "2", "topology.kubernetes.io/zone": "east"});
        let pod = redis_pod(json!({"labels": labels}), json!({}));
        assert_eq!(member(&pod, now()).unwrap().zone.as_deref(), Some("east"));
    }

    #[test]
    fn presence_is_what_kubernetes_says() {
        let presence = |metadata, status| presence(&redis_pod(metadata, status));
        let deleted = json!({"deletionTimestamp": "2026-01-01T00:00:00Z"});
        assert_eq!(presence(deleted, json!({})), Presence::Terminating);
        let unstarted = json!({"containerStatuses": []});
        assert_eq!(presence(json!({}), unstarted), Presence::Starting);
        let ended = json!({"phase": "Failed"});
        assert_eq!(presence(json!({}), ended), Presence::Starting);
    }

    #[test]
    fn pods_of_a_deleted_cluster_of_the_same_name_are_not_adopted() {
        let made = |uid: &str, at: &str| {
            let set = json!([{
                "apiVersion": "apps/v1", "kind": "StatefulSet", "name": "demo-shard-2",
                "uid": uid, "controller": true,
            }]);
            let metadata = json!({"creationTimestamp": at, "ownerReferences": set});
            redis_pod(metadata, json!({}))
        };
        let set = |uid: &str, cluster: &str| -> StatefulSet {
            let owners = json!([{
                "apiVersion": "cachecluster.io/v1alpha1", "kind": "CacheCluster", "name": "demo",
                "uid": cluster, "controller": true,
            }]);
            let metadata = json!({"uid": uid, "name": "demo-shard-2", "ownerReferences": owners});
            serde_json::from_value(json!({"metadata": metadata})).unwrap()
        };
        let (earlier, later) = ("2026-01-01T00:00:00Z", "2026-01-01T00:01:00Z");
        let mut cluster = CacheCluster::new("demo", cachecluster_crd::CacheClusterSpec::default());
        cluster.metadata.creation_timestamp =
            Some(serde_json::from_value(json!("2026-01-01T00:00:30Z")).unwrap());
        let owner = OwnerReference {
            uid: "new".to_owned(),
            ..OwnerReference::default()
        };
        let is_ours =
            |pod: &Pod, set: Option<&StatefulSet>| super::is_ours(pod, set, &cluster, &owner);

        assert!(is_ours(&made("b", later), Some(&set("b", "new"))));
        // The former StatefulSet is still there, or gone, or replaced.
        assert!(!is_ours(&made("a", later), Some(&set("a", "old"))));
        assert!(!is_ours(&made("a", earlier), None));
        assert!(!is_ours(&made("a", earlier), Some(&set("b", "new"))));
        // Our own StatefulSet was deleted: its servers may still run.
        assert!(is_ours(&made("a", later), Some(&set("b", "new"))));
        assert!(is_ours(&made("a", later), None));
    }

    #[test]
    fn a_pod_that_has_ended_has_no_address() {
        let ended = redis_pod(json!({}), json!({"phase": "Failed"}));
        assert_eq!(member(&ended, now()).unwrap().addr, None);
    }

    #[test]
    fn a_pod_of_another_kind_is_no_member() {
        let odd = redis_pod(json!({"name": "demo"}), json!({}));
        assert!(member(&odd, now()).is_none());
        let unlabelled = redis_pod(json!({"labels": {}}), json!({}));
        assert!(member(&unlabelled, now()).is_none());
    }
}
