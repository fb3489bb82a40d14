//! Who serves this node's slots while its server is down.
//!
//! A primary without its memory must not come back over replicas that still have the data: it would come back empty,
//! and they would copy that. And a primary that just died need not be found out by time-outs: its agent knows. So
//! before the agent starts a server that was a primary, it sees to it that a replica has taken over. The server that it
//! holds down is the fence that makes this safe.
//!
//! The wait is bounded while no replica with data can be reached, and there is none when no replica is left to take
//! over. A replica with data that can be reached is never given up for an empty start.
//!
//! With a volume the server has its data, and waits for a moment only: a replica goes before the disk when it has what
//! the disk has.

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::{Duration, SystemTime};

use cachecluster_contract::Persistence;
use cachecluster_redis_admin::{connect, execute, observe};
use cachecluster_topology::{
    Action, LinkState, NodeId, NodeRef, NodeView, Probe, Role, SlotRanges, parse_nodes,
};
use tokio::time::Instant;

use crate::config::NODES_CONF;
use crate::sample::{Info, Sample};
use crate::settings::Settings;
use crate::volume;

/// How long the first question may take: replicas on machines that live answer in a few milliseconds.
const FIRST_LOOK: Duration = Duration::from_millis(200);
/// How long later questions may take.
const LOOK: Duration = Duration::from_millis(500);
/// Time between two looks while nobody can be asked to take over.
const PAUSE: Duration = Duration::from_millis(50);
/// Longest time between two attempts at a replica that does not take over; it doubles up to here.
const LONG_PAUSE: Duration = Duration::from_secs(2);
/// How long a replica may take to become the primary, with votes and without: 0.1 s is usual.
const PROMOTION: Duration = Duration::from_secs(1);
/// How long a replica that is behind waits for a fresher one that has not answered yet.
const GRACE: Duration = Duration::from_secs(1);
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
    /// Its replicas' addresses.
    pub replicas: Vec<(IpAddr, u16)>,
    /// All other nodes' addresses.
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
            written: None,
        })
    }

    /// Whether all of its slots are another primary's now, by that one's own account or by that of a node that hears it.
    fn succeeded(&self, peers: &[Peer]) -> bool {
        let claims: Vec<&SlotRanges> = peers
            .iter()
            .map(|peer| &peer.view)
            .filter(|view| view.id != self.id && view.role == Role::Primary)
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
    fn is_matched_by(&self, peer: &Peer) -> bool {
        self.offset.is_some_and(|seen| peer.view.offset >= seen)
    }

    /// Whether the replica's data set goes before what this node would come back with.
    fn gives_way_to(&self, peer: &Peer) -> bool {
        match (self.persistence, self.offset, self.written) {
            (Persistence::Ephemeral, _, _) | (Persistence::Volume, None, None) => true,
            (Persistence::Volume, Some(_), _) => self.is_matched_by(peer),
            // Nobody saw the end. What was written while the replica listened, it has.
            (Persistence::Volume, None, Some(written)) => {
                peer.heard.is_some_and(|heard| heard + SLACK >= written)
            }
        }
    }
}

/// A node that answered.
#[derive(Clone, Debug)]
struct Peer {
    addr: SocketAddr,
    view: NodeView,
    /// For a replica: until when it heard its primary, which is now if it does still. `None` when it has not since it
    /// was started, or was not asked.
    heard: Option<SystemTime>,
}

impl Peer {
    fn follows(&self, fallen: &Fallen) -> bool {
        self.view.primary.as_ref() == Some(&fallen.id)
    }

    /// Whether there is anything in it, be it while it loads.
    fn has_data(&self) -> bool {
        self.view.keys > 0 || self.view.offset > 0
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
    /// The wait is over: for so long no replica with data could be reached.
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
    /// Since the first look.
    elapsed: Duration,
    /// Since a replica with data was there last, or since the first look.
    unseen: Duration,
    votes_in_vain: bool,
}

fn decide(fallen: &Fallen, peers: &[Peer], tried: Tried, hold: Duration) -> Step {
    let followers = || peers.iter().filter(|peer| peer.follows(fallen));
    if fallen.succeeded(peers) {
        // A replica that has not heard of its new primary yet would copy what this node comes back with. It is in
        // nobody's way for longer: the data are the new primary's.
        return match followers().next() {
            Some(_) if tried.elapsed < hold => Step::Look,
            _ => Step::Start(Release::Succeeded),
        };
    }
    if fallen.replicas.is_empty() && followers().next().is_none() {
        return Step::Start(Release::NoReplica);
    }
    let all_answered = fallen
        .replicas
        .iter()
        .all(|addr| peers.iter().any(|peer| peer.addr == (*addr).into()));
    if all_answered && followers().next().is_none() {
        return Step::Start(Release::NoReplica);
    }
    let volume = fallen.persistence == Persistence::Volume;
    if volume && tried.elapsed >= hold {
        return Step::Start(Release::OwnData);
    }
    let waited = all_answered || tried.elapsed >= GRACE;
    let best = followers()
        .filter(|peer| !peer.view.loading && peer.has_data() && fallen.gives_way_to(peer))
        .max_by_key(|peer| (peer.view.offset, peer.view.id.clone()));
    match best {
        Some(peer) if waited || fallen.is_matched_by(peer) => {
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

/// Returns when the server of `fallen` may start again: when a successor is there, or when no replica with data could be
/// reached for `hold`. While one can be reached that does not take over, this does not return.
///
/// `votes_in_vain`: a replica has asked for votes already and did not get them, so none are asked for.
pub async fn settle(
    settings: &Settings,
    fallen: &Fallen,
    hold: Duration,
    votes_in_vain: bool,
) -> Release {
    let started = Instant::now();
    let mut seen = started;
    let mut tried = Tried {
        elapsed: Duration::ZERO,
        unseen: Duration::ZERO,
        votes_in_vain,
    };
    let mut addrs = fallen.replicas.clone();
    let mut patience = FIRST_LOOK;
    let mut pause = PAUSE;
    loop {
        let peers = look(settings, fallen, &addrs, patience).await;
        if peers
            .iter()
            .any(|peer| peer.follows(fallen) && peer.has_data())
        {
            seen = Instant::now();
        }
        tried.elapsed = started.elapsed();
        tried.unseen = seen.elapsed();
        match decide(fallen, &peers, tried, hold) {
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
                match execute(&action, &settings.password, PROMOTION).await {
                    // Only the shard's own nodes have something new to say.
                    Ok(()) => continue,
                    Err(error) => {
                        tracing::warn!(
                            %error,
                            held_seconds = started.elapsed().as_secs(),
                            "the replica has not taken over: held back until one has"
                        );
                        if tried.votes_in_vain {
                            pause = LONG_PAUSE.min(pause * 2);
                        }
                        tried.votes_in_vain = true;
                    }
                }
            }
            Step::Look => {}
        }
        addrs.extend(&fallen.others);
        addrs.extend(resolve(settings).await);
        addrs.sort_unstable();
        addrs.dedup();
        patience = LOOK;
        tokio::time::sleep(pause).await;
    }
}

async fn look(
    settings: &Settings,
    fallen: &Fallen,
    addrs: &[(IpAddr, u16)],
    patience: Duration,
) -> Vec<Peer> {
    let asked: Vec<_> = addrs.iter().copied().map(Some).collect();
    let answers = observe(&asked, &settings.password, patience).await;
    let mut peers = Vec::new();
    for (addr, answer) in addrs.iter().zip(answers) {
        if let Probe::Answered(view) = answer {
            peers.push(Peer {
                addr: (*addr).into(),
                view: *view,
                heard: None,
            });
        }
    }
    // Only where nothing else tells how fresh they are.
    if fallen.written.is_some() && fallen.offset.is_none() {
        let followers = peers.iter_mut().filter(|peer| peer.follows(fallen));
        let asking = async {
            for peer in followers {
                peer.heard = heard_until(settings, peer.addr, patience).await;
            }
        };
        // Those that were not asked in time count as having heard nothing.
        let _ = tokio::time::timeout(patience, asking).await;
    }
    peers
}

/// Until when the replica heard its primary.
async fn heard_until(
    settings: &Settings,
    addr: SocketAddr,
    patience: Duration,
) -> Option<SystemTime> {
    let addr = (addr.ip(), addr.port());
    let mut replica = connect(addr, &settings.password, patience).await.ok()?;
    let text = replica.text(&["INFO", "replication"]).await.ok()?;
    link_until(&Info::parse(&text), SystemTime::now())
}

fn link_until(info: &Info, now: SystemTime) -> Option<SystemTime> {
    if info.text("master_link_status") == Some("up") {
        return Some(now);
    }
    // -1 when there was no link since the start.
    let seconds: u64 = info.number("master_link_down_since_seconds")?;
    now.checked_sub(Duration::from_secs(seconds))
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
    fn replica(n: u8, primary: Option<u8>, offset: u64, others: u8) -> Peer {
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
        Peer {
            addr: ([127, 0, 0, 1], u16::from(n)).into(),
            view,
            heard: None,
        }
    }

    fn after(elapsed: Duration) -> Tried {
        Tried {
            elapsed,
            unseen: elapsed,
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
    fn a_replica_with_data_that_can_be_reached_is_never_given_up() {
        let fallen = fallen(Persistence::Ephemeral, Some(50));
        let long = Tried {
            elapsed: HOLD * 100,
            unseen: Duration::ZERO,
            votes_in_vain: true,
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
    fn what_a_replica_says_of_its_link() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        let until = |text| link_until(&Info::parse(text), now);
        assert_eq!(until("master_link_status:up"), Some(now));
        assert_eq!(
            until("master_link_status:down\nmaster_link_down_since_seconds:7"),
            Some(now - Duration::from_secs(7))
        );
        assert_eq!(
            until("master_link_status:down\nmaster_link_down_since_seconds:-1"),
            None
        );
    }
}
