//! Zones, as far as they matter: where there are three or more, none needs to hold a majority of the primaries.

use std::collections::BTreeMap;

use crate::roster::{Node, Roster};

/// Fewer zones cannot share the primaries so that the loss of any leaves a majority.
const FEWEST: usize = 3;

/// A hand-over that could be made.
pub(super) struct Move<'r, 'w> {
    /// The machine of the replica has fewer primaries than that of its primary: no machine comes off worse.
    pub(super) replica: &'r Node<'w>,
    pub(super) primary: &'r Node<'w>,
}

/// How many of `primaries` each zone holds. `None` where zones do not matter: some node's is unknown, or they are too few.
pub(super) fn load<'r, 'w: 'r>(
    roster: &'r Roster<'w>,
    primaries: impl Iterator<Item = &'r Node<'w>>,
) -> Option<BTreeMap<&'r str, usize>> {
    let zones = roster.nodes.iter().map(|node| Some((zone(node)?, 0)));
    let mut load: BTreeMap<&str, usize> = zones.collect::<Option<_>>()?;
    for node in primaries {
        *load.get_mut(zone(node)?)? += 1;
    }
    (load.len() >= FEWEST).then_some(load)
}

/// The zone that a node is in.
pub(super) fn zone<'r>(node: &'r Node<'_>) -> Option<&'r str> {
    node.member.zone.as_deref()
}

/// The next of the hand-overs that bring the fullest zone below half of the primaries, or as near as `moves` allow.
///
/// Often a replica of one of its primaries is in a zone that has at least two fewer. Where all of them are in zones with
/// one fewer, such a zone first passes a primary on. Each hand-over evens the zones out, or leaves them as even and the
/// way shorter, so this ends.
pub(super) fn relieve<'r, 'w>(
    load: &BTreeMap<&str, usize>,
    moves: &[Move<'r, 'w>],
) -> Option<&'r Node<'w>> {
    let most = load.values().copied().max()?;
    if most * 2 < load.values().sum() {
        return None;
    }
    let enough = most.checked_sub(2)?;
    // From each zone that is on the way to one with room: the hand-over at the end of that way, which is made first.
    let mut ways: BTreeMap<&str, Option<&'r Node<'w>>> = load
        .iter()
        .filter(|(_, count)| **count <= enough)
        .map(|(zone, _)| (*zone, None))
        .collect();
    loop {
        let mut longer = BTreeMap::new();
        for Move { replica, primary } in moves {
            let (Some(from), Some(to)) = (zone(primary), zone(replica)) else {
                continue;
            };
            let Some(way) = ways.get(to).filter(|_| !ways.contains_key(from)) else {
                continue;
            };
            let first = way.unwrap_or(replica);
            if load.get(from) == Some(&most) {
                return Some(first);
            }
            longer.entry(from).or_insert(Some(first));
        }
        if longer.is_empty() {
            return None;
        }
        ways.append(&mut longer);
    }
}

#[cfg(test)]
mod tests {
    use crate::action::Action;
    use crate::model::World;
    use crate::plan::plan;
    use crate::sim::Sim;

    /// Shards of two, each pod on a machine of its own, in the zones that are named for each shard.
    fn formed(shards: &[[&str; 2]]) -> Sim {
        let mut sim = Sim::new(u32::try_from(shards.len()).unwrap(), 1);
        assert!(sim.run(10).is_some());
        for (shard, zones) in (0..).zip(shards) {
            for (ordinal, zone) in (0..).zip(zones) {
                sim.put(shard, ordinal, &format!("{shard}-{ordinal}"), Some(zone));
            }
        }
        sim
    }

    /// The zone of each shard's primary.
    fn zones(world: &World) -> Vec<String> {
        let mut found: Vec<_> = world
            .members
            .iter()
            .filter(|m| m.view().is_some_and(|view| !view.slots.is_empty()))
            .map(|m| (m.shard, m.zone.clone().unwrap()))
            .collect();
        found.sort_unstable();
        found.into_iter().map(|(_, zone)| zone).collect()
    }

    /// Hands over until nothing is planned; who took over, in order.
    fn handed_over(sim: &mut Sim) -> Vec<String> {
        let mut names = Vec::new();
        for _ in 0..10 {
            match plan(&sim.world()).action {
                Some(Action::Failover { replica }) => {
                    names.push(replica.name.clone());
                    sim.apply(&Action::Failover { replica });
                }
                Some(other) => panic!("{other:?}"),
                None => return names,
            }
            // The former primary follows before the next.
            sim.run(10).unwrap();
        }
        panic!("no end: {names:?}");
    }

    #[test]
    fn a_zone_with_a_majority_gives_a_primary_to_one_with_none() {
        let mut sim = formed(&[["a", "b"], ["a", "c"], ["b", "c"]]);
        assert_eq!(handed_over(&mut sim), ["quickstart-shard-1-1"]);
        assert_eq!(zones(&sim.world()), ["a", "c", "b"]);
    }

    #[test]
    fn a_zone_between_passes_a_primary_on_first() {
        let mut sim = formed(&[["a", "b"], ["a", "b"], ["b", "c"]]);
        let expected = ["quickstart-shard-2-1", "quickstart-shard-0-1"];
        assert_eq!(handed_over(&mut sim), expected);
        assert_eq!(zones(&sim.world()), ["b", "a", "c"]);
    }

    #[test]
    fn a_zone_without_a_majority_keeps_what_it_has() {
        // One more than a fair share, and the rest is still a majority.
        let mut sim = formed(&[["a", "b"], ["a", "b"], ["b", "c"], ["c", "a"], ["d", "a"]]);
        assert_eq!(handed_over(&mut sim), [""; 0]);
    }

    #[test]
    fn two_zones_or_an_unknown_one_are_no_reason() {
        let mut two = formed(&[["a", "b"], ["a", "b"], ["a", "b"]]);
        assert_eq!(handed_over(&mut two), [""; 0]);
        let mut unknown = formed(&[["a", "b"], ["a", "c"], ["a", "b"]]);
        unknown.put(2, 1, "2-1", None);
        assert_eq!(handed_over(&mut unknown), [""; 0]);
        unknown.put(2, 1, "2-1", Some("b"));
        assert!(!handed_over(&mut unknown).is_empty());
    }

    #[test]
    fn machines_come_first() {
        // Evening out the zones would put two primaries on one machine.
        let mut sim = formed(&[["a", "b"], ["a", "c"], ["b", "c"]]);
        sim.put(0, 1, "busy", Some("b"));
        sim.put(1, 1, "busy", Some("b"));
        sim.put(2, 0, "busy", Some("b"));
        sim.put(2, 1, "2-1", Some("c"));
        assert_eq!(handed_over(&mut sim), [""; 0]);
        sim.put(0, 1, "0-1", Some("b"));
        let expected = ["quickstart-shard-2-1", "quickstart-shard-0-1"];
        assert_eq!(handed_over(&mut sim), expected);
        assert_eq!(zones(&sim.world()), ["b", "a", "c"]);
    }
}
