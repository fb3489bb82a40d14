//! What is done this time: how many pods Kubernetes is shown, and at most one step on the live nodes. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use cachecluster_contract::names;
use cachecluster_topology::{
    Action, Health, Member, NodeRef, Presence, Probe, Role, World, assess, plan,
};

use super::observe::Observed;
use super::validate::ValidatedCluster;

/// Until the next look at a cluster that is as it should be. Its nodes are asked; the API server is not.
pub const HEALTHY: Duration = Duration::from_secs(15);
/// Until the next look at a cluster that is not, while its servers are there.
const UNHEALTHY: Duration = Duration::from_millis(500);
/// The same, while pods are missing: their changes trigger a pass by themselves.
const WAITING: Duration = Duration::from_secs(1);
/// After a step: its effect shows within a round of gossip.
const STEPPED: Duration = Duration::from_millis(100);
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
    /// How the live nodes are.
    pub health: Health,
    /// Whether any Redis server answered.
    pub answered: bool,
    /// The pod that the primary's Service shall select, if the cluster has that Service and a primary.
    pub marked: Option<String>,
    /// When to look again.
    pub requeue: Duration,
}

/// Decides.
#[must_use]
pub fn decide(cluster: &ValidatedCluster, observed: &Observed) -> Plan {
    let world = world(cluster, observed);
    let health = assess(&world);
    let cachecluster_topology::Plan {
        mut action,
        mut waiting,
    } = plan(&world);
    let pods = surplus(cluster, &world, &mut waiting);
    if action.is_none() {
        action = hand_over(&world, &health);
    }
    let answered = world.members.iter().any(|member| member.view().is_some());
    let marked = (cluster.shards == 1)
        .then(|| health.shards.first()?.primary.as_ref())
        .flatten()
        .map(|primary| primary.name.clone());
    let requeue = if action.is_some() {
        STEPPED
    } else if health.is_healthy() && waiting.is_empty() {
        HEALTHY
    } else if answered {
        UNHEALTHY
    } else {
        WAITING
    };
    Plan {
        pods,
        action,
        waiting,
        health,
        answered,
        marked,
        requeue,
    }
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
                    presence: Presence::Absent,
                    probe: Probe::Silent("there is no such pod".to_owned()),
                });
            }
        }
    }
    World {
        shards: cluster.shards,
        replicas: cluster.replicas,
        members,
    }
}

/// Shards that have to keep pods which the spec does not want any more: a StatefulSet removes its highest ordinals,
/// and one of them still owns slots, or runs and cannot say whether it does.
fn surplus(
    cluster: &ValidatedCluster,
    world: &World,
    waiting: &mut Vec<String>,
) -> BTreeMap<u32, u32> {
    let mut pods = BTreeMap::new();
    let unwanted = world
        .members
        .iter()
        .filter(|member| member.shard < cluster.shards && member.ordinal > cluster.replicas);
    for member in unwanted {
        let needed = match member.view() {
            Some(view) => !view.slots.is_empty(),
            None => member.presence == Presence::Running,
        };
        if needed {
            waiting.push(format!("{} is removed when it owns no slots", member.name));
            let kept = pods.entry(member.shard).or_insert(0);
            *kept = (member.ordinal + 1).max(*kept);
        }
    }
    pods
}

/// A primary whose place is not wanted any more hands over, without loss, to a replica that stays.
fn hand_over(world: &World, health: &Health) -> Option<Action> {
    let wanted = |node: &NodeRef| {
        world.members.iter().any(|member| {
            member.name == node.name
                && member.is_wanted(world)
                && member.view().is_some_and(|view| view.role == Role::Replica)
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
