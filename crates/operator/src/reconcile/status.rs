//! What the resource says of itself after a pass. Computing it is pure; it is written only when it changed.

mod patch;
mod shards;
mod troubles;
mod verdicts;

use cachecluster_contract::{labels, names, ports};
use cachecluster_crd::conditions::{self, reason};
use cachecluster_crd::{CacheCluster, CacheClusterStatus, Phase};
use cachecluster_redis_admin::ExecuteError;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;

pub use patch::{previous, write};
use shards::{shards, with_steady_keys};
use troubles::{out_of_memory, persistence};
use verdicts::{accepted, condition, paused, progressing, ready, was_formed};

use super::apply::ApplyError;
use super::build::{Applied, Resources};
use super::decide::Plan;
use super::observe::Observed;
use super::validate::{Rejection, ValidatedCluster};

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
    let phase = if cluster.paused { Phase::Paused } else { phase };
    let paused = paused(previous, cluster.paused);
    // A trouble that never was is not spoken of.
    let trouble = |type_: &str, verdict: verdicts::Verdict| {
        let mut former = previous.conditions.iter();
        (verdict.0 || former.any(|it| it.type_ == type_)).then_some(verdict)
    };
    let persistence = trouble(
        conditions::PERSISTENCE_FAILING,
        persistence(previous, observed),
    );
    let out_of_memory = trouble(conditions::OUT_OF_MEMORY, out_of_memory(observed, now));
    let generation = resource.metadata.generation;
    let condition = |type_, verdict| condition(previous, generation, type_, verdict, now);
    let existing = match outcome.applied {
        Ok(resources) => resources.stateful_sets.len(),
        Err(_) => observed.stateful_sets,
    };
    let status = CacheClusterStatus {
        observed_generation: generation,
        phase: Some(phase),
        conditions: [
            (conditions::ACCEPTED, Some(accepted)),
            (conditions::READY, Some(ready)),
            (conditions::PROGRESSING, Some(progressing)),
            (conditions::DEGRADED, Some(degraded)),
            (conditions::PERSISTENCE_FAILING, persistence),
            (conditions::OUT_OF_MEMORY, out_of_memory),
            (conditions::PAUSED, paused),
        ]
        .into_iter()
        .filter_map(|(type_, verdict)| Some(condition(type_, verdict?)))
        .collect(),
        shards: shards(cluster, plan),
        fenced: observed.fences.standing.iter().cloned().collect(),
        endpoint: (cluster.api.replicas > 0).then(|| {
            let api = names::api(&cluster.name);
            format!("http://{api}.{}.svc:{}", cluster.namespace, ports::API)
        }),
        replicas: u32::try_from(existing).unwrap_or(u32::MAX),
        selector: Some(selector(&cluster.name)),
    };
    with_steady_keys(previous, status)
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
        conditions: [
            (conditions::ACCEPTED, Some(verdict(false))),
            (conditions::READY, Some(verdict(false))),
            (conditions::PROGRESSING, Some(verdict(false))),
            // Nobody looks after a cluster that was complete.
            (conditions::DEGRADED, Some(verdict(formed))),
            (
                conditions::PAUSED,
                paused(previous, resource.spec.maintenance.paused),
            ),
        ]
        .into_iter()
        .filter_map(|(type_, verdict)| Some(condition(type_, verdict?)))
        .chain(troubles(previous).cloned())
        .collect(),
        selector: Some(selector(&resource.name_any())),
        ..previous.clone()
    }
}

/// What was known of disks and memory, which stays where nobody looks.
fn troubles(previous: &CacheClusterStatus) -> impl Iterator<Item = &Condition> {
    let types = [conditions::PERSISTENCE_FAILING, conditions::OUT_OF_MEMORY];
    let all = previous.conditions.iter();
    all.filter(move |it| types.contains(&it.type_.as_str()))
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
#[path = "status/durable_tests.rs"]
mod durable_tests;
#[cfg(test)]
mod tests;
