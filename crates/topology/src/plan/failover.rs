//! Promotes a replica whose primary is gone: by votes where there are any, else by decree, and only behind a fence.

use std::cmp::Reverse;

use crate::action::Action;
use crate::model::{Presence, Role};
use crate::roster::{Node, Roster, Stranger};

/// Asks the primaries' votes for the best replica of a primary that owns slots and is gone.
pub(crate) fn force(roster: &Roster<'_>, waiting: &mut Vec<String>) -> Option<Action> {
    promotable(roster, waiting)
        .find(|replica| roster.hears_majority(replica))
        .map(|replica| Action::ForceFailover {
            replica: replica.to_ref(),
        })
}

/// Promotes without votes, where no majority of primaries can be heard.
///
/// The fence: [`promotable`] has made sure that the old primary answers neither us nor any node that answers us, and
/// its pod is gone or as silent as it. Clients reach nodes as we do, so nobody is left who writes to it.
pub(crate) fn takeover(roster: &Roster<'_>, _: &mut Vec<String>) -> Option<Action> {
    promotable(roster, &mut Vec::new())
        .find(|replica| !roster.hears_majority(replica))
        .map(|replica| Action::Takeover {
            replica: replica.to_ref(),
        })
}

/// The best replica of each primary that is gone, in the order of shards.
fn promotable<'r, 'w>(
    roster: &'r Roster<'w>,
    waiting: &mut Vec<String>,
) -> impl Iterator<Item = &'r Node<'w>> {
    let mut gone: Vec<&Stranger<'w>> = roster.strangers.iter().collect();
    gone.retain(|stranger| !stranger.slots.is_empty());
    gone.sort_by_key(|stranger| (stranger.shard, stranger.id));
    let mut promotable = Vec::new();
    for stranger in gone {
        let Some(best) = best_replica(roster, stranger) else {
            continue;
        };
        let who = stranger.member.map_or_else(
            || format!("node {}", stranger.id),
            |member| member.name.clone(),
        );
        if !stranger.is_doubted_by_all() {
            waiting.push(format!(
                "{who} is silent, but other nodes still hear it: no replica is promoted"
            ));
        } else if stranger.member.is_some_and(|member| member.is_loading()) {
            waiting.push(format!(
                "{who} is loading its data set: no replica is promoted"
            ));
        } else if never_synced(best) && !is_all_there_is(roster, stranger) {
            waiting.push(format!(
                "{who} is gone, and {} was never in step with it: waiting for a member that has the data",
                best.member.name
            ));
        } else {
            promotable.push(best);
        }
    }
    promotable.into_iter()
}

/// Whether a replica has yet to receive anything: made a replica a moment ago, say. An election held by the cluster
/// itself would not take it, but one that we ask for does.
fn never_synced(replica: &Node<'_>) -> bool {
    let view = replica.view;
    view.offset <= 1 && view.keys == 0 && !view.link_up
}

/// Whether no silent place is left that may hold what the gone primary held.
fn is_all_there_is(roster: &Roster<'_>, gone: &Stranger<'_>) -> bool {
    roster.everybody_answered() || gone.shard.is_some_and(|shard| roster.all_answered(shard))
}

/// The replica that lost least: the highest offset; among equals one that stays, then the lowest ordinal.
fn best_replica<'r, 'w>(roster: &'r Roster<'w>, gone: &Stranger<'w>) -> Option<&'r Node<'w>> {
    let nodes = roster.nodes.iter();
    let replicas = nodes.filter(|n| {
        n.view.role == Role::Replica && n.view.primary.as_ref() == Some(gone.id) && !n.view.loading
    });
    replicas.min_by_key(|n| {
        let leaving = n.member.presence == Presence::Terminating;
        (Reverse(n.view.offset), leaving, n.member.ordinal)
    })
}
