//! Which node serves which slot, by the nodes' own accounts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Hash slots of a cluster.
pub(super) const SLOTS: u16 = 16384;

/// The hash slot of a key without hash tags: CRC-16/XMODEM modulo the number of slots, as the Redis Cluster
/// specification has it.
pub(super) fn slot_of(key: &str) -> u16 {
    let crc = key.bytes().fold(0u16, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(byte) << 8), |crc, _| {
            let carry = crc & 0x8000 != 0;
            (crc << 1) ^ if carry { 0x1021 } else { 0 }
        })
    });
    crc % SLOTS
}

/// What one node says of all primaries with slots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct View {
    claims: Vec<Claim>,
    /// Addresses of all nodes, also of replicas.
    nodes: BTreeSet<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Claim {
    address: Arc<str>,
    epoch: u64,
    /// It is the node's own: its address is certain.
    own: bool,
    ranges: Vec<(u16, u16)>,
}

impl View {
    /// Reads what the node at the address `asked` answered to `CLUSTER NODES`. Lines that are not understood, and nodes
    /// without an address, are left out; a node that has met no other does not know its own.
    pub(super) fn parse(text: &str, asked: &str) -> Self {
        let mut view = Self::default();
        for line in text.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            // id, ip:port@bus[,hostname], flags, primary, ping, pong, epoch, link, slots…
            let [_, address, flags, _, _, _, epoch, _, slots @ ..] = words.as_slice() else {
                continue;
            };
            let flags: Vec<&str> = flags.split(',').collect();
            let address = match address.split('@').next().unwrap_or_default() {
                own if own.starts_with(':') && flags.contains(&"myself") => asked,
                address => address,
            };
            let lost = ["noaddr", "handshake"]
                .iter()
                .any(|flag| flags.contains(flag));
            if address.starts_with(':') || lost {
                continue;
            }
            view.nodes.insert(address.to_owned());
            let ranges: Vec<(u16, u16)> = slots.iter().filter_map(|range| parse(range)).collect();
            if flags.contains(&"master") && !ranges.is_empty() {
                view.claims.push(Claim {
                    address: address.into(),
                    epoch: epoch.parse().unwrap_or_default(),
                    own: flags.contains(&"myself"),
                    ranges,
                });
            }
        }
        view
    }
}

/// `first-last` or one slot; none for slots on their way, `[slot->-node]`.
fn parse(range: &str) -> Option<(u16, u16)> {
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let range = (first.parse().ok()?, last.parse().ok()?);
    (range.0 <= range.1 && range.1 < SLOTS).then_some(range)
}

/// Who serves each slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Map {
    owners: Vec<Option<Arc<str>>>,
    /// Addresses of all nodes.
    pub(super) nodes: BTreeSet<String>,
}

impl Map {
    /// Of what several nodes say, the claim with the highest epoch counts: that is who was elected last, also while
    /// others have not heard of it. Of equal ones, what a node says of itself.
    pub(super) fn merge<'a>(views: impl IntoIterator<Item = &'a View>) -> Self {
        let mut owners = vec![None; usize::from(SLOTS)];
        let mut best = vec![(0, false); usize::from(SLOTS)];
        let mut nodes = BTreeSet::new();
        for view in views {
            nodes.extend(view.nodes.iter().cloned());
            for claim in &view.claims {
                let rank = (claim.epoch, claim.own);
                for slot in claim.ranges.iter().flat_map(|(first, last)| *first..=*last) {
                    let slot = usize::from(slot);
                    if owners[slot].is_none() || rank > best[slot] {
                        owners[slot] = Some(claim.address.clone());
                        best[slot] = rank;
                    }
                }
            }
        }
        Self { owners, nodes }
    }

    /// The address of the primary of a slot, if anybody claims it.
    pub(super) fn owner(&self, slot: u16) -> Option<Arc<str>> {
        self.owners.get(usize::from(slot))?.clone()
    }

    /// Whether somebody claims each slot.
    pub(super) fn is_complete(&self) -> bool {
        self.owners.iter().all(Option::is_some)
    }

    /// The slots of each primary as ranges, by the lowest.
    pub(super) fn shards(&self) -> Vec<Vec<(u16, u16)>> {
        let mut shards: BTreeMap<&str, Vec<(u16, u16)>> = BTreeMap::new();
        for (slot, owner) in (0..SLOTS).zip(&self.owners) {
            let Some(owner) = owner else { continue };
            let ranges = shards.entry(owner).or_default();
            match ranges.last_mut() {
                Some((_, last)) if *last + 1 == slot => *last = slot,
                _ => ranges.push((slot, slot)),
            }
        }
        let mut shards: Vec<_> = shards.into_values().collect();
        shards.sort();
        shards
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASKED: &str = "redis:6379";
    const OLD: &str = "\
aaa 10.0.0.1:6379@16379,a myself,master - 0 0 3 connected 0-8191
bbb 10.0.0.2:6379@16379 slave aaa 0 1 3 connected
ccc 10.0.0.3:6379@16379 master - 0 1 2 connected 8192-16382 16383 [12->-bbb]
ddd :0@0 master,noaddr - 0 1 9 disconnected 0-100
";
    const NEW: &str = "\
bbb 10.0.0.2:6379@16379 myself,master - 0 1 4 connected 0-8191
aaa 10.0.0.1:6379@16379 master,fail - 0 0 3 disconnected
ccc 10.0.0.9:6379@16379 master - 0 1 2 connected 8192-16383
";

    #[test]
    fn slots_are_those_that_redis_computes() {
        // As `CLUSTER KEYSLOT` answers.
        assert_eq!(slot_of("123456789"), 12739);
        assert_eq!(slot_of("foo"), 12182);
        assert_eq!(slot_of("test"), 6918);
    }

    #[test]
    fn who_was_elected_last_owns_the_slots_whomever_one_asks_first() {
        let (old, new) = (View::parse(OLD, ASKED), View::parse(NEW, ASKED));
        for views in [[&old, &new], [&new, &old]] {
            let map = Map::merge(views);
            assert_eq!(map.owner(0).as_deref(), Some("10.0.0.2:6379"));
            assert!(map.is_complete());
        }
        let map = Map::merge([&old]);
        assert_eq!(map.owner(0).as_deref(), Some("10.0.0.1:6379"));
        assert_eq!(map.nodes.len(), 3);
        assert_eq!(map.shards(), [vec![(0, 8191)], vec![(8192, 16383)]]);
    }

    #[test]
    fn what_a_node_says_of_itself_comes_before_what_others_say_of_it() {
        let own = "ccc 10.0.0.3:6379@1 myself,master - 0 1 2 connected 8192-16383\n";
        let own = View::parse(own, ASKED);
        let other = View::parse(NEW, ASKED);
        for views in [[&own, &other], [&other, &own]] {
            let owner = Map::merge(views).owner(9000);
            assert_eq!(owner.as_deref(), Some("10.0.0.3:6379"));
        }
    }

    #[test]
    fn a_node_that_does_not_know_its_address_is_where_it_was_asked() {
        let alone = View::parse("a :6379@1 myself,master - 0 0 0 connected 0-16383\n", ASKED);
        assert_eq!(Map::merge([&alone]).owner(7).as_deref(), Some(ASKED));
    }
}
