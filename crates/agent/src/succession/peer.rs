//! What the other nodes of the cluster say.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime};

use cachecluster_redis_admin::{connect, observe};
use cachecluster_topology::{NodeView, Probe};

use super::fallen::Fallen;
use crate::sample::Info;
use crate::settings::Settings;

/// How long the lookup of the peers' name may take.
const LOOKUP: Duration = Duration::from_millis(500);

/// A node that answered.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    pub(super) addr: SocketAddr,
    pub(super) view: NodeView,
    /// For a replica: until when it heard its primary, which is now if it does still. `None` when it has not since it
    /// was started, or was not asked.
    pub(super) heard: Option<SystemTime>,
}

impl Peer {
    pub(super) fn follows(&self, fallen: &Fallen) -> bool {
        self.view.primary.as_ref() == Some(&fallen.id)
    }

    /// Whether there is anything in it, be it while it loads.
    pub(super) fn has_data(&self) -> bool {
        self.view.keys > 0 || self.view.offset > 0
    }
}

/// Those of the nodes at `addrs` that answer within `patience`.
pub(super) async fn look(
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
