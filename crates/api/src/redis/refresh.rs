//! Keeping the slot map fresh: every few seconds, and at once when a command met something that the map does not explain.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use redis::{Cmd, Value};

use super::map::SlotMap;
use super::node::{Fault, Node, Sent};
use super::route::Shared;
use super::slots::SLOTS;
use super::view::{self, Address, View};
use crate::metrics::Refresh;

/// Between refreshes that nobody asked for; half of it again is left to chance, so that API pods do not ask in step.
const PERIOD: Duration = Duration::from_secs(2);

/// The same while no node answers or slots have no owner: a cluster that is just being made is soon to be there.
const UNSETTLED_PERIOD: Duration = Duration::from_millis(200);

/// Shortest time between two refreshes, whoever asks.
const SHORTEST: Duration = Duration::from_millis(50);

/// How long a node may take to say what it sees.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(900);

/// How long to wait for further views once there is one: dead nodes must not hold up the news.
const GRACE: Duration = Duration::from_millis(60);

/// For how long a map with lower epochs is not believed when only a minority of the nodes it names told it: a primary that was deposed
/// while it hung says so for a moment. A cluster that was made anew says so for ever.
const DOUBT: Duration = Duration::from_secs(3);

/// How many nodes are asked at a time. A cluster may be far larger; chance picks others the next time.
const ROSTER: usize = 24;

/// How long names that were resolved are good for.
const NAMES_FOR: Duration = Duration::from_secs(1);

/// How long resolving the seeds' names may take.
const RESOLVE_TIMEOUT: Duration = Duration::from_millis(500);

/// Keeps the map fresh for ever.
pub(super) async fn keep_fresh(shared: Arc<Shared>) {
    let mut names = Names::default();
    let mut doubted = None;
    loop {
        let began = Instant::now();
        let settled = refresh(&shared, &mut names, &mut doubted).await;
        let in_order = settled && shared.map().covered() == SLOTS;
        let period = if in_order { PERIOD } else { UNSETTLED_PERIOD };
        let pause = period.mul_f64(1.0 + rand::random::<f64>() / 2.0);
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shared.news.notified() => {
                tokio::time::sleep_until((began + SHORTEST).into()).await;
            }
        }
    }
}

/// The seeds' addresses, as resolved last.
#[derive(Default)]
struct Names {
    at: Option<Instant>,
    addresses: Vec<Address>,
}

impl Names {
    async fn resolve(&mut self, shared: &Shared) -> Vec<Address> {
        if self.at.is_some_and(|at| at.elapsed() < NAMES_FOR) {
            return self.addresses.clone();
        }
        let lookups = shared.seeds.iter().map(|seed| async move {
            let found = tokio::time::timeout(
                RESOLVE_TIMEOUT,
                tokio::net::lookup_host((seed.host.as_str(), seed.port)),
            );
            match found.await {
                Ok(Ok(found)) => found
                    .map(|address| Address {
                        host: address.ip().to_string().into(),
                        port: address.port(),
                    })
                    .collect(),
                _ => Vec::new(),
            }
        });
        let mut found = futures::future::join_all(lookups).await.concat();
        found.sort();
        found.dedup();
        // A name service that is away for a moment takes nothing back.
        if !found.is_empty() {
            self.addresses = found;
        }
        self.at = Some(Instant::now());
        self.addresses.clone()
    }
}

/// One refresh; tells whether a node knew a map. `doubted` is since when every map was one that cannot be believed at once.
async fn refresh(shared: &Shared, names: &mut Names, doubted: &mut Option<Instant>) -> bool {
    let known = shared.map();
    let mut roster = known.peers.clone();
    for address in names.resolve(shared).await {
        let node = shared.node_at(&address);
        if !roster.iter().any(|peer| Arc::ptr_eq(peer, &node)) {
            roster.push(node);
        }
    }
    while roster.len() > ROSTER {
        let unlucky = rand::random_range(0..roster.len());
        roster.swap_remove(unlucky);
    }

    let views = collect(&roster).await;
    let merged = SlotMap::merge(&views, |address| shared.node_at(address));
    let told = merged.is_some();
    match merged {
        Some(map) => {
            let covered = map.covered();
            shared.heard();
            shared.metrics.refreshed(Refresh::Ok, covered);
            let few = views.len() * 2 <= map.peers.len();
            if few && map.regresses_from(&known) {
                let since = *doubted.get_or_insert_with(Instant::now);
                if since.elapsed() < DOUBT {
                    tracing::debug!("a minority tells an older map; asking again");
                    shared.news.notify_one();
                    return true;
                }
            }
            *doubted = None;
            if !map.same(&known) {
                tracing::info!(
                    primaries = map.primaries().len(),
                    nodes = map.peers.len(),
                    covered,
                    "slot map changed"
                );
                shared.replace(map);
            }
        }
        None => {
            tracing::debug!(
                asked = roster.len(),
                answered = views.len(),
                "no node knows a slot map"
            );
            shared.metrics.refreshed(Refresh::Failed, known.covered());
        }
    }
    shared.forget_unused(&roster);
    told
}

/// What the nodes see, as far as they say so in time.
async fn collect(roster: &[Arc<Node>]) -> Vec<View> {
    let mut asked: FuturesUnordered<_> = roster.iter().map(|node| ask(node)).collect();
    let mut views = Vec::new();
    let mut until = Instant::now() + ANSWER_TIMEOUT;
    while let Ok(Some(answer)) = tokio::time::timeout_at(until.into(), asked.next()).await {
        if let Some(view) = answer {
            until = until.min(Instant::now() + GRACE);
            views.push(view);
        }
    }
    views
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
