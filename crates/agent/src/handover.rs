//! Before a primary stops, its best replica becomes the primary: without loss, and in about a tenth of a second.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use cachecluster_redis_admin::{Connection, connect, execute, observe};
use cachecluster_topology::{Action, NodeRef, NodeView, Probe, Role};
use tokio::time::Instant;

use crate::board::Board;
use crate::monitor::own_address;
use crate::sample::{self, Info};
use crate::settings::Settings;

/// How long one look at the replicas, or the own server's answer, may take.
const LOOK: Duration = Duration::from_millis(500);
/// How long one replica may take to win the votes and become the primary. The old one holds writes back meanwhile, and
/// votes that do not come within this time do not come for several seconds: then [`crate::succession`] is quicker.
const PROMOTION: Duration = Duration::from_secs(1);
/// How long a replica that copies the data is waited for, while the own server serves on. With all that may follow, it is
/// less than the minute that Kubernetes leaves to a pod.
const COPY: Duration = Duration::from_secs(30);
/// Time between two looks at a copy.
const COPY_POLL: Duration = Duration::from_millis(100);
/// How long the own server may take to hear of it.
const NEWS: Duration = Duration::from_secs(1);
/// How long a replica may take to read what a server is about to leave to it.
const CATCH_UP: Duration = Duration::from_secs(5);
/// For how long, in milliseconds, writes are held back at a server that is about to stop: more than that takes.
const LAST_PAUSE: &str = "20000";
/// Time between two questions.
const POLL: Duration = Duration::from_millis(5);

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The own server is no primary with slots: there was nothing to hand over.
    Nothing,
    /// The own server does not answer.
    Silent,
    /// It has no replica whose link is up.
    NoReplica,
    /// A replica is the primary now, and the own server follows it.
    Done {
        /// How long it took.
        took: Duration,
    },
    /// No replica became the primary.
    Failed,
}

/// Hands the own server's slots to its best replica, if it has slots and a replica.
pub async fn hand_over(settings: &Settings, board: &Board) -> Outcome {
    let started = Instant::now();
    let Some(mut own) = reach(settings, board).await else {
        return Outcome::Silent;
    };
    let Some((info, view)) = look(&mut own).await else {
        return Outcome::Silent;
    };
    if !serves(&view) {
        return Outcome::Nothing;
    }
    let replicas = ask_replicas(settings, &info, &view).await;
    let Some((replica, _)) = best(&replicas, &view) else {
        return Outcome::NoReplica;
    };
    tracing::info!(replica = replica.name, "handing over");
    let action = Action::Failover { replica };
    if let Err(error) = execute(&action, &settings.password, PROMOTION).await {
        tracing::warn!(%error, "the replica has not become the primary");
        return Outcome::Failed;
    }
    // Clients that are still connected are redirected once the own server knows.
    let heard = async {
        while look(&mut own)
            .await
            .is_some_and(|(_, view)| view.role == Role::Primary)
        {
            tokio::time::sleep(POLL).await;
        }
    };
    if tokio::time::timeout(NEWS, heard).await.is_err() {
        tracing::warn!("the own server has not heard of the new primary");
    }
    Outcome::Done {
        took: started.elapsed(),
    }
}

/// While no replica of the own server is in step, and one copies its data, waits for that one, for a bounded time; the
/// server serves meanwhile.
pub async fn await_copy(settings: &Settings, board: &Board) {
    let waiting = async {
        let mut own = reach(settings, board).await?;
        let mut copying = BTreeSet::new();
        let mut told = false;
        loop {
            let (info, view) = look(&mut own).await?;
            if !serves(&view) {
                return None;
            }
            let replicas = ask_replicas(settings, &info, &view).await;
            if best(&replicas, &view).is_some() {
                return Some(());
            }
            copying.extend(info.copying());
            let loading = replicas.iter().filter(|(_, probe)| probe.is_loading());
            copying.extend(loading.map(|(addr, _)| *addr));
            // Between one part of it and the next, and while it throws away what it had, it may not answer.
            if !info.replicas().any(|addr| copying.contains(&addr)) {
                return None;
            }
            if !told {
                tracing::info!("no replica is in step, and one copies the data: waiting for it");
                told = true;
            }
            tokio::time::sleep(COPY_POLL).await;
        }
    };
    if tokio::time::timeout(COPY, waiting).await.is_err() {
        tracing::warn!("no replica has copied the data in time");
    }
}

fn serves(view: &NodeView) -> bool {
    view.role == Role::Primary && !view.slots.is_empty()
}

/// Makes the own server, which is about to stop without having handed over, accept no more writes, and waits until a
/// replica that listens to it has them all. How far they went is on the board then, for the choice of a successor.
pub async fn quiesce(settings: &Settings, board: &Board) {
    let quieting = async {
        let mut own = reach(settings, board).await?;
        let paused = own.text(&["CLIENT", "PAUSE", LAST_PAUSE, "WRITE"]).await;
        paused.ok()?;
        let last = sample::take(&mut own).await.ok()?;
        let view = last.view.clone()?;
        let info = last.info.clone();
        board.put_sample(last);
        if view.role != Role::Primary || info.replicas().next().is_none() {
            return None;
        }
        while best(&ask_replicas(settings, &info, &view).await, &view)
            .is_none_or(|(_, offset)| offset < view.offset)
        {
            tokio::time::sleep(POLL).await;
        }
        Some(view.offset)
    };
    match tokio::time::timeout(CATCH_UP, quieting).await {
        Ok(Some(offset)) => tracing::info!(offset, "a replica has all that was written"),
        Ok(None) => {}
        Err(_) => tracing::warn!("no replica has caught up"),
    }
}

/// A connection to the own server; one that takes no more clients is reached over the one that was open before.
async fn reach(settings: &Settings, board: &Board) -> Option<Connection> {
    let new = connect(own_address(settings), &settings.password, LOOK).await;
    new.ok().or_else(|| board.line())
}

/// What the own server says of itself. `None` when it says nothing.
async fn look(own: &mut Connection) -> Option<(Info, NodeView)> {
    let sample = sample::take(own).await.ok()?;
    Some((sample.info, sample.view?))
}

/// What the own server's replicas say.
async fn ask_replicas(
    settings: &Settings,
    info: &Info,
    view: &NodeView,
) -> Vec<((IpAddr, u16), Probe)> {
    let mut addrs: Vec<_> = view
        .known
        .values()
        .filter(|node| node.primary.as_ref() == Some(&view.id))
        .filter_map(|node| node.addr)
        .chain(info.replicas())
        .collect();
    addrs.sort_unstable();
    addrs.dedup();
    let asked: Vec<_> = addrs.iter().copied().map(Some).collect();
    let answers = observe(&asked, &settings.password, LOOK).await;
    addrs.into_iter().zip(answers).collect()
}

/// The replica that has applied most, of those whose link is up, and how much that is.
fn best(replicas: &[((IpAddr, u16), Probe)], view: &NodeView) -> Option<(NodeRef, u64)> {
    replicas
        .iter()
        .filter_map(|(addr, answer)| Some((*addr, answer.view()?)))
        .filter(|(_, replica)| replica.link_up && replica.primary.as_ref() == Some(&view.id))
        .max_by_key(|(_, replica)| (replica.offset, replica.id.clone()))
        .map(|(addr, replica)| {
            let node = NodeRef {
                id: replica.id.clone(),
                name: std::net::SocketAddr::from(addr).to_string(),
                addr,
            };
            (node, replica.offset)
        })
}
