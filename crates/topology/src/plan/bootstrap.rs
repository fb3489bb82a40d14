//! Birth of a cluster: slots are given out before the nodes meet.
//!
//! A configuration epoch can only be set on a node that knows nobody, and distinct epochs from the start spare the
//! cluster the collisions that it would otherwise have to resolve while it forms. Meeting and replicating are then
//! the same as for any cluster ([`join`](super::join)), so a birth that is cut short anywhere goes on there.

use super::placement;
use crate::action::Action;
use crate::roster::{Node, Roster};
use crate::slots::SlotRanges;

/// Gives every shard its share, provided that *everybody* who can have anything answered and nobody has anything to
/// lose: each node is empty, and owns no slot or just the share of its own shard from an earlier, interrupted attempt.
///
/// A place that is certainly unborn is not waited for: it becomes a replica when it comes.
pub(crate) fn assign(roster: &Roster<'_>, waiting: &mut Vec<String>) -> Option<Action> {
    let world = roster.world;
    let share = |shard| SlotRanges::share(shard, world.shards);
    let newborn = |n: &Node<'_>| {
        n.view.keys == 0 && (n.view.slots.is_empty() || n.view.slots == share(n.member.shard))
    };
    if !roster.strangers.is_empty() || !roster.nodes.iter().all(newborn) {
        return None;
    }
    let unclaimed = roster.unclaimed();
    let missing: Vec<u32> = (0..world.shards)
        .filter(|&shard| !share(shard).minus(&unclaimed).is_empty() || share(shard).is_empty())
        .collect();
    let ours = |shard: u32| !missing.contains(&shard);
    if !(0..world.shards).any(ours) {
        return None;
    }
    let silent = roster.silent().filter(|m| !m.unborn);
    let names: Vec<String> = silent
        .map(|m| match m.fenced {
            true => format!("{} (fenced)", m.name),
            false => m.name.clone(),
        })
        .collect();
    if !names.is_empty() {
        waiting.push(format!(
            "slots are given out once every node answers; silent: {}",
            names.join(", ")
        ));
        return None;
    }
    let primaries = placement::primaries(roster);
    let assignments: Option<Vec<_>> = (0..world.shards)
        .zip(primaries)
        .filter(|(shard, _)| ours(*shard))
        .map(|(shard, node)| Some((node?.to_ref(), share(shard), u64::from(shard) + 1)))
        .collect();
    if assignments.is_none() {
        waiting
            .push("slots are given out once every shard has a node that can be its primary".into());
    }
    Some(Action::AssignSlots {
        assignments: assignments?,
    })
}

#[cfg(test)]
mod tests {
    use crate::action::Action;
    use crate::model::{Presence, Probe};
    use crate::plan::plan;
    use crate::sim::Sim;
    use crate::slots::SlotRanges;

    #[test]
    fn a_new_cluster_is_given_all_slots_at_once_before_its_nodes_meet() {
        let mut sim = Sim::new(3, 1);
        let Some(Action::AssignSlots { assignments }) = plan(&sim.world()).action else {
            panic!("{:?}", plan(&sim.world()));
        };
        let told: Vec<_> = assignments
            .iter()
            .map(|(node, slots, epoch)| (node.name.as_str(), slots.to_string(), *epoch))
            .collect();
        let expected = [
            ("quickstart-shard-0-0", "0-5460".to_owned(), 1),
            ("quickstart-shard-1-0", "5461-10921".to_owned(), 2),
            ("quickstart-shard-2-0", "10922-16383".to_owned(), 3),
        ];
        assert_eq!(told, expected);

        sim.apply(&Action::AssignSlots { assignments });
        let Some(Action::Meet { via, peers }) = plan(&sim.world()).action else {
            panic!("{:?}", plan(&sim.world()));
        };
        assert_eq!(peers.len(), 5);
        sim.apply(&Action::Meet { via, peers });
        // The introductions are under way: nothing is repeated.
        let meanwhile = plan(&sim.world());
        assert_eq!(meanwhile.action, None);
        assert!(
            meanwhile.waiting[0].starts_with("gossip: "),
            "{meanwhile:?}"
        );
        sim.gossip();
        let Some(Action::Replicate { pairs }) = plan(&sim.world()).action else {
            panic!("{:?}", plan(&sim.world()));
        };
        assert_eq!(pairs.len(), 3);
    }

    #[test]
    fn one_silent_place_holds_a_birth_up_by_name() {
        let mut sim = Sim::new(3, 1);
        sim.kill(2, 1);
        let planned = plan(&sim.world());
        assert_eq!(planned.action, None);
        assert!(planned.waiting[0].contains("silent: quickstart-shard-2-1"));
    }

    #[test]
    fn replicas_without_a_machine_join_later() {
        let mut sim = Sim::new(3, 1);
        sim.unplace(1, 0);
        sim.unplace(2, 1);
        let Some(Action::AssignSlots { assignments }) = plan(&sim.world()).action else {
            panic!("{:?}", plan(&sim.world()));
        };
        let names: Vec<_> = assignments.iter().map(|a| a.0.name.as_str()).collect();
        let expected = [
            "quickstart-shard-0-0",
            "quickstart-shard-1-1",
            "quickstart-shard-2-0",
        ];
        assert_eq!(names, expected);
        assert_eq!(sim.run(10), None);
        assert_eq!(sim.served(), SlotRanges::all());
        sim.start(1, 0, false);
        sim.start(2, 1, false);
        assert!(sim.run(10).is_some());
    }

    #[test]
    fn a_shard_without_any_machine_is_waited_for() {
        let mut sim = Sim::new(3, 1);
        sim.unplace(1, 0);
        sim.unplace(1, 1);
        let planned = plan(&sim.world());
        assert_eq!(planned.action, None);
        assert!(planned.waiting[0].contains("every shard has a node"));
    }

    #[test]
    fn a_place_that_may_have_a_volume_is_waited_for() {
        let mut sim = Sim::new(3, 1);
        sim.delete(1, 1);
        sim.mark(1, 1, Presence::Starting);
        let planned = plan(&sim.world());
        assert_eq!(planned.action, None);
        assert!(planned.waiting[0].contains("silent: quickstart-shard-1-1"));
    }

    #[test]
    fn a_node_with_keys_is_no_newborn() {
        let mut world = Sim::new(3, 0).world();
        let Probe::Answered(view) = &mut world.members[1].probe else {
            panic!();
        };
        view.keys = 1;
        let planned = plan(&world);
        assert!(
            matches!(planned.action, Some(Action::Meet { .. })),
            "{planned:?}"
        );
    }
}
