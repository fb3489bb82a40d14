use std::collections::BTreeSet;

use super::*;
use crate::model::{Probe, World};
use crate::plan::{Plan, plan};
use crate::sim::Sim;

/// A cluster of servers that demand a replica, and the sets that its status has.
struct Trial {
    sim: Sim,
    durable: Durable,
}

impl Trial {
    fn formed(shards: u32, replicas: u32) -> Self {
        let mut sim = Sim::new(shards, replicas);
        sim.demand_replicas();
        let mut trial = Self {
            sim,
            durable: Durable::default(),
        };
        for _ in 0..20 {
            trial.step();
        }
        trial
    }

    fn world(&self) -> World {
        World {
            durable: Some(self.durable.clone()),
            ..self.sim.world()
        }
    }

    fn plan(&self) -> Plan {
        plan(&self.world())
    }

    /// One pass: acts, then writes the status; then time passes.
    fn step(&mut self) -> Plan {
        let planned = self.plan();
        if let Some(action) = &planned.action {
            assert_eq!(self.sim.apply(action), Vec::<String>::new());
        }
        self.durable.in_sync = planned.in_sync.clone();
        self.sim.gossip();
        planned
    }

    fn expire(&mut self, ordinal: u32) {
        let name = format!("quickstart-shard-0-{ordinal}");
        self.durable.expired.insert(name);
    }

    fn set(&self) -> Vec<&str> {
        let set = self.durable.in_sync[&0].iter();
        set.map(|name| name.strip_prefix("quickstart-shard-0-").unwrap())
            .collect()
    }

    /// What the servers of the first shard demand now.
    fn demands(&self) -> Vec<Option<u32>> {
        let world = self.sim.world();
        let members = world.members.iter().filter(|m| m.shard == 0);
        members
            .map(|m| m.view().and_then(|view| view.standing.required))
            .collect()
    }
}

fn demand_of(planned: &Plan) -> Option<u32> {
    match &planned.action {
        Some(Action::RequireReplicas { least, .. }) => Some(*least),
        _ => None,
    }
}

#[test]
fn a_formed_cluster_has_everybody_in_its_sets_and_nothing_to_do() {
    for replicas in [1, 2] {
        let trial = Trial::formed(3, replicas);
        assert_eq!(trial.set().len(), replicas as usize + 1);
        let planned = trial.plan();
        assert_eq!(
            (planned.action, planned.in_sync),
            (None, trial.durable.in_sync.clone())
        );
        assert!(planned.waiting.is_empty());
    }
}

#[test]
fn a_cluster_without_replicas_takes_writes_alone() {
    let mut trial = Trial::formed(1, 0);
    assert_eq!((trial.set(), trial.demands()), (vec!["0"], vec![Some(0)]));
    assert!(trial.sim.write(0, 1));
}

#[test]
fn a_replica_leaves_the_set_before_the_primary_goes_on_without_it() {
    let mut trial = Trial::formed(3, 1);
    trial.sim.kill(0, 1);
    trial.sim.gossip();
    assert!(!trial.sim.write(0, 1), "nobody would read it");
    trial.expire(1);

    let leaving = trial.step();
    assert_eq!((demand_of(&leaving), trial.set()), (None, vec!["0"]));
    assert_eq!(trial.demands()[0], Some(1));
    // As long as the API server has not confirmed it, nothing follows from it.
    let mut unconfirmed = trial.world();
    let set = unconfirmed.durable.as_mut().unwrap().in_sync.get_mut(&0);
    set.unwrap().push("quickstart-shard-0-1".to_owned());
    assert_eq!(demand_of(&plan(&unconfirmed)), None);

    assert_eq!(demand_of(&trial.step()), Some(0));
    assert!(trial.sim.write(0, 1));
    assert_eq!(demand_of(&trial.step()), None);
}

#[test]
fn the_primary_demands_a_replica_before_one_joins_the_set() {
    let mut trial = Trial::formed(3, 1);
    trial.sim.kill(0, 1);
    trial.sim.gossip();
    trial.expire(1);
    trial.step();
    trial.step();
    trial.durable.expired.clear();
    trial.sim.start(0, 1, true);
    trial.sim.gossip();

    let tightening = trial.plan();
    assert_eq!(demand_of(&tightening), Some(1));
    assert_eq!(tightening.in_sync[&0].len(), 1);
    trial.step();
    assert_eq!((trial.set(), trial.demands()[0]), (vec!["0"], Some(1)));
    trial.step();
    assert_eq!(trial.set(), ["0", "1"]);
    assert_eq!(trial.plan().action, None);
}

#[test]
fn one_that_might_still_be_promoted_keeps_the_primary_from_going_on() {
    let mut trial = Trial::formed(3, 1);
    trial.sim.set_visible(0, 1, false);
    trial.sim.set_connected(0, 1, false);
    trial.sim.gossip();
    for _ in 0..3 {
        assert_eq!(demand_of(&trial.step()), None);
    }
    assert_eq!(trial.set(), ["0"]);
    let said = trial.plan().waiting.join("; ");
    assert!(said.contains("takes no writes until"), "{said}");
    trial.expire(1);
    assert_eq!(demand_of(&trial.step()), Some(0));
}

#[test]
fn a_primary_that_is_cut_off_with_us_is_not_relaxed() {
    let mut trial = Trial::formed(3, 1);
    // Its cluster is not ok: it hears no majority.
    for (shard, ordinal) in [(0, 1), (1, 0), (1, 1), (2, 0), (2, 1)] {
        trial.sim.set_visible(shard, ordinal, false);
    }
    trial.sim.set_connected(0, 0, false);
    trial.sim.gossip();
    trial.expire(1);
    for _ in 0..3 {
        assert_eq!(demand_of(&trial.step()), None);
    }
    assert_eq!(trial.set(), ["0", "1"]);
    // Nor on its word alone, before it has noticed.
    let mut world = trial.world();
    let Probe::Answered(view) = &mut world.members[0].probe else {
        panic!();
    };
    view.cluster_ok = true;
    let planned = plan(&world);
    assert_eq!((demand_of(&planned), planned.in_sync[&0].len()), (None, 2));
}

#[test]
fn one_of_two_replicas_may_go_without_anybody_relaxing() {
    let mut trial = Trial::formed(3, 2);
    trial.sim.kill(0, 2);
    trial.sim.gossip();
    trial.expire(2);
    for _ in 0..3 {
        assert_eq!(demand_of(&trial.step()), None);
        assert!(trial.sim.write(0, 1));
        trial.sim.gossip();
    }
    assert_eq!(trial.set(), ["0", "1"]);
}

#[test]
fn what_was_set_by_hand_is_put_right() {
    let mut trial = Trial::formed(3, 1);
    let world = trial.world();
    let primary = world
        .members
        .iter()
        .find(|m| (m.shard, m.ordinal) == (0, 0));
    let node = crate::action::NodeRef {
        id: primary.unwrap().view().unwrap().id.clone(),
        name: primary.unwrap().name.clone(),
        addr: primary.unwrap().addr.unwrap(),
    };
    for by_hand in [0, 5] {
        trial.sim.apply(&Action::RequireReplicas {
            nodes: vec![node.clone()],
            least: by_hand,
        });
        assert_eq!(demand_of(&trial.step()), Some(1));
        assert_eq!(trial.plan().action, None);
    }
}

#[test]
fn only_who_is_in_the_set_is_promoted_unless_the_user_says_so() {
    for shards in [1, 3] {
        let mut trial = Trial::formed(shards, 1);
        trial.durable.in_sync.get_mut(&0).unwrap().pop();
        trial.sim.kill(0, 0);
        trial.sim.gossip();
        let planned = trial.plan();
        assert_eq!(planned.action, None);
        let why = planned.refused.join("; ");
        for words in [
            "shard 0 has lost its primary",
            "every acknowledged write: quickstart-shard-0-0",
            "cachecluster.io/allow-unsafe-promotion=quickstart-shard-0-1",
        ] {
            assert!(why.contains(words), "{why}");
        }
        trial.durable.allowed = Some("quickstart-shard-0-0".to_owned());
        assert_eq!(trial.plan().action, None);
        trial.durable.allowed = Some("quickstart-shard-0-1".to_owned());
        let planned = trial.step();
        assert!(planned.refused.is_empty());
        let (Some(Action::ForceFailover { replica }) | Some(Action::Takeover { replica })) =
            planned.action
        else {
            panic!("{planned:?}");
        };
        assert_eq!(replica.name, "quickstart-shard-0-1");
    }
}

#[test]
fn the_best_of_the_set_is_known_only_when_all_of_it_answer() {
    let mut trial = Trial::formed(3, 2);
    trial.sim.kill(0, 0);
    trial.sim.kill(0, 2);
    trial.sim.gossip();
    let planned = trial.plan();
    assert_eq!(planned.action, None);
    let why = planned.refused.join("; ");
    assert!(why.contains("waiting for quickstart-shard-0-2"), "{why}");
    trial.sim.start(0, 2, true);
    trial.sim.gossip();
    assert!(matches!(
        trial.plan().action,
        Some(Action::ForceFailover { .. })
    ));
}

#[test]
fn one_outside_of_the_set_that_is_ahead_of_it_stops_a_promotion() {
    let mut trial = Trial::formed(1, 2);
    trial.durable.in_sync.get_mut(&0).unwrap().pop();
    // The one that is in the set is cut off, and the other, which has just attached, lets a write be acknowledged.
    trial.sim.set_connected(0, 1, false);
    trial.sim.gossip();
    assert!(trial.sim.write(0, 1));
    trial.sim.gossip();
    trial.sim.kill(0, 0);
    trial.sim.set_connected(0, 1, true);
    trial.sim.gossip();
    let planned = trial.plan();
    assert_eq!(planned.action, None);
    let why = planned.refused.join("; ");
    for words in [
        "quickstart-shard-0-2 is not promoted: it is ahead of quickstart-shard-0-1",
        "cachecluster.io/allow-unsafe-promotion=quickstart-shard-0-2",
    ] {
        assert!(why.contains(words), "{why}");
    }
}

#[test]
fn one_that_was_started_again_and_has_not_heard_the_primary_since_is_not_promoted() {
    let mut trial = Trial::formed(3, 1);
    // The status does not know yet that the replica was away, and the primary has acknowledged a write since.
    trial.sim.kill(0, 1);
    trial.sim.kill(0, 0);
    trial.sim.start(0, 1, true);
    for _ in 0..20 {
        trial.sim.gossip();
        let planned = trial.plan();
        assert_eq!(planned.action, None);
        let why = planned.refused.join("; ");
        assert!(
            why.contains("quickstart-shard-0-1 is not promoted: it has not heard the primary"),
            "{why}"
        );
    }
    trial.sim.start(0, 0, true);
    trial.sim.gossip();
    assert_eq!(trial.plan().refused, Vec::<String>::new());
}

#[test]
fn of_pods_about_which_nothing_is_known_none_is_promoted() {
    let mut trial = Trial::formed(3, 1);
    trial.sim.kill(0, 0);
    trial.sim.gossip();
    trial.durable.in_sync.clear();
    let planned = trial.plan();
    assert_eq!(planned.action, None);
    assert!(planned.refused[0].contains("not known who"), "{planned:?}");
}

#[test]
fn a_pod_that_lost_its_volume_leaves_the_set_before_it_copies() {
    let mut trial = Trial::formed(3, 1);
    trial.sim.replace(0, 1, false);
    let mut steps = BTreeSet::new();
    for _ in 0..10 {
        let set = trial.durable.in_sync[&0].len();
        if let Some(Action::Replicate { .. }) = trial.step().action {
            assert_eq!(set, 1, "it counts as a copy while it copies");
            steps.insert("replicated");
        }
    }
    assert_eq!(steps.len(), 1);
    assert_eq!(trial.set(), ["0", "1"]);
}
