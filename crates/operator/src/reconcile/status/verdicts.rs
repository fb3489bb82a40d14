//! What each condition says after a pass. Pure.

use cachecluster_crd::CacheClusterStatus;
use cachecluster_crd::conditions::{self, reason};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::Outcome;
use crate::events::describe;
use crate::reconcile::apply::ApplyError;
use crate::reconcile::decide::Plan;
use crate::reconcile::observe::Observed;
use crate::reconcile::pods;
use crate::reconcile::validate::{Rejection, ValidatedCluster};

/// A condition's status, reason and message.
pub(super) type Verdict = (bool, &'static str, String);

/// Whether the cluster was complete before, so that what it lacks now was lost.
pub(super) fn was_formed(previous: &CacheClusterStatus) -> bool {
    previous.conditions.iter().any(|condition| {
        condition.type_ == conditions::DEGRADED
            && (condition.status == "True" || condition.reason == reason::STABLE)
    })
}

/// Whether the spec can be acted upon.
pub(super) fn accepted(cluster: &ValidatedCluster, outcome: &Outcome<'_>) -> Verdict {
    if let Some(Rejection { reason, message }) = &cluster.auth.objection {
        return (false, *reason, message.clone());
    }
    let refused = outcome.applied.err().and_then(ApplyError::rejection);
    if let Some(Rejection { reason, message }) = refused {
        return (false, reason, message);
    }
    let mut message = "The spec is acted upon".to_owned();
    for remark in cluster.remark.iter().chain(&cluster.fenced.unknown) {
        message.push_str("; ");
        message.push_str(remark);
    }
    (true, reason::VALID, message)
}

/// Whether the operator keeps its hands off. `None` while nobody ever asked it to.
pub(super) fn paused(previous: &CacheClusterStatus, paused: bool) -> Option<Verdict> {
    if paused {
        let message = "The operator looks on: it applies no object, marks no pod and takes no step on the Redis nodes, \
                       while agents and Redis Cluster go on replacing primaries that die. Set spec.maintenance.paused \
                       to false to go on";
        return Some((true, reason::REQUESTED, message.to_owned()));
    }
    let mut conditions = previous.conditions.iter();
    let was_ever = conditions.any(|condition| condition.type_ == conditions::PAUSED);
    was_ever.then(|| (false, reason::RESUMED, "The operator acts".to_owned()))
}

/// Whether all is as asked for.
pub(super) fn ready(
    formed: bool,
    cluster: &ValidatedCluster,
    observed: &Observed,
    plan: &Plan,
    outcome: &Outcome<'_>,
) -> Verdict {
    let health = &plan.health;
    let wanted = cluster.replicas as usize;
    let complete = health
        .shards
        .iter()
        .all(|shard| shard.primary.is_some() && shard.in_sync.len() >= wanted);
    let api = pods::ready(&observed.api_pods);
    let current = outcome.applied.map_or(formed, |resources| {
        resources.stateful_sets.iter().all(is_current)
    });
    // What could not be applied comes first: the rest often follows from that.
    let failed = outcome.applied.err().map(ToString::to_string);
    let told = |problems: Vec<String>| {
        let all: Vec<String> = failed.iter().cloned().chain(problems).collect();
        sentence(&all)
    };
    let problems = || told(problems(observed, plan));
    if !plan.refused.is_empty() {
        let why = reason::UNSAFE_PROMOTION_REFUSED;
        return (false, why, plan.refused.join("; "));
    }
    if !(health.is_serving() && health.joined && health.agreed) {
        let why = match (formed, plan.answered) {
            (true, _) if health.is_serving() => reason::REPLICAS_MISSING,
            (true, _) => reason::SLOTS_UNSERVED,
            (false, true) => reason::FORMING,
            (false, false) => reason::WAITING_FOR_PODS,
        };
        (false, why, problems())
    } else if !complete || !current {
        let why = if formed {
            reason::REPLICAS_MISSING
        } else {
            reason::FORMING
        };
        (false, why, problems())
    } else if let Some(pods) = awaited(formed, observed, plan) {
        (false, reason::WAITING_FOR_PODS, told(pods))
    } else if api == 0 && cluster.api.replicas > 0 {
        let why = if formed {
            reason::API_UNAVAILABLE
        } else {
            reason::WAITING_FOR_PODS
        };
        let mut all = vec!["the HTTP API has no ready pod".to_owned()];
        all.extend(pods::troubles(&observed.api_pods));
        (false, why, told(all))
    } else {
        let shards = match cluster.shards {
            1 => "1 shard serves all slots".to_owned(),
            many => format!("{many} shards serve all slots"),
        };
        let replicas = match cluster.replicas {
            0 => "without replicas".to_owned(),
            1 => "with 1 replica in sync each".to_owned(),
            many => format!("with {many} replicas in sync each"),
        };
        let message = format!("{shards}, {replicas}");
        (true, reason::ALL_SLOTS_SERVED, message)
    }
}

/// Whether the operator brings the cluster closer to its spec, which it does not while it is paused.
pub(super) fn progressing(
    formed: bool,
    cluster: &ValidatedCluster,
    observed: &Observed,
    plan: &Plan,
    outcome: &Outcome<'_>,
) -> Verdict {
    let verdict = left_to_do(formed, cluster, observed, plan, outcome);
    match verdict {
        (true, _, message) if cluster.paused => {
            let message = format!("Left as it is while the cluster is paused: {message}");
            (false, reason::PAUSED, message)
        }
        verdict => verdict,
    }
}

fn left_to_do(
    formed: bool,
    cluster: &ValidatedCluster,
    observed: &Observed,
    plan: &Plan,
    outcome: &Outcome<'_>,
) -> Verdict {
    if let Err(error) = outcome.applied {
        return (true, reason::RECONCILE_FAILED, error.to_string());
    }
    if let Err(error) = outcome.executed {
        return (true, reason::RECONCILE_FAILED, error.to_string());
    }
    let changing = match (formed, plan.answered) {
        (true, _) => reason::HEALING,
        (false, true) => reason::FORMING,
        (false, false) => reason::WAITING_FOR_PODS,
    };
    if let Some(action) = &plan.action {
        return (true, changing, pods::line(&describe(action).note));
    }
    if !plan.health.is_at_rest() || !plan.waiting.is_empty() {
        return (true, changing, sentence(&problems(observed, plan)));
    }
    if let Some(pods) = awaited(formed, observed, plan) {
        return (true, reason::WAITING_FOR_PODS, sentence(&pods));
    }
    let ready = pods::ready(&observed.api_pods);
    let rolled = outcome
        .applied
        .is_ok_and(|resources| resources.deployments.iter().all(is_rolled_out));
    if ready < cluster.api.replicas as usize || !rolled {
        let wanted = cluster.api.replicas;
        let mut all = vec![if ready < wanted as usize {
            format!("{ready} of {wanted} pods of the HTTP API are ready")
        } else {
            // A roll-out has one more of them at times.
            "the pods of the HTTP API are being replaced".to_owned()
        }];
        all.extend(pods::troubles(&observed.api_pods));
        return (true, reason::WAITING_FOR_PODS, sentence(&all));
    }
    (false, reason::STABLE, "Nothing to do".to_owned())
}

/// Primaries of a new cluster to which Kubernetes sends no client yet: it learns a moment after we do that they serve.
/// Later its word does not count here, because it is also silent when a machine or the API server is away.
fn awaited(formed: bool, observed: &Observed, plan: &Plan) -> Option<Vec<String>> {
    if formed {
        return None;
    }
    let primaries = plan
        .health
        .shards
        .iter()
        .filter_map(|it| it.primary.as_ref());
    let unvouched = |name: &str| {
        let mut members = observed.members.iter();
        members.any(|member| member.name == name && !member.vouched)
    };
    let waits: Vec<String> = primaries
        .filter(|primary| unvouched(&primary.name))
        .map(|primary| format!("pod {} is not ready yet", primary.name))
        .collect();
    (!waits.is_empty()).then_some(waits)
}

/// What is wrong: with pods first, because the rest often follows from that.
fn problems(observed: &Observed, plan: &Plan) -> Vec<String> {
    let mut all = observed.fences.told.clone();
    all.extend(pods::troubles(&observed.redis_pods));
    let fences = || plan.health.shards.iter().flat_map(|shard| &shard.fences);
    let told = |problem: &&str| !fences().any(|fence| fence == problem);
    all.extend(plan.health.problems().filter(told).map(str::to_owned));
    for waiting in &plan.waiting {
        if !all.contains(waiting) {
            all.push(waiting.clone());
        }
    }
    all
}

/// The first few of them: a status is no log.
fn sentence(all: &[String]) -> String {
    const MOST: usize = 3;
    if all.is_empty() {
        return "waiting for Kubernetes to act on the objects".to_owned();
    }
    let mut text = all
        .iter()
        .take(MOST)
        .map(|one| pods::line(one))
        .collect::<Vec<_>>()
        .join("; ");
    if all.len() > MOST {
        text.push_str(&format!("; and {} more", all.len() - MOST));
    }
    text
}

fn is_current(set: &StatefulSet) -> bool {
    let seen = set
        .status
        .as_ref()
        .and_then(|status| status.observed_generation);
    seen >= set.metadata.generation
}

fn is_rolled_out(deployment: &Deployment) -> bool {
    let wanted = deployment
        .spec
        .as_ref()
        .and_then(|spec| spec.replicas)
        .unwrap_or(1);
    deployment.status.as_ref().is_some_and(|status| {
        status.observed_generation >= deployment.metadata.generation
            && status.updated_replicas.unwrap_or(0) >= wanted
    })
}

/// A condition with its verdict, since `now` if its status changed.
pub(super) fn condition(
    previous: &CacheClusterStatus,
    generation: Option<i64>,
    type_: &str,
    (state, reason, message): Verdict,
    now: Timestamp,
) -> Condition {
    let status = if state { "True" } else { "False" };
    let since = previous
        .conditions
        .iter()
        .find(|former| former.type_ == type_ && former.status == status)
        .map_or(Time(now), |former| former.last_transition_time.clone());
    Condition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message,
        observed_generation: generation,
        last_transition_time: since,
    }
}
