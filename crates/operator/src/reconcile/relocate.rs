//! Has a replica's pod placed anew where one machine holds so many primaries that its loss would cost the majority, and
//! hand-overs cannot help: Kubernetes moves no pod back to a machine that was drained, and a new machine stays empty.
//!
//! The pod is evicted, as a drain would, so that budgets count; where the new one goes is the scheduler's choice. All that
//! is remembered is in the operator's memory; losing it costs one more try.

use std::collections::BTreeMap;
use std::time::Duration;

use cachecluster_crd::CacheCluster;
use cachecluster_topology::{Crowd, Relief};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{DeleteParams, EvictParams, ListParams, Preconditions};
use kube::{Api, Client, ResourceExt};
use tokio::time::{Instant, timeout};

use super::Context;
use super::decide::Plan;
use super::validate::ValidatedCluster;
use crate::events::Step;

/// For how long a cluster has to be crowded: hand-overs, which cost nothing, come first.
const CALM: Duration = Duration::from_secs(15);
/// The pause after the first look for a machine; each further one doubles it, whatever came of it.
const FIRST_PAUSE: Duration = Duration::from_secs(30);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(600);
/// Longest time for all requests of one try.
const DEADLINE: Duration = Duration::from_secs(5);
/// How often pods are evicted for the sake of one machine, as long as the crowd lasts: where the scheduler has had its way
/// so often, it has its reasons.
const MOST_TRIES: u32 = 3;
/// Machines that are read at once.
const PAGE: u32 = 250;

/// What is remembered of one cluster's crowds.
#[derive(Debug, Default)]
pub struct Relocations {
    /// Since when one machine has held too many primaries while all else was well.
    since: Option<Instant>,
    /// Looks for a machine, in a row.
    tries: u32,
    /// No further one before.
    paused: Option<Instant>,
    /// How many pods were evicted to go to each machine, and the crowd lasts.
    evicted: BTreeMap<String, u32>,
}

impl Relocations {
    /// Whether it is time to look for a machine. Otherwise has the cluster looked at when it will be.
    pub fn weigh(&mut self, plan: &mut Plan, now: Instant) -> bool {
        if plan.crowd.is_none() {
            // What is ill says nothing of how pods will be placed when it is well again: pauses stay.
            match plan.health.is_healthy() {
                true => *self = Self::default(),
                false => self.since = None,
            }
            return false;
        }
        let calm = *self.since.get_or_insert(now) + CALM;
        let due = self.paused.map_or(calm, |paused| calm.max(paused));
        if due > now {
            plan.requeue = plan.requeue.min(due - now);
            return false;
        }
        let doublings = self.tries.min(16);
        let pause = FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(doublings));
        self.tries = self.tries.saturating_add(1);
        self.paused = Some(now + pause.min(LONGEST_PAUSE));
        true
    }

    /// Whether pods may be evicted to go to a machine once more.
    fn may_try(&self, machine: &str) -> bool {
        self.evicted
            .get(machine)
            .is_none_or(|count| *count < MOST_TRIES)
    }

    /// One was.
    fn tried(&mut self, machine: &str) {
        *self.evicted.entry(machine.to_owned()).or_default() += 1;
    }
}

/// Evicts one replica, if a machine is free on which it would relieve the crowd. Nothing else waits for this or depends on
/// it: what goes wrong is logged, and tried again after a pause.
pub async fn relocate(
    resource: &CacheCluster,
    cluster: &ValidatedCluster,
    plan: &Plan,
    context: &Context,
    memory: &mut Relocations,
) {
    let Some(crowd) = &plan.crowd else {
        return;
    };
    let (namespace, name) = (&cluster.namespace, &cluster.name);
    match timeout(DEADLINE, relieve(namespace, crowd, context, memory)).await {
        Ok(Ok(Some(step))) => {
            tracing::info!(namespace, name, action = step.kind, "{}", step.note);
            context.metrics.acted(step.kind, true);
            context.events.acted(resource, &step).await;
        }
        Ok(Ok(None)) => {
            let machine = &crowd.machine;
            tracing::debug!(namespace, name, machine, "nowhere is room for a replica");
        }
        // Without the right to list nodes, as with `watchNamespaces`, pods stay where they are.
        Ok(Err(error)) => {
            tracing::info!(namespace, name, %error, "no replica is moved away from a crowd");
        }
        Err(_) => {
            tracing::info!(
                namespace,
                name,
                "no replica is moved away from a crowd in time"
            );
        }
    }
}

/// What was done, if anything.
async fn relieve(
    namespace: &str,
    crowd: &Crowd,
    context: &Context,
    memory: &mut Relocations,
) -> kube::Result<Option<Step>> {
    let mut free = free(&context.client).await?;
    free.retain(|machine| memory.may_try(machine));
    let Some(Relief { pod, from, to }) = crowd.relief(free.iter().map(String::as_str)) else {
        return Ok(None);
    };
    if !evict(namespace, pod, context).await? {
        return Ok(None);
    }
    memory.tried(to);
    let note = format!(
        "evicted {pod} from {from}, since {to} has room: {} holds {} of {} primaries, and its loss would leave no majority",
        crowd.machine, crowd.primaries, crowd.of
    );
    Ok(Some(Step {
        kind: "ReplicaMoved",
        note,
        warning: false,
    }))
}

/// The machines that take pods without more ado.
async fn free(client: &Client) -> kube::Result<Vec<String>> {
    let nodes: Api<Node> = Api::all(client.clone());
    let mut page = ListParams::default().limit(PAGE);
    let mut free = Vec::new();
    loop {
        let list = nodes.list(&page).await?;
        free.extend(
            list.items
                .iter()
                .filter(|it| is_free(it))
                .map(ResourceExt::name_any),
        );
        match list.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => return Ok(free),
        }
    }
}

/// Whether a machine is ready, and neither cordoned nor kept for others.
fn is_free(node: &Node) -> bool {
    let spec = node.spec.as_ref();
    let closed = spec.is_some_and(|spec| {
        spec.unschedulable == Some(true) || spec.taints.as_ref().is_some_and(|it| !it.is_empty())
    });
    let conditions = node.status.as_ref().and_then(|it| it.conditions.as_ref());
    let ready = conditions.is_some_and(|conditions| {
        conditions
            .iter()
            .any(|it| it.type_ == "Ready" && it.status == "True")
    });
    ready && !closed
}

/// Whether the pod that was seen there was evicted.
async fn evict(namespace: &str, pod: &str, context: &Context) -> kube::Result<bool> {
    let seen = context.stores.get::<Pod>(namespace, pod);
    let Some(uid) = seen.and_then(|pod| pod.uid()) else {
        return Ok(false);
    };
    let params = EvictParams {
        delete_options: Some(DeleteParams {
            preconditions: Some(Preconditions {
                uid: Some(uid),
                ..Preconditions::default()
            }),
            ..DeleteParams::default()
        }),
        ..EvictParams::default()
    };
    let pods: Api<Pod> = Api::namespaced(context.client.clone(), namespace);
    pods.evict(pod, &params).await?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use cachecluster_topology::sim::Sim;
    use serde_json::json;

    use super::*;
    use crate::reconcile::decide::decide;
    use crate::reconcile::fixture::{formed, valid, world};

    /// Two machines for three shards, after the third was drained.
    fn drained() -> Sim {
        let mut sim = formed(3, 1);
        for shard in 0..3 {
            let machines = if shard == 1 { ["b", "a"] } else { ["a", "b"] };
            for (ordinal, machine) in (0..).zip(machines) {
                sim.put(shard, ordinal, machine, None);
            }
        }
        sim
    }

    fn look(memory: &mut Relocations, sim: &Sim, now: Instant) -> (bool, Plan) {
        let mut plan = decide(&valid(json!({})), &world(sim.world()));
        (memory.weigh(&mut plan, now), plan)
    }

    #[test]
    fn what_lasts_is_tried_with_growing_pauses() {
        let sim = drained();
        let mut memory = Relocations::default();
        let mut now = Instant::now();
        let (due, plan) = look(&mut memory, &sim, now);
        assert!(plan.crowd.is_some());
        assert_eq!((due, plan.requeue), (false, CALM));
        now += CALM;
        for pause in [30, 60, 120, 240, 480, 600, 600] {
            assert!(look(&mut memory, &sim, now).0, "{pause}");
            let second = Duration::from_secs(1);
            now += Duration::from_secs(pause) - second;
            let (early, plan) = look(&mut memory, &sim, now);
            assert_eq!((early, plan.requeue), (false, second), "{pause}");
            now += second;
        }
    }

    #[test]
    fn an_illness_does_not_end_a_pause_and_relief_does() {
        let mut sim = drained();
        let mut memory = Relocations::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        look(&mut memory, &sim, at(0));
        assert!(look(&mut memory, &sim, at(15)).0);
        // The pod that was evicted comes back to where it was.
        sim.set_visible(0, 1, false);
        assert!(look(&mut memory, &sim, at(16)).1.crowd.is_none());
        sim.set_visible(0, 1, true);
        assert!(!look(&mut memory, &sim, at(20)).0);
        assert!(!look(&mut memory, &sim, at(44)).0);
        assert!(look(&mut memory, &sim, at(45)).0);
        sim.put(0, 0, "c", None);
        assert!(look(&mut memory, &sim, at(46)).1.crowd.is_none());
        sim.put(0, 0, "a", None);
        look(&mut memory, &sim, at(47));
        assert!(look(&mut memory, &sim, at(62)).0);
    }

    #[test]
    fn pods_are_evicted_for_a_machine_a_few_times_until_the_crowd_is_gone() {
        let mut sim = drained();
        let mut memory = Relocations::default();
        for _ in 0..MOST_TRIES {
            assert!(memory.may_try("c"));
            memory.tried("c");
        }
        assert!(!memory.may_try("c") && memory.may_try("d"));
        look(&mut memory, &sim, Instant::now());
        assert!(!memory.may_try("c"));
        sim.put(0, 0, "c", None);
        look(&mut memory, &sim, Instant::now());
        assert!(memory.may_try("c"));
    }

    #[test]
    fn only_machines_that_take_pods_are_free() {
        let node = |spec, ready: &str| -> Node {
            let conditions = json!([{"type": "Ready", "status": ready}]);
            let node = json!({"spec": spec, "status": {"conditions": conditions}});
            serde_json::from_value(node).unwrap()
        };
        assert!(is_free(&node(json!({}), "True")));
        assert!(!is_free(&node(json!({}), "Unknown")));
        assert!(!is_free(&node(json!({"unschedulable": true}), "True")));
        let taints = json!([{"key": "gpu", "effect": "NoSchedule"}]);
        assert!(!is_free(&node(json!({"taints": taints}), "True")));
        assert!(!is_free(&Node::default()));
    }
}
