//! A machine with so many primaries that those elsewhere are no majority, where hand-overs cannot help any more because
//! pods are too few elsewhere: after a drain, say, since Kubernetes moves nothing back. A replica that is moved can.

use std::collections::BTreeMap;

use super::placement::machine;
use crate::assess::assess;
use crate::model::{Presence, Role, World};
use crate::roster::{Node, Roster};

/// With fewer primaries one is always most of them.
const FEWEST: usize = 3;

/// Who crowds where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Crowd {
    /// The machine whose loss would leave no majority of primaries.
    pub machine: String,
    /// How many primaries it holds.
    pub primaries: usize,
    /// How many there are.
    pub of: usize,
    /// By machine: how many of the cluster's pods, and of its primaries, it holds.
    load: BTreeMap<String, Load>,
    /// Replicas of those primaries that can be spared for a moment, in the order of members.
    replicas: Vec<Spare>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Load {
    pods: usize,
    primaries: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Spare {
    pod: String,
    machine: String,
    /// Where the other pods of its shard are.
    others: Vec<String>,
}

/// A replica that had better be elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Relief<'c> {
    /// The replica's pod.
    pub pod: &'c str,
    /// The machine that it is on.
    pub from: &'c str,
    /// A machine on which it could take over from its primary.
    pub to: &'c str,
}

/// The fullest machine of a healthy cluster, if its loss would cost the majority.
#[must_use]
pub fn crowd(world: &World) -> Option<Crowd> {
    let roster = Roster::of(world);
    let mut load: BTreeMap<&str, Load> = BTreeMap::new();
    for node in &roster.nodes {
        let load = load.entry(machine(node)).or_default();
        load.pods += 1;
        load.primaries += usize::from(!node.slots.is_empty());
    }
    let of: usize = load.values().map(|load| load.primaries).sum();
    let (fullest, primaries) = load
        .iter()
        .map(|(machine, load)| (*machine, load.primaries))
        .rev()
        .max_by_key(|(_, primaries)| *primaries)?;
    // Asked last: it is the dearest question.
    if of < FEWEST || primaries * 2 < of || !assess(world).is_healthy() {
        return None;
    }
    let spare = |node: &&Node<'_>| is_spare(&roster, node, fullest);
    let replicas = roster.nodes.iter().filter(spare).map(|node| {
        let others = roster.nodes.iter().filter(|other| {
            other.member.shard == node.member.shard && other.member.name != node.member.name
        });
        Spare {
            pod: node.member.name.clone(),
            machine: machine(node).to_owned(),
            others: others.map(|other| machine(other).to_owned()).collect(),
        }
    });
    Some(Crowd {
        machine: fullest.to_owned(),
        primaries,
        of,
        replicas: replicas.collect(),
        load: load
            .into_iter()
            .map(|(machine, load)| (machine.to_owned(), load))
            .collect(),
    })
}

/// Whether `node` is a replica of a primary on the machine `fullest`, and its shard does without it for a moment. That of a
/// durable cluster needs another one in step, or it would take no writes.
fn is_spare(roster: &Roster<'_>, node: &Node<'_>, fullest: &str) -> bool {
    let steady = node.member.presence == Presence::Running && node.member.vouched;
    if node.view.role != Role::Replica || !steady || node.member.fenced {
        return false;
    }
    let mut nodes = roster.nodes.iter();
    let follows = |n: &&Node<'_>| Some(&n.view.id) == node.view.primary.as_ref();
    let on_fullest = nodes
        .find(follows)
        .is_some_and(|primary| !primary.slots.is_empty() && machine(primary) == fullest);
    let sets = roster.world.durable.as_ref().map(|it| &it.in_sync);
    let set = sets.map(|sets| sets.get(&node.member.shard).map_or(0, Vec::len));
    on_fullest && set.is_none_or(|set| set > 2)
}

impl Crowd {
    /// Which replica to move, if one of the machines `free`, where a pod could be placed, would relieve the crowd: it holds
    /// at least two primaries fewer, none of the shard's pods, and fewer pods than the replica's own machine will then, so
    /// that the scheduler prefers it.
    #[must_use]
    pub fn relief<'c>(&'c self, free: impl Iterator<Item = &'c str> + Clone) -> Option<Relief<'c>> {
        let load = |machine: &str| self.load.get(machine).copied().unwrap_or_default();
        let reliefs = self.replicas.iter().flat_map(|spare| {
            let suits = move |to: &&str| {
                load(to).primaries + 2 <= self.primaries
                    && load(to).pods + 2 <= load(&spare.machine).pods
                    && !spare.others.iter().any(|other| other == to)
            };
            free.clone().filter(suits).map(|to| Relief {
                pod: &spare.pod,
                from: &spare.machine,
                to,
            })
        });
        // From the machine with the most pods to the one with the fewest; then the first in order.
        reliefs.reduce(|best, it| {
            let gain = |relief: &Relief<'_>| load(relief.from).pods - load(relief.to).pods;
            if gain(&it) > gain(&best) { it } else { best }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::Action;
    use crate::model::Durable;
    use crate::plan::plan;
    use crate::sim::Sim;

    /// Three shards of two on the machines `a`, `b` and `c`, and then without `c`.
    fn drained() -> Sim {
        let mut sim = Sim::new(3, 1);
        assert!(sim.run(10).is_some());
        for (shard, machines) in (0..).zip([["a", "b"], ["b", "a"], ["a", "b"]]) {
            for (ordinal, machine) in (0..).zip(machines) {
                sim.put(shard, ordinal, machine, None);
            }
        }
        assert_eq!(plan(&sim.world()).action, None, "hand-overs do not help");
        sim
    }

    #[test]
    fn a_replica_moves_to_the_machine_that_came_back_and_takes_over() {
        let mut sim = drained();
        let crowded = crowd(&sim.world()).unwrap();
        assert_eq!(
            (crowded.machine.as_str(), crowded.primaries, crowded.of),
            ("a", 2, 3)
        );
        assert_eq!(crowded.relief(["a", "b"].into_iter()), None);
        let relief = Relief {
            pod: "quickstart-shard-0-1",
            from: "b",
            to: "c",
        };
        assert_eq!(crowded.relief(["a", "b", "c"].into_iter()), Some(relief));

        sim.put(0, 1, "c", None);
        let Some(Action::Failover { replica }) = plan(&sim.world()).action else {
            panic!("{:?}", plan(&sim.world()));
        };
        assert_eq!(replica.name, relief.pod);
        sim.apply(&Action::Failover { replica });
        sim.gossip();
        assert!(sim.run(10).is_some());
        assert_eq!(crowd(&sim.world()), None);
    }

    #[test]
    fn nothing_moves_while_anything_is_amiss() {
        let mut sim = drained();
        sim.kill(2, 1);
        sim.gossip();
        assert_eq!(crowd(&sim.world()), None);
    }

    #[test]
    fn what_is_alone_or_shares_evenly_is_no_crowd() {
        for shards in [1, 2] {
            let mut sim = Sim::new(shards, 1);
            assert!(sim.run(10).is_some());
            assert_eq!(crowd(&sim.world()), None);
        }
        let mut sim = Sim::new(3, 1);
        assert!(sim.run(10).is_some());
        assert_eq!(crowd(&sim.world()), None);
    }

    #[test]
    fn a_machine_that_would_be_as_full_is_no_relief() {
        let mut sim = drained();
        // As many pods elsewhere as here: the scheduler could put the pod back.
        sim.put(0, 1, "c", None);
        sim.put(1, 1, "c", None);
        let crowded = crowd(&sim.world());
        let relief = crowded.as_ref().and_then(|it| it.relief(["c"].into_iter()));
        assert_eq!(relief, None);
    }

    #[test]
    fn a_durable_shard_keeps_the_only_replica_that_reads_along() {
        let sim = drained();
        let mut world = sim.world();
        let sets = |len: usize| {
            let names = |shard| (0..len).map(move |o| format!("quickstart-shard-{shard}-{o}"));
            (0..3)
                .map(|shard| (shard, names(shard).collect()))
                .collect()
        };
        for (len, moves) in [(2, false), (3, true)] {
            world.durable = Some(Durable {
                in_sync: sets(len),
                ..Durable::default()
            });
            let crowded = crowd(&world).unwrap();
            assert_eq!(crowded.relief(["c"].into_iter()).is_some(), moves);
        }
    }
}
