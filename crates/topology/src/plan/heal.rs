//! Brings back slots that nobody can serve any more. The keys in them are lost already; here the cluster stops
//! mourning them.

use super::placement;
use crate::action::Action;
use crate::roster::{Owner, Roster, Stranger};
use crate::slots::SlotRanges;

/// Makes everyone forget a primary that is gone with all its replicas, which frees its slots for [`assign`].
///
/// That it is gone for good is certain only when every place of its shard answers as somebody else: a place that is
/// silent may still hold the data on its volume.
pub(crate) fn abandon(roster: &Roster<'_>, waiting: &mut Vec<String>) -> Option<Action> {
    // Where no majority is left to declare anybody dead, silence must do.
    let can_declare = roster.nodes.iter().any(|n| roster.hears_majority(n));
    let silence_counts = !can_declare || roster.everybody_answered();
    let owners = roster.strangers.iter().filter(|s| !s.slots.is_empty());
    for lost in owners {
        let heirs = roster
            .nodes
            .iter()
            .any(|n| n.view.primary.as_ref() == Some(lost.id));
        let Some(shard) = lost.shard.filter(|_| !heirs) else {
            continue;
        };
        if roster.all_answered(shard)
            && lost.is_dead(silence_counts)
            && !has_live_replica(roster, lost)
        {
            return super::forget::everywhere(roster, vec![lost]);
        }
        waiting.push(match lost.member.filter(|member| member.fenced) {
            Some(member) => format!(
                "slots {} are not served while {} is fenced: the shard has no replica that could take over",
                lost.slots, member.name
            ),
            None => format!(
                "shard {shard} has lost node {}, which owns slots {}: waiting for it, or for certainty that it is gone",
                lost.id, lost.slots
            ),
        });
    }
    None
}

fn has_live_replica(roster: &Roster<'_>, lost: &Stranger<'_>) -> bool {
    let mut others = roster.strangers.iter();
    others.any(|other| other.follows(lost.id) && !other.is_doubted_by_all())
}

/// Gives slots that nobody claims, in any view, to the primary of the shard whose share they are.
///
/// A silent node might claim them still. So all of the shard must answer, and whoever is silent elsewhere must be of a
/// shard whose slots have a known owner, which it cannot be the unknown owner of other slots beside.
pub(crate) fn assign(roster: &Roster<'_>, waiting: &mut Vec<String>) -> Option<Action> {
    let unclaimed = roster.unclaimed();
    if unclaimed.is_empty() {
        return None;
    }
    let unplaced = roster
        .silent()
        .find(|m| roster.owner(m.shard) == Owner::Nobody);
    let epochs = roster.nodes.iter().map(|n| n.view.current_epoch);
    let newest = epochs.max().unwrap_or(0);
    let mut assignments = Vec::new();
    let shards = roster.world.shards;
    for (shard, primary) in (0..shards).zip(placement::primaries(roster)) {
        let gap = SlotRanges::share(shard, shards).intersection(&unclaimed);
        if gap.is_empty() {
            continue;
        }
        match primary {
            Some(primary) if roster.all_answered(shard) && unplaced.is_none() => {
                let epoch = newest + 1 + u64::from(shard);
                assignments.push((primary.to_ref(), gap, epoch));
            }
            _ => waiting.push(format!(
                "slots {gap} belong to nobody: they go to shard {shard} once it has a primary and {} answers",
                unplaced.map_or("all of it", |member| member.name.as_str())
            )),
        }
    }
    (!assignments.is_empty()).then_some(Action::AssignSlots { assignments })
}

#[cfg(test)]
mod tests {
    use crate::action::Action;
    use crate::assess::assess;
    use crate::plan::plan;
    use crate::sim::Sim;

    fn formed(shards: u32, replicas: u32) -> Sim {
        let mut sim = Sim::new(shards, replicas);
        assert!(sim.run(10).is_some());
        sim
    }

    #[test]
    fn a_shard_lost_with_all_copies_is_given_its_slots_again() {
        for shards in [2, 3] {
            let mut sim = formed(shards, 0);
            sim.replace(1, 0, false);
            let mut steps = Vec::new();
            for _ in 0..8 {
                sim.gossip();
                if let Some(action) = plan(&sim.world()).action {
                    steps.push(match &action {
                        Action::Meet { .. } => "meet",
                        Action::Forget { .. } => "forget",
                        Action::AssignSlots { .. } => "assign",
                        other => panic!("{other:?}"),
                    });
                    assert_eq!(sim.apply(&action), Vec::<String>::new());
                }
            }
            assert_eq!(steps, ["meet", "forget", "assign"]);
            assert!(assess(&sim.world()).is_healthy());
        }
    }

    #[test]
    fn a_volume_that_may_come_back_is_waited_for() {
        let mut sim = formed(3, 0);
        sim.delete(1, 0);
        sim.gossip();
        let planned = plan(&sim.world());
        assert_eq!(planned.action, None);
        assert!(
            planned.waiting[0].starts_with("shard 1 has lost node"),
            "{planned:?}"
        );
        sim.start(1, 0, true);
        assert!(sim.run(5).is_some());
    }

    #[test]
    fn what_a_fenced_server_holds_is_not_given_up() {
        let mut sim = formed(3, 0);
        assert!(sim.write(1, 7));
        sim.fence(1, 0);
        sim.kill(1, 0);
        for _ in 0..3 {
            sim.gossip();
            let planned = plan(&sim.world());
            assert_eq!(planned.action, None);
            let told = "slots 5461-10921 are not served while quickstart-shard-1-0 is fenced";
            assert!(planned.waiting[0].starts_with(told), "{planned:?}");
        }
        sim.lift(1, 0);
        sim.start(1, 0, true);
        assert!(sim.run(5).is_some());
        assert_eq!(assess(&sim.world()).shards[1].keys, 7);
    }

    #[test]
    fn slots_are_not_given_out_while_a_silent_node_may_own_them() {
        let mut sim = Sim::new(3, 0);
        // A birth that was cut after the second shard had been given its slots.
        let Some(Action::AssignSlots { mut assignments }) = plan(&sim.world()).action else {
            panic!();
        };
        assignments.remove(2);
        sim.apply(&Action::AssignSlots { assignments });
        sim.set_visible(1, 0, false);
        for _ in 0..3 {
            if let Some(action) = plan(&sim.world()).action {
                assert!(matches!(action, Action::Meet { .. }), "{action:?}");
                sim.apply(&action);
            }
            sim.gossip();
        }
        sim.set_visible(1, 0, true);
        assert!(sim.run(10).is_some());
    }
}
