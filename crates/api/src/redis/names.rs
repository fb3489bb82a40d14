//! The addresses behind the seeds' names, looked up in the background: a name service that is slow or away, which may be for
//! the very reason that a node is, keeps nobody from asking the nodes that are known.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::route::Shared;
use super::view::Address;

/// How long an answer is awaited, and so how many look-ups of one name can be under way at a time, given that the resolver
/// itself gives up after some seconds.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(2);

/// Between look-ups while the nodes that are known answer.
const PERIOD: Duration = Duration::from_secs(2);

/// The same while none does: all pods may have come back elsewhere.
const UNSETTLED_PERIOD: Duration = Duration::from_millis(250);

/// Addresses as they were resolved last.
#[derive(Default)]
pub(super) struct Names(Mutex<Vec<Address>>);

impl Names {
    /// The addresses.
    pub(super) fn addresses(&self) -> Vec<Address> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Notes what was found, and tells whether it is news. A name service that is away for a moment takes nothing back.
    fn found(&self, mut found: Vec<Address>) -> bool {
        found.sort();
        found.dedup();
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_news = !found.is_empty() && *known != found;
        if is_news {
            *known = found;
        }
        is_news
    }
}

/// Looks the names up for ever. `shared.news` is told of changes.
pub(super) async fn keep_resolved(shared: Arc<Shared>) {
    loop {
        if shared.names.found(resolve(&shared).await) {
            shared.news.notify_one();
        }
        if shared.is_settled() {
            // Until it is time, or until the nodes that are known do not answer any more.
            let _ = tokio::time::timeout(PERIOD, shared.lost.notified()).await;
        } else {
            tokio::time::sleep(UNSETTLED_PERIOD).await;
        }
    }
}

async fn resolve(shared: &Shared) -> Vec<Address> {
    let lookups = shared.seeds.iter().map(|seed| async move {
        let found = tokio::net::lookup_host((seed.host.as_str(), seed.port));
        match tokio::time::timeout(RESOLVE_TIMEOUT, found).await {
            Ok(Ok(found)) => found
                .map(|address| Address {
                    host: address.ip().to_string().into(),
                    port: address.port(),
                })
                .collect(),
            _ => Vec::new(),
        }
    });
    futures::future::join_all(lookups).await.concat()
}
