//! What to do after a look at the shard. Pure.

use std::time::Duration;

use cachecluster_topology::{LinkState, NodeRef, NodeView, Role};

use super::fallen::Fallen;
use super::peer::Sight;

/// How long a replica that is behind waits for a fresher one that has not answered yet, and how long replicas are
/// given to read to the end of what the fallen server sent.
const GRACE: Duration = Duration::from_secs(1);

/// Why the server may start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// Another node serves the slots and nobody follows this one any more.
    Succeeded,
    /// No node ever followed this one, or all that did are somebody else's now.
    NoReplica,
    /// The data set comes back from disk, and no replica is known to have all of it.
    OwnData,
    /// The wait is over: for so long no replica with data could be reached.
    TimeOut,
}

/// What to do after a look at the shard.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    Start(Release),
    /// Ask this replica to take over.
    Promote(NodeRef, Way),
    /// Look again at once: the replicas still read what the fallen server sent.
    Drain,
    Look,
}

/// How a replica takes over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// By the votes of the other primaries.
    Votes,
    /// Without votes: there are too few to be had.
    Alone,
}

/// What was tried so far.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tried {
    /// Since the first look.
    pub(super) elapsed: Duration,
    /// Since a replica with data was there last, or since the first look.
    pub(super) unseen: Duration,
    pub(super) votes_in_vain: bool,
    /// Whether all nodes have been asked whose addresses are known from anywhere, and not the shard's alone.
    pub(super) everywhere: bool,
}

pub(super) fn decide(fallen: &Fallen, sight: &Sight, tried: Tried, hold: Duration) -> Step {
    let peers = &sight.peers;
    let followers = || peers.iter().filter(|peer| peer.follows(fallen));
    if fallen.succeeded(peers) {
        // A replica that has not heard of its new primary yet would copy what this node comes back with. It is in
        // nobody's way for longer: the data are the new primary's.
        return match followers().next() {
            Some(_) if tried.elapsed < hold => Step::Look,
            _ => Step::Start(Release::Succeeded),
        };
    }
    let all_answered = fallen
        .replicas
        .iter()
        .all(|addr| peers.iter().any(|peer| peer.addr == (*addr).into()));
    // One that follows may be known by name alone, at another address.
    let nobody = followers().next().is_none() && sight.mute.is_empty();
    if all_answered && nobody && tried.everywhere {
        return Step::Start(Release::NoReplica);
    }
    let volume = fallen.has_data();
    if volume && tried.elapsed >= hold {
        return Step::Start(Release::OwnData);
    }
    // What a replica has received and not read yet, a promotion would throw away. The link of one that has read all of
    // it is down: the end of the stream comes last. A machine that lost power sent no end.
    if tried.elapsed < GRACE && followers().any(|peer| peer.view.link_up) {
        return Step::Drain;
    }
    let waited = all_answered || tried.elapsed >= GRACE;
    // One that loads may have what the others have missed. Nothing tells so where nobody saw the end.
    let loads = !sight.mute.is_empty() || followers().any(|peer| peer.view.loading);
    let patient = loads && fallen.offset.is_some() && tried.elapsed < hold;
    let best = followers()
        .filter(|peer| !peer.view.loading && peer.has_data() && fallen.gives_way_to(peer))
        .max_by_key(|peer| (peer.view.offset, peer.view.id.clone()));
    match best {
        Some(peer) if (waited && !patient) || fallen.is_matched_by(peer) => {
            let way = if tried.votes_in_vain || !majority_lives(fallen, &peer.view) {
                Way::Alone
            } else {
                Way::Votes
            };
            let replica = NodeRef {
                id: peer.view.id.clone(),
                name: peer.addr.to_string(),
                addr: (peer.addr.ip(), peer.addr.port()),
            };
            Step::Promote(replica, way)
        }
        None if volume && waited => Step::Start(Release::OwnData),
        None if tried.unseen >= hold => Step::Start(Release::TimeOut),
        Some(_) | None => Step::Look,
    }
}

/// Whether more than half of the primaries with slots can vote, as the replica hears them. The fallen one cannot.
fn majority_lives(fallen: &Fallen, replica: &NodeView) -> bool {
    let voters = || {
        replica
            .known
            .values()
            .filter(|node| node.role == Role::Primary && !node.slots.is_empty())
    };
    let alive = voters()
        .filter(|node| node.id != fallen.id && node.link == LinkState::Ok)
        .count();
    alive > voters().count() / 2
}

#[cfg(test)]
mod tests {
    use cachecluster_contract::Persistence;

    use super::*;
    use crate::succession::example::{fallen, replica};
    use crate::succession::peer::Peer;
    use std::time::SystemTime;

    /// As [`super::decide`], where nobody is mute.
    fn decide(fallen: &Fallen, peers: &[Peer], tried: Tried, hold: Duration) -> Step {
        decide_all(fallen, peers, &[], tried, hold)
    }

    fn decide_all(
        fallen: &Fallen,
        peers: &[Peer],
        mute: &[u16],
        tried: Tried,
        hold: Duration,
    ) -> Step {
        let sight = Sight {
            peers: peers.to_vec(),
            mute: mute
                .iter()
                .map(|port| ([127, 0, 0, 1], *port).into())
                .collect(),
        };
        super::decide(fallen, &sight, tried, hold)
    }

    const HOLD: Duration = Duration::from_secs(30);

    fn after(elapsed: Duration) -> Tried {
        Tried {
            elapsed,
            unseen: elapsed,
            votes_in_vain: false,
            everywhere: true,
        }
    }

    fn promoted(step: Step) -> (u16, Way) {
        match step {
            Step::Promote(replica, way) => (replica.addr.1, way),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_freshest_replica_takes_over_by_votes_where_they_can_be_had() {
        let fallen = fallen(Persistence::Ephemeral, Some(50));
        let start = after(Duration::ZERO);
        let three = [replica(11, Some(1), 50, 2), replica(12, Some(1), 60, 2)];
        assert_eq!(
            promoted(decide(&fallen, &three, start, HOLD)),
            (12, Way::Votes)
        );
        let two = [replica(11, Some(1), 50, 1)];
        assert_eq!(
            promoted(decide(&fallen, &two, start, HOLD)),
            (11, Way::Alone)
        );
        let refused = Tried {
            votes_in_vain: true,
            ..start
        };
        assert_eq!(
            promoted(decide(&fallen, &three, refused, HOLD)),
            (12, Way::Alone)
        );
    }

    #[test]
    fn a_replica_that_is_behind_waits_a_moment_for_one_that_is_silent() {
        let fallen = fallen(Persistence::Ephemeral, Some(50));
        let behind = [replica(11, Some(1), 40, 2)];
        assert_eq!(
            decide(&fallen, &behind, after(Duration::ZERO), HOLD),
            Step::Look
        );
        assert_eq!(promoted(decide(&fallen, &behind, after(GRACE), HOLD)).0, 11);
        // An empty one is never better than nothing before the wait is over.
        let empty = [replica(11, Some(1), 1, 2)];
        assert_eq!(decide(&fallen, &empty, after(GRACE), HOLD), Step::Look);
        assert_eq!(
            decide(&fallen, &empty, after(HOLD), HOLD),
            Step::Start(Release::TimeOut)
        );
    }

    #[test]
    fn nobody_takes_over_before_the_replicas_have_read_what_they_received() {
        let start = after(Duration::ZERO);
        for persistence in [Persistence::Ephemeral, Persistence::Volume] {
            let fallen = fallen(persistence, Some(40));
            let mut both = [replica(11, Some(1), 50, 2), replica(12, Some(1), 40, 2)];
            both[1].view.link_up = true;
            assert_eq!(decide(&fallen, &both, start, HOLD), Step::Drain);
            assert_eq!(promoted(decide(&fallen, &both, after(GRACE), HOLD)).0, 11);
            both[1].view.link_up = false;
            both[1].view.offset = 60;
            assert_eq!(promoted(decide(&fallen, &both, start, HOLD)).0, 12);
        }
    }

    #[test]
    fn the_server_starts_when_another_has_its_slots_and_nobody_follows_it_any_more() {
        let fallen = fallen(Persistence::Ephemeral, Some(50));
        let start = after(Duration::ZERO);
        let one_still_follows = [replica(11, None, 60, 2), replica(12, Some(1), 40, 2)];
        assert_eq!(decide(&fallen, &one_still_follows, start, HOLD), Step::Look);
        let done = [replica(11, None, 60, 2), replica(12, Some(11), 60, 2)];
        assert_eq!(
            decide(&fallen, &done, start, HOLD),
            Step::Start(Release::Succeeded)
        );
    }

    #[test]
    fn a_replica_with_data_that_can_be_reached_is_never_given_up() {
        let fallen = fallen(Persistence::Ephemeral, Some(50));
        let long = Tried {
            elapsed: HOLD * 100,
            unseen: Duration::ZERO,
            votes_in_vain: true,
            everywhere: true,
        };
        let behind = [replica(11, Some(1), 40, 2)];
        assert_eq!(
            promoted(decide(&fallen, &behind, long, HOLD)),
            (11, Way::Alone)
        );
        // It cannot be promoted yet, and missed one look just now.
        let mut loading = replica(11, Some(1), 40, 2);
        loading.view.loading = true;
        assert_eq!(decide(&fallen, &[loading], long, HOLD), Step::Look);
        assert_eq!(decide(&fallen, &[], long, HOLD), Step::Look);
    }

    #[test]
    fn nobody_answers_and_nobody_is_waited_for_longer_than_the_hold() {
        let fallen = fallen(Persistence::Ephemeral, None);
        assert_eq!(decide(&fallen, &[], after(GRACE), HOLD), Step::Look);
        assert_eq!(
            decide(&fallen, &[], after(HOLD), HOLD),
            Step::Start(Release::TimeOut)
        );
        let alone = Fallen {
            replicas: Vec::new(),
            ..fallen
        };
        assert_eq!(
            decide(&alone, &[], after(Duration::ZERO), HOLD),
            Step::Start(Release::NoReplica)
        );
    }

    #[test]
    fn data_on_disk_gives_way_only_to_a_replica_that_has_all_of_it() {
        let start = after(Duration::ZERO);
        let both = [replica(11, Some(1), 40, 2), replica(12, Some(1), 30, 2)];
        let seen = fallen(Persistence::Volume, Some(50));
        assert_eq!(
            decide(&seen, &both, start, HOLD),
            Step::Start(Release::OwnData)
        );
        let caught_up = fallen(Persistence::Volume, Some(40));
        assert_eq!(promoted(decide(&caught_up, &both, start, HOLD)).0, 11);
        assert_eq!(
            decide(&seen, &[], after(GRACE), HOLD),
            Step::Start(Release::OwnData)
        );
    }

    #[test]
    fn where_nobody_saw_the_end_the_replica_that_listened_to_it_goes_before_the_disk() {
        let written = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        let unseen = Fallen {
            written: Some(written),
            ..fallen(Persistence::Volume, None)
        };
        let start = after(Duration::ZERO);
        let with = |heard| {
            let mut both = [replica(11, Some(1), 40, 2), replica(12, Some(1), 30, 2)];
            both[1].heard = heard;
            both
        };
        let late = with(Some(written + Duration::from_secs(60)));
        assert_eq!(promoted(decide(&unseen, &late, start, HOLD)).0, 12);
        let early = with(Some(written - Duration::from_secs(60)));
        let restarted = with(None);
        for behind in [early, restarted] {
            assert_eq!(
                decide(&unseen, &behind, start, HOLD),
                Step::Start(Release::OwnData)
            );
        }
        // A fresher one may be silent only for a moment, and a promotion that fails does not keep the disk away.
        assert_eq!(decide(&unseen, &late[1..], start, HOLD), Step::Look);
        assert_eq!(
            decide(&unseen, &late, after(HOLD), HOLD),
            Step::Start(Release::OwnData)
        );
        let wiped = Fallen {
            written: None,
            ..unseen
        };
        assert_eq!(promoted(decide(&wiped, &late, start, HOLD)).0, 11);
    }

    #[test]
    fn an_offset_is_no_proof_that_a_replica_listened_to_the_end() {
        let written = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        // Higher than the last that was seen of the fallen one, which was restarted or acknowledged more since.
        let seen = Fallen {
            written: Some(written),
            ..fallen(Persistence::Volume, Some(40))
        };
        let step = |offset, heard| {
            let mut both = [replica(11, Some(1), offset, 2), replica(12, Some(1), 30, 2)];
            both[0].heard = heard;
            both[1].heard = Some(written);
            decide(&seen, &both, after(Duration::ZERO), HOLD)
        };
        let own = Step::Start(Release::OwnData);
        for missed in [Some(written - Duration::from_secs(3)), None] {
            assert_eq!(step(90, missed), own);
        }
        assert_eq!(promoted(step(40, Some(written))).0, 11);
        // Heard to the end, and did not apply it.
        assert_eq!(step(39, Some(written)), own);
    }

    #[test]
    fn one_that_loads_is_waited_for_by_all_but_one_that_has_everything() {
        let fallen = fallen(Persistence::Ephemeral, Some(50));
        let behind = [replica(11, Some(1), 40, 2)];
        let step = |elapsed| decide_all(&fallen, &behind, &[12], after(elapsed), HOLD);
        assert_eq!(step(GRACE), Step::Look);
        assert_eq!(promoted(step(HOLD)).0, 11);
        let matched = [replica(11, Some(1), 50, 2)];
        let at_once = decide_all(&fallen, &matched, &[12], after(Duration::ZERO), HOLD);
        assert_eq!(promoted(at_once).0, 11);
    }

    #[test]
    fn nobody_is_taken_for_alone_before_all_were_asked() {
        let alone = Fallen {
            replicas: Vec::new(),
            ..fallen(Persistence::Ephemeral, Some(50))
        };
        let first = Tried {
            everywhere: false,
            ..after(Duration::ZERO)
        };
        assert_eq!(decide(&alone, &[], first, HOLD), Step::Look);
        let then = after(Duration::ZERO);
        assert_eq!(decide_all(&alone, &[], &[13], then, HOLD), Step::Look);
        assert_eq!(
            decide(&alone, &[], then, HOLD),
            Step::Start(Release::NoReplica)
        );
    }

    #[test]
    fn a_volume_without_a_data_set_is_no_better_than_none() {
        let wiped = Fallen {
            written: None,
            ..fallen(Persistence::Volume, Some(50))
        };
        assert_eq!(decide(&wiped, &[], after(GRACE), HOLD), Step::Look);
        assert_eq!(
            decide(&wiped, &[], after(HOLD), HOLD),
            Step::Start(Release::TimeOut)
        );
    }
}
