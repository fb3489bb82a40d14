//! What the resource says of itself after a pass. Computing it is pure; it is written only when it changed.

mod verdicts;

use cachecluster_contract::{labels, names, ports};
use cachecluster_crd::conditions::{self, reason};
use cachecluster_crd::{CacheCluster, CacheClusterStatus, Phase, ShardStatus};
use cachecluster_redis_admin::ExecuteError;
use jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use verdicts::{accepted, condition, progressing, ready, was_formed};

use super::apply::{ApplyError, FIELD_MANAGER};
use super::build::{Applied, Resources};
use super::decide::Plan;
use super::observe::Observed;
use super::validate::{Rejection, ValidatedCluster};
use super::{Context, Error};
use crate::memory::ClusterMemory;

/// How far the pass came. A partial pass is told as well.
#[derive(Clone, Copy, Debug)]
pub struct Outcome<'a> {
    /// The objects as the API server has them.
    pub applied: Result<&'a Resources<Applied>, &'a ApplyError>,
    /// Whether a step was taken on the live nodes.
    pub executed: Result<&'a bool, &'a ExecuteError>,
}

/// The status after a pass. Only conditions whose status changed get `now` as their time of transition.
#[must_use]
pub fn compute(
    previous: &CacheClusterStatus,
    resource: &CacheCluster,
    cluster: &ValidatedCluster,
    observed: &Observed,
    plan: &Plan,
    outcome: &Outcome<'_>,
    now: Timestamp,
) -> CacheClusterStatus {
    let formed = was_formed(previous);
    let accepted = accepted(cluster, outcome);
    let mut ready = ready(formed, cluster, observed, plan, outcome);
    let mut progressing = progressing(formed, cluster, observed, plan, outcome);
    // A cluster that lives goes on; one that does not will not before the spec is acted upon.
    let refused = !accepted.0 && !formed && !ready.0;
    if refused {
        ready = accepted.clone();
        progressing = accepted.clone();
    }
    let degraded = if refused {
        accepted.clone()
    } else if formed && !ready.0 {
        (true, ready.1, ready.2.clone())
    } else if formed || ready.0 {
        (false, reason::STABLE, "Nothing is missing".to_owned())
    } else {
        (
            false,
            reason::FORMING,
            "The cluster has not been complete yet".to_owned(),
        )
    };
    let phase = match (ready.0, formed, accepted.0) {
        (true, _, _) => Phase::Ready,
        (false, true, _) => Phase::Degraded,
        (false, false, true) => Phase::Creating,
        (false, false, false) => Phase::Invalid,
    };
    let generation = resource.metadata.generation;
    let condition = |type_, verdict| condition(previous, generation, type_, verdict, now);
    let existing = match outcome.applied {
        Ok(resources) => resources.stateful_sets.len(),
        Err(_) => observed.stateful_sets,
    };
    let status = CacheClusterStatus {
        observed_generation: generation,
        phase: Some(phase),
        conditions: vec![
            condition(conditions::ACCEPTED, accepted),
            condition(conditions::READY, ready),
            condition(conditions::PROGRESSING, progressing),
            condition(conditions::DEGRADED, degraded),
        ],
        shards: shards(cluster, plan),
        endpoint: (cluster.api.replicas > 0).then(|| {
            let api = names::api(&cluster.name);
            format!("http://{api}.{}.svc:{}", cluster.namespace, ports::API)
        }),
        replicas: u32::try_from(existing).unwrap_or(u32::MAX),
        selector: Some(selector(&cluster.name)),
    };
    with_steady_keys(previous, status)
}

/// Keeps the former numbers of keys if nothing else changed and none of them moved by more than a fifth.
fn with_steady_keys(
    previous: &CacheClusterStatus,
    status: CacheClusterStatus,
) -> CacheClusterStatus {
    let mut steady = status.clone();
    for (shard, former) in steady.shards.iter_mut().zip(&previous.shards) {
        if shard.keys.abs_diff(former.keys) > former.keys / 5 {
            return status;
        }
        shard.keys = former.keys;
    }
    if steady == *previous { steady } else { status }
}

/// The status of a resource that cannot be acted upon. What was known of its shards stays.
#[must_use]
pub fn rejected(
    previous: &CacheClusterStatus,
    resource: &CacheCluster,
    rejection: &Rejection,
    now: Timestamp,
) -> CacheClusterStatus {
    let generation = resource.metadata.generation;
    let formed = was_formed(previous);
    let verdict = |state| (state, rejection.reason, rejection.message.clone());
    let condition = |type_, verdict| condition(previous, generation, type_, verdict, now);
    CacheClusterStatus {
        observed_generation: generation,
        phase: Some(Phase::Invalid),
        conditions: vec![
            condition(conditions::ACCEPTED, verdict(false)),
            condition(conditions::READY, verdict(false)),
            condition(conditions::PROGRESSING, verdict(false)),
            // Nobody looks after a cluster that was complete.
            condition(conditions::DEGRADED, verdict(formed)),
        ],
        selector: Some(selector(&resource.name_any())),
        ..previous.clone()
    }
}

/// The status when passes fail before they can say more: all that was known stays, but nobody should wait for it.
#[must_use]
pub fn failed(previous: &CacheClusterStatus, error: &str, now: Timestamp) -> CacheClusterStatus {
    let mut status = previous.clone();
    let verdict = (true, reason::RECONCILE_FAILED, error.to_owned());
    let generation = previous.observed_generation;
    let progressing = condition(previous, generation, conditions::PROGRESSING, verdict, now);
    match status
        .conditions
        .iter_mut()
        .find(|condition| condition.type_ == conditions::PROGRESSING)
    {
        Some(former) => *former = progressing,
        None => status.conditions.push(progressing),
    }
    status
}

/// The status of a resource that is being deleted.
#[must_use]
pub fn deleting(previous: &CacheClusterStatus, _: Timestamp) -> CacheClusterStatus {
    CacheClusterStatus {
        phase: Some(Phase::Deleting),
        ..previous.clone()
    }
}

/// Writes what `compute` makes of the previous status, if that is anything new, and tells what changed.
///
/// # Errors
/// When the API server refuses or does not answer: [`Error::Status`].
pub async fn write(
    resource: &CacheCluster,
    context: &Context,
    memory: &mut ClusterMemory,
    compute: impl FnOnce(&CacheClusterStatus, Timestamp) -> CacheClusterStatus,
) -> Result<(), Error> {
    let previous = previous(resource, memory);
    let status = compute(&previous, Timestamp::now());
    if status == previous {
        return Ok(());
    }
    let namespace = resource.namespace().unwrap_or_default();
    let api: Api<CacheCluster> = Api::namespaced(context.client.clone(), &namespace);
    let params = PatchParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PatchParams::default()
    };
    let patch = Patch::Merge(json!({ "status": difference(&previous, &status) }));
    match api
        .patch_status(&resource.name_any(), &params, &patch)
        .await
    {
        Ok(written) => {
            context.metrics.wrote("CacheCluster");
            memory.status = Some((status.clone(), version(&written)));
            context
                .events
                .transitions(resource, &previous, &status)
                .await;
            Ok(())
        }
        // Deleted meanwhile.
        Err(kube::Error::Api(answer)) if answer.is_not_found() => Ok(()),
        Err(error) => Err(Error::Status(error)),
    }
}

/// The whole status for a merge, which leaves alone what it does not name: what is not there any more is named, too.
fn difference(previous: &CacheClusterStatus, status: &CacheClusterStatus) -> Value {
    let (previous, mut status) = (json!(previous), json!(status));
    for field in previous.as_object().into_iter().flat_map(|it| it.keys()) {
        if status.get(field).is_none() {
            status[field] = Value::Null;
        }
    }
    status
}

/// The status as it was written last: the watch's, unless it lags behind our own writes.
fn previous(resource: &CacheCluster, memory: &ClusterMemory) -> CacheClusterStatus {
    match &memory.status {
        Some((status, written)) if version(resource) < *written => status.clone(),
        _ => resource.status.clone().unwrap_or_default(),
    }
}

fn version(resource: &CacheCluster) -> Option<u64> {
    resource.resource_version()?.parse().ok()
}

fn shards(cluster: &ValidatedCluster, plan: &Plan) -> Vec<ShardStatus> {
    plan.health
        .shards
        .iter()
        .map(|shard| ShardStatus {
            name: names::shard(&cluster.name, shard.index),
            primary: shard.primary.as_ref().map(|node| node.name.clone()),
            replicas: shard.in_sync.iter().map(|node| node.name.clone()).collect(),
            slots: shard.slots.to_string(),
            keys: rounded(shard.keys),
        })
        .collect()
}

/// To two significant digits.
fn rounded(keys: u64) -> u64 {
    let mut unit = 1;
    while keys / unit >= 100 {
        unit *= 10;
    }
    keys / unit * unit
}

fn selector(cluster: &str) -> String {
    format!(
        "{}={},{}={cluster},{}={}",
        labels::NAME,
        labels::NAME_VALUE,
        labels::INSTANCE,
        labels::COMPONENT,
        labels::COMPONENT_REDIS
    )
}

#[cfg(test)]
mod tests {
    use cachecluster_topology::sim::Sim;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
    use serde_json::json;
    use std::sync::Arc;

    use super::*;
    use crate::reconcile::decide::decide;
    use crate::reconcile::fixture;

    /// The status that a pass over `observed` gives, at `second`.
    fn pass(previous: &CacheClusterStatus, observed: &Observed, second: i64) -> CacheClusterStatus {
        let cluster = fixture::valid(json!({}));
        let plan = decide(&cluster, observed);
        let Resources {
            service_accounts,
            secret,
            config_maps,
            services,
            policies,
            budgets,
            stateful_sets,
            mut deployments,
            state: _,
        } = crate::reconcile::build::resources(&cluster, &plan, &fixture::workload());
        for deployment in &mut deployments {
            deployment.status = serde_json::from_value(json!({"updatedReplicas": 2})).unwrap();
        }
        let applied = Resources {
            service_accounts,
            secret,
            config_maps,
            services,
            policies,
            budgets,
            stateful_sets,
            deployments,
            state: std::marker::PhantomData::<Applied>,
        };
        let outcome = Outcome {
            applied: Ok(&applied),
            executed: Ok(&false),
        };
        told(previous, observed, &plan, &outcome, second)
    }

    fn told(
        previous: &CacheClusterStatus,
        observed: &Observed,
        plan: &Plan,
        outcome: &Outcome<'_>,
        second: i64,
    ) -> CacheClusterStatus {
        let now = Timestamp::from_second(second).unwrap();
        let (resource, cluster) = (fixture::resource(json!({})), fixture::valid(json!({})));
        compute(previous, &resource, &cluster, observed, plan, outcome, now)
    }

    fn find<'a>(status: &'a CacheClusterStatus, type_: &str) -> &'a Condition {
        let mut all = status.conditions.iter();
        all.find(|condition| condition.type_ == type_).unwrap()
    }

    fn is(status: &CacheClusterStatus, type_: &str) -> (String, String) {
        let condition = find(status, type_);
        (condition.status.clone(), condition.reason.clone())
    }

    fn answer(status: &str, reason: &str) -> (String, String) {
        (status.to_owned(), reason.to_owned())
    }

    fn complete() -> (Sim, CacheClusterStatus) {
        let sim = fixture::formed(3, 1);
        let status = pass(
            &CacheClusterStatus::default(),
            &fixture::world(sim.world()),
            1,
        );
        (sim, status)
    }

    #[test]
    fn a_new_cluster_waits_for_pods_and_is_not_degraded() {
        let status = pass(&CacheClusterStatus::default(), &fixture::nothing(), 1);
        assert_eq!(status.phase, Some(Phase::Creating));
        assert_eq!(is(&status, "Ready"), answer("False", "WaitingForPods"));
        assert_eq!(is(&status, "Degraded"), answer("False", "Forming"));
        let forming = pass(&status, &fixture::world(Sim::new(3, 1).world()), 2);
        assert_eq!(is(&forming, "Ready"), answer("False", "Forming"));
        assert_eq!(is(&forming, "Progressing"), answer("True", "Forming"));
    }

    #[test]
    fn a_complete_cluster_is_ready_and_rests() {
        let (_, status) = complete();
        assert_eq!(status.phase, Some(Phase::Ready));
        assert_eq!(is(&status, "Ready"), answer("True", "AllSlotsServed"));
        assert_eq!(is(&status, "Progressing"), answer("False", "Stable"));
        assert_eq!(is(&status, "Degraded"), answer("False", "Stable"));
        assert_eq!(status.shards[1].slots, "5461-10921");
        assert_eq!(
            status.endpoint.as_deref(),
            Some("http://quickstart-api.ns.svc:5000")
        );
    }

    #[test]
    fn a_volume_smaller_than_the_memory_is_remarked_upon() {
        let error = ApplyError::BeingDeleted {
            kind: "Service".to_owned(),
            name: "quickstart-api".to_owned(),
        };
        let outcome = Outcome {
            applied: Err(&error),
            executed: Ok(&false),
        };
        for (size, remarked) in [("511Mi", true), ("512Mi", false)] {
            let cluster = fixture::valid(json!({"storage": {"size": size}}));
            let (state, why, message) = accepted(&cluster, &outcome);
            assert_eq!((state, why), (true, "Valid"));
            assert_eq!(message.contains("writes fail once"), remarked, "{message}");
        }
    }

    #[test]
    fn a_birth_ends_when_kubernetes_sends_clients_to_the_primaries() {
        let sim = fixture::formed(3, 1);
        let mut observed = fixture::world(sim.world());
        let primary = observed.members.iter_mut();
        let mut primary = primary.filter(|it| it.name == "quickstart-shard-1-0");
        primary.next().unwrap().vouched = false;
        let born = pass(&CacheClusterStatus::default(), &observed, 1);
        assert_eq!(is(&born, "Ready"), answer("False", "WaitingForPods"));
        assert_eq!(is(&born, "Progressing"), answer("True", "WaitingForPods"));
        let message = &find(&born, "Ready").message;
        assert_eq!(message, "pod quickstart-shard-1-0 is not ready yet");
        // Once it was complete, the servers' own word is what counts.
        let (_, complete) = complete();
        let later = pass(&complete, &observed, 2);
        assert_eq!(is(&later, "Ready"), answer("True", "AllSlotsServed"));
        assert_eq!(later, complete);
    }

    #[test]
    fn without_an_api_no_endpoint_is_published() {
        let cluster = fixture::valid(json!({"api": {"replicas": 0}}));
        let observed = fixture::world(fixture::formed(3, 1).world());
        let plan = decide(&cluster, &observed);
        let outcome = Outcome {
            applied: Err(&ApplyError::BeingDeleted {
                kind: String::new(),
                name: String::new(),
            }),
            executed: Ok(&false),
        };
        let resource = fixture::resource(json!({"api": {"replicas": 0}}));
        let (none, now) = (CacheClusterStatus::default(), Timestamp::UNIX_EPOCH);
        let status = compute(&none, &resource, &cluster, &observed, &plan, &outcome, now);
        assert_eq!(status.endpoint, None);
    }

    #[test]
    fn a_second_look_at_the_same_changes_nothing() {
        let (sim, status) = complete();
        assert_eq!(pass(&status, &fixture::world(sim.world()), 99), status);
    }

    #[test]
    fn a_lost_replica_is_missed_and_only_what_changed_gets_a_new_time() {
        let (mut sim, before) = complete();
        sim.delete(2, 1);
        let after = pass(&before, &fixture::world(sim.world()), 50);
        assert_eq!(after.phase, Some(Phase::Degraded));
        assert_eq!(is(&after, "Ready"), answer("False", "ReplicasMissing"));
        assert_eq!(is(&after, "Degraded"), answer("True", "ReplicasMissing"));
        let since = |type_| find(&after, type_).last_transition_time.0.as_second();
        assert_eq!((since("Accepted"), since("Ready")), (1, 50));
    }

    #[test]
    fn a_lost_shard_leaves_slots_unserved() {
        let (mut sim, before) = complete();
        sim.kill(2, 0);
        sim.kill(2, 1);
        let after = pass(&before, &fixture::world(sim.world()), 50);
        assert_eq!(is(&after, "Ready"), answer("False", "SlotsUnserved"));
        assert_eq!(after.shards[2].primary, None);
    }

    #[test]
    fn without_ready_api_pods_the_cluster_is_not_ready() {
        let (sim, before) = complete();
        let mut observed = fixture::world(sim.world());
        observed.api_pods = vec![fixture::pod("api-0", false)];
        let after = pass(&before, &observed, 50);
        assert_eq!(is(&after, "Ready"), answer("False", "ApiUnavailable"));
        let first = pass(&CacheClusterStatus::default(), &observed, 50);
        assert_eq!(is(&first, "Ready"), answer("False", "WaitingForPods"));
    }

    #[test]
    fn a_pod_that_cannot_start_is_named_with_its_reason() {
        let mut observed = fixture::nothing();
        let pod = json!({
            "metadata": {"name": "quickstart-shard-0-0"},
            "status": {"containerStatuses": [{
                "name": "redis", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                "state": {"waiting": {"reason": "ImagePullBackOff"}},
            }]},
        });
        observed.redis_pods = vec![Arc::new(serde_json::from_value(pod).unwrap())];
        let status = pass(&CacheClusterStatus::default(), &observed, 1);
        let message = &find(&status, "Ready").message;
        let told = "pod quickstart-shard-0-0, container redis: ImagePullBackOff";
        assert!(message.starts_with(told), "{message}");
    }

    #[test]
    fn of_many_troubles_the_first_three_are_told_shortly() {
        let mut observed = fixture::nothing();
        for shard in 0..9 {
            let pod = json!({
                "metadata": {"name": format!("quickstart-shard-{shard}-0")},
                "status": {"conditions": [{
                    "type": "PodScheduled", "status": "False", "message": "Insufficient memory. ".repeat(99),
                }]},
            });
            let pod = serde_json::from_value(pod).unwrap();
            observed.redis_pods.push(Arc::new(pod));
        }
        let status = pass(&CacheClusterStatus::default(), &observed, 1);
        for type_ in ["Ready", "Progressing"] {
            let message = &find(&status, type_).message;
            assert!(message.contains("shard-2-0 cannot be"), "{message}");
            assert!(!message.contains("shard-3-0"), "{message}");
            assert!(message.chars().count() < 650, "{message}");
            let more = message.rsplit_once("; and ").unwrap().1;
            assert!(more.ends_with(" more"), "{message}");
        }
    }

    #[test]
    fn a_failed_write_is_told_without_calling_a_serving_cluster_down() {
        let (sim, before) = complete();
        let observed = fixture::world(sim.world());
        let error = ApplyError::BeingDeleted {
            kind: "Service".to_owned(),
            name: "quickstart-api".to_owned(),
        };
        let outcome = Outcome {
            applied: Err(&error),
            executed: Ok(&false),
        };
        let plan = decide(&fixture::valid(json!({})), &observed);
        let after = told(&before, &observed, &plan, &outcome, 50);
        assert_eq!(is(&after, "Progressing"), answer("True", "ReconcileFailed"));
        assert_eq!(is(&after, "Ready").0, "True");
    }

    #[test]
    fn passes_that_fail_keep_what_was_known() {
        let (_, before) = complete();
        let now = Timestamp::from_second(50).unwrap();
        let after = failed(&before, "cannot observe: timed out", now);
        assert_eq!(is(&after, "Progressing"), answer("True", "ReconcileFailed"));
        assert_eq!(is(&after, "Ready").0, "True");
        assert_eq!(failed(&after, "cannot observe: timed out", now), after);
        let first = failed(&CacheClusterStatus::default(), "no", now);
        assert_eq!(first.conditions.len(), 1);
    }

    #[test]
    fn a_rejected_spec_keeps_what_was_known_of_the_shards() {
        let (_, before) = complete();
        let rejection = Rejection {
            reason: reason::SECRET_MISSING,
            message: "there is no Secret mine".to_owned(),
        };
        let now = Timestamp::from_second(50).unwrap();
        let after = rejected(&before, &fixture::resource(json!({})), &rejection, now);
        assert_eq!(after.phase, Some(Phase::Invalid));
        assert_eq!(is(&after, "Accepted"), answer("False", "SecretMissing"));
        assert_eq!(is(&after, "Ready").0, "False");
        assert_eq!(is(&after, "Degraded"), answer("True", "SecretMissing"));
        assert_eq!(after.shards, before.shards);
        // Once there is a password again, it is a cluster that has lost something, not a new one.
        let next = pass(&after, &fixture::nothing(), 60);
        assert_eq!(next.phase, Some(Phase::Degraded));
        assert_eq!(is(&next, "Ready"), answer("False", "SlotsUnserved"));
    }

    fn name_taken(previous: &CacheClusterStatus, observed: &Observed) -> CacheClusterStatus {
        let error = ApplyError::NameTaken {
            kind: "Service".to_owned(),
            name: "quickstart-api".to_owned(),
        };
        let outcome = Outcome {
            applied: Err(&error),
            executed: Ok(&false),
        };
        let plan = decide(&fixture::valid(json!({})), observed);
        told(previous, observed, &plan, &outcome, 50)
    }

    #[test]
    fn a_taken_name_is_all_that_a_new_cluster_says() {
        let status = name_taken(&CacheClusterStatus::default(), &fixture::nothing());
        assert_eq!(status.phase, Some(Phase::Invalid));
        for type_ in ["Accepted", "Ready", "Progressing", "Degraded"] {
            assert_eq!(is(&status, type_), answer("False", "NameTaken"), "{type_}");
        }
        assert_eq!(status.replicas, 0);
    }

    #[test]
    fn a_taken_name_does_not_call_a_living_cluster_down() {
        let (sim, before) = complete();
        let status = name_taken(&before, &fixture::world(sim.world()));
        assert_eq!(status.phase, Some(Phase::Ready));
        assert_eq!(is(&status, "Accepted"), answer("False", "NameTaken"));
        assert_eq!(is(&status, "Ready"), answer("True", "AllSlotsServed"));
    }

    #[test]
    fn keys_that_move_a_little_are_no_reason_to_write() {
        let (_, mut before) = complete();
        before.shards[0].keys = 1000;
        let mut now = before.clone();
        now.shards[0].keys = 1200;
        assert_eq!(with_steady_keys(&before, now.clone()), before);
        now.shards[0].keys = 1300;
        assert_eq!(with_steady_keys(&before, now.clone()), now);
        now.shards[0].keys = 1100;
        now.phase = Some(Phase::Degraded);
        assert_eq!(with_steady_keys(&before, now.clone()), now);
    }

    #[test]
    fn keys_are_rounded_to_two_significant_digits() {
        for (keys, shown) in [(0, 0), (7, 7), (99, 99), (100, 100), (12_345, 12_000)] {
            assert_eq!(rounded(keys), shown);
        }
        assert!(rounded(u64::MAX) > 0);
    }
}
