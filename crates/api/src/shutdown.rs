//! Stopping without losing a request.
//!
//! 1. [`announce`]: readiness goes off and every response says `Connection: close`, while everything is still served:
//!    whoever balances load needs time to learn that this pod is leaving (`--drain-delay`).
//! 2. The listener closes; connections that wait in its queue are still taken.
//! 3. [`drain`]: idle connections are closed, the others when their response is out, at the latest after `--drain-timeout`.
//! 4. The admin port closes and the process ends.

use std::sync::atomic::Ordering;
use std::time::Duration;

use cachecluster_telemetry::Readiness;

use crate::accept::Connections;
use crate::router::App;

/// Tells everyone that this process is about to stop, and gives them `delay` to hear it.
pub async fn announce<S>(app: &App<S>, readiness: &Readiness, delay: Duration) {
    readiness.set(Err("stopping".to_owned()));
    app.draining.store(true, Ordering::Relaxed);
    tracing::info!(
        delay_ms = delay.as_millis() as u64,
        "not ready any more; still serving"
    );
    tokio::time::sleep(delay).await;
}

/// Waits until every connection has got its answer, at most `timeout`.
pub async fn drain(connections: Connections, timeout: Duration) {
    let open = connections.count();
    match tokio::time::timeout(timeout, connections.shutdown()).await {
        Ok(()) => tracing::info!(open, "drained"),
        Err(_) => tracing::warn!(open, ?timeout, "some requests did not end in time"),
    }
}
