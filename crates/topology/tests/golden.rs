//! What is made of real answers, and what is said of well-known worlds, word for word.
#![allow(clippy::unwrap_used)]

use std::fmt::Write;

use cachecluster_topology::sim::Sim;
use cachecluster_topology::{NodeView, Role, SlotRanges, assess, plan};

#[test]
fn answers_of_redis_7_0() {
    let primary = NodeView::assemble(
        include_str!("answers/redis-7.0-primary.nodes"),
        include_str!("answers/redis-7.0-primary.cluster-info"),
        include_str!("answers/redis-7.0-primary.info"),
    )
    .unwrap();
    let replica = NodeView::assemble(
        include_str!("answers/redis-7.0-replica.nodes"),
        include_str!("answers/redis-7.0-replica.cluster-info"),
        include_str!("answers/redis-7.0-replica.info"),
    )
    .unwrap();
    assert_eq!((primary.role, replica.role), (Role::Primary, Role::Replica));
    assert_eq!(replica.primary.as_ref(), Some(&primary.id));
    assert_eq!(primary.slots, SlotRanges::all());
    assert_eq!(replica.known[&primary.id].slots, SlotRanges::all());
    assert!(primary.cluster_ok && replica.link_up && !primary.link_up);
    let dialled = replica.known[&primary.id].addr;
    assert!(dialled.is_some() && replica.standing.dials == dialled);
    assert_eq!(primary.standing.dials, None);
    assert_eq!((primary.keys, replica.keys), (2, 2));
    assert_eq!(primary.offset, replica.offset);
    assert!(primary.offset > 0 && primary.used_memory > 1 << 20);
    assert_eq!(primary.epoch, 1);
    assert!(!primary.failed_saves.any() && !replica.failed_saves.any());
    assert!(primary.uptime_seconds > 0);
    assert!(primary.version.starts_with("7.0."), "{}", primary.version);
}

/// A story of passes: what is wrong, what is done, what is awaited.
fn story(sim: &mut Sim) -> String {
    let mut text = String::new();
    for pass in 1..20 {
        let world = sim.world();
        let planned = plan(&world);
        writeln!(text, "pass {pass}").unwrap();
        for problem in assess(&world).problems() {
            writeln!(text, "  wrong: {problem}").unwrap();
        }
        for waiting in &planned.waiting {
            writeln!(text, "  waits: {waiting}").unwrap();
        }
        let Some(action) = planned.action else {
            if assess(&world).is_healthy() {
                return text;
            }
            sim.gossip();
            continue;
        };
        writeln!(text, "  does: {action:?}").unwrap();
        sim.apply(&action);
    }
    text
}

#[test]
fn the_story_of_a_birth() {
    insta::assert_snapshot!(story(&mut Sim::new(3, 1)));
}

#[test]
fn the_story_of_a_lost_primary_without_a_volume() {
    let mut sim = Sim::new(3, 1);
    assert!(sim.run(10).is_some());
    sim.write(1, 10);
    sim.gossip();
    sim.delete(1, 0);
    let mut text = String::new();
    sim.gossip();
    for _ in 0..2 {
        if let Some(action) = plan(&sim.world()).action {
            writeln!(text, "while it is away: {action:?}").unwrap();
            sim.apply(&action);
        }
        sim.gossip();
    }
    sim.start(1, 0, false);
    insta::assert_snapshot!(text + &story(&mut sim));
}
