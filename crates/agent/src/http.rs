//! Probes and metrics on one port.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use axum::Router;
use cachecluster_telemetry::{Admin, process};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::board::Board;
use crate::metrics::ServerMetrics;

/// Listens on all addresses: IPv6 with IPv4 where the machine has it, else IPv4.
///
/// # Errors
/// When the port is taken.
pub async fn listen(port: u16) -> io::Result<TcpListener> {
    match TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).await {
        Ok(listener) => Ok(listener),
        Err(_) => TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await,
    }
}

/// Serves `/livez`, `/readyz` and `/metrics` from what is on the board, and `more`, until `ended`.
///
/// # Errors
/// When the listener fails for good.
pub async fn serve(
    listener: TcpListener,
    board: Board,
    more: Router,
    ended: CancellationToken,
) -> io::Result<()> {
    let mut registry = process::registry();
    let redis = registry.sub_registry_with_prefix("cachecluster_redis");
    redis.register_collector(Box::new(ServerMetrics::new(board.clone())));
    let admin = Admin {
        registry: Arc::new(registry),
        liveness: board.liveness().clone(),
        readiness: board.readiness().clone(),
    };
    admin.serve_with(more, listener, ended).await
}
