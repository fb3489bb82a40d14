//! What is done this time: how many pods Kubernetes is shown, and at most one step on the live nodes. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use cachecluster_contract::names;
use cachecluster_topology::{
    Action, Crowd, Health, Member, NodeRef, Presence, Probe, World, assess, crowd,
    is_ready_to_lead, plan,
};

use super::observe::Observed;
use super::validate::ValidatedCluster;

/// Until the next look at a cluster that is as it should be. Its nodes are asked; the API server is not.
pub const HEALTHY: Duration = Duration::from_secs(15);
/// Until the next look at a cluster that is not, while its servers are there.
pub const UNHEALTHY: Duration = Duration::from_millis(500);
/// The same, while pods are missing: their changes trigger a pass by themselves.
const WAITING: Duration = Duration::from_secs(1);
/// After a step: its effect shows within a round of gossip.
const STEPPED: Duration = Duration::from_millis(100);
/// Least time until the next look at a cluster that is paused: nothing can be done that would be late.
const PAUSED: Duration = Duration::from_secs(5);
/// Until the next look at a resource that cannot be acted upon: what is missing may come without a watch's telling.
pub const REJECTED: Duration = Duration::from_secs(15);

/// What is done this time.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Pods of each shard's StatefulSet, where Kubernetes must be shown more than the spec wants: a replica that was
    /// removed from the spec goes only when it holds no slots.
    pub pods: BTreeMap<u32, u32>,
    /// The one step on the live nodes.
    pub action: Option<Action>,
    /// What is awaited, in words.
    pub waiting: Vec<String>,
    /// Which shards of a durable cluster are left without a primary for the sake of what was acknowledged, in sentences.
    pub refused: Vec<String>,
    /// By shard of a durable cluster: the pods that the status shall name as in sync, its primary first.
    pub in_sync: BTreeMap<u32, Vec<String>>,
    /// The machine that holds too many primaries, where all is well otherwise and no step helps.
    pub crowd: Option<Crowd>,
    /// How the live nodes are.
    pub health: Health,
    /// Whether any Redis server answered.
    pub answered: bool,
    /// The pod that the primary's Service shall select, if the cluster has that Service and a primary.
    pub marked: Option<String>,
    /// When to look again.
    pub requeue: Duration,
    /// The same, should the step not be taken.
    pub otherwise: Duration,
}

/// Decides.
#[must_use]
pub fn decide(cluster: &ValidatedCluster, observed: &Observed) -> Plan {
    let world = world(cluster, observed);
    let health = assess(&world);
    let cachecluster_topology::Plan {
        mut action,
        mut waiting,
        refused,
        in_sync,
    } = plan(&world);
    let pods = surplus(cluster, &world, &health, &mut waiting);
    if action.is_none() {
        action = hand_over(&world, &health, &in_sync);
    }
    let sets = world.durable.as_ref().map(|durable| &durable.in_sync);
    let turned = sets.is_some_and(|sets| *sets != in_sync);
    let at_rest = action.is_none() && waiting.is_empty() && !turned;
    let crowd = at_rest.then(|| crowd(&world)).flatten();
    let answered = world.members.iter().any(|member| member.view().is_some());
    let marked = (cluster.shards == 1)
        .then(|| health.shards.first()?.primary.as_ref())
        .flatten()
        .map(|primary| primary.name.clone());
    let otherwise = if turned {
        STEPPED
    } else if health.is_at_rest() && waiting.is_empty() && !is_stopping(&world) {
        HEALTHY
    } else if answered {
        UNHEALTHY
    } else {
        WAITING
    };
    let least = match cluster.paused {
        true => PAUSED,
        false => STEPPED,
    };
    let otherwise = otherwise.max(least);
    let requeue = match action {
        Some(_) => least,
        None => otherwise,
    };
    Plan {
        pods,
        action,
        waiting,
        refused,
        in_sync,
        crowd,
        health,
        answered,
        marked,
        requeue,
        otherwise,
    }
}

/// Whether a server that is fenced still runs.
fn is_stopping(world: &World) -> bool {
    let mut members = world.members.iter();
    members.any(|member| member.fenced && member.view().is_some())
}

/// Everything that exists, and every place that is wanted and does not.
fn world(cluster: &ValidatedCluster, observed: &Observed) -> World {
    let mut members = observed.members.clone();
    let existing: BTreeSet<String> = members.iter().map(|member| member.name.clone()).collect();
    for shard in 0..cluster.shards {
        for ordinal in 0..=cluster.replicas {
            let name = names::shard_pod(&cluster.name, shard, ordinal);
            if !existing.contains(&name) {
                members.push(Member {
                    name,
                    shard,
                    ordinal,
                    addr: None,
                    machine: None,
                    zone: None,
                    presence: Presence::Absent,
                    vouched: false,
                    // It may find a volume.
                    unborn: false,
                    fenced: false,
                    probe: Probe::Silent("there is no such pod".to_owned()),
                });
            }
        }
    }
    World {
        shards: cluster.shards,
        replicas: cluster.replicas,
        members,
        durable: observed.durable.clone(),
    }
}

/// Shards that have to keep pods which the spec does not want any more: a StatefulSet removes its highest ordinals,
/// and one of them may hold the only copy of the shard's keys.
fn surplus(
    cluster: &ValidatedCluster,
    world: &World,
    health: &Health,
    waiting: &mut Vec<String>,
) -> BTreeMap<u32, u32> {
    let mut pods = BTreeMap::new();
    let unwanted = world
        .members
        .iter()
        .filter(|member| member.shard < cluster.shards && member.ordinal > cluster.replicas);
    for member in unwanted {
        if let Some(reason) = needed(member, world, health) {
            waiting.push(format!("{} is removed when {reason}", member.name));
            let kept = pods.entry(member.shard).or_insert(0);
            *kept = (member.ordinal + 1).max(*kept);
        }
    }
    pods
}

/// What has to come before a surplus pod may go, if anything.
fn needed(member: &Member, world: &World, health: &Health) -> Option<&'static str> {
    if member.presence == Presence::Absent {
        return None;
    }
    if member.view().is_some_and(|view| !view.slots.is_empty()) {
        return Some("it owns no slots");
    }
    if !has_lasting_primary(member.shard, world, health) {
        return Some("its shard has a primary that stays");
    }
    // One that is silent may think that it owns slots, or be thought to. Without its own account, everybody else's
    // has to leave nothing for it. One that is told to go already is not called back for that.
    let silent = member.view().is_none() && member.presence != Presence::Terminating;
    (silent && !(health.is_serving() && health.agreed))
        .then_some("it answers, or all slots are served without it")
}

/// Whether the shard's slots have an owner that answers with its data, on a place that is wanted.
fn has_lasting_primary(shard: u32, world: &World, health: &Health) -> bool {
    let primary = health
        .shards
        .iter()
        .find(|health| health.index == shard)
        .and_then(|health| health.primary.as_ref());
    primary.is_some_and(|primary| {
        world.members.iter().any(|member| {
            member.name == primary.name
                && member.is_wanted(world)
                && member
                    .view()
                    .is_some_and(|view| !view.slots.is_empty() && !view.loading)
        })
    })
}

/// A primary whose place is not wanted any more hands over, without loss, to a replica that stays and is ready.
fn hand_over(
    world: &World,
    health: &Health,
    in_sync: &BTreeMap<u32, Vec<String>>,
) -> Option<Action> {
    // Of a durable cluster only who is in the set, and stays there.
    let may_lead = |member: &Member| {
        world.durable.as_ref().is_none_or(|durable| {
            let mut both = [&durable.in_sync, in_sync].into_iter();
            both.all(|sets| {
                sets.get(&member.shard)
                    .is_some_and(|set| set.contains(&member.name))
            })
        })
    };
    let wanted = |node: &NodeRef| {
        world.members.iter().any(|member| {
            member.name == node.name
                && member.is_wanted(world)
                && !member.fenced
                && may_lead(member)
                && is_ready_to_lead(world, &node.id)
        })
    };
    health
        .shards
        .iter()
        .filter(|shard| {
            shard.primary.as_ref().is_some_and(|primary| {
                world
                    .members
                    .iter()
                    .any(|member| member.name == primary.name && !member.is_wanted(world))
            })
        })
        .find_map(|shard| shard.in_sync.iter().find(|replica| wanted(replica)))
        .map(|replica| Action::Failover {
            replica: replica.clone(),
        })
}

#[cfg(test)]
mod tests {
    use cachecluster_topology::sim::Sim;
    use serde_json::json;

    use super::*;
    use crate::reconcile::fixture::{formed, nothing, valid, world};

    /// One shard with two replicas, of which the last is the primary.
    fn last_is_primary() -> Sim {
        let mut sim = formed(1, 2);
        let health = assess(&sim.world());
        let last = health.shards[0]
            .in_sync
            .iter()
            .find(|replica| replica.name.ends_with("-2"))
            .unwrap();
        sim.apply(&Action::Failover {
            replica: last.clone(),
        });
        sim.gossip();
        assert!(sim.run(10).is_some());
        sim
    }

    #[test]
    fn a_healthy_cluster_is_left_alone_for_a_while() {
        let plan = decide(&valid(json!({})), &world(formed(3, 1).world()));
        assert_eq!((plan.action, plan.requeue), (None, HEALTHY));
        assert!(plan.waiting.is_empty() && plan.pods.is_empty());
    }

    #[test]
    fn without_pods_there_is_nothing_to_do_but_wait() {
        let plan = decide(&valid(json!({})), &nothing());
        assert_eq!((plan.action, plan.requeue), (None, WAITING));
        assert!(!plan.answered);
    }

    #[test]
    fn after_a_step_the_next_look_is_soon() {
        let plan = decide(&valid(json!({})), &world(Sim::new(3, 1).world()));
        assert!(plan.action.is_some());
        assert_eq!(plan.requeue, STEPPED);
    }

    #[test]
    fn who_is_fenced_is_not_waited_for() {
        let mut sim = formed(3, 1);
        sim.fence(1, 1);
        let cluster = valid(json!({}));
        let pause = |sim: &Sim| decide(&cluster, &world(sim.world())).requeue;
        assert_eq!(pause(&sim), UNHEALTHY, "until it has stopped");
        sim.kill(1, 1);
        sim.gossip();
        assert_eq!(pause(&sim), HEALTHY);
        sim.lift(1, 1);
        assert_eq!(pause(&sim), UNHEALTHY);
    }

    #[test]
    fn a_paused_cluster_is_looked_at_now_and_then_whatever_is_left_to_do() {
        let plan = decide(
            &valid(json!({"maintenance": {"paused": true}})),
            &world(Sim::new(3, 1).world()),
        );
        assert!(plan.action.is_some());
        assert_eq!(plan.requeue, PAUSED);
    }

    #[test]
    fn a_primary_whose_place_is_not_wanted_waits_for_one_that_is_not_fenced() {
        let mut sim = last_is_primary();
        let cluster = valid(json!({"shards": 1, "replicas": 1}));
        sim.fence(0, 0);
        let plan = decide(&cluster, &world(sim.world()));
        let Some(Action::Failover { replica }) = &plan.action else {
            panic!("{:?}", plan.action)
        };
        assert_eq!(replica.name, "quickstart-shard-0-1");
    }

    #[test]
    fn a_replica_that_is_not_wanted_goes_at_once() {
        let plan = decide(&valid(json!({"replicas": 0})), &world(formed(3, 1).world()));
        assert!(plan.pods.is_empty());
    }

    #[test]
    fn a_primary_whose_place_is_not_wanted_hands_over_before_it_goes() {
        let mut sim = last_is_primary();
        let cluster = valid(json!({"shards": 1, "replicas": 0}));
        let plan = decide(&cluster, &world(sim.world()));
        assert_eq!(plan.pods, BTreeMap::from([(0, 3)]));
        let Some(Action::Failover { replica }) = &plan.action else {
            panic!("{:?}", plan.action)
        };
        assert_eq!(replica.name, "quickstart-shard-0-0");

        sim.apply(&Action::Failover {
            replica: replica.clone(),
        });
        sim.gossip();
        assert!(decide(&cluster, &world(sim.world())).pods.is_empty());
    }

    #[test]
    fn a_primary_whose_place_is_not_wanted_waits_for_a_replica_that_has_caught_up() {
        let sim = last_is_primary();
        let cluster = valid(json!({"shards": 1, "replicas": 1}));
        let mut observed = world(sim.world());
        let mut lag = |name: &str| {
            let member = observed.members.iter_mut().find(|m| m.name == name);
            let Probe::Answered(view) = &mut member.unwrap().probe else {
                panic!("{name} is silent")
            };
            view.offset = 0;
            view.standing.unheard_seconds = Some(3);
            decide(&cluster, &observed)
        };
        let plan = lag("quickstart-shard-0-0");
        assert!(matches!(
            plan.action,
            Some(Action::Failover { replica }) if replica.name == "quickstart-shard-0-1"
        ));
        let plan = lag("quickstart-shard-0-1");
        assert_eq!((plan.action, plan.requeue), (None, UNHEALTHY));
        assert_eq!(plan.pods, BTreeMap::from([(0, 3)]));
    }

    #[test]
    fn a_surplus_pod_that_cannot_say_what_it_holds_stays() {
        let mut sim = last_is_primary();
        sim.set_visible(0, 2, false);
        let plan = decide(
            &valid(json!({"shards": 1, "replicas": 0})),
            &world(sim.world()),
        );
        assert_eq!(plan.pods, BTreeMap::from([(0, 3)]));
    }

    #[test]
    fn the_last_copy_stays_though_it_owns_nothing() {
        // The only primary is gone; what is left is a replica whose place is not wanted.
        let mut sim = formed(1, 1);
        let primary = assess(&sim.world()).shards[0].primary.clone().unwrap();
        assert!(primary.name.ends_with("-0"));
        sim.kill(0, 0);
        let cluster = valid(json!({"shards": 1, "replicas": 0}));
        let plan = decide(&cluster, &world(sim.world()));
        assert_eq!(plan.pods, BTreeMap::from([(0, 2)]));
        let told = "quickstart-shard-0-1 is removed when its shard has a primary that stays";
        assert!(
            plan.waiting.iter().any(|line| line == told),
            "{:?}",
            plan.waiting
        );
    }

    #[test]
    fn a_surplus_pod_that_crashes_stays_while_slots_are_unserved() {
        let silent = |mut observed: Observed| {
            let member = &mut observed.members[..];
            let last = member.iter_mut().find(|m| m.name.ends_with("-0-1"));
            let last = last.unwrap();
            last.presence = Presence::Starting;
            last.probe = Probe::Silent("connection refused".to_owned());
            observed
        };
        let cluster = valid(json!({"replicas": 0}));
        let mut sim = formed(3, 1);
        let whole = decide(&cluster, &silent(world(sim.world())));
        assert!(whole.pods.is_empty());
        sim.kill(2, 0);
        sim.kill(2, 1);
        let torn = decide(&cluster, &silent(world(sim.world())));
        assert_eq!(torn.pods.get(&0), Some(&2));
    }

    #[test]
    fn only_a_cluster_of_one_shard_has_its_primary_marked() {
        let one = decide(&valid(json!({"shards": 1})), &world(formed(1, 1).world()));
        assert_eq!(one.marked.as_deref(), Some("quickstart-shard-0-0"));
        let three = decide(&valid(json!({})), &world(formed(3, 1).world()));
        assert_eq!(three.marked, None);
    }
}
