//! What a server that is held back waits for, in words. Pure.

use std::net::SocketAddr;

use super::decision::Step;
use super::fallen::Fallen;
use super::peer::Sight;

/// Completes "held back until". The same words as long as the same is awaited; `None` when nothing is.
pub(super) fn awaited(fallen: &Fallen, sight: &Sight, step: &Step) -> Option<String> {
    let peers = &sight.peers;
    let followers = || peers.iter().filter(|peer| peer.follows(fallen));
    Some(match step {
        Step::Start(_) => return None,
        Step::Promote(replica, _) => format!("{} has taken over", replica.name),
        Step::Drain => format!(
            "{} has read what it received",
            list(followers().filter(|p| p.view.link_up).map(|p| p.addr))
        ),
        Step::Look if fallen.succeeded(peers) => format!(
            "{} follows the new primary",
            list(followers().map(|peer| peer.addr))
        ),
        Step::Look => {
            let loading = list(followers().filter(|p| p.view.loading).map(|p| p.addr));
            let mute = list(sight.mute.iter().copied());
            let absent = fallen.replicas.iter().map(|addr| SocketAddr::from(*addr));
            let absent = list(absent.filter(|addr| peers.iter().all(|peer| peer.addr != *addr)));
            match (loading.is_empty(), mute.is_empty(), absent.is_empty()) {
                (false, ..) => format!("{loading} has loaded its data and taken over"),
                (_, false, _) => {
                    format!("{mute}, which loads its data or is busy, is done and has taken over")
                }
                (_, _, false) => format!("{absent} answers and takes over"),
                (true, true, true) => "a replica with data answers and takes over".to_owned(),
            }
        }
    })
}

/// Each once, in order, so that the words are the same for the same nodes.
fn list(addrs: impl Iterator<Item = SocketAddr>) -> String {
    let addrs: std::collections::BTreeSet<SocketAddr> = addrs.collect();
    let words: Vec<String> = addrs.iter().map(ToString::to_string).collect();
    words.join(" or ")
}

#[cfg(test)]
mod tests {
    use cachecluster_contract::Persistence;

    use super::*;
    use crate::succession::example::{fallen, replica};
    use crate::succession::peer::Peer;

    #[test]
    fn it_names_whom_it_waits_for() {
        let fallen = fallen(Persistence::Ephemeral, Some(7));
        let sight = |peers: &[Peer], mute: &[SocketAddr]| Sight {
            peers: peers.to_vec(),
            mute: mute.to_vec(),
        };
        let said = |peers: &[Peer], step: &Step| {
            let words = awaited(&fallen, &sight(peers, &[]), step);
            words.unwrap()
        };
        assert_eq!(
            said(&[], &Step::Look),
            "127.0.0.1:11 or 127.0.0.1:12 answers and takes over"
        );
        let behind = replica(11, Some(1), 5, 2);
        let mut loading = replica(12, Some(1), 5, 2);
        loading.view.loading = true;
        assert_eq!(
            said(&[behind.clone(), loading], &Step::Look),
            "127.0.0.1:12 has loaded its data and taken over"
        );
        let mute = sight(&[], &[([127, 0, 0, 1], 12).into()]);
        assert_eq!(
            awaited(&fallen, &mute, &Step::Look).unwrap(),
            "127.0.0.1:12, which loads its data or is busy, is done and has taken over"
        );
        let successor = replica(12, None, 9, 2);
        assert_eq!(
            said(&[behind, successor], &Step::Look),
            "127.0.0.1:11 follows the new primary"
        );
        let start = Step::Start(super::super::Release::NoReplica);
        assert_eq!(awaited(&fallen, &Sight::default(), &start), None);
    }
}
