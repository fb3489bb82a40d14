//! What the other nodes of the cluster say.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime};

use cachecluster_contract::durable::promotable_ms;
use cachecluster_redis_admin::observe;
use cachecluster_topology::{NodeView, Probe};

use super::fallen::Fallen;
use crate::settings::Settings;

/// How long the lookup of the peers' name may take.
const LOOKUP: Duration = Duration::from_millis(500);

/// A node that answered.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    pub(super) addr: SocketAddr,
    pub(super) view: NodeView,
    /// For a replica: until when it heard its primary. `None` when it has not since it was started, or so long ago that it
    /// may not be promoted.
    pub(super) heard: Option<SystemTime>,
}

impl Peer {
    pub(super) fn follows(&self, fallen: &Fallen) -> bool {
        self.view.primary.as_ref() == Some(&fallen.id)
    }

    /// Whether there is anything in it, be it while it loads. One that has never been in step counts from 1.
    pub(super) fn has_data(&self) -> bool {
        self.view.keys > 0 || self.view.offset > 1
    }
}

/// What was seen of the other nodes.
#[derive(Debug, Default)]
pub(super) struct Sight {
    /// Those that gave an account of themselves.
    pub(super) peers: Vec<Peer>,
    /// Where a server lives and gives none, because it loads its data set, as most engines do, or is busy. Nodes that were
    /// known to belong to other shards are left out; of any other it may turn out to be a replica of the fallen one.
    pub(super) mute: Vec<SocketAddr>,
}

impl Sight {
    /// Whether data that the fallen node would otherwise come back without are there, or may be.
    pub(super) fn has_data_of(&self, fallen: &Fallen) -> bool {
        let mut followers = self.peers.iter().filter(|peer| peer.follows(fallen));
        !self.mute.is_empty() || followers.any(Peer::has_data)
    }
}

/// What the nodes at `addrs` answer within `patience`.
pub(super) async fn look(
    settings: &Settings,
    fallen: &Fallen,
    addrs: &[(IpAddr, u16)],
    patience: Duration,
) -> Sight {
    let asked: Vec<_> = addrs.iter().copied().map(Some).collect();
    let answers = observe(&asked, &settings.password, patience).await;
    let now = SystemTime::now();
    let limit = heard_limit(settings, fallen);
    let mut sight = Sight::default();
    for (addr, answer) in addrs.iter().zip(answers) {
        match answer {
            Probe::Answered(view) => sight.peers.push(Peer {
                addr: (*addr).into(),
                heard: heard_until(&view, now, limit),
                view: *view,
            }),
            Probe::Loading | Probe::Refused(_) if !fallen.others.contains(addr) => {
                sight.mute.push((*addr).into());
            }
            Probe::Loading | Probe::Refused(_) | Probe::Silent(_) => {}
        }
    }
    sight
}

/// For how long a replica may not have heard its primary, in a durable cluster: a primary that was allowed to go on without
/// it has waited for longer. An agent that did not see its server's end cannot tell how long ago that was.
fn heard_limit(settings: &Settings, fallen: &Fallen) -> Option<Duration> {
    let saw_the_end = settings.cluster.durable.is_some() && fallen.offset.is_some();
    saw_the_end.then(|| Duration::from_millis(promotable_ms(settings.cluster.node_timeout)))
}

/// Until when the replica heard its primary, if no longer ago than the limit. A link that is up says nothing: one over which
/// nothing comes any more stays so for a minute.
fn heard_until(view: &NodeView, now: SystemTime, limit: Option<Duration>) -> Option<SystemTime> {
    let silence = Duration::from_secs(view.standing.unheard_seconds?);
    let heard = now.checked_sub(silence)?;
    limit.is_none_or(|limit| silence <= limit).then_some(heard)
}

/// The peers that are known by name now: addresses in `nodes.conf` go stale when pods are replaced.
pub(super) async fn resolve(settings: &Settings) -> Vec<(IpAddr, u16)> {
    let name = (settings.cluster.peers.as_str(), settings.redis_port);
    match tokio::time::timeout(LOOKUP, tokio::net::lookup_host(name)).await {
        Ok(Ok(found)) => found.map(|addr| (addr.ip(), addr.port())).collect(),
        Ok(Err(_)) | Err(_) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::succession::example::replica;

    #[test]
    fn what_a_replica_says_of_its_link() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        let mut view = replica(11, Some(1), 50, 2).view;
        let mut until = |up, seconds, limit: Option<u64>| {
            view.link_up = up;
            view.standing.unheard_seconds = seconds;
            heard_until(&view, now, limit.map(Duration::from_secs))
        };
        let seven = Some(now - Duration::from_secs(7));
        assert_eq!(until(true, Some(7), None), seven);
        assert_eq!(until(true, Some(7), Some(6)), None);
        assert_eq!(until(false, Some(7), None), seven);
        assert_eq!(until(false, Some(7), Some(7)), seven);
        assert_eq!(until(false, Some(7), Some(6)), None);
        assert_eq!(until(false, None, None), None);
    }
}
