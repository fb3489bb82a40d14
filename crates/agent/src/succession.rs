//! Who serves this node's slots while its server is down.
//!
//! A primary without its memory must not come back over replicas that still have the data: it would come back empty,
//! and they would copy that. And a primary that just died need not be found out by time-outs: its agent knows. So
//! before the agent starts a server that was a primary, it sees to it that a replica has taken over. The server that it
//! holds down is the fence that makes this safe.
//!
//! The wait is bounded, and there is none when no replica is left to take over.

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use cachecluster_contract::Persistence;
use cachecluster_redis_admin::{execute, observe};
use cachecluster_topology::{
    Action, LinkState, NodeId, NodeRef, NodeView, Probe, Role, SlotRanges, parse_nodes,
};
use tokio::time::Instant;

use crate::config::NODES_CONF;
use crate::sample::Sample;
use crate::settings::Settings;

/// How long the first question may take: replicas on machines that live answer in a few milliseconds.
const FIRST_LOOK: Duration = Duration::from_millis(200);
/// How long later questions may take.
const LOOK: Duration = Duration::from_millis(500);
/// Time between two looks while nobody can be asked to take over.
const PAUSE: Duration = Duration::from_millis(50);
/// How long a replica may take to become the primary, with votes and without: 0.1 s is usual.
const PROMOTION: Duration = Duration::from_secs(1);
/// How long a replica that is behind waits for a fresher one that has not answered yet.
const GRACE: Duration = Duration::from_secs(1);

/// The primary whose server is down, as it last knew itself and its shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fallen {
    /// Its id.
    pub id: NodeId,
    /// Its slots.
    pub slots: SlotRanges,
    /// Its configuration epoch.
    pub epoch: u64,
    /// Its replicas' addresses.
    pub replicas: Vec<(IpAddr, u16)>,
    /// All other nodes' addresses.
    pub others: Vec<(IpAddr, u16)>,
    /// Its replication offset when it was seen last, if this agent saw it.
    pub offset: Option<u64>,
    /// Whether its data set comes back from disk.
    pub persistence: Persistence,
}

impl Fallen {
    /// Reads `nodes.conf`, and takes what the server said `last`, if this agent saw it. `None` when the node was no
    /// primary with slots, or has never been anything.
    ///
    /// # Errors
    /// When the file is there and cannot be read. One that makes no sense is left for the server to complain about.
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
        Ok(fallen)
    }

    fn parse(text: &str, persistence: Persistence, offset: Option<u64>) -> Option<Self> {
        let nodes: String = text
            .lines()
            .filter(|line| !line.starts_with("vars "))
            .flat_map(|line| [line, "\n"])
            .collect();
        let (me, known) = parse_nodes(&nodes).ok()?;
        if me.role != Role::Primary || me.slots.is_empty() {
            return None;
        }
        let follows_me =
            |node: &&cachecluster_topology::KnownNode| node.primary == Some(me.id.clone());
        let (replicas, others): (Vec<_>, Vec<_>) = known.values().partition(follows_me);
        Some(Self {
            replicas: replicas.iter().filter_map(|node| node.addr).collect(),
            others: others.iter().filter_map(|node| node.addr).collect(),
            id: me.id,
            slots: me.slots,
            epoch: me.epoch,
            offset,
            persistence,
        })
    }

    /// Whether all of its slots are another primary's now, by that one's own account or by that of a node that hears it.
    fn succeeded(&self, views: &[(SocketAddr, NodeView)]) -> bool {
        let claims: Vec<&SlotRanges> = views
            .iter()
            .filter(|(_, view)| view.id != self.id && view.role == Role::Primary)
            .map(|(_, view)| &view.slots)
            .chain(views.iter().flat_map(|(_, view)| {
                view.known
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
}

/// Why the server may start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// Another node serves the slots and nobody follows this one any more.
    Succeeded,
    /// No node ever followed this one, or all that did are somebody else's now.
    NoReplica,
    /// The data set comes back from disk, and no replica is known to have all of it.
    OwnData,
    /// The wait is over; no replica with data could be found.
    TimeOut,
}

/// What to do after a look at the shard.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Start(Release),
    /// Ask this replica to take over.
    Promote(NodeRef, Way),
    Look,
}

/// How a replica takes over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// By the votes of the other primaries.
    Votes,
    /// Without votes: there are too few to be had.
    Alone,
}

/// What was tried so far.
#[derive(Clone, Copy, Debug)]
struct Tried {
    elapsed: Duration,
    votes_in_vain: bool,
}

fn decide(fallen: &Fallen, views: &[(SocketAddr, NodeView)], tried: Tried, hold: Duration) -> Step {
    let followers = || {
        views
            .iter()
            .filter(|(_, view)| view.primary.as_ref() == Some(&fallen.id))
    };
    if fallen.succeeded(views) {
        // A replica that has not heard of its new primary yet would copy what this node comes back with.
        return match followers().next() {
            None => Step::Start(Release::Succeeded),
            Some(_) if tried.elapsed >= hold => Step::Start(Release::TimeOut),
            Some(_) => Step::Look,
        };
    }
    if fallen.replicas.is_empty() && followers().next().is_none() {
        return Step::Start(Release::NoReplica);
    }
    let all_answered = fallen
        .replicas
        .iter()
        .all(|addr| views.iter().any(|(from, _)| *from == (*addr).into()));
    if all_answered && followers().next().is_none() {
        return Step::Start(Release::NoReplica);
    }
    // Every replica has what this node had acknowledged when it was last seen, if it is as far.
    let in_sync = |view: &NodeView| fallen.offset.is_some_and(|seen| view.offset >= seen);
    let best = followers()
        .filter(|(_, view)| !view.loading && (view.keys > 0 || view.offset > 0))
        .max_by_key(|(_, view)| (view.offset, view.id.clone()));
    match best {
        _ if tried.elapsed >= hold => Step::Start(Release::TimeOut),
        // On disk there is at least what a replica that is behind has.
        None if fallen.persistence == Persistence::Volume && all_answered => {
            Step::Start(Release::OwnData)
        }
        Some((_, view)) if fallen.persistence == Persistence::Volume && !in_sync(view) => {
            if all_answered || tried.elapsed >= GRACE {
                Step::Start(Release::OwnData)
            } else {
                Step::Look
            }
        }
        None if fallen.persistence == Persistence::Volume && tried.elapsed >= GRACE => {
            Step::Start(Release::OwnData)
        }
        Some((_, view)) if !in_sync(view) && !all_answered && tried.elapsed < GRACE => Step::Look,
        Some((addr, view)) => {
            let way = if tried.votes_in_vain || !majority_lives(fallen, view) {
                Way::Alone
            } else {
                Way::Votes
            };
            let replica = NodeRef {
                id: view.id.clone(),
                name: addr.to_string(),
                addr: (addr.ip(), addr.port()),
            };
            Step::Promote(replica, way)
        }
        None => Step::Look,
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

/// Returns when the server of `fallen` may start again, after `hold` at the latest.
///
/// `votes_in_vain`: a replica has asked for votes already and did not get them, so none are asked for.
pub async fn settle(
    settings: &Settings,
    fallen: &Fallen,
    hold: Duration,
    votes_in_vain: bool,
) -> Release {
    let started = Instant::now();
    let mut tried = Tried {
        elapsed: Duration::ZERO,
        votes_in_vain,
    };
    let mut addrs = fallen.replicas.clone();
    let mut patience = FIRST_LOOK;
    loop {
        let views = look(settings, &addrs, patience).await;
        tried.elapsed = started.elapsed();
        match decide(fallen, &views, tried, hold) {
            Step::Start(release) => return release,
            Step::Promote(replica, way) => {
                tracing::info!(
                    replica = replica.name,
                    ?way,
                    "asking a replica to take over"
                );
                let action = match way {
                    Way::Votes => Action::ForceFailover { replica },
                    Way::Alone => Action::Takeover { replica },
                };
                if let Err(error) = execute(&action, &settings.password, PROMOTION).await {
                    tracing::warn!(%error, "the replica has not taken over");
                    tried.votes_in_vain = true;
                }
                // Only the shard's own nodes have something new to say.
                continue;
            }
            Step::Look => {}
        }
        addrs.extend(&fallen.others);
        addrs.extend(resolve(settings).await);
        addrs.sort_unstable();
        addrs.dedup();
        patience = LOOK;
        tokio::time::sleep(PAUSE).await;
    }
}

async fn look(
    settings: &Settings,
    addrs: &[(IpAddr, u16)],
    patience: Duration,
) -> Vec<(SocketAddr, NodeView)> {
    let asked: Vec<_> = addrs.iter().copied().map(Some).collect();
    let answers = observe(&asked, &settings.password, patience).await;
    let answered = addrs.iter().zip(answers);
    answered
        .filter_map(|(addr, answer)| match answer {
            Probe::Answered(view) => Some(((*addr).into(), *view)),
            Probe::Silent(_) => None,
        })
        .collect()
}

/// The peers that are known by name now: addresses in `nodes.conf` go stale when pods are replaced.
async fn resolve(settings: &Settings) -> Vec<(IpAddr, u16)> {
    let name = (settings.cluster.peers.as_str(), settings.redis_port);
    match tokio::time::timeout(LOOK, tokio::net::lookup_host(name)).await {
        Ok(Ok(found)) => found.map(|addr| (addr.ip(), addr.port())).collect(),
        Ok(Err(_)) | Err(_) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOLD: Duration = Duration::from_secs(30);

    fn id(n: u8) -> String {
        format!("{n:02x}").repeat(20)
    }

    /// The fallen primary 1, its replicas 11 and 12, and the other primaries.
    fn nodes_conf(others: u8) -> String {
        let mut text = format!(
            "{} 127.0.0.1:1@10001 myself,master - 0 0 1 connected 0-99\n",
            id(1)
        );
        for n in [11, 12] {
            let line = format!(
                "{} 127.0.0.1:{n}@10011 slave {} 0 0 1 connected\n",
                id(n),
                id(1)
            );
            text.push_str(&line);
        }
        for n in 2..2 + others {
            let line = format!(
                "{} 127.0.0.1:{n}@10002 master - 0 0 {n} connected {n}00-{n}99\n",
                id(n)
            );
            text.push_str(&line);
        }
        text + "vars currentEpoch 9 lastVoteEpoch 0\n"
    }

    fn fallen(persistence: Persistence, offset: Option<u64>) -> Fallen {
        Fallen::parse(&nodes_conf(2), persistence, offset).unwrap()
    }

    /// What replica `n` says: that it follows `primary`, or that it is a primary itself.
    fn replica(n: u8, primary: Option<u8>, offset: u64, others: u8) -> (SocketAddr, NodeView) {
        let text = nodes_conf(others);
        let mut nodes = String::new();
        for line in text.lines().filter(|line| !line.starts_with("vars")) {
            let line = line.replace("myself,", "");
            let line = match (line.starts_with(&id(n)), primary) {
                (false, _) => line,
                (true, Some(p)) => line
                    .replace("slave", "myself,slave")
                    .replace(&id(1), &id(p)),
                (true, None) => format!(
                    "{} 127.0.0.1:{n}@1 myself,master - 0 0 9 connected 0-99",
                    id(n)
                ),
            };
            nodes += &line;
            nodes += "\n";
        }
        let info = format!(
            "redis_version:7.0.15\nused_memory:1\nloading:0\nmaster_repl_offset:{offset}\nconnected_slaves:0\n\
             slave_repl_offset:{offset}\n"
        );
        let cluster = "cluster_state:ok\ncluster_current_epoch:9\n";
        let view = NodeView::assemble(&nodes, cluster, &info).unwrap();
        (([127, 0, 0, 1], u16::from(n)).into(), view)
    }

    fn after(elapsed: Duration) -> Tried {
        Tried {
            elapsed,
            votes_in_vain: false,
        }
    }

    fn promoted(step: Step) -> (u16, Way) {
        match step {
            Step::Promote(replica, way) => (replica.addr.1, way),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn only_a_primary_with_slots_has_something_to_leave() {
        let text = nodes_conf(0);
        let parse = |text: &str| Fallen::parse(text, Persistence::Ephemeral, None);
        assert_eq!(parse(&text).unwrap().replicas.len(), 2);
        assert_eq!(parse(&text.replace(" 0-99", "")), None);
        assert_eq!(parse("garbage"), None);
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
        let empty = [replica(11, Some(1), 0, 2)];
        assert_eq!(decide(&fallen, &empty, after(GRACE), HOLD), Step::Look);
        assert_eq!(
            decide(&fallen, &empty, after(HOLD), HOLD),
            Step::Start(Release::TimeOut)
        );
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
}
