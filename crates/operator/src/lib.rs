//! The Kubernetes operator for `CacheCluster` resources.
//!
//! [`reconcile`] is one pass over one cluster; [`controller`] decides when passes are made, [`lease`] by whom.

pub mod agents;
pub mod check;
pub mod controller;
pub mod events;
pub mod lease;
pub mod memory;
pub mod metrics;
pub mod news;
pub mod reconcile;
pub mod requests;
pub mod settings;
pub mod stores;

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use anyhow::Context as _;
use cachecluster_telemetry::{Admin, Readiness, logs, shutdown};
use tokio::net::TcpListener;

use crate::metrics::Metrics;
use crate::settings::Settings;

/// Threads that carry passes: they wait for the network most of the time.
const WORKER_THREADS: usize = 2;

/// Prints the CustomResourceDefinition as YAML.
///
/// # Errors
/// When standard output is closed.
pub fn print_crd() -> anyhow::Result<()> {
    use std::io::Write;
    let text = serde_norway::to_string(&cachecluster_crd::definition())?;
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(())
}

/// Proves an installation: see [`check::check`].
///
/// # Errors
/// The first step that failed.
pub fn prove(args: &check::CheckArgs) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(async { check::check(kube::Client::try_default().await?, args).await })
}

/// Runs the operator until it is told to stop.
///
/// # Errors
/// When it cannot start: no runtime, no admin port, no way to the API server.
pub fn run(settings: Settings) -> anyhow::Result<()> {
    logs::install(&settings.log, settings.log_format);
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKER_THREADS)
        .enable_all()
        .build()?
        .block_on(serve(settings))
}

/// Listens on `address`. Where the machine has no IPv6, all addresses are those of IPv4.
async fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    match TcpListener::bind(address).await {
        Err(_) if address.ip() == Ipv6Addr::UNSPECIFIED => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await
        }
        bound => bound,
    }
}

async fn serve(settings: Settings) -> anyhow::Result<()> {
    let stop = shutdown::on_signal()?;
    let config = kube::Config::infer()
        .await
        .context("no way to the API server")?;
    let metrics = Arc::new(Metrics::default());
    let client = requests::counted(config.clone(), metrics.clone())?;
    let liveness = Readiness::not_ready("starting");
    let readiness = Readiness::not_ready("starting");
    let admin = Admin {
        registry: Arc::new(metrics.registry()),
        liveness: liveness.clone(),
        readiness: readiness.clone(),
    };
    let listener = listen(settings.admin_listen)
        .await
        .with_context(|| format!("cannot listen on {}", settings.admin_listen))?;
    let admin = tokio::spawn(admin.serve(listener, stop.clone()));
    liveness.set(Ok(()));

    lease::lead(config, &settings, stop.clone(), &readiness, |term| {
        controller::run(client.clone(), &settings, metrics.clone(), term)
    })
    .await?;

    readiness.set(Err("stopping".to_owned()));
    stop.cancel();
    admin.await??;
    Ok(())
}
