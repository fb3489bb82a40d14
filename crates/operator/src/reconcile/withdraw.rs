//! Takes the API's pods of a machine that is silent out of service, before Kubernetes does.
//!
//! Kubernetes notices a machine that died when its kubelet has said nothing for the better part of a minute, and sends
//! requests there until then. The operator asks servers on all machines anyway. Where none of them answers any more, and the
//! API's pod neither, it marks that pod as not ready, which is what Kubernetes' own controller would do. A kubelet that
//! lives corrects that within seconds, and is believed until the machine is heard again: all that a mistake costs is a pod
//! fewer for so long.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use cachecluster_contract::ports;
use cachecluster_crd::CacheCluster;
use cachecluster_topology::{Member, Presence, Probe};
use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::Context;
use super::observe::Observed;
use super::pods;
use super::validate::ValidatedCluster;
use crate::events::Step;

/// How long an API pod's port may take to be opened, or refused.
const DIAL: Duration = Duration::from_millis(500);
/// How many are dialled at the same time.
const SIDE_BY_SIDE: usize = 32;
/// Longest time for all of it.
const DEADLINE: Duration = Duration::from_secs(5);

/// The pods that were taken out of service, by UID, as long as their machines are silent.
#[derive(Debug, Default)]
pub struct Withdrawals(BTreeSet<String>);

/// An API pod that Kubernetes sends requests to, and whether anything answers there.
struct Dialled {
    pod: Arc<Pod>,
    heard: bool,
}

/// Takes out of service whom nobody reaches. Nothing else depends on this: what goes wrong is logged, and tried again in
/// the next pass.
pub async fn withdraw(
    resource: &CacheCluster,
    cluster: &ValidatedCluster,
    observed: &Observed,
    context: &Context,
    memory: &mut Withdrawals,
) {
    let silent = silent_machines(&observed.members);
    let on_silent = |pod: &Pod| machine(pod).is_some_and(|machine| silent.contains(machine));
    let serving: Vec<&Arc<Pod>> = observed.api_pods.iter().filter(|it| serves(it)).collect();
    memory.0.retain(|uid| {
        let mut pods = observed.api_pods.iter();
        pods.any(|pod| pod.uid().as_ref() == Some(uid) && on_silent(pod))
    });
    let new: BTreeSet<String> = serving
        .iter()
        .filter(|pod| on_silent(pod))
        .filter_map(|pod| pod.uid())
        .filter(|uid| !memory.0.contains(uid))
        .collect();
    if new.is_empty() {
        return;
    }
    let acting = async {
        let dialled: Vec<Dialled> = futures::stream::iter(serving.iter().copied())
            .map(dial)
            .buffer_unordered(SIDE_BY_SIDE)
            .collect()
            .await;
        for pod in unreached(&observed.members, &dialled, &silent) {
            let Some(uid) = pod.uid().filter(|uid| new.contains(uid)) else {
                continue;
            };
            let name = pod.name_any();
            let machine = machine(pod).unwrap_or_default();
            match mark(&cluster.namespace, pod, machine, context).await {
                Ok(()) => {
                    memory.0.insert(uid);
                    let step = Step {
                        kind: "ApiPodWithdrawn",
                        note: format!(
                            "{name} is out of service: neither it nor any Redis server on {machine} answers"
                        ),
                        warning: true,
                    };
                    tracing::warn!(
                        namespace = cluster.namespace,
                        name = cluster.name,
                        action = step.kind,
                        "{}",
                        step.note
                    );
                    context.metrics.acted(step.kind, true);
                    context.events.acted(resource, &step).await;
                }
                Err(error) => {
                    tracing::warn!(pod = name, %error, "cannot take a pod out of service");
                }
            }
        }
    };
    if timeout(DEADLINE, acting).await.is_err() {
        tracing::warn!("taking pods out of service took too long");
    }
}

/// The machines on which servers should answer, and none does. One that refuses is no such sign: its machine lives.
fn silent_machines(members: &[Member]) -> BTreeSet<&str> {
    let heard = |member: &Member| !is_silent(member);
    let on = |keep: &dyn Fn(&Member) -> bool| -> BTreeSet<&str> {
        let kept = members.iter().filter(|member| keep(member));
        kept.filter_map(|member| member.machine.as_deref())
            .collect()
    };
    let lively = on(&|member| heard(member));
    let expected = on(&|member| member.presence == Presence::Running && !member.fenced);
    expected.difference(&lively).copied().collect()
}

fn is_silent(member: &Member) -> bool {
    matches!(member.probe, Probe::Silent(_))
}

/// Those on silent machines that do not answer themselves. None while less than half of all that should answer does, since
/// it may be the operator that is cut off, and none if nobody would be left to serve.
fn unreached<'d>(
    members: &[Member],
    dialled: &'d [Dialled],
    silent: &BTreeSet<&str>,
) -> Vec<&'d Arc<Pod>> {
    let running = members
        .iter()
        .filter(|member| member.presence == Presence::Running && !member.fenced);
    let (all, quiet) = running.fold((0, 0), |(all, quiet), member| {
        (all + 1, quiet + usize::from(is_silent(member)))
    });
    let heard = dialled.iter().filter(|it| it.heard).count();
    if heard == 0 || (all - quiet + heard) * 2 < all + dialled.len() {
        return Vec::new();
    }
    let unheard = dialled.iter().filter(|it| !it.heard).map(|it| &it.pod);
    unheard
        .filter(|pod| machine(pod).is_some_and(|machine| silent.contains(machine)))
        .collect()
}

fn machine(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref()
}

fn serves(pod: &Pod) -> bool {
    let ready = pods::condition(pod, "Ready").is_some_and(|ready| ready.status == "True");
    ready && pod.metadata.deletion_timestamp.is_none()
}

/// Whether a kernel answers there, with a connection or a refusal.
async fn dial(pod: &Arc<Pod>) -> Dialled {
    let ip = pod.status.as_ref().and_then(|it| it.pod_ip.as_deref());
    let ip: Option<IpAddr> = ip.and_then(|ip| ip.parse().ok());
    let heard = match ip {
        Some(ip) => match timeout(DIAL, TcpStream::connect((ip, ports::API))).await {
            Ok(Ok(_)) => true,
            Ok(Err(error)) => error.kind() == ErrorKind::ConnectionRefused,
            Err(_) => false,
        },
        None => false,
    };
    Dialled {
        pod: pod.clone(),
        heard,
    }
}

async fn mark(namespace: &str, pod: &Pod, machine: &str, context: &Context) -> kube::Result<()> {
    let pods: Api<Pod> = Api::namespaced(context.client.clone(), namespace);
    let patch = Patch::Strategic(not_ready(pod, machine, Timestamp::now()));
    match pods
        .patch_status(&pod.name_any(), &PatchParams::default(), &patch)
        .await
    {
        Ok(_) => Ok(()),
        // It is gone, or another one by now.
        Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => Ok(()),
        Err(error) => Err(error),
    }
}

/// The UID makes the API server refuse it for another pod of the name.
fn not_ready(pod: &Pod, machine: &str, now: Timestamp) -> Value {
    json!({
        "metadata": {"uid": pod.uid()},
        "status": {"conditions": [{
            "type": "Ready",
            "status": "False",
            "reason": "MachineSilent",
            "message": format!("nothing on {machine} answers the operator of the cache"),
            "lastTransitionTime": now,
        }]},
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reconcile::fixture::formed;

    fn api(name: &str, machine: &str) -> Arc<Pod> {
        Arc::new(
            serde_json::from_value(json!({
                "metadata": {"name": name, "uid": format!("uid-{name}")},
                "spec": {"nodeName": machine, "containers": []},
                "status": {"conditions": [{"type": "Ready", "status": "True"}]},
            }))
            .unwrap(),
        )
    }

    /// Shard i's primary on machine i, its replica on the next one; the servers on `silent` say nothing.
    fn members(shards: u32, silent: &[&str]) -> Vec<Member> {
        let mut sim = formed(shards, 1);
        for shard in 0..shards {
            for ordinal in 0..2 {
                let machine = ["a", "b", "c"][(shard + ordinal) as usize % 3];
                sim.put(shard, ordinal, machine, None);
            }
        }
        let mut members = sim.world().members;
        for member in &mut members {
            if silent.contains(&member.machine.as_deref().unwrap()) {
                member.probe = Probe::Silent("no answer".to_owned());
            }
        }
        members
    }

    fn chosen(members: &[Member], dialled: &[(&str, &str, bool)]) -> Vec<String> {
        let dialled: Vec<Dialled> = dialled
            .iter()
            .map(|(name, machine, heard)| Dialled {
                pod: api(name, machine),
                heard: *heard,
            })
            .collect();
        let silent = silent_machines(members);
        let unreached = unreached(members, &dialled, &silent);
        unreached.iter().map(|pod| pod.name_any()).collect()
    }

    #[test]
    fn the_pod_of_a_machine_on_which_nothing_answers_goes() {
        let dead = [("x", "a", true), ("y", "b", false)];
        assert_eq!(chosen(&members(3, &["b"]), &dead), ["y"]);
        assert_eq!(chosen(&members(1, &["b"]), &dead), ["y"]);
        assert_eq!(chosen(&members(3, &[]), &dead), [""; 0]);
        // It answers, or refuses: the machine lives.
        let lives = [("x", "a", true), ("y", "b", true)];
        assert_eq!(chosen(&members(3, &["b"]), &lives), [""; 0]);
        // The kubelet of a machine without one of the cluster's servers knows best.
        let elsewhere = [("x", "a", true), ("y", "d", false)];
        assert_eq!(chosen(&members(3, &["b"]), &elsewhere), [""; 0]);
    }

    #[test]
    fn nobody_goes_where_the_operator_may_be_cut_off_or_nobody_would_be_left() {
        let most = [("x", "a", true), ("y", "b", false), ("z", "c", false)];
        assert_eq!(chosen(&members(3, &["b", "c"]), &most), [""; 0]);
        let all = [("x", "b", false), ("y", "b", false)];
        assert_eq!(chosen(&members(3, &["b"]), &all), [""; 0]);
    }

    #[test]
    fn a_machine_is_silent_only_if_a_server_should_answer_there_and_none_does() {
        let mut members = members(3, &["b"]);
        assert_eq!(silent_machines(&members), BTreeSet::from(["b"]));
        let mut on_b: Vec<&mut Member> = members
            .iter_mut()
            .filter(|member| member.machine.as_deref() == Some("b"))
            .collect();
        on_b[0].probe = Probe::Loading;
        assert_eq!(silent_machines(&members), BTreeSet::new());
        for member in &mut members {
            if member.machine.as_deref() == Some("b") {
                member.probe = Probe::Silent("not there yet".to_owned());
                member.presence = Presence::Starting;
            }
        }
        assert_eq!(silent_machines(&members), BTreeSet::new());
    }

    #[test]
    fn the_mark_is_for_this_pod_and_is_what_kubernetes_would_say() {
        let mark = not_ready(&api("x", "a"), "a", Timestamp::UNIX_EPOCH);
        assert_eq!(mark["metadata"]["uid"], "uid-x");
        let condition = &mark["status"]["conditions"][0];
        assert_eq!(
            (&condition["type"], &condition["status"]),
            (&json!("Ready"), &json!("False"))
        );
        assert_eq!(condition["lastTransitionTime"], "1970-01-01T00:00:00Z");
    }
}
