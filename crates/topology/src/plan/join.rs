//! Makes strangers acquainted, and nodes without slots follow their shard's primary.

use std::collections::BTreeSet;

use super::durable;
use crate::action::Action;
use crate::model::{LinkState, NodeId, Presence, Role};
use crate::roster::{Node, Owner, Roster};
use crate::slots::SlotRanges;

/// Introduces whoever the rest does not hear: new nodes, and nodes whose IP address changed while nobody was left to
/// notice (after all pods restarted, everybody looks for everybody at addresses that are gone).
pub(crate) fn meet(roster: &Roster<'_>, waiting: &mut Vec<String>) -> Option<Action> {
    let mut islands = islands(roster);
    let nodes = &roster.nodes;
    // The island that serves most is the cluster; the others join it. Ties go to the larger, then to the first.
    let weight = |island: &Vec<usize>| {
        let slots: usize = island.iter().map(|&i| nodes[i].slots.len()).sum();
        (slots, island.len())
    };
    islands.sort_by_key(|island| std::cmp::Reverse(weight(island)));
    let mut islands = islands.into_iter();
    let main = islands.next()?;
    let via = main.iter().map(|&i| &nodes[i]).min_by_key(|n| {
        (
            n.member.presence == Presence::Terminating,
            n.view.loading,
            n.slots.is_empty(),
        )
    })?;

    let mut family = Family::of(roster, &main);
    let mut peers = Vec::new();
    for island in islands {
        let other = Family::of(roster, &island);
        let names = || {
            let names: Vec<&str> = island.iter().map(|&i| &*nodes[i].member.name).collect();
            names.join(", ")
        };
        if !family.may_meet(&other) {
            waiting.push(format!(
                "{} and {} belong to different clusters that both own slots {}: they are kept apart, one must be emptied by hand",
                via.member.name,
                names(),
                family.claims.intersection(&other.claims)
            ));
            continue;
        }
        family.admit(other);
        for &i in &island {
            let peer = &nodes[i];
            let leaving = peer.member.presence == Presence::Terminating
                || (!peer.member.is_wanted(roster.world) && peer.view.is_blank());
            if leaving {
                continue;
            }
            // Where both look in the right place, the bus reconnects by itself, and introducing them anew is no help.
            let at = |a: &Node<'_>, b: &Node<'_>| {
                a.account_of(b)
                    .is_some_and(|known| !known.is_elsewhere(b.addr))
            };
            if via.is_meeting(peer) || peer.is_meeting(via) || (at(via, peer) && at(peer, via)) {
                waiting.push(format!(
                    "gossip: {} and {} do not hear each other yet",
                    via.member.name, peer.member.name
                ));
                continue;
            }
            peers.push(peer.to_ref());
        }
    }
    (!peers.is_empty()).then(|| Action::Meet {
        via: via.to_ref(),
        peers,
    })
}

/// Groups of nodes that hear each other, directly or through others; within a group, gossip does the rest.
fn islands(roster: &Roster<'_>) -> Vec<Vec<usize>> {
    let nodes = &roster.nodes;
    let mut left: BTreeSet<usize> = (0..nodes.len()).collect();
    let mut islands = Vec::new();
    while let Some(first) = left.pop_first() {
        let mut island = vec![first];
        let mut next = 0;
        while next < island.len() {
            let at = &nodes[island[next]];
            let heard: Vec<usize> = left
                .iter()
                .copied()
                .filter(|&i| at.hears(&nodes[i]) && nodes[i].hears(at))
                .collect();
            for i in heard {
                left.remove(&i);
                island.push(i);
            }
            next += 1;
        }
        island.sort_unstable();
        islands.push(island);
    }
    islands
}

/// What an island claims, and all whom it knows.
struct Family<'w> {
    claims: SlotRanges,
    ids: BTreeSet<&'w NodeId>,
}

impl<'w> Family<'w> {
    fn of(roster: &Roster<'w>, island: &[usize]) -> Self {
        let mut family = Self {
            claims: SlotRanges::default(),
            ids: BTreeSet::new(),
        };
        for &i in island {
            let view = roster.nodes[i].view;
            family.claims = family.claims.union(&view.slots);
            family.ids.insert(&view.id);
            for (id, known) in view.known.iter().filter(|(_, k)| !k.is_handshake()) {
                // An empty node's memory of somebody it does not hear threatens nobody and protects nothing.
                if known.link == LinkState::Ok || view.keys > 0 {
                    family.claims = family.claims.union(&known.slots);
                }
                family.ids.insert(id);
            }
        }
        family
    }

    /// Whether joining the two cannot make two clusters fight: epochs settle who owns a slot only among nodes with a
    /// common history. Between strangers the higher epoch would win by accident, and the loser's keys would be gone.
    fn may_meet(&self, other: &Self) -> bool {
        let acquainted = !self.ids.is_disjoint(&other.ids);
        acquainted || self.claims.intersection(&other.claims).is_empty()
    }

    fn admit(&mut self, other: Self) {
        self.claims = self.claims.union(&other.claims);
        self.ids.extend(other.ids);
    }
}

/// Makes every node without slots follow its shard's primary.
pub(crate) fn replicate(roster: &Roster<'_>, waiting: &mut Vec<String>) -> Option<Action> {
    let mut pairs = Vec::new();
    for node in &roster.nodes {
        let name = &node.member.name;
        let idle = node.slots.is_empty() && node.view.slots.is_empty();
        let leaves = node.member.presence == Presence::Terminating || node.member.fenced;
        if !idle || leaves {
            continue;
        }
        let Some(primary) = leader(roster, node.member.shard) else {
            continue;
        };
        let follows = node.view.primary.as_ref();
        if primary.view.id == node.view.id
            || (node.view.role == Role::Replica && follows == Some(&primary.view.id))
        {
            continue;
        }
        // It may hold the last copy of what that primary owned.
        let mut gone = roster.strangers.iter();
        if gone.any(|s| Some(s.id) == follows && !s.slots.is_empty()) {
            continue;
        }
        if node.view.role == Role::Primary && node.view.keys > 0 {
            waiting.push(format!(
                "{name} holds {} keys but owns no slot: it is not made a replica, which would erase them",
                node.view.keys
            ));
        } else if let Some(durable) = &roster.world.durable
            && durable::is_in(durable, node.member)
        {
            // It came back without what it had. The status says so first: else it would count as a copy while it copies.
            waiting.push(format!(
                "{name} leaves the in-sync set before it is made a replica"
            ));
        } else if !knows_as_primary(node, primary) {
            waiting.push(format!(
                "gossip: {name} does not know {} as its primary yet",
                primary.member.name
            ));
        } else {
            pairs.push((node.to_ref(), primary.view.id.clone()));
        }
    }
    (!pairs.is_empty()).then_some(Action::Replicate { pairs })
}

/// Makes a replica that dials an address which its primary has left follow the same primary again.
///
/// After all pods of a shard came back elsewhere, a third node may tell a replica of its primary's new address before
/// the primary itself calls. Redis (7.0 at least) enters that address and goes on dialling the old one, for good: when
/// the primary calls at last, there is nothing new to it. `CLUSTER REPLICATE` of the same id dials at once, and keeps
/// what was replicated. Valkey takes that for done already and does nothing (8.0 and later), but it
/// dials the address when it enters it, whoever told it.
///
/// Late in the order, for a replica that does not obey must not keep anything else from being mended.
pub(crate) fn redial(roster: &Roster<'_>, _waiting: &mut Vec<String>) -> Option<Action> {
    let astray = |node: &Node<'_>| {
        let leaves = node.member.presence == Presence::Terminating || node.member.fenced;
        let mut others = roster.nodes.iter();
        let primary = others.find(|n| Some(&n.view.id) == node.view.primary.as_ref())?;
        let knows = node.hears(primary) && knows_as_primary(node, primary);
        let lost = node.view.dials_in_vain(primary.addr);
        (lost && knows && !leaves && !node.view.loading).then(|| primary.view.id.clone())
    };
    let nodes = roster.nodes.iter();
    let pairs: Vec<_> = nodes
        .filter_map(|node| Some((node.to_ref(), astray(node)?)))
        .collect();
    (!pairs.is_empty()).then_some(Action::Replicate { pairs })
}

/// Whether `node` would accept to follow `primary`: not as long as it takes it for a replica.
fn knows_as_primary(node: &Node<'_>, primary: &Node<'_>) -> bool {
    let account = node.account_of(primary);
    account.is_some_and(|known| known.role == Role::Primary)
}

/// Whom the others of a shard follow: the owner of its slots; in a shard that owns none, its first primary.
fn leader<'r, 'w>(roster: &'r Roster<'w>, shard: u32) -> Option<&'r Node<'w>> {
    match roster.owner(shard) {
        Owner::Node(i) => Some(&roster.nodes[i]),
        Owner::Gone(_) => None,
        Owner::Nobody if roster.unclaimed().is_empty() => roster
            .nodes
            .iter()
            .find(|n| n.member.shard == shard && n.view.role == Role::Primary),
        // Its slots are given out first, and who gets them leads.
        Owner::Nobody => None,
    }
}

#[cfg(test)]
mod tests {
    use crate::action::Action;
    use crate::assess::assess;
    use crate::model::Probe;
    use crate::plan::plan;
    use crate::sim::Sim;

    fn formed(shards: u32, replicas: u32) -> Sim {
        let mut sim = Sim::new(shards, replicas);
        assert!(sim.run(10).is_some());
        sim
    }

    #[test]
    fn after_all_pods_moved_everybody_is_introduced_anew() {
        let mut sim = formed(3, 1);
        sim.write(0, 7);
        sim.gossip();
        sim.restart_all(true);
        sim.gossip();
        let Some(Action::Meet { peers, .. }) = plan(&sim.world()).action else {
            panic!("{:?}", plan(&sim.world()));
        };
        assert_eq!(peers.len(), 5);
        assert!(sim.run(10).is_some());
        assert_eq!(assess(&sim.world()).shards[0].keys, 7);
    }

    #[test]
    fn two_clusters_that_own_the_same_slots_are_kept_apart() {
        let mut world = formed(2, 0).world();
        // The second shard's place answers from another cluster, in which it owns everything.
        let mut other = Sim::new(1, 3);
        assert!(other.run(10).is_some());
        let stray = other.world().members.remove(0);
        world.members[1].probe = stray.probe;
        let Probe::Answered(view) = &mut world.members[1].probe else {
            panic!();
        };
        // Ids of the two simulations are the same; these are strangers.
        view.id = crate::model::NodeId::parse(&"f".repeat(40)).unwrap();
        view.known.clear();
        let planned = plan(&world);
        assert_eq!(planned.action, None);
        assert!(
            planned.waiting.iter().any(|w| w.contains("kept apart")),
            "{planned:?}"
        );
    }

    #[test]
    fn a_node_with_keys_and_no_slot_is_not_erased() {
        let mut sim = formed(1, 1);
        sim.replace(0, 1, false);
        let world = loop {
            let world = sim.world();
            match plan(&world).action {
                Some(Action::Replicate { .. }) => break world,
                Some(action) => drop(sim.apply(&action)),
                None => {}
            }
            sim.gossip();
        };
        let mut burdened = world;
        let Probe::Answered(view) = &mut burdened.members[1].probe else {
            panic!();
        };
        view.keys = 5;
        let planned = plan(&burdened);
        assert!(!matches!(planned.action, Some(Action::Replicate { .. })));
        assert!(
            planned.waiting[0].contains("holds 5 keys but owns no slot"),
            "{planned:?}"
        );
    }

    /// The first replica and its primary came back elsewhere, and a third node was quicker to tell of that than the
    /// primary itself.
    fn misled() -> Sim {
        let mut sim = formed(3, 1);
        sim.write(0, 7);
        sim.gossip();
        sim.delete(0, 0);
        sim.delete(0, 1);
        sim.start(0, 0, true);
        sim.start(0, 1, true);
        for _ in 0..5 {
            sim.gossip();
        }
        sim
    }

    #[test]
    fn a_replica_that_dials_where_its_primary_was_is_sent_to_where_it_is() {
        let mut sim = misled();
        let world = sim.world();
        let health = assess(&world);
        let replica = "quickstart-shard-0-1";
        let problems: Vec<_> = health.problems().collect();
        assert!(health.joined && problems.len() == 1, "{problems:?}");
        let said = format!("{replica} has no link to quickstart-shard-0-0: it looks for it at 10.");
        assert!(problems[0].starts_with(&said), "{problems:?}");

        let Some(Action::Replicate { pairs }) = plan(&world).action else {
            panic!("{:?}", plan(&world));
        };
        let primary = health.shards[0].primary.as_ref().unwrap();
        assert_eq!(pairs.len(), 1);
        assert_eq!((&*pairs[0].0.name, &pairs[0].1), (replica, &primary.id));
        sim.apply(&Action::Replicate { pairs });
        sim.gossip();
        assert!(assess(&sim.world()).is_healthy());
        assert_eq!(plan(&sim.world()).action, None);
    }

    #[test]
    fn nobody_is_sent_anew_whom_that_would_not_help() {
        type Change = fn(&mut crate::NodeView, &crate::NodeId);
        let changes: [Change; 5] = [
            |view, _| view.link_up = true,
            |view, _| view.loading = true,
            |view, _| view.standing.dials = None,
            // Its primary has another family of addresses besides.
            |view, _| view.standing.dials = Some(("fd00::1".parse().unwrap(), 6379)),
            // It does not know better yet.
            |view, id| view.known.get_mut(id).unwrap().addr = view.standing.dials,
        ];
        for (at, change) in changes.iter().enumerate() {
            let mut world = misled().world();
            let mut members = world.members.iter_mut();
            let replica = members.find(|m| (m.shard, m.ordinal) == (0, 1)).unwrap();
            let Probe::Answered(view) = &mut replica.probe else {
                panic!();
            };
            let primary = view.primary.clone().unwrap();
            change(view, &primary);
            let planned = plan(&world).action;
            assert!(
                !matches!(planned, Some(Action::Replicate { .. })),
                "{at}: {planned:?}"
            );
        }
    }

    #[test]
    fn a_replica_of_another_shard_comes_home() {
        let mut sim = formed(2, 1);
        let world = sim.world();
        let id = |s: u32, o: u32| {
            let here = |m: &&crate::model::Member| (m.shard, m.ordinal) == (s, o);
            let member = world.members.iter().find(here).unwrap();
            (member.view().unwrap().id.clone(), member.addr.unwrap())
        };
        let astray = crate::action::NodeRef {
            id: id(0, 1).0,
            name: "astray".to_owned(),
            addr: id(0, 1).1,
        };
        let pairs = vec![(astray.clone(), id(1, 0).0)];
        assert!(sim.apply(&Action::Replicate { pairs }).is_empty());
        sim.gossip();
        let Some(Action::Replicate { pairs }) = plan(&sim.world()).action else {
            panic!("{:?}", plan(&sim.world()));
        };
        assert_eq!(pairs[0].0.id, astray.id);
        assert_eq!(pairs[0].1, id(0, 0).0);
    }
}
