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
        waiting.push(format!(
            "shard {shard} has lost node {}, which owns slots {}: waiting for it, or for certainty that it is gone",
            lost.id, lost.slots
        ));
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
