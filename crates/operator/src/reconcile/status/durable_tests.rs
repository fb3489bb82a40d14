//! What the status says of a durable cluster.

use std::collections::BTreeMap;

use cachecluster_topology::sim::Sim;
use cachecluster_topology::{Action, Durable};
use serde_json::json;

use super::*;
use crate::reconcile::decide::{HEALTHY, decide};
use crate::reconcile::fixture;

const PODS: [&str; 2] = ["quickstart-shard-0-0", "quickstart-shard-0-1"];

fn spec() -> serde_json::Value {
    json!({"profile": "Durable", "shards": 1, "storage": {"size": "1Gi"}})
}

/// One pass over one shard, of which the status said that these pods are in sync.
fn pass(sim: &Sim, in_sync: &[&str], allowed: Option<&str>) -> (Plan, CacheClusterStatus) {
    let mut observed = fixture::world(sim.world());
    let set = in_sync.iter().map(|&name| name.to_owned()).collect();
    observed.durable = Some(Durable {
        in_sync: BTreeMap::from([(0, set)]),
        allowed: allowed.map(str::to_owned),
        ..Durable::default()
    });
    let (resource, cluster) = (fixture::resource(spec()), fixture::valid(spec()));
    let plan = decide(&cluster, &observed);
    let elsewhere = ApplyError::BeingDeleted {
        kind: "Service".to_owned(),
        name: "quickstart".to_owned(),
    };
    let outcome = Outcome {
        applied: Err(&elsewhere),
        executed: Ok(&false),
    };
    let before = CacheClusterStatus::default();
    let now = Timestamp::UNIX_EPOCH;
    let status = compute(
        &before, &resource, &cluster, &observed, &plan, &outcome, now,
    );
    (plan, status)
}

fn formed() -> Sim {
    let mut sim = fixture::formed(1, 1);
    sim.demand_replicas();
    sim
}

#[test]
fn the_status_names_who_is_in_sync_and_a_steady_set_costs_nothing() {
    let (plan, status) = pass(&formed(), &PODS, None);
    assert_eq!(status.shards[0].in_sync, PODS);
    assert_eq!((plan.action, plan.requeue), (None, HEALTHY));

    // Who has just joined is told before anything else follows from it, and soon.
    let (plan, status) = pass(&formed(), &PODS[..1], None);
    assert_eq!(status.shards[0].in_sync, PODS);
    assert!(plan.requeue < HEALTHY);
}

#[test]
fn a_refused_promotion_is_told_with_its_way_out() {
    let mut sim = formed();
    sim.kill(0, 0);
    sim.gossip();
    let (plan, status) = pass(&sim, &PODS[..1], None);
    assert_eq!(plan.action, None);
    assert_eq!(status.shards[0].in_sync, PODS[..1]);
    let mut conditions = status.conditions.iter();
    let ready = conditions.find(|it| it.type_ == conditions::READY).unwrap();
    assert_eq!(ready.reason, reason::UNSAFE_PROMOTION_REFUSED);
    let annotation = cachecluster_topology::ALLOW_UNSAFE_PROMOTION;
    let way_out = format!("{annotation}={}", PODS[1]);
    assert!(ready.message.contains(&way_out), "{}", ready.message);

    for (in_sync, allowed) in [(&PODS[..1], Some(PODS[1])), (&PODS[..], None)] {
        let (plan, _) = pass(&sim, in_sync, allowed);
        assert!(
            matches!(&plan.action, Some(Action::Takeover { replica }) if replica.name == PODS[1]),
            "{plan:?}"
        );
    }
}

#[test]
fn a_durable_clusters_servers_are_told_so_and_a_caches_are_not() {
    let document = |spec| {
        let workload = fixture::workload();
        let cluster = fixture::valid(spec);
        let map = crate::reconcile::build::configmap::agent_config_map(&cluster, &workload);
        let document = map.data.unwrap().into_values().next().unwrap();
        serde_json::from_str::<serde_json::Value>(&document).unwrap()["durable"].clone()
    };
    let durable = |replicas: u32, fsync: &str| {
        let mut spec = spec();
        spec["replicas"] = json!(replicas);
        spec["durability"] = json!({"fsync": fsync});
        document(spec)
    };
    let told = |fsync: &str, least: u32| json!({"fsync": fsync, "leastReplicas": least});
    assert_eq!(durable(2, "Always"), told("always", 1));
    assert_eq!(durable(0, "EverySecond"), told("everysec", 0));
    assert_eq!(document(json!({})), serde_json::Value::Null);
}
