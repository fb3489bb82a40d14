//! Keeping the slot map fresh: every few seconds, and at once when a command met something that the map does not explain.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use redis::{Cmd, Value};

use super::map::SlotMap;
use super::node::{Fault, Node, Sent};
use super::route::{SILENCE, Shared};
use super::slots::SLOTS;
use super::view::{self, Address, View};
use crate::metrics::{Cause, Refresh};

/// Between refreshes that nobody asked for; half of it again is left to chance, so that API pods do not ask in step. It
/// bounds for how long a primary that was deposed, does not know it and can still be reached is asked.
const PERIOD: Duration = Duration::from_millis(500);

/// The same while no node answers, some do not, or slots have no owner.
const UNSETTLED_PERIOD: Duration = Duration::from_millis(200);

/// The same while requests wait: what they wait for is most likely a failover, which takes 100 ms.
const WAITING_PERIOD: Duration = Duration::from_millis(20);

/// The same when they have waited for longer than [`LONG_WAIT`]: it is something else.
const LONG_WAITING_PERIOD: Duration = Duration::from_millis(100);
/// See [`LONG_WAITING_PERIOD`].
const LONG_WAIT: Duration = Duration::from_secs(3);

/// How long a node may take to say what it sees.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(600);

/// How long to wait for further views once there is one: dead nodes must not hold up the news. Those that gave none the
/// last time are not waited for at all.
const GRACE: Duration = Duration::from_millis(60);

/// For how long a map with lower epochs is not believed when only a minority of the nodes it names told it: a primary that
/// was deposed while it hung says so for a moment, and one that is cut off from the others for as long as it is.
const DOUBT: Duration = Duration::from_secs(10);

/// The same if it is of another cluster, in which none of the nodes known is a member: one that was made anew says so for ever.
const DOUBT_OF_ANOTHER: Duration = Duration::from_secs(3);

/// How many nodes are asked at a time. A cluster may be far larger; chance picks others the next time.
const ROSTER: usize = 24;

/// Keeps the map fresh for ever.
pub(super) async fn keep_fresh(shared: Arc<Shared>) {
    let mut refresher = Refresher {
        shared: shared.clone(),
        silent: HashSet::new(),
        doubted: None,
    };
    let mut cause = Cause::Time;
    let mut waiting_since = None;
    loop {
        let began = Instant::now();
        let settled = refresher.refresh(cause).await;
        shared.settle(settled);
        let waiting = shared.is_waiting();
        let waited = match waiting {
            true => waiting_since.get_or_insert(began).elapsed(),
            false => {
                waiting_since = None;
                Duration::ZERO
            }
        };
        let shortest = if waited < LONG_WAIT {
            WAITING_PERIOD
        } else {
            LONG_WAITING_PERIOD
        };
        let mut next = (shortest, Cause::Waiting);
        if !waiting {
            next = if !settled || shared.map().covered() < SLOTS || !refresher.silent.is_empty() {
                (UNSETTLED_PERIOD, Cause::Unsettled)
            } else {
                (PERIOD, Cause::Time)
            };
            next.0 = next.0.mul_f64(1.0 + rand::random::<f64>() / 2.0);
        }
        cause = tokio::select! {
            () = tokio::time::sleep(next.0) => next.1,
            () = shared.news.notified() => {
                tokio::time::sleep_until((began + shortest).into()).await;
                if shared.is_waiting() { Cause::Waiting } else { Cause::Told }
            }
        };
    }
}

/// What is remembered from one refresh to the next.
struct Refresher {
    shared: Arc<Shared>,
    /// The nodes that gave no view the last time.
    silent: HashSet<Address>,
    /// Since when every map told was one that cannot be believed at once.
    doubted: Option<Instant>,
}

impl Refresher {
    /// One refresh; tells whether a node knew a map that can be believed.
    async fn refresh(&mut self, cause: Cause) -> bool {
        let shared = self.shared.clone();
        let mut roster = shared.map().peers.clone();
        for address in shared.names.addresses() {
            let node = shared.node_at(&address);
            if !roster.iter().any(|peer| Arc::ptr_eq(peer, &node)) {
                roster.push(node);
            }
        }
        while roster.len() > ROSTER {
            let unlucky = rand::random_range(0..roster.len());
            roster.swap_remove(unlucky);
        }
        for node in &roster {
            node.drop_silent(SILENCE);
        }

        let views = self.collect(&roster).await;
        let merged = SlotMap::merge(&views, |address| shared.node_at(address));
        let known = shared.map();
        let settled = match merged {
            Some(map) => {
                let covered = map.covered();
                shared.heard();
                shared.metrics.refreshed(cause, Refresh::Ok, covered);
                let believed = self.believe(&map, &known, &views);
                if believed && !map.same(&known) {
                    tracing::info!(
                        primaries = map.primaries().len(),
                        nodes = map.peers.len(),
                        covered,
                        "slot map changed"
                    );
                    shared.replace(map);
                }
                believed
            }
            None => {
                tracing::debug!(
                    asked = roster.len(),
                    answered = views.len(),
                    "no node knows a slot map"
                );
                let covered = known.covered();
                shared.metrics.refreshed(cause, Refresh::Failed, covered);
                false
            }
        };
        shared.forget_unused(&roster);
        settled
    }

    /// Whether a map may take the place of the one that is known.
    fn believe(&mut self, map: &SlotMap, known: &SlotMap, views: &[View]) -> bool {
        let few = views.len() * 2 <= map.peers.len();
        if few && map.regresses_from(known) {
            let doubt = if known.is_known_to(views) {
                DOUBT
            } else {
                DOUBT_OF_ANOTHER
            };
            let since = *self.doubted.get_or_insert_with(Instant::now);
            if since.elapsed() < doubt {
                tracing::debug!("a minority tells an older map; asking again");
                return false;
            }
        }
        self.doubted = None;
        true
    }

    /// What the nodes see, as far as they say so in time. What is newer in it than the map is put into the map at once.
    async fn collect(&mut self, roster: &[Arc<Node>]) -> Vec<View> {
        let mut asked: FuturesUnordered<_> = roster
            .iter()
            .map(|node| async move { (node, ask(node).await) })
            .collect();
        let mut awaited: HashSet<&Address> = roster.iter().map(|node| node.address()).collect();
        awaited.retain(|address| !self.silent.contains(*address));
        let mut silent: HashSet<Address> =
            roster.iter().map(|node| node.address().clone()).collect();
        let mut views = Vec::new();
        let mut until = Instant::now() + ANSWER_TIMEOUT;
        while let Ok(Some((node, answer))) =
            tokio::time::timeout_at(until.into(), asked.next()).await
        {
            awaited.remove(node.address());
            if let Some(view) = answer {
                silent.remove(node.address());
                self.shared.advance(&view);
                until = until.min(Instant::now() + GRACE);
                views.push(view);
            }
            if awaited.is_empty() && !views.is_empty() {
                break;
            }
        }
        self.silent = silent;
        views
    }
}

async fn ask(node: &Node) -> Option<View> {
    let mut command = Cmd::new();
    command.arg("CLUSTER").arg("NODES");
    let answer = node.send_unbounded(&command, false, &Sent::default()).await;
    let text = match answer {
        Ok(Value::BulkString(text)) => String::from_utf8(text).ok()?,
        Ok(Value::VerbatimString { text, .. } | Value::SimpleString(text)) => text,
        Err(Fault::Reply(error))
            if error
                .detail()
                .is_some_and(|detail| detail.contains("cluster support disabled")) =>
        {
            return Some(View::Standalone(node.address().clone()));
        }
        Ok(_) => return None,
        Err(fault) => {
            tracing::debug!(node = %node.address(), ?fault, "no view");
            return None;
        }
    };
    view::parse(&text, node.address()).map(View::Cluster)
}
