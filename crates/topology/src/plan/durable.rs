//! The in-sync set of each shard of a durable cluster, and what its primary demands of a write.
//!
//! As in other systems that replicate by a log: a shard's set holds the pods that have every acknowledged write, up to
//! the replication lag, and nobody else is promoted. While the set has a replica, the primary refuses writes that no
//! replica would read (`min-replicas-to-write 1`). The order of steps is what makes this safe:
//!
//! - *Relax*: a replica that fell out leaves the set first. Only when a world comes in that says so, because the status
//!   was written, and when nobody promotes that replica any more, may the primary go on without replicas.
//! - *Tighten*: the primary, and the replica for the day on which it is the primary, demand a replica first. Only when a
//!   world comes in in which they do, the replica joins the set.

use std::collections::BTreeMap;

use crate::action::Action;
use crate::model::{Durable, Member, Presence, Role, Standing};
use crate::roster::{Node, Owner, Roster};

/// How many bytes of the stream a replica that joins may have yet to apply: what arrives while both are asked.
const CATCH_UP: u64 = 1 << 20;

/// Who shall be in each shard's set from now on, its primary first. `None` where the cluster keeps no such sets.
pub(crate) fn in_sync(roster: &Roster<'_>) -> Option<BTreeMap<u32, Vec<String>>> {
    let durable = roster.world.durable.as_ref()?;
    let shards = 0..roster.world.shards;
    let sets = shards.map(|shard| (shard, next(roster, durable, shard)));
    Some(sets.filter(|(_, set)| !set.is_empty()).collect())
}

/// Whether `member` may lead its shard: it is in the set, and stays there.
pub(crate) fn may_lead(roster: &Roster<'_>, member: &Member) -> bool {
    let Some(durable) = &roster.world.durable else {
        return true;
    };
    is_in(durable, member) && next(roster, durable, member.shard).contains(&member.name)
}

/// Whether the status counts `member` among those that have everything.
pub(super) fn is_in(durable: &Durable, member: &Member) -> bool {
    let set = durable.in_sync.get(&member.shard);
    set.is_some_and(|set| set.contains(&member.name))
}

/// Relaxes and tightens: the first shard whose servers demand something else than they should.
pub(crate) fn writes(roster: &Roster<'_>, waiting: &mut Vec<String>) -> Option<Action> {
    let durable = roster.world.durable.as_ref()?;
    (0..roster.world.shards).find_map(|shard| demand(roster, durable, shard, waiting))
}

fn demand(
    roster: &Roster<'_>,
    durable: &Durable,
    shard: u32,
    waiting: &mut Vec<String>,
) -> Option<Action> {
    let primary = trusted_primary(roster, shard)?;
    let next = next(roster, durable, shard);
    let others = || roster.nodes.iter().filter(|n| is_other(n.member, primary));
    let inside = |node: &&Node<'_>| is_in(durable, node.member) && next.contains(&node.member.name);
    let ready = |node: &&Node<'_>| has_caught_up(primary, node);

    let replicas: Vec<_> = others().filter(|n| inside(n) || ready(n)).collect();
    if !replicas.is_empty() {
        let lax = |node: &&Node<'_>| node.view.standing.required != Some(1);
        let nodes = replicas.iter().copied().chain([primary]).filter(lax);
        let nodes: Vec<_> = nodes.map(Node::to_ref).collect();
        return (!nodes.is_empty()).then_some(Action::RequireReplicas { nodes, least: 1 });
    }
    let lagging = others().filter(|n| n.view.is_in_step() && !ready(n));
    waiting.extend(lagging.map(|node| {
        let (name, leader) = (&node.member.name, &primary.member.name);
        format!("{name} catches up with {leader}")
    }));
    let confirmed = durable.in_sync.get(&shard);
    let alone = confirmed.is_some_and(|set| *set == [primary.member.name.clone()]);
    if !alone || primary.view.standing.required == Some(0) {
        return None;
    }
    let mut members = roster.members.iter().filter(|m| is_other(m, primary));
    if let Some(member) = members.find(|member| may_be_promoted(durable, member)) {
        waiting.push(format!(
            "{} takes no writes until {} is in step with it, or has been out of step for so long that nobody promotes it",
            primary.member.name, member.name
        ));
        return None;
    }
    Some(Action::RequireReplicas {
        nodes: vec![primary.to_ref()],
        least: 0,
    })
}

/// Whether votes or agents, who do not know the set, might still promote it.
fn may_be_promoted(durable: &Durable, member: &Member) -> bool {
    match member.presence {
        Presence::Absent | Presence::Starting => false,
        Presence::Running | Presence::Terminating => !durable.expired.contains(&member.name),
    }
}

fn next(roster: &Roster<'_>, durable: &Durable, shard: u32) -> Vec<String> {
    let now = durable.in_sync.get(&shard).cloned().unwrap_or_default();
    // Without a primary that can be believed nobody leaves and nobody joins.
    let Some(primary) = trusted_primary(roster, shard) else {
        return now;
    };
    let stays = |member: &Member| {
        is_other(member, primary)
            && match now.contains(&member.name) {
                true => keeps_up(roster, primary, member),
                false => joins(roster, primary, member),
            }
    };
    let replicas = roster.members.iter().filter(|member| stays(member));
    let names = replicas.map(|member| member.name.clone());
    std::iter::once(primary.member.name.clone())
        .chain(names)
        .collect()
}

/// The primary of the shard, if what it says can be the cluster's word: one that is cut off together with us must not be
/// told to go on without its replicas, which may have been promoted by the others.
fn trusted_primary<'r, 'w>(roster: &'r Roster<'w>, shard: u32) -> Option<&'r Node<'w>> {
    let Owner::Node(i) = roster.owner(shard) else {
        return None;
    };
    let primary = &roster.nodes[i];
    let serves = primary.view.role == Role::Primary
        && primary.view.cluster_ok
        && !primary.view.loading
        && primary.member.shard == shard;
    (serves && roster.majority_answers()).then_some(primary)
}

fn is_other(member: &Member, primary: &Node<'_>) -> bool {
    member.shard == primary.member.shard && member.name != primary.member.name
}

/// Whether a replica in the set is in step still. For one that is silent to us alone its primary may speak.
fn keeps_up(roster: &Roster<'_>, primary: &Node<'_>, member: &Member) -> bool {
    let attached = &primary.view.standing.attached;
    match roster.nodes.iter().find(|n| n.member.name == member.name) {
        Some(node) => follows(primary, node),
        None => member.addr.is_some_and(|addr| attached.contains(&addr)),
    }
}

/// Whether a replica hears `primary`, and `primary` hears somebody. Not by address: a node may have several.
fn follows(primary: &Node<'_>, node: &Node<'_>) -> bool {
    let of = node.view.primary.as_ref() == Some(&primary.view.id);
    of && node.view.is_in_step() && !primary.view.standing.attached.is_empty()
}

fn has_caught_up(primary: &Node<'_>, node: &Node<'_>) -> bool {
    let applied = node.view.offset.saturating_add(CATCH_UP);
    follows(primary, node) && applied >= primary.view.offset
}

/// Whether a replica that is not in the set joins it: both sides demand already what they shall demand then.
fn joins(roster: &Roster<'_>, primary: &Node<'_>, member: &Member) -> bool {
    let strict = |standing: &Standing| standing.required.is_some_and(|least| least >= 1);
    let mut nodes = roster.nodes.iter();
    let node = nodes.find(|n| n.member.name == member.name);
    node.is_some_and(|node| {
        let both = strict(&node.view.standing) && strict(&primary.view.standing);
        both && has_caught_up(primary, node)
    })
}

#[cfg(test)]
#[path = "durable/tests.rs"]
mod tests;
