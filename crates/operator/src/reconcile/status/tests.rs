//! What a status says, over the life of a cluster.

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
    pass_over(&cluster, previous, observed, second)
}

fn pass_over(
    cluster: &ValidatedCluster,
    previous: &CacheClusterStatus,
    observed: &Observed,
    second: i64,
) -> CacheClusterStatus {
    let plan = decide(cluster, observed);
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
    } = crate::reconcile::build::resources(cluster, &plan, &fixture::workload());
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
    let now = Timestamp::from_second(second).unwrap();
    let resource = fixture::resource(json!({}));
    compute(previous, &resource, cluster, observed, &plan, &outcome, now)
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
fn to_be_paused_makes_no_cluster_unready_and_is_told_until_it_is_over() {
    let (mut sim, status) = complete();
    let paused = fixture::valid(json!({"maintenance": {"paused": true}}));
    let over =
        |sim: &Sim, previous: &_| pass_over(&paused, previous, &fixture::world(sim.world()), 2);
    let held = over(&sim, &status);
    assert_eq!(held.phase, Some(Phase::Paused));
    assert_eq!(is(&held, "Paused"), answer("True", "Requested"));
    assert_eq!(is(&held, "Ready"), answer("True", "AllSlotsServed"));
    assert_eq!(is(&held, "Progressing"), answer("False", "Stable"));
    assert_eq!(over(&sim, &held), held);
    sim.delete(1, 1);
    let lacking = over(&sim, &held);
    assert_eq!(is(&lacking, "Degraded"), answer("True", "ReplicasMissing"));
    assert_eq!(is(&lacking, "Progressing"), answer("False", "Paused"));
    let resumed = pass(&lacking, &fixture::world(sim.world()), 3);
    assert_eq!(is(&resumed, "Paused"), answer("False", "Resumed"));
    assert_eq!(is(&resumed, "Progressing"), answer("True", "Healing"));
}

#[test]
fn a_fenced_replica_is_told_and_nothing_is_done_about_it() {
    let (mut sim, status) = complete();
    sim.fence(1, 1);
    sim.kill(1, 1);
    sim.gossip();
    let mut observed = fixture::world(sim.world());
    let pod = "quickstart-shard-1-1";
    observed.fences.standing.insert(pod.to_owned());
    observed.fences.told.push(format!("fenced by hand: {pod}"));
    let fenced = pass(&status, &observed, 2);
    assert_eq!(fenced.fenced, [pod]);
    assert_eq!(fenced.phase, Some(Phase::Degraded));
    assert_eq!(is(&fenced, "Degraded"), answer("True", "ReplicasMissing"));
    let told = find(&fenced, "Degraded").message.as_str();
    assert_eq!(told, format!("fenced by hand: {pod}"));
    assert_eq!(is(&fenced, "Progressing"), answer("False", "Stable"));
}

#[test]
fn a_fenced_primary_without_a_replica_leaves_its_slots_unserved() {
    let (mut sim, status) = complete();
    for ordinal in [0, 1] {
        sim.fence(1, ordinal);
        sim.kill(1, ordinal);
    }
    sim.gossip();
    let fenced = pass(&status, &fixture::world(sim.world()), 2);
    assert_eq!(is(&fenced, "Degraded"), answer("True", "SlotsUnserved"));
    let told = &find(&fenced, "Degraded").message;
    assert!(
        told.contains("no primary: quickstart-shard-1-0 is fenced"),
        "{told}"
    );
    assert!(told.contains("slots 5461-10921 are not served"), "{told}");
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
fn a_failing_save_is_told_beside_ready_and_only_once_it_failed() {
    let (sim, well) = complete();
    let all = |status: &CacheClusterStatus| -> Vec<String> {
        let types = status.conditions.iter().map(|it| it.type_.clone());
        types.collect()
    };
    assert!(!all(&well).contains(&"PersistenceFailing".to_owned()));
    let mut observed = fixture::world(sim.world());
    let cachecluster_topology::Probe::Answered(view) = &mut observed.members[0].probe else {
        panic!("it answers");
    };
    view.failed_saves.append = true;
    let failing = pass(&well, &observed, 2);
    let told = answer("True", "SaveFailing");
    assert_eq!(is(&failing, "PersistenceFailing"), told);
    assert_eq!(is(&failing, "Ready"), answer("True", "AllSlotsServed"));
    assert_eq!(pass(&failing, &observed, 3), failing, "nothing is new");
    // Nobody looks while the spec is refused.
    let rejection = Rejection {
        reason: "InvalidSpec",
        message: "no".to_owned(),
    };
    let now = Timestamp::from_second(4).unwrap();
    let refused = rejected(&failing, &fixture::resource(json!({})), &rejection, now);
    assert_eq!(is(&refused, "PersistenceFailing"), told);
    let well = pass(&failing, &fixture::world(sim.world()), 5);
    assert_eq!(is(&well, "PersistenceFailing"), answer("False", "Stable"));
    assert!(!all(&well).contains(&"OutOfMemory".to_owned()));
}
