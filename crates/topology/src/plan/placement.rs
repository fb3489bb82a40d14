//! Which member of a shard without slots shall be its primary.

use std::collections::BTreeMap;

use super::zones::{self, zone};
use crate::model::Role;
use crate::roster::{Node, Owner, Roster};

/// For each wanted shard the node that is, or shall be, its primary; `None` where that must be awaited.
///
/// Ordinal 0 by preference, but a member that holds keys comes first, and no machine, and no zone of three or more, shall
/// hold a majority of the primaries where that can be avoided: losing it would cost the votes that every failover needs.
pub(crate) fn primaries<'r, 'w>(roster: &'r Roster<'w>) -> Vec<Option<&'r Node<'w>>> {
    let mut fixed = Vec::new();
    let mut chosen: Vec<Option<&Node<'w>>> = Vec::new();
    for shard in 0..roster.world.shards {
        let owner = roster.owner(shard);
        fixed.push(owner != Owner::Nobody);
        chosen.push(match owner {
            Owner::Node(i) => Some(&roster.nodes[i]),
            Owner::Gone(_) => None,
            // The first of the best: members are in the order of their ordinals.
            Owner::Nobody => candidates(roster, shard).rev().max_by_key(|n| n.view.keys),
        });
    }
    // Each move takes a primary from the fullest machine to one that stays below it, or leaves machines as they share and
    // does the same for zones, so this ends.
    while let Some((shard, better)) =
        next_move(roster, &chosen, &fixed).or_else(|| next_over_zones(roster, &chosen, &fixed))
    {
        chosen[shard] = Some(better);
    }
    chosen
}

fn candidates<'r, 'w>(
    roster: &'r Roster<'w>,
    shard: u32,
) -> impl DoubleEndedIterator<Item = &'r Node<'w>> {
    let nodes = roster.nodes.iter();
    nodes.filter(move |n| {
        n.member.shard == shard
            && n.member.is_wanted(roster.world)
            && n.view.role == Role::Primary
            && !n.view.loading
            && !n.member.fenced
    })
}

fn next_move<'r, 'w>(
    roster: &'r Roster<'w>,
    chosen: &[Option<&'r Node<'w>>],
    fixed: &[bool],
) -> Option<(usize, &'r Node<'w>)> {
    let load = load_of_machines(chosen);
    let (&fullest, &most) = load
        .iter()
        .max_by_key(|(name, count)| (**count, std::cmp::Reverse(**name)))?;
    if most < 2 || most * 2 <= chosen.len() {
        return None;
    }
    chosen.iter().enumerate().find_map(|(shard, node)| {
        let node = node.filter(|n| !fixed[shard] && machine(n) == fullest && n.view.keys == 0)?;
        let better = candidates(roster, node.member.shard)
            .find(|other| load.get(machine(other)).copied().unwrap_or(0) + 1 < most)?;
        Some((shard, better))
    })
}

/// From the fullest zone, if it holds so many that the rest is no majority, to one that stays below it.
fn next_over_zones<'r, 'w>(
    roster: &'r Roster<'w>,
    chosen: &[Option<&'r Node<'w>>],
    fixed: &[bool],
) -> Option<(usize, &'r Node<'w>)> {
    let zones = zones::load(roster, chosen.iter().flatten().copied())?;
    let most = zones.values().copied().max()?;
    if most < 2 || most * 2 < chosen.len() {
        return None;
    }
    let in_zone = |node: &Node<'_>| zone(node).and_then(|it| zones.get(it)).copied();
    let machines = load_of_machines(chosen);
    let on_machine = |node: &Node<'_>| machines.get(machine(node)).copied().unwrap_or(0);
    chosen.iter().enumerate().find_map(|(shard, node)| {
        let node =
            node.filter(|n| !fixed[shard] && in_zone(n) == Some(most) && n.view.keys == 0)?;
        let better = candidates(roster, node.member.shard).find(|other| {
            in_zone(other).is_some_and(|count| count + 1 < most)
                && on_machine(other) < on_machine(node)
        })?;
        Some((shard, better))
    })
}

fn load_of_machines<'r>(chosen: &[Option<&'r Node<'_>>]) -> BTreeMap<&'r str, usize> {
    let mut load = BTreeMap::new();
    for node in chosen.iter().flatten() {
        *load.entry(machine(node)).or_default() += 1;
    }
    load
}

/// The machine that a node runs on; a node on an unknown one counts as alone there.
pub(super) fn machine<'r>(node: &'r Node<'_>) -> &'r str {
    let member = node.member;
    member.machine.as_deref().unwrap_or(&member.name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::Sim;

    fn chosen(machines: &[(u32, u32, &str)], shards: u32) -> Vec<String> {
        let mut world = Sim::new(shards, 1).world();
        for member in &mut world.members {
            let at = machines
                .iter()
                .find(|m| (m.0, m.1) == (member.shard, member.ordinal));
            member.machine = at.map(|m| m.2.to_owned());
        }
        let roster = Roster::of(&world);
        let chosen = primaries(&roster);
        chosen
            .iter()
            .map(|n| n.unwrap().member.name.clone())
            .collect()
    }

    #[test]
    fn no_machine_gets_a_majority_of_primaries() {
        let machines = [
            (0, 0, "a"),
            (0, 1, "b"),
            (1, 0, "a"),
            (1, 1, "c"),
            (2, 0, "b"),
            (2, 1, "a"),
        ];
        let names = chosen(&machines, 3);
        let expected = [
            "quickstart-shard-0-0",
            "quickstart-shard-1-1",
            "quickstart-shard-2-0",
        ];
        assert_eq!(names, expected);
    }

    #[test]
    fn no_zone_of_three_gets_a_majority_of_primaries() {
        let mut world = Sim::new(3, 1).world();
        let zones = [["x", "y"], ["x", "z"], ["y", "x"]];
        for member in &mut world.members {
            member.machine = Some(member.name.clone());
            let zone = zones[member.shard as usize][member.ordinal as usize];
            member.zone = Some(zone.to_owned());
        }
        let names = |world: &crate::model::World| {
            let roster = Roster::of(world);
            let chosen = primaries(&roster).into_iter();
            chosen
                .map(|n| n.unwrap().member.name.clone())
                .collect::<Vec<_>>()
        };
        let expected = [
            "quickstart-shard-0-0",
            "quickstart-shard-1-1",
            "quickstart-shard-2-0",
        ];
        assert_eq!(names(&world), expected);
        // One that is not known: nothing is said of zones.
        world.members[5].zone = None;
        assert_eq!(names(&world)[1], "quickstart-shard-1-0");
    }

    #[test]
    fn ordinal_0_leads_where_the_machines_allow_it() {
        let machines = [(0, 0, "a"), (0, 1, "b"), (1, 0, "b"), (1, 1, "a")];
        let names = chosen(&machines, 2);
        assert_eq!(names, ["quickstart-shard-0-0", "quickstart-shard-1-0"]);
        // One machine for everything: no choice helps.
        let one = [(0, 0, "a"), (0, 1, "a"), (1, 0, "a"), (1, 1, "a")];
        let names = chosen(&one, 2);
        assert_eq!(names, ["quickstart-shard-0-0", "quickstart-shard-1-0"]);
    }
}
