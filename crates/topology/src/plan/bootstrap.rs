//! Birth of a cluster: slots are given out before the nodes meet.
//!
//! A configuration epoch can only be set on a node that knows nobody, and distinct epochs from the start spare the
//! cluster the collisions that it would otherwise have to resolve while it forms. Meeting and replicating are then
//! the same as for any cluster ([`join`](super::join)), so a birth that is cut short anywhere goes on there.

use super::placement;
use crate::action::Action;
use crate::roster::{Node, Roster};
use crate::slots::SlotRanges;

/// Gives every shard its share, provided that *everybody* answered and nobody has anything to lose: each node is empty,
/// and owns no slot or just the share of its own shard from an earlier, interrupted attempt.
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
    let mut silent = roster.silent().map(|m| m.name.as_str()).peekable();
    if silent.peek().is_some() {
        let names: Vec<&str> = silent.collect();
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
