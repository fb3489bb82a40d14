//! Removes ghosts: ids that nodes remember and no pod has any more.

use crate::action::Action;
use crate::model::NodeId;
use crate::roster::{Roster, Stranger};

/// Makes everyone forget ids that are dead, own nothing, and cannot be those of a member that is silent just now.
///
/// A ghost is no harm to the data, but each one is counted, gossiped about and shown by every node for ever.
pub(crate) fn ghosts(roster: &Roster<'_>, waiting: &mut Vec<String>) -> Option<Action> {
    let everybody_answered = roster.everybody_answered();
    let mut gone = Vec::new();
    for ghost in roster.strangers.iter().filter(|s| s.slots.is_empty()) {
        // Its place is known to be somebody else's now, even though others are silent.
        let replaced =
            ghost.member.is_none() && ghost.shard.is_some_and(|shard| roster.all_answered(shard));
        if !everybody_answered && !replaced {
            continue;
        }
        // A replica refuses to forget its own primary, and needs another one first.
        let mut nodes = roster.nodes.iter();
        let followed = nodes.any(|n| n.view.primary.as_ref() == Some(ghost.id));
        if ghost.is_dead(everybody_answered) && !followed {
            gone.push(ghost);
        } else {
            waiting.push(format!(
                "node {} is nobody's: it is forgotten once all nodes take it for dead and none follows it",
                ghost.id
            ));
        }
    }
    everywhere(roster, gone)
}

/// Makes every node that knows one of them forget them all; one that never knew another of them has nothing to do.
pub(crate) fn everywhere(roster: &Roster<'_>, gone: Vec<&Stranger<'_>>) -> Option<Action> {
    let gone: Vec<NodeId> = gone.into_iter().map(|ghost| ghost.id.clone()).collect();
    let nodes = roster.nodes.iter();
    let everyone = nodes
        .filter(|n| gone.iter().any(|id| n.view.known.contains_key(id)))
        .map(|n| n.to_ref())
        .collect();
    (!gone.is_empty()).then_some(Action::Forget { gone, everyone })
}

#[cfg(test)]
mod tests {
    use crate::action::Action;
    use crate::plan::plan;
    use crate::sim::Sim;

    #[test]
    fn a_removed_replica_is_forgotten_by_everybody_once_its_pod_is_gone() {
        let mut sim = Sim::new(3, 1);
        assert!(sim.run(10).is_some());
        let gone = sim.world().members[5].view().unwrap().id.clone();
        let place = (sim.world().members[5].shard, sim.world().members[5].ordinal);
        assert_eq!(place, (2, 1));
        sim.scale_replicas(0);
        sim.gossip();
        assert_eq!(plan(&sim.world()).action, None, "its pod still runs");
        for shard in 0..3 {
            sim.delete(shard, 1);
        }
        sim.gossip();
        let Some(Action::Forget {
            gone: ids,
            everyone,
        }) = plan(&sim.world()).action
        else {
            panic!("{:?}", plan(&sim.world()));
        };
        assert!(ids.contains(&gone) && ids.len() == 3);
        assert_eq!(everyone.len(), 3);
    }

    #[test]
    fn an_id_that_a_silent_place_may_bring_back_is_kept() {
        let mut sim = Sim::new(3, 1);
        assert!(sim.run(10).is_some());
        sim.delete(2, 1);
        sim.gossip();
        assert_eq!(plan(&sim.world()).action, None);
    }
}
