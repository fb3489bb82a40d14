//! The slot map: who serves which slot, merged from the views of several nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::node::Node;
use super::slots::SLOTS;
use super::view::{Address, Member, View};

/// No owner.
const NOBODY: u16 = u16::MAX;

/// Who serves what, as far as known. Immutable once shared; changes make a new one.
#[derive(Clone)]
pub struct SlotMap {
    /// For each slot an index into `primaries`, or [`NOBODY`].
    slots: Vec<u16>,
    primaries: Vec<Primary>,
    /// Every member known, replicas as well: whom to ask for news.
    pub peers: Vec<Arc<Node>>,
}

/// A primary of the map.
#[derive(Clone)]
pub struct Primary {
    /// What to show of it: the host name that it announces, or its address.
    pub name: String,
    /// The node.
    pub node: Arc<Node>,
    /// Its node id; empty if not known.
    id: Arc<str>,
    /// Its configuration epoch, or a lower bound of it; 0 if not known.
    epoch: u64,
}

impl SlotMap {
    /// Knows nothing yet.
    #[must_use]
    pub fn empty() -> Self {
        Self {
            slots: vec![NOBODY; SLOTS],
            primaries: Vec::new(),
            peers: Vec::new(),
        }
    }

    /// The node that serves `slot`.
    #[must_use]
    pub fn owner(&self, slot: u16) -> Option<&Arc<Node>> {
        Some(&self.primary(usize::from(slot))?.node)
    }

    fn primary(&self, slot: usize) -> Option<&Primary> {
        self.primaries.get(usize::from(*self.slots.get(slot)?))
    }

    /// The primaries that serve slots, ordered by their first one.
    #[must_use]
    pub fn primaries(&self) -> Vec<&Primary> {
        let mut seen = vec![false; self.primaries.len()];
        let mut ordered = Vec::new();
        for index in self.slots.iter().map(|index| usize::from(*index)) {
            if seen.get(index) == Some(&false) {
                seen[index] = true;
                ordered.push(&self.primaries[index]);
            }
        }
        ordered
    }

    /// How many slots have an owner.
    #[must_use]
    pub fn covered(&self) -> usize {
        self.slots.iter().filter(|index| **index != NOBODY).count()
    }

    /// Gives one slot another owner, as a `MOVED` told. Returns whether that is news. Of a node that is new here it is known
    /// that its epoch is above the former owner's: so a view from before does not take the slot back.
    pub fn patch(&mut self, slot: u16, node: &Arc<Node>) -> bool {
        if self
            .owner(slot)
            .is_some_and(|owner| Arc::ptr_eq(owner, node))
        {
            return false;
        }
        let known = self
            .primaries
            .iter()
            .position(|primary| Arc::ptr_eq(&primary.node, node));
        let index = known.unwrap_or_else(|| {
            let former = self.primary(usize::from(slot));
            let epoch = former.map_or(0, |owner| owner.epoch + 1);
            self.primaries.push(Primary {
                name: node.address().to_string(),
                node: node.clone(),
                id: "".into(),
                epoch,
            });
            if !self.peers.iter().any(|peer| Arc::ptr_eq(peer, node)) {
                self.peers.push(node.clone());
            }
            self.primaries.len() - 1
        });
        if let (Some(entry), Ok(index)) =
            (self.slots.get_mut(usize::from(slot)), u16::try_from(index))
        {
            *entry = index;
        }
        true
    }

    /// Whether this map gives a slot of `known` to another node with a lower epoch: it may come from a node that was
    /// deposed and does not know it yet.
    #[must_use]
    pub fn regresses_from(&self, known: &Self) -> bool {
        (0..SLOTS).any(|slot| match (self.primary(slot), known.primary(slot)) {
            (Some(new), Some(old)) => new.epoch < old.epoch && !Arc::ptr_eq(&new.node, &old.node),
            _ => false,
        })
    }

    /// This map with what one view has newer: slots whose owner has a higher epoch there. `None` if there are none. So the
    /// first node that knows of a failover is enough, however long the others take.
    pub fn advanced(
        &self,
        view: &View,
        mut node_at: impl FnMut(&Address) -> Arc<Node>,
    ) -> Option<Self> {
        let View::Cluster(members) = view else {
            return None;
        };
        let mut next: Option<Self> = None;
        for member in members.iter().filter(|member| member.primary) {
            let newer: Vec<u16> = (member.slots.iter().cloned().flatten())
                .filter(|slot| {
                    self.primary(usize::from(*slot))
                        .is_some_and(|known| known.epoch < member.epoch && *known.id != *member.id)
                })
                .collect();
            if newer.is_empty() {
                continue;
            }
            let map = next.get_or_insert_with(|| self.clone());
            let primary = Primary::of(member, node_at(&member.address));
            let known = (map.primaries.iter()).position(|known| *known.id == *primary.id);
            let index = known.unwrap_or(map.primaries.len());
            match map.primaries.get_mut(index) {
                Some(known) => *known = primary,
                None => map.primaries.push(primary),
            }
            let Ok(index) = u16::try_from(index) else {
                continue;
            };
            for slot in newer {
                map.slots[usize::from(slot)] = index;
            }
        }
        next
    }

    /// Whether a node that owns slots here is a member in one of the views: they are of the same cluster.
    #[must_use]
    pub fn is_known_to(&self, views: &[View]) -> bool {
        let members = views.iter().flat_map(|view| match view {
            View::Cluster(members) => members.as_slice(),
            View::Standalone(_) => &[],
        });
        let ids: BTreeSet<&str> = members.map(|member| member.id.as_str()).collect();
        self.primaries
            .iter()
            .any(|primary| ids.contains(&*primary.id))
    }

    /// Whether both maps tell the same: the same owner for every slot, under the same name and epoch, and the same peers.
    #[must_use]
    pub fn same(&self, other: &Self) -> bool {
        let peers = |map: &Self| {
            let mut addresses: Vec<Address> = map
                .peers
                .iter()
                .map(|peer| peer.address().clone())
                .collect();
            addresses.sort();
            addresses
        };
        let agree = |slot| match (self.primary(slot), other.primary(slot)) {
            (Some(left), Some(right)) => {
                Arc::ptr_eq(&left.node, &right.node)
                    && left.epoch == right.epoch
                    && left.name == right.name
            }
            (left, right) => left.is_none() && right.is_none(),
        };
        (0..SLOTS).all(agree) && peers(self) == peers(other)
    }

    /// Merges views into a map, taking nodes from `node_at`. `None` if they cover nothing.
    ///
    /// Of several claims on a slot, the one with the highest configuration epoch holds, as among the nodes themselves;
    /// with equal epochs, what a node says of itself before what others say of it. A clustered view goes before standalone servers; of
    /// those the first one holds, since there can only be one.
    pub fn merge(views: &[View], mut node_at: impl FnMut(&Address) -> Arc<Node>) -> Option<Self> {
        let merged = merge(views);
        let mut map = Self::empty();
        let mut indices = BTreeMap::new();
        for (slot, owner) in merged.owners.iter().enumerate() {
            let Some(id) = owner else { continue };
            let member = merged.members.get(id)?;
            let index = *indices.entry(*id).or_insert_with(|| {
                map.primaries
                    .push(Primary::of(member, node_at(&member.address)));
                map.primaries.len() - 1
            });
            map.slots[slot] = u16::try_from(index).ok()?;
        }
        map.peers = merged
            .members
            .values()
            .map(|member| node_at(&member.address))
            .collect();
        if !map.primaries.is_empty() {
            return Some(map);
        }
        let alone = views.iter().find_map(|view| match view {
            View::Standalone(address) => Some(node_at(address)),
            View::Cluster(_) => None,
        })?;
        map.slots.fill(0);
        map.primaries.push(Primary {
            name: alone.address().to_string(),
            node: alone.clone(),
            id: "".into(),
            epoch: 0,
        });
        map.peers = vec![alone];
        Some(map)
    }
}

impl Primary {
    fn of(member: &Member, node: Arc<Node>) -> Self {
        let address = || member.address.to_string();
        Self {
            name: member.hostname.clone().unwrap_or_else(address),
            node,
            id: member.id.as_str().into(),
            epoch: member.epoch,
        }
    }
}

struct Merged<'a> {
    owners: Vec<Option<&'a str>>,
    members: BTreeMap<&'a str, &'a Member>,
}

fn merge(views: &[View]) -> Merged<'_> {
    let mut claims: Vec<Option<(u64, bool, &str)>> = vec![None; SLOTS];
    let mut members: BTreeMap<&str, &Member> = BTreeMap::new();
    for member in views.iter().flat_map(|view| match view {
        View::Cluster(members) => members.as_slice(),
        View::Standalone(_) => &[],
    }) {
        let known = members.entry(&member.id).or_insert(member);
        // Nobody knows a node's address as well as the node.
        if (member.myself, member.epoch) > (known.myself, known.epoch) {
            *known = member;
        }
        for slot in member.slots.iter().cloned().flatten() {
            let claim = (member.epoch, member.myself, member.id.as_str());
            let held = &mut claims[usize::from(slot)];
            if held.is_none_or(|held| (claim.0, claim.1) > (held.0, held.1)) {
                *held = Some(claim);
            }
        }
    }
    Merged {
        owners: claims
            .iter()
            .map(|claim| claim.map(|(_, _, id)| id))
            .collect(),
        members,
    }
}

#[cfg(test)]
mod tests {
    use super::super::node::Connector;
    use super::super::view::parse;
    use super::*;

    fn view(text: &str) -> View {
        let said_by = Address {
            host: "10.0.0.1".into(),
            port: 6379,
        };
        View::Cluster(parse(text, &said_by).unwrap())
    }

    fn owner<'a>(merged: &Merged<'a>, slot: usize) -> Option<&'a str> {
        merged.owners[slot]
    }

    #[test]
    fn the_claim_with_the_highest_epoch_holds_whatever_the_order() {
        let deposed = view(
            "a 10.0.0.1:1@2 myself,master - 0 0 1 connected 0-100\nb 10.0.0.2:1@2 slave a 0 0 1 connected",
        );
        let promoted = view(
            "a 10.0.0.1:1@2 master,fail - 0 0 1 connected\nb 10.0.0.2:1@2 myself,master - 0 0 7 connected 0-100",
        );
        for views in [[deposed.clone(), promoted.clone()], [promoted, deposed]] {
            assert_eq!(owner(&merge(&views), 50), Some("b"));
            assert_eq!(owner(&merge(&views), 101), None);
        }
    }

    /// Nodes by their addresses, as the client keeps them.
    fn nodes() -> impl FnMut(&Address) -> Arc<Node> {
        let metrics = crate::metrics::Metrics::register(&mut Default::default());
        let connector = Arc::new(Connector {
            username: None,
            password: None,
            password_file: None,
            connections: 1,
            metrics: Arc::new(metrics),
        });
        let mut nodes: BTreeMap<Address, Arc<Node>> = BTreeMap::new();
        move |address| {
            let node = || Node::new(address.clone(), connector.clone());
            nodes.entry(address.clone()).or_insert_with(node).clone()
        }
    }

    const BEFORE: &str = "a 10.0.0.1:1@2 myself,master - 0 0 3 connected 0-100\nb 10.0.0.2:1@2 slave a 0 0 3 connected\nc 10.0.0.3:1@2 master - 0 0 2 connected 101-200";
    const AFTER: &str = "a 10.0.0.1:1@2 master,fail - 0 0 3 connected\nb 10.0.0.2:1@2 myself,master - 0 0 4 connected 0-100\nc 10.0.0.3:1@2 master - 0 0 2 connected 101-200";

    #[test]
    fn a_map_that_brings_back_a_deposed_primary_regresses() {
        let mut node_at = nodes();
        let before = SlotMap::merge(&[view(BEFORE)], &mut node_at).unwrap();
        let after = SlotMap::merge(&[view(AFTER)], &mut node_at).unwrap();
        assert!(before.regresses_from(&after));
        assert!(!after.regresses_from(&before));
        assert!(!after.regresses_from(&after) && !before.regresses_from(&before));
        assert!(before.same(&before.clone()) && !before.same(&after));
        assert!(after.is_known_to(&[view(BEFORE)]));
        let anew = view("x 10.0.0.1:1@2 myself,master - 0 0 1 connected 0-200");
        assert!(!after.is_known_to(&[anew]));
    }

    #[test]
    fn one_view_is_enough_to_go_on_and_not_enough_to_go_back() {
        let mut node_at = nodes();
        let before = SlotMap::merge(&[view(BEFORE)], &mut node_at).unwrap();
        let after = before.advanced(&view(AFTER), &mut node_at).unwrap();
        let owner = |map: &SlotMap, slot| map.owner(slot).unwrap().address().to_string();
        assert_eq!(owner(&after, 0), "10.0.0.2:1");
        assert_eq!(owner(&after, 101), "10.0.0.3:1");
        assert!(after.advanced(&view(AFTER), &mut node_at).is_none());
        assert!(after.advanced(&view(BEFORE), &mut node_at).is_none());
        assert!(before.regresses_from(&after));
    }

    #[test]
    fn what_a_redirection_told_is_not_taken_back_by_an_older_view() {
        let mut node_at = nodes();
        let before = SlotMap::merge(&[view(BEFORE)], &mut node_at).unwrap();
        let mut told = before.clone();
        let promoted = node_at(&Address {
            host: "10.0.0.2".into(),
            port: 1,
        });
        assert!(told.patch(50, &promoted) && !told.patch(50, &promoted));
        assert!(before.regresses_from(&told));
        assert!(told.advanced(&view(BEFORE), &mut node_at).is_none());
        let after = SlotMap::merge(&[view(AFTER)], &mut node_at).unwrap();
        assert!(!after.regresses_from(&told));
    }

    #[test]
    fn a_slot_that_only_one_node_knows_of_is_covered() {
        let knows = view("a 10.0.0.1:1@2 myself,master - 0 0 1 connected 0-9 11");
        let not_yet = view("b 10.0.0.2:1@2 myself,master - 0 0 2 connected 10");
        let views = [not_yet, knows];
        let merged = merge(&views);
        assert_eq!(owner(&merged, 10), Some("b"));
        assert_eq!(owner(&merged, 11), Some("a"));
    }

    #[test]
    fn a_node_knows_its_own_address_best() {
        let itself = view("a 10.0.0.77:1@2 myself,master - 0 0 1 connected 0");
        let others = view(
            "a 10.0.0.1:1@2 master - 0 0 1 connected 0\nb 10.0.0.2:1@2 myself,master - 0 0 2 connected 1",
        );
        for views in [[itself.clone(), others.clone()], [others, itself]] {
            assert_eq!(&*merge(&views).members["a"].address.host, "10.0.0.77");
        }
    }
}
