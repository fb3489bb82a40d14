//! Gives primaryship back, until machines share the primaries as evenly as their replicas allow, and no zone holds a
//! majority of them.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::placement::machine;
use super::zones::{self, Move};
use super::{durable, handover};
use crate::action::Action;
use crate::assess::assess;
use crate::model::{Presence, Role};
use crate::roster::{Node, Roster};

/// Hands one primary over, without loss, from a machine with many to one with at least two fewer; where there is none
/// such, from a zone that holds too many, to a machine with fewer.
///
/// Failovers leave primaries where replicas happened to be. A machine that comes to hold so many that the rest is no
/// majority takes every later election with it when it goes. Nothing is handed over before the cluster is healthy, so
/// that there is one hand-over at a time, each after the former primary follows; each brings the two machines nearer to
/// each other, or leaves machines as they share and brings zones nearer, so this ends.
pub(crate) fn primaries(roster: &Roster<'_>, _waiting: &mut Vec<String>) -> Option<Action> {
    let owners = || roster.nodes.iter().filter(|n| !n.slots.is_empty());
    let mut load: BTreeMap<&str, usize> = BTreeMap::new();
    for node in owners() {
        *load.entry(machine(node)).or_default() += 1;
    }
    let load_of = |node: &Node<'_>| load.get(machine(node)).copied().unwrap_or(0);
    let relief = |it: &Move<'_, '_>| load_of(it.primary).saturating_sub(load_of(it.replica));
    let pairs = roster.nodes.iter().filter_map(|replica| {
        let primary = primary_of(roster, replica)?;
        Some(Move { replica, primary })
    });
    let moves: Vec<_> = pairs.filter(|it| relief(it) >= 1).collect();
    // From the fullest machine first, to the emptiest; then in the order of members.
    let of_machines = moves
        .iter()
        .enumerate()
        .filter(|(_, it)| relief(it) >= 2)
        .max_by_key(|(at, it)| (load_of(it.primary), relief(it), Reverse(*at)))
        .map(|(_, it)| it.replica);
    let replica = of_machines.or_else(|| {
        let load = zones::load(roster, owners())?;
        zones::relieve(&load, &moves)
    })?;
    // Asked last: it is the dearest question, and in most passes there is nothing to move.
    assess(roster.world).is_healthy().then(|| Action::Failover {
        replica: replica.to_ref(),
    })
}

/// The primary that `replica` could relieve within a moment: both stay, and serve as far as Kubernetes can tell.
fn primary_of<'r, 'w>(roster: &'r Roster<'w>, replica: &Node<'_>) -> Option<&'r Node<'w>> {
    let steady = |n: &Node<'_>| n.member.presence == Presence::Running && n.member.vouched;
    if replica.view.role != Role::Replica || !steady(replica) {
        return None;
    }
    if !durable::may_lead(roster, replica.member) {
        return None;
    }
    let mut nodes = roster.nodes.iter();
    let primary = nodes.find(|n| Some(&n.view.id) == replica.view.primary.as_ref())?;
    let ready = || handover::is_ready(roster, primary, replica);
    (!primary.slots.is_empty() && steady(primary) && ready()).then_some(primary)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Probe, World};
    use crate::plan::plan;
    use crate::sim::Sim;

    fn formed(shards: u32, replicas: u32) -> Sim {
        let mut sim = Sim::new(shards, replicas);
        assert!(sim.run(10).is_some());
        sim
    }

    /// The machine of each shard's primary.
    fn machines(world: &World) -> Vec<&str> {
        let mut found: Vec<_> = world
            .members
            .iter()
            .filter(|m| m.view().is_some_and(|view| !view.slots.is_empty()))
            .map(|m| (m.shard, m.machine.as_deref().unwrap()))
            .collect();
        found.sort_unstable();
        found.into_iter().map(|(_, machine)| machine).collect()
    }

    #[test]
    fn a_primary_goes_home_when_its_machine_is_back() {
        let mut sim = formed(3, 1);
        let before = sim.world();
        sim.kill(0, 0);
        sim.gossip();
        let forced = plan(&sim.world()).action.unwrap();
        sim.apply(&forced);
        sim.gossip();
        assert_ne!(machines(&sim.world()), machines(&before));

        // Not before the former primary follows.
        sim.start(0, 0, true);
        assert!(!matches!(
            plan(&sim.world()).action,
            Some(Action::Failover { .. })
        ));
        assert!(sim.run(10).is_some());
        let Some(Action::Failover { replica }) = plan(&sim.world()).action else {
            panic!("{:?}", plan(&sim.world()));
        };
        assert_eq!(replica.name, "quickstart-shard-0-0");
        sim.apply(&Action::Failover { replica });
        sim.gossip();
        assert!(sim.run(10).is_some());
        assert_eq!(machines(&sim.world()), machines(&before));
        assert_eq!(plan(&sim.world()).action, None);
    }

    #[test]
    fn a_move_that_only_swaps_the_fuller_machine_is_not_made() {
        let mut world = formed(3, 1).world();
        // Two machines and three primaries: one has to have two.
        for member in &mut world.members {
            let left = (member.shard + member.ordinal) % 2 == 0;
            member.machine = Some(if left { "left" } else { "right" }.to_owned());
        }
        assert_eq!(machines(&world), ["left", "right", "left"]);
        assert_eq!(plan(&world).action, None);
    }

    #[test]
    fn who_has_not_caught_up_gets_nothing() {
        let mut world = formed(3, 1).world();
        for member in &mut world.members {
            let machine = if member.ordinal == 0 { "full" } else { "empty" };
            member.machine = Some(machine.to_owned());
        }
        let Some(Action::Failover { replica }) = plan(&world).action else {
            panic!("{:?}", plan(&world));
        };
        // As after a partition: links are up by all accounts, but what is written does not arrive.
        let replicas = world.members.iter_mut().filter(|m| m.ordinal == 1);
        for member in replicas {
            let Probe::Answered(view) = &mut member.probe else {
                panic!();
            };
            view.standing.unheard_seconds = Some(3);
            view.offset -= u64::from(member.name == replica.name);
        }
        assert!(assess(&world).is_healthy());
        let Some(Action::Failover { replica: other }) = plan(&world).action else {
            panic!("{:?}", plan(&world));
        };
        assert_ne!(other.name, replica.name);
        for member in world.members.iter_mut().filter(|m| m.ordinal == 0) {
            let Probe::Answered(view) = &mut member.probe else {
                panic!();
            };
            view.offset += 1;
        }
        assert_eq!(plan(&world).action, None);
    }

    #[test]
    fn who_is_about_to_go_gets_nothing() {
        let mut world = formed(3, 1).world();
        for member in &mut world.members {
            let machine = if member.ordinal == 0 { "full" } else { "empty" };
            member.machine = Some(machine.to_owned());
        }
        assert!(plan(&world).action.is_some());
        for member in &mut world.members {
            member.vouched = member.ordinal == 0;
        }
        assert_eq!(plan(&world).action, None);
    }
}
