//! How a node's table of the others changes: Redis's rules for claims, in one place.

use std::net::IpAddr;

use crate::model::{KnownNode, LinkState, NodeId, NodeView, Role};
use crate::slots::SlotRanges;

/// What `view` would tell others of itself.
pub(super) fn own_record(view: &NodeView, addr: (IpAddr, u16)) -> KnownNode {
    KnownNode {
        id: view.id.clone(),
        addr: Some(addr),
        role: view.role,
        primary: view.primary.clone(),
        link: LinkState::Ok,
        epoch: view.epoch,
        slots: view.slots.clone(),
    }
}

/// `view` hears from `sender`, whom it knows. Returns the record of whoever outranks one of the sender's claims, which
/// Redis sends back as an UPDATE.
pub(super) fn hear(
    view: &mut NodeView,
    addr: (IpAddr, u16),
    sender: &KnownNode,
    current_epoch: u64,
) -> Option<KnownNode> {
    let record = view.known.get_mut(&sender.id)?;
    record.role = sender.role;
    record.primary = sender.primary.clone();
    if sender.role == Role::Replica {
        record.slots = SlotRanges::default();
    }
    view.current_epoch = view.current_epoch.max(current_epoch).max(sender.epoch);
    let outranked = claim(view, addr, sender);
    // Two primaries with one epoch: the one with the lesser id takes a new one.
    let collide = view.role == Role::Primary && sender.role == Role::Primary;
    if collide && view.epoch == sender.epoch && view.id < sender.id {
        bump_epoch(view);
    }
    outranked
}

/// Enters the claim of a primary that `view` knows: a slot goes to it when it is free or its owner's epoch is lower.
pub(super) fn claim(
    view: &mut NodeView,
    addr: (IpAddr, u16),
    claimant: &KnownNode,
) -> Option<KnownNode> {
    if !view.known.contains_key(&claimant.id) || claimant.role == Role::Replica {
        return None;
    }
    let mut outranked = None;
    let mut won = claimant.slots.clone();
    let mut disowned: Option<NodeId> = None;

    let contested = view.slots.intersection(&won);
    if !contested.is_empty() {
        if view.epoch < claimant.epoch {
            view.slots = view.slots.minus(&contested);
            if view.slots.is_empty() {
                disowned = Some(view.id.clone());
            }
        } else {
            won = won.minus(&contested);
            outranked = Some(own_record(view, addr));
        }
    }
    for other in view.known.values_mut().filter(|k| k.id != claimant.id) {
        let contested = other.slots.intersection(&won);
        if contested.is_empty() {
            continue;
        }
        if other.epoch < claimant.epoch {
            other.slots = other.slots.minus(&contested);
            if other.slots.is_empty() && view.primary.as_ref() == Some(&other.id) {
                disowned = Some(other.id.clone());
            }
        } else {
            won = won.minus(&contested);
            outranked = Some(other.clone());
        }
    }
    if let Some(record) = view.known.get_mut(&claimant.id) {
        record.epoch = record.epoch.max(claimant.epoch);
        record.slots = record.slots.union(&won);
    }
    // Who lost its last slot, and who follows one that did, follows the winner.
    if disowned.is_some() {
        follow(view, claimant.id.clone());
    }
    outranked
}

/// Turns a node into a replica.
pub(super) fn follow(view: &mut NodeView, primary: NodeId) {
    view.role = Role::Replica;
    view.primary = Some(primary);
    view.slots = SlotRanges::default();
    view.link_up = false;
    view.standing.unheard_seconds = None;
    dial(view);
}

/// A replica looks for its primary where it knows it to be.
pub(super) fn dial(view: &mut NodeView) {
    let primary = view.primary.as_ref().and_then(|id| view.known.get(id));
    view.standing.dials = primary.and_then(|known| known.addr);
}

/// Turns a replica into the primary of its primary's slots.
pub(super) fn promote(view: &mut NodeView, epoch: u64) {
    if let Some(old) = view.primary.take().and_then(|id| view.known.get_mut(&id)) {
        view.slots = std::mem::take(&mut old.slots);
    }
    view.role = Role::Primary;
    view.link_up = false;
    view.standing.unheard_seconds = None;
    view.standing.dials = None;
    view.epoch = epoch;
    view.current_epoch = view.current_epoch.max(epoch);
}

/// Gives a node a configuration epoch above all that it has heard of.
pub(super) fn bump_epoch(view: &mut NodeView) {
    view.current_epoch += 1;
    view.epoch = view.current_epoch;
}
