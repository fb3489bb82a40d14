//! What there is: the password, the pods, and what every Redis server says of itself.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use cachecluster_contract::{labels, names, paths, ports};
use cachecluster_crd::CacheCluster;
use cachecluster_crd::conditions::reason;
use cachecluster_redis_admin::Password;
use cachecluster_topology::{Member, Presence, Probe};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Pod, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::core::PartialObjectMeta;
use kube::runtime::reflector::ObjectRef;
use kube::{Api, Resource, ResourceExt};
use tokio::time::Instant;

use super::apply::{ApplyError, Belonging, belonging};
use super::validate::Rejection;
use super::{Context, Error};
use crate::memory::{ClusterMemory, Remembered};
use crate::stores::label;

/// How long a Redis server may take to answer.
pub const PROBE: Duration = Duration::from_secs(1);
/// How often a Secret of the user's is read again: no watch covers it.
const REREAD: Duration = Duration::from_secs(120);

/// Everything that one pass sees.
#[derive(Clone, Debug)]
pub struct Observed {
    /// When the servers were asked.
    pub at: Instant,
    /// What is known of the password.
    pub secrecy: Secrecy,
    /// The places of the Redis pods that exist, with what their servers say.
    pub members: Vec<Member>,
    /// The Redis pods, sorted by name.
    pub redis_pods: Vec<Arc<Pod>>,
    /// The API's pods, sorted by name.
    pub api_pods: Vec<Arc<Pod>>,
    /// How many shards have a StatefulSet.
    pub stateful_sets: usize,
}

impl Observed {
    /// Whether the process of any Redis pod may be running, as far as Kubernetes knows.
    #[must_use]
    pub fn any_server_runs(&self) -> bool {
        let running = [Presence::Running, Presence::Terminating];
        self.members
            .iter()
            .any(|member| running.contains(&member.presence))
    }
}

/// What is known of the password.
#[derive(Clone, Debug)]
pub enum Secrecy {
    /// It was read.
    Known(Password),
    /// It is the operator's to generate, and its Secret does not exist. What it was before, if somebody deleted it.
    Absent {
        /// The password as it was.
        remembered: Option<Password>,
    },
    /// The Secret is of no use, or somebody else's, but the nodes have a password that is known from before.
    Kept {
        /// The nodes' password.
        password: Password,
        /// What is wrong with the Secret.
        objection: Rejection,
    },
    /// The Secret is of no use, or somebody else's.
    Unusable(Rejection),
}

/// Looks at everything that belongs to `cluster`. A server that does not answer is data, not an error.
///
/// # Errors
/// When the API server does not answer where no watch helps: [`Error::Observe`].
pub async fn observe(
    cluster: &CacheCluster,
    context: &Context,
    memory: &mut ClusterMemory,
) -> Result<Observed, Error> {
    let (namespace, name) = (cluster.namespace().unwrap_or_default(), cluster.name_any());
    let owner = cluster.controller_owner_ref(&()).unwrap_or_default();
    let mut secrecy = secrecy(cluster, context, memory).await?;
    let pods = |component| context.stores.pods_of(&namespace, &name, component);
    let mut redis_pods = pods(labels::COMPONENT_REDIS);
    redis_pods.retain(|pod| {
        let set = controller(pod.as_ref())
            .and_then(|set| context.stores.get::<StatefulSet>(&namespace, &set.name));
        is_ours(pod, set.as_deref(), cluster, &owner)
    });
    let mut members: Vec<Member> = redis_pods.iter().filter_map(|pod| member(pod)).collect();
    let at = Instant::now();
    // The servers go on with the password that they were given.
    let password = match &secrecy {
        Secrecy::Known(password) | Secrecy::Kept { password, .. } => Some(password),
        Secrecy::Absent { remembered } => remembered.as_ref(),
        Secrecy::Unusable(_) => None,
    };
    if let Some(password) = password {
        let addrs: Vec<_> = members.iter().map(|member| member.addr).collect();
        let answers = |probes: &[Probe]| {
            let mut probes = probes.iter();
            probes.any(|probe| matches!(probe, Probe::Answered(_)))
        };
        let mut probes = cachecluster_redis_admin::observe(&addrs, password, PROBE).await;
        let mut proven = answers(&probes);
        // All pods may have started anew with what is in the Secret now.
        let other = memory.password.as_ref().and_then(|it| it.other.clone());
        if !proven && let Some(other) = other {
            let others = cachecluster_redis_admin::observe(&addrs, &other, PROBE).await;
            if answers(&others) {
                (probes, proven) = (others, true);
                secrecy = Secrecy::Known(other.clone());
                if let Some(known) = &mut memory.password {
                    (known.password, known.objection, known.other) = (other, None, None);
                }
            }
        }
        if let Some(known) = &mut memory.password {
            known.proven |= proven;
        }
        for (member, probe) in members.iter_mut().zip(probes) {
            // The kubelet tells a moment later what the server says itself.
            if member.presence == Presence::Starting && matches!(probe, Probe::Answered(_)) {
                member.presence = Presence::Running;
            }
            member.probe = probe;
        }
    }
    Ok(Observed {
        at,
        secrecy,
        members,
        redis_pods,
        api_pods: pods(labels::COMPONENT_API),
        stateful_sets: (0..cluster.spec.shards)
            .filter(|shard| {
                let shard = names::shard(&name, *shard);
                let set = context.stores.get::<StatefulSet>(&namespace, &shard);
                set.is_some_and(|set| belonging(set.as_ref(), &owner) == Belonging::Ours)
            })
            .count(),
    })
}

async fn secrecy(
    cluster: &CacheCluster,
    context: &Context,
    memory: &mut ClusterMemory,
) -> Result<Secrecy, Error> {
    let namespace = cluster.namespace().unwrap_or_default();
    let given = cluster.spec.auth.secret_name.as_deref();
    let name = given.map_or_else(|| names::auth(&cluster.name_any()), str::to_owned);
    let watched: Option<Arc<PartialObjectMeta<Secret>>> = context
        .stores
        .secrets
        .get(&ObjectRef::new(&name).within(&namespace));
    let version = watched
        .as_ref()
        .and_then(|secret| secret.resource_version());

    if let Some(known) = memory
        .password
        .as_ref()
        .filter(|known| known.secret == name)
    {
        let unchanged = known.version.is_some() && known.version == version;
        let recent = given.is_some() && known.objection.is_none() && known.read.elapsed() < REREAD;
        if unchanged || recent {
            return Ok(known.secrecy());
        }
    }
    let secrets: Api<Secret> = Api::namespaced(context.client.clone(), &namespace);
    let Some(secret) = secrets.get_opt(&name).await.map_err(Error::Observe)? else {
        return Ok(match given {
            Some(_) => memory.object(
                reason::SECRET_MISSING,
                format!(
                    "spec.auth.secretName: there is no Secret {name} in namespace {namespace}: create it with the key {}",
                    paths::PASSWORD_KEY
                ),
            ),
            None => Secrecy::Absent {
                remembered: memory.password.as_ref().map(|known| known.password.clone()),
            },
        });
    };
    if given.is_none() {
        let owner = cluster.controller_owner_ref(&()).unwrap_or_default();
        let kind = "Secret".to_owned();
        match belonging(&secret, &owner) {
            Belonging::Ours => {}
            Belonging::Leaving => return Err(ApplyError::BeingDeleted { kind, name }.into()),
            Belonging::Foreign => {
                let error = ApplyError::NameTaken { kind, name };
                return Ok(memory.object(reason::NAME_TAKEN, error.to_string()));
            }
        }
    }
    let Some(password) = password(&secret) else {
        let message = format!(
            "Secret {name} has no usable key {}: it must be one line of text, not empty",
            paths::PASSWORD_KEY
        );
        return Ok(memory.object(reason::SECRET_MISSING, message));
    };
    let version = given.is_none().then(|| secret.resource_version()).flatten();
    let read = Instant::now();
    Ok(match &mut memory.password {
        Some(known) if known.proven && known.password != password => {
            (known.version, known.read, known.other) = (version, read, Some(password));
            let message = format!(
                "Secret {name} has another password than the nodes: that of a living cluster cannot be changed in this \
                 version, put the former one back"
            );
            memory.object(reason::SECRET_CHANGED, message)
        }
        known => {
            let proven = known.as_ref().is_some_and(|known| known.proven);
            *known = Some(Remembered {
                secret: name,
                version,
                read,
                password: password.clone(),
                proven,
                objection: None,
                other: None,
            });
            Secrecy::Known(password)
        }
    })
}

impl Remembered {
    fn secrecy(&self) -> Secrecy {
        let password = self.password.clone();
        match self.objection.clone() {
            Some(objection) => Secrecy::Kept {
                password,
                objection,
            },
            None => Secrecy::Known(password),
        }
    }
}

impl ClusterMemory {
    /// The Secret is of no use. A password that the nodes are known to have stays theirs.
    fn object(&mut self, reason: &'static str, message: String) -> Secrecy {
        let objection = Rejection { reason, message };
        match &mut self.password {
            Some(known) if known.proven => {
                known.objection = Some(objection);
                known.secrecy()
            }
            _ => Secrecy::Unusable(objection),
        }
    }
}

/// The password in a Secret; a line break at its end, which editors add, is not part of it.
fn password(secret: &Secret) -> Option<Password> {
    let bytes = secret.data.as_ref()?.get(paths::PASSWORD_KEY)?;
    let text = std::str::from_utf8(&bytes.0).ok()?;
    let text = text.strip_suffix('\n').unwrap_or(text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    (!text.is_empty() && !text.contains(char::is_control)).then(|| Password::new(text))
}

/// Whether a pod with the cluster's labels is this cluster's, and not of a deleted one of the same name, whose pods
/// outlive it for a while. `set` is the StatefulSet with the name of the pod's controller.
fn is_ours(
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

fn controller<K: Resource>(object: &K) -> Option<&OwnerReference> {
    let owners = object.meta().owner_references.as_ref()?;
    owners.iter().find(|owner| owner.controller == Some(true))
}

/// The place that a Redis pod fills. `None` if its name is none of ours.
fn member(pod: &Pod) -> Option<Member> {
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
        presence,
        vouched: presence == Presence::Running && is_ready(pod),
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
                container.name == super::build::statefulset::CONTAINER
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

    #[test]
    fn a_pod_is_the_place_that_its_name_and_label_say() {
        let member = member(&redis_pod(json!({}), json!({}))).unwrap();
        assert_eq!((member.shard, member.ordinal), (2, 1));
        assert_eq!(member.addr, Some(("10.0.0.7".parse().unwrap(), 6379)));
        assert_eq!(member.machine.as_deref(), Some("n1"));
        assert_eq!(member.presence, Presence::Running);
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
        assert_eq!(member(&ended).unwrap().addr, None);
    }

    #[test]
    fn a_pod_of_another_kind_is_no_member() {
        let odd = redis_pod(json!({"name": "demo"}), json!({}));
        assert!(member(&odd).is_none());
        let unlabelled = redis_pod(json!({"labels": {}}), json!({}));
        assert!(member(&unlabelled).is_none());
    }

    #[test]
    fn a_password_is_one_line_of_text() {
        let secret = |text: &[u8]| Secret {
            data: Some(
                [(
                    "password".to_owned(),
                    k8s_openapi::ByteString(text.to_vec()),
                )]
                .into(),
            ),
            ..Secret::default()
        };
        assert_eq!(password(&secret(b"open\n")), Some(Password::new("open")));
        for text in [&b""[..], b"\n", b"two\nlines", b"\xff"] {
            assert_eq!(password(&secret(text)), None, "{text:?}");
        }
        assert_eq!(password(&Secret::default()), None);
    }
}
