//! Who is promoted, and who is waited for.

use super::*;
use crate::assess::assess;
use crate::model::{Probe, World};
use crate::plan::plan;
use crate::sim::Sim;

fn formed(shards: u32, replicas: u32) -> Sim {
    let mut sim = Sim::new(shards, replicas);
    assert!(sim.run(10).is_some());
    sim
}

#[test]
fn votes_decide_while_a_majority_is_left() {
    let mut sim = formed(3, 1);
    sim.kill(1, 0);
    sim.gossip();
    let Some(Action::ForceFailover { replica }) = plan(&sim.world()).action else {
        panic!("{:?}", plan(&sim.world()));
    };
    assert_eq!(replica.name, "quickstart-shard-1-1");
}

#[test]
fn without_a_majority_the_replica_takes_over() {
    for shards in [1, 2] {
        let mut sim = formed(shards, 1);
        sim.kill(0, 0);
        sim.gossip();
        let Some(Action::Takeover { replica }) = plan(&sim.world()).action else {
            panic!("{:?}", plan(&sim.world()));
        };
        assert_eq!(replica.name, "quickstart-shard-0-1");
    }
}

#[test]
fn of_two_primaries_none_is_replaced_against_most_of_the_members() {
    let mut sim = formed(2, 2);
    // We and a replica of the second shard are cut off with the first primary.
    for (shard, ordinal) in [(0, 1), (0, 2), (1, 0), (1, 1)] {
        sim.set_visible(shard, ordinal, false);
        sim.set_connected(shard, ordinal, false);
    }
    sim.gossip();
    let planned = plan(&sim.world());
    assert_eq!(planned.action, None);
    let said = planned.waiting.join("; ");
    assert!(said.contains("may be the one that is cut off"), "{said}");
    // With one more of them on our side it is a tie, and agents do nothing in a tie.
    sim.set_visible(1, 1, true);
    sim.set_connected(1, 1, true);
    sim.gossip();
    assert!(matches!(
        plan(&sim.world()).action,
        Some(Action::Takeover { .. })
    ));
}

#[test]
fn who_may_be_cut_off_from_a_living_majority_promotes_nobody() {
    let mut sim = formed(3, 1);
    let cut_off = [(0, 0), (1, 1), (2, 0), (2, 1)];
    for (shard, ordinal) in cut_off {
        sim.set_visible(shard, ordinal, false);
        sim.set_connected(shard, ordinal, false);
    }
    sim.gossip();
    let planned = plan(&sim.world());
    assert_eq!(planned.action, None);
    let said = planned.waiting.join("; ");
    assert!(said.contains("may be the one that is cut off"), "{said}");

    // Their kubelets, or the lack of them, say otherwise after a while.
    let mut world = sim.world();
    for member in &mut world.members {
        member.vouched = false;
    }
    assert!(matches!(
        plan(&world).action,
        Some(Action::Takeover { replica }) if replica.name == "quickstart-shard-0-1"
    ));
}

#[test]
fn primaries_whose_new_addresses_nobody_knows_may_go_on_too() {
    let mut sim = formed(3, 2);
    for shard in [0, 1] {
        sim.set_visible(shard, 0, false);
    }
    sim.restart_all(true);
    for _ in 0..3 {
        let planned = plan(&sim.world());
        if let Some(action) = planned.action {
            let forced = matches!(
                action,
                Action::Takeover { .. } | Action::ForceFailover { .. }
            );
            assert!(!forced, "{action:?}");
            sim.apply(&action);
        }
        sim.gossip();
    }
    sim.set_visible(0, 0, true);
    sim.set_visible(1, 0, true);
    assert!(sim.run(10).is_some());
}

#[test]
fn a_replica_that_was_started_from_its_disk_waits_for_its_primary_to_return_from_its_own() {
    for (shards, returns) in [(1, true), (3, true), (3, false)] {
        let mut sim = formed(shards, 1);
        assert!(sim.write(0, 7));
        sim.gossip();
        sim.restart_all(true);
        sim.kill(0, 0);
        let mut waited = 0;
        let promoted = loop {
            sim.gossip();
            let planned = plan(&sim.world());
            match planned.action {
                Some(Action::Takeover { .. } | Action::ForceFailover { .. }) => break true,
                Some(action) => drop(sim.apply(&action)),
                None if assess(&sim.world()).is_healthy() => break false,
                None => {
                    let said = planned.waiting.join("; ");
                    assert!(said.contains("came from its disk"), "{said}");
                    waited += 1;
                    if returns {
                        sim.start(0, 0, true);
                    }
                }
            }
        };
        assert_eq!((promoted, waited > 0), (!returns, true));
    }
}

#[test]
fn nobody_is_promoted_while_any_node_hears_the_primary() {
    let mut sim = formed(1, 2);
    // Only we do not reach it.
    sim.set_visible(0, 0, false);
    sim.gossip();
    let planned = plan(&sim.world());
    assert_eq!(planned.action, None);
    assert!(planned.waiting[0].contains("other nodes still hear it"));
    // One replica lost it, the other did not.
    sim.set_connected(0, 1, false);
    sim.gossip();
    assert_eq!(plan(&sim.world()).action, None);
}

#[test]
fn a_primary_that_loads_its_data_is_alive() {
    let mut sim = formed(1, 1);
    sim.kill(0, 0);
    sim.gossip();
    let mut world = sim.world();
    world.members[0].probe = Probe::Loading;
    let planned = plan(&world);
    assert_eq!(planned.action, None);
    assert!(planned.waiting[0].contains("is loading"));
}

#[test]
fn a_primary_that_loads_its_data_where_nobody_knows_it_to_be_is_alive() {
    let mut sim = formed(1, 1);
    assert!(sim.write(0, 7));
    sim.gossip();
    sim.restart_all(true);
    sim.kill(0, 0);
    let plan_after = |sim: &mut Sim, probe: Probe| {
        // Longer than it is late.
        (0..12).for_each(|_| sim.gossip());
        let mut world = sim.world();
        world.members[0].probe = probe;
        plan(&world)
    };
    let loading = plan_after(&mut sim, Probe::Loading);
    assert_eq!(loading.action, None);
    assert!(loading.waiting[0].contains("is loading"), "{loading:?}");
    let gone = plan_after(&mut sim, Probe::Silent("connection refused".to_owned()));
    assert!(
        matches!(gone.action, Some(Action::Takeover { .. })),
        "{gone:?}"
    );
}

#[test]
fn a_replica_that_loads_is_not_taken_for_the_primary_whose_pod_is_gone() {
    let mut sim = formed(1, 2);
    sim.kill(0, 0);
    sim.gossip();
    let mut world = sim.world();
    let gone = &mut world.members[0];
    (gone.addr, gone.presence) = (None, crate::model::Presence::Absent);
    world.members[2].probe = Probe::Loading;
    let unheard_for = |world: &mut World, seconds| {
        let Probe::Answered(view) = &mut world.members[1].probe else {
            panic!("{:?}", world.members[1]);
        };
        view.standing.unheard_seconds = Some(seconds);
        plan(world)
    };
    let planned = unheard_for(&mut world, 3);
    assert!(
        matches!(planned.action, Some(Action::Takeover { .. })),
        "{planned:?}"
    );
    // Unless the other one was behind already when it was lost.
    let planned = unheard_for(&mut world, 60);
    assert_eq!(planned.action, None);
    assert!(planned.waiting[0].contains("is loading"), "{planned:?}");
}

#[test]
fn the_replica_that_lost_least_is_chosen_and_the_first_among_equals() {
    let mut sim = formed(3, 3);
    sim.kill(0, 0);
    sim.gossip();
    let mut world = sim.world();
    let promoted = |world: &crate::model::World| match plan(world).action {
        Some(Action::ForceFailover { replica }) => replica.name,
        other => panic!("{other:?}"),
    };
    assert_eq!(promoted(&world), "quickstart-shard-0-1");
    let best = world
        .members
        .iter_mut()
        .find(|m| m.shard == 0 && m.ordinal == 3);
    let Probe::Answered(view) = &mut best.unwrap().probe else {
        panic!();
    };
    view.offset += 1;
    assert_eq!(promoted(&world), "quickstart-shard-0-3");
}

#[test]
fn a_fenced_primary_is_replaced_and_nobody_fenced_replaces_it() {
    for shards in [1, 3] {
        let mut sim = formed(shards, 2);
        sim.fence(0, 0);
        assert_eq!(plan(&sim.world()).action, None, "its agent hands over");
        sim.fence(0, 1);
        sim.kill(0, 0);
        sim.gossip();
        let planned = plan(&sim.world()).action;
        let Some(Action::ForceFailover { replica } | Action::Takeover { replica }) = planned else {
            panic!("{planned:?}");
        };
        assert_eq!(replica.name, "quickstart-shard-0-2");
        assert!(sim.apply(&Action::Takeover { replica }).is_empty());
        sim.kill(0, 1);
        for _ in 0..5 {
            sim.gossip();
            assert_eq!(plan(&sim.world()), crate::Plan::default());
        }
        for ordinal in [0, 1] {
            sim.lift(0, ordinal);
            sim.start(0, ordinal, true);
        }
        assert!(sim.run(10).is_some());
    }
}

#[test]
fn an_empty_replica_waits_for_whoever_has_the_data() {
    let mut sim = formed(1, 1);
    sim.write(0, 3);
    sim.replace(0, 1, false);
    // It met, and was made a replica, but has received nothing yet when the primary dies.
    for _ in 0..5 {
        let Some(action) = plan(&sim.world()).action else {
            sim.gossip();
            continue;
        };
        sim.apply(&action);
        if matches!(action, Action::Replicate { .. }) {
            break;
        }
        sim.gossip();
    }
    sim.kill(0, 0);
    sim.gossip();
    let planned = plan(&sim.world());
    assert_eq!(planned.action, None);
    assert!(
        planned.waiting[0].contains("was never in step"),
        "{planned:?}"
    );
}
