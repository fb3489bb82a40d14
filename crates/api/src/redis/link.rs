//! One connection: whether it is any good, and for how long it has been silent.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use tokio::task::AbortHandle;

use crate::metrics::{Dropped, Metrics};

/// A connection that was made. Closed when it is condemned or nobody has it any more, and then at once: what is still to be
/// sent is not sent.
pub(super) struct Link {
    connection: MultiplexedConnection,
    driver: AbortHandle,
    condemned: AtomicBool,
    made: Instant,
    /// When the last answer came, of whomever, in milliseconds since `made`.
    heard: AtomicU64,
    /// When the first command after that was sent, likewise; 0 if none was.
    owes_since: AtomicU64,
    metrics: Arc<Metrics>,
}

impl Link {
    /// Takes over a connection and what drives it.
    pub(super) fn new(
        connection: MultiplexedConnection,
        driver: impl Future<Output = ()> + Send + 'static,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            connection,
            driver: tokio::spawn(driver).abort_handle(),
            condemned: AtomicBool::new(false),
            made: Instant::now(),
            heard: AtomicU64::new(0),
            owes_since: AtomicU64::new(0),
            metrics,
        }
    }

    /// The connection, to send one command down.
    pub(super) fn connection(&self) -> MultiplexedConnection {
        let now = self.now().max(1);
        let _ = self
            .owes_since
            .compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
        self.connection.clone()
    }

    /// Notes that an answer came.
    pub(super) fn heard(&self) {
        self.heard.store(self.now(), Ordering::Relaxed);
        self.owes_since.store(0, Ordering::Relaxed);
    }

    /// How long nothing has been heard since `at`.
    pub(super) fn silence_since(&self, at: Instant) -> Duration {
        let last = self.made + Duration::from_millis(self.heard.load(Ordering::Relaxed));
        last.max(at).elapsed()
    }

    /// For how long the first command since the last answer has waited for one, if there is such a command.
    pub(super) fn owing(&self) -> Option<Duration> {
        let since = self.owes_since.load(Ordering::Relaxed);
        (since > 0).then(|| Duration::from_millis(self.now().saturating_sub(since)))
    }

    /// Whether commands can be sent down it, as far as known.
    pub(super) fn is_usable(&self) -> bool {
        if self.driver.is_finished() {
            self.count_once(Dropped::Broken);
        }
        !self.condemned.load(Ordering::Relaxed)
    }

    /// Closes the connection at once; whoever waits for an answer from it gets an error instead.
    pub(super) fn condemn(&self, cause: Dropped) {
        self.count_once(cause);
        self.driver.abort();
    }

    fn count_once(&self, cause: Dropped) {
        if !self.condemned.swap(true, Ordering::Relaxed) {
            self.metrics.dropped(cause);
        }
    }

    fn now(&self) -> u64 {
        self.made.elapsed().as_millis() as u64
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.driver.abort();
        self.count_once(Dropped::Unused);
    }
}
