//! The primary whose server is down.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, SystemTime};

use cachecluster_contract::Persistence;
use cachecluster_topology::{KnownNode, LinkState, NodeId, Role, SlotRanges, parse_nodes};

use super::peer::Peer;
use crate::config::NODES_CONF;
use crate::sample::Sample;
use crate::volume;

/// By how much a replica's account of when it lost its link may be off: servers count whole seconds, and the clock that
/// dated the files may be another machine's.
const SLACK: Duration = Duration::from_millis(1500);

/// The primary whose server is down, as it last knew itself and its shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fallen {
    /// Its id.
    pub id: NodeId,
    /// Its slots.
    pub slots: SlotRanges,
    /// Its configuration epoch.
    pub epoch: u64,
    /// The addresses of its replicas, and of nodes that may have become its replicas without its knowing: what a new primary
    /// knows of its former siblings is that they follow the one before it, until they say something else.
    pub replicas: Vec<(IpAddr, u16)>,
    /// The addresses of other shards' nodes.
    pub others: Vec<(IpAddr, u16)>,
    /// Its replication offset when it was seen last, if this agent saw it.
    pub offset: Option<u64>,
    /// Whether its data set comes back from disk.
    pub persistence: Persistence,
    /// When the data set on disk was last written to. `None` when there is none.
    pub written: Option<SystemTime>,
}

impl Fallen {
    /// Reads `nodes.conf`, and takes what the server said `last`, if this agent saw it. `None` when the node was no
    /// primary with slots, or has never been anything.
    ///
    /// # Errors
    /// When a file is there and cannot be read. One that makes no sense is left for the server to complain about.
    pub fn read(
        data_dir: &Path,
        persistence: Persistence,
        last: Option<&Sample>,
    ) -> io::Result<Option<Self>> {
        let text = match fs::read_to_string(data_dir.join(NODES_CONF)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            text => text?,
        };
        let offset = last
            .and_then(|sample| sample.view.as_ref())
            .map(|view| view.offset);
        let mut fallen = Self::parse(&text, persistence, offset);
        if let (Some(fallen), Some(last)) = (&mut fallen, last) {
            // Replicas that gossip had not told of yet.
            fallen.replicas.extend(last.info.replicas());
            fallen.replicas.sort_unstable();
            fallen.replicas.dedup();
        }
        if let Some(fallen) = &mut fallen
            && persistence == Persistence::Volume
        {
            fallen.written = volume::last_write(data_dir)?;
        }
        Ok(fallen)
    }

    pub(super) fn parse(text: &str, persistence: Persistence, offset: Option<u64>) -> Option<Self> {
        let nodes: String = text
            .lines()
            .filter(|line| !line.starts_with("vars "))
            .flat_map(|line| [line, "\n"])
            .collect();
        let (me, known) = parse_nodes(&nodes).ok()?;
        if me.role != Role::Primary || me.slots.is_empty() {
            return None;
        }
        // A primary that owns nothing was replaced by somebody, or has just come.
        let is_bare = |node: &KnownNode| node.role == Role::Primary && node.slots.is_empty();
        let may_follow_me = |node: &&KnownNode| match &node.primary {
            Some(primary) if *primary == me.id => true,
            Some(primary) => {
                node.link != LinkState::Failed && known.get(primary).is_none_or(is_bare)
            }
            None => node.link != LinkState::Failed && is_bare(node),
        };
        let (replicas, others): (Vec<_>, Vec<_>) = known.values().partition(may_follow_me);
        Some(Self {
            replicas: replicas.iter().filter_map(|node| node.addr).collect(),
            others: others.iter().filter_map(|node| node.addr).collect(),
            id: me.id,
            slots: me.slots,
            epoch: me.epoch,
            offset,
            persistence,
            written: None,
        })
    }

    /// Whether its data set, or some of it, comes back from disk.
    pub(super) fn has_data(&self) -> bool {
        self.persistence == Persistence::Volume && self.written.is_some()
    }

    /// Whether all of its slots are another primary's now, by that one's own account or by that of a node that hears it.
    pub(super) fn succeeded(&self, peers: &[Peer]) -> bool {
        let claims: Vec<&SlotRanges> = peers
            .iter()
            .map(|peer| &peer.view)
            .filter(|view| view.id != self.id && view.role == Role::Primary)
            // A former primary of these slots may not have heard yet that this one followed it.
            .filter(|view| view.epoch > self.epoch)
            .map(|view| &view.slots)
            .chain(peers.iter().flat_map(|peer| {
                peer.view
                    .known
                    .values()
                    .filter(|node| node.id != self.id && node.link == LinkState::Ok)
                    .filter(|node| node.epoch > self.epoch)
                    .map(|node| &node.slots)
            }))
            .filter(|slots| !slots.is_empty())
            .collect();
        self.slots
            .ranges()
            .iter()
            .flat_map(|range| range.start..=range.end)
            .all(|slot| claims.iter().any(|slots| slots.contains(slot)))
    }

    /// Whether the replica has what this node had acknowledged when it was last seen.
    pub(super) fn is_matched_by(&self, peer: &Peer) -> bool {
        self.offset.is_some_and(|seen| peer.view.offset >= seen)
    }

    /// Whether the replica's data set goes before what this node would come back with.
    pub(super) fn gives_way_to(&self, peer: &Peer) -> bool {
        match (self.persistence, self.written) {
            (Persistence::Ephemeral, _) => true,
            (Persistence::Volume, None) => self.offset.is_none() || self.is_matched_by(peer),
            // What was written while the replica listened, it has. Its offset alone says little: the last sample is older
            // than the last write, and a server that was restarted from its disk may have begun to count anew.
            (Persistence::Volume, Some(written)) => {
                let listened = peer.heard.is_some_and(|heard| heard + SLACK >= written);
                listened && (self.offset.is_none() || self.is_matched_by(peer))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::succession::example::nodes_conf;

    #[test]
    fn only_a_primary_with_slots_has_something_to_leave() {
        let text = nodes_conf(0);
        let parse = |text: &str| Fallen::parse(text, Persistence::Ephemeral, None);
        assert_eq!(parse(&text).unwrap().replicas.len(), 2);
        assert_eq!(parse(&text.replace(" 0-99", "")), None);
        assert_eq!(parse("garbage"), None);
    }

    #[test]
    fn a_former_sibling_may_follow_by_now_and_a_node_of_another_shard_does_not() {
        let id = |n: u8| format!("{n:02x}").repeat(20);
        let line = |n: u8, rest: &str| format!("{} 127.0.0.1:{n}@1 {rest}\n", id(n));
        let text = [
            line(1, "myself,master - 0 0 9 connected 0-99"),
            line(2, "master,fail - 0 0 1 connected"),
            line(3, &format!("slave {} 0 0 1 connected", id(2))),
            line(4, "master - 0 0 2 connected 100-199"),
            line(5, &format!("slave {} 0 0 2 connected", id(4))),
            // Replaced, and well: it follows in a moment.
            line(6, "master - 0 0 1 connected"),
        ];
        let fallen = Fallen::parse(&text.concat(), Persistence::Ephemeral, None).unwrap();
        let ports = |addrs: &[(IpAddr, u16)]| addrs.iter().map(|addr| addr.1).collect::<Vec<_>>();
        assert_eq!(ports(&fallen.replicas), [3, 6]);
        assert_eq!(ports(&fallen.others), [2, 4, 5]);
    }
}
