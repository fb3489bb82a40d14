//! Promotes a replica whose primary is gone: by votes where there are any, else by decree, and only behind a fence.

use std::cmp::Reverse;

use super::durable;
use crate::action::Action;
use crate::model::{Presence, Role};
use crate::roster::{Node, Roster, Stranger};

/// The annotation by which a user accepts that acknowledged writes are lost. Its value is the pod to promote.
pub const ALLOW_UNSAFE_PROMOTION: &str = "cachecluster.io/allow-unsafe-promotion";

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
/// The fence: [`promotable`] has made sure that the old primary answers neither us nor any node that answers us. That
/// may also be so because we, and they, are the ones cut off. So nothing is done while the silent ones could go on without
/// us, as far as Kubernetes can tell ([`Member::vouched`](crate::Member::vouched)): as a majority of the primaries, or
/// because most of the agents are among them.
pub(crate) fn takeover(roster: &Roster<'_>, waiting: &mut Vec<String>) -> Option<Action> {
    let mut unheard = Vec::new();
    let replica =
        promotable(roster, &mut unheard).find(|replica| !roster.hears_majority(replica))?;
    if roster.majority_may_be_elsewhere() {
        waiting.push(format!(
            "{} is not promoted: most primaries, or most pods, are silent, but Kubernetes says that they serve; \
             this operator may be the one that is cut off",
            replica.member.name
        ));
        return None;
    }
    Some(replica).map(|replica| Action::Takeover {
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
        let Some(choice) = choose(roster, stranger) else {
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
            continue;
        }
        if roster.may_load(stranger) {
            waiting.push(format!(
                "{who} is loading its data set: no replica is promoted"
            ));
            continue;
        }
        let best = match choice {
            Choice::Allowed(replica) => {
                promotable.push(replica);
                continue;
            }
            Choice::Best(replica) => replica,
            Choice::Unsafe(why) => {
                waiting.push(why);
                continue;
            }
        };
        let name = &best.member.name;
        let doubt = if never_synced(best) {
            Some(format!(
                "{name} was never in step with it: waiting for a member that has the data"
            ))
        } else if best.view.is_late() {
            Some(format!(
                "{name} came from its disk without having heard it: it may come back from its own with more"
            ))
        } else {
            loader(roster, stranger)
                .filter(|_| was_behind(best))
                .map(|loader| {
                    format!(
                        "{name} had lost touch with it, and {loader} is loading: that may have more"
                    )
                })
        };
        match doubt.filter(|_| !is_all_there_is(roster, stranger)) {
            Some(doubt) => waiting.push(format!("{who} is gone, and {doubt}")),
            None => promotable.push(best),
        }
    }
    promotable.into_iter()
}

/// A member of the shard that loads its data set; the primary that is gone is none.
fn loader<'w>(roster: &Roster<'w>, gone: &Stranger<'w>) -> Option<&'w str> {
    let primary = gone.member.map(|member| member.name.as_str());
    let mut members = roster.world.members.iter();
    let loader = members.find(|member| {
        let sibling = Some(member.shard) == gone.shard && Some(member.name.as_str()) != primary;
        sibling && member.is_loading()
    });
    loader.map(|member| member.name.as_str())
}

/// Whether a replica had probably not heard its primary for some time when that one was lost: losses are noticed within
/// seconds.
fn was_behind(replica: &Node<'_>) -> bool {
    const NOTICED_SECONDS: u64 = 10;
    let unheard = replica.view.standing.unheard_seconds;
    unheard.is_none_or(|seconds| seconds > NOTICED_SECONDS)
}

/// Why shards that have lost their primary are left without one although they have replicas, in sentences.
pub(crate) fn refused(roster: &Roster<'_>) -> Vec<String> {
    let gone = roster.strangers.iter().filter(|stranger| {
        !stranger.slots.is_empty() && stranger.is_doubted_by_all() && !roster.may_load(stranger)
    });
    gone.filter_map(|stranger| match choose(roster, stranger)? {
        Choice::Unsafe(why) => Some(why),
        Choice::Best(_) | Choice::Allowed(_) => None,
    })
    .collect()
}

/// Who shall follow a primary that is gone.
enum Choice<'r, 'w> {
    /// The replica that lost least, and in a durable cluster lost nothing.
    Best(&'r Node<'w>),
    /// The replica that the user names, whatever it lost.
    Allowed(&'r Node<'w>),
    /// Nobody: each might lack an acknowledged write.
    Unsafe(String),
}

/// `None` when there is no replica to choose.
fn choose<'r, 'w>(roster: &'r Roster<'w>, gone: &Stranger<'w>) -> Option<Choice<'r, 'w>> {
    let best = best_replica(roster, gone, |_| true)?;
    let Some(durable) = &roster.world.durable else {
        return Some(Choice::Best(best));
    };
    let none = Vec::new();
    let shard = gone.shard.unwrap_or(best.member.shard);
    let set = durable.in_sync.get(&shard).unwrap_or(&none);
    let follows = |n: &Node<'_>| n.view.primary.as_ref() == Some(gone.id) && !n.view.loading;
    let answers = |name: &String| {
        let mut nodes = roster.nodes.iter();
        nodes.any(|n| n.member.name == *name && follows(n))
    };
    // A write is acknowledged when one replica of the set reads it: only when all of them are compared is the best one
    // known to have it. The primary itself is the one that is not there to be compared.
    let primary = gone.member.map(|member| &member.name).or(set.first());
    let missing: Vec<&str> = set
        .iter()
        .filter(|name| Some(*name) != primary && !answers(name))
        .map(String::as_str)
        .collect();
    // Who was started again without hearing the primary lacks what that one acknowledged before it noticed.
    let leads = |n: &Node<'_>| durable::may_lead(roster, n.member);
    let inside = best_replica(roster, gone, |n| {
        leads(n) && !n.view.is_unheard_since_start()
    });
    // One that attached after the operator last looked may have let the primary acknowledge what nobody in the set has read.
    // It may also be ahead in a history of its own.
    let ahead = best_replica(roster, gone, |n| {
        inside.is_some_and(|inside| n.view.offset > inside.view.offset)
    });
    if let (Some(replica), true, None) = (inside, missing.is_empty(), ahead) {
        return Some(Choice::Best(replica));
    }
    let allowed = |n: &Node<'_>| Some(&n.member.name) == durable.allowed.as_ref();
    if let Some(replica) = best_replica(roster, gone, allowed) {
        return Some(Choice::Allowed(replica));
    }
    let name = &best.member.name;
    let why = match inside {
        _ if set.is_empty() => "it is not known who holds every acknowledged write".to_owned(),
        None if leads(best) => {
            "it has not heard the primary since it was started, and may lack acknowledged writes"
                .to_owned()
        }
        None => format!(
            "waiting for one that holds every acknowledged write: {}",
            set.join(", ")
        ),
        Some(inside) if missing.is_empty() => format!(
            "it is ahead of {}, but may lack acknowledged writes that {} holds",
            inside.member.name, inside.member.name
        ),
        Some(_) => format!(
            "waiting for {}, which may hold acknowledged writes that it lacks",
            missing.join(", ")
        ),
    };
    Some(Choice::Unsafe(format!(
        "shard {shard} has lost its primary, and {name} is not promoted: {why}; to accept that writes are lost, annotate \
         the CacheCluster with {ALLOW_UNSAFE_PROMOTION}={name}"
    )))
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
fn best_replica<'r, 'w>(
    roster: &'r Roster<'w>,
    gone: &Stranger<'w>,
    suits: impl Fn(&Node<'_>) -> bool,
) -> Option<&'r Node<'w>> {
    let nodes = roster.nodes.iter();
    let replicas = nodes.filter(|n| {
        n.view.role == Role::Replica
            && n.view.primary.as_ref() == Some(gone.id)
            && !n.view.loading
            // About to stop, and not to come back soon.
            && !n.member.fenced
            && suits(n)
    });
    replicas.min_by_key(|n| {
        let leaving = n.member.presence == Presence::Terminating;
        (Reverse(n.view.offset), leaving, n.member.ordinal)
    })
}

#[cfg(test)]
#[path = "failover/tests.rs"]
mod tests;
