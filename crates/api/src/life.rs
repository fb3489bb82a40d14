//! What a connection has done lately, and when it has done too little.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use crate::connection::STALL_TIMEOUT;

/// How long a connection may go on without a request. One that has none is ended gracefully after once to twice as long.
/// Pings are no requests.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(75);

/// How much a client must take in each [`STALL_TIMEOUT`] of what it still has to get on a connection that is being ended,
/// in bytes.
const PROGRESS: u64 = 64 << 10;

/// What a connection has done so far.
#[derive(Default)]
pub struct Life {
    opened: AtomicBool,
    begun: AtomicU64,
    active: AtomicUsize,
    sent: AtomicU64,
}

impl Life {
    /// Notes that the client has said which version of HTTP it speaks.
    pub(crate) fn opened(&self) {
        self.opened.store(true, Relaxed);
    }

    /// Notes bytes that went to the client.
    pub(crate) fn sent(&self, bytes: usize) {
        self.sent.fetch_add(bytes as u64, Relaxed);
    }

    /// Whether the client has said which version of HTTP it speaks.
    pub(crate) fn is_open(&self) -> bool {
        self.opened.load(Relaxed)
    }

    /// Waits until there has been no request for a while.
    pub(crate) async fn idle(&self) {
        self.nothing_more_of(&self.begun, 1, IDLE_TIMEOUT).await;
    }

    /// Waits until no request is being worked on and the client does not take the responses either.
    pub(crate) async fn stuck(&self) {
        self.nothing_more_of(&self.sent, PROGRESS, STALL_TIMEOUT)
            .await;
    }

    /// Waits for a `period` without a request in a handler in which a counter grew by less than `enough`. It is looked at
    /// once a period, so that requests need no timer.
    async fn nothing_more_of(&self, counter: &AtomicU64, enough: u64, period: Duration) {
        let mut before = counter.load(Relaxed);
        loop {
            tokio::time::sleep(period).await;
            let now = counter.load(Relaxed);
            if self.active.load(Relaxed) == 0 && now - before < enough {
                return;
            }
            before = now;
        }
    }
}

/// A request that is being worked on, until it drops.
pub(crate) struct Active(Arc<Life>);

impl Active {
    /// Notes that a request has come.
    pub(crate) fn begin(life: &Arc<Life>) -> Self {
        life.begun.fetch_add(1, Relaxed);
        life.active.fetch_add(1, Relaxed);
        Self(life.clone())
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Relaxed);
    }
}
