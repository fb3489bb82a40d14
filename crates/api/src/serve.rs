//! The life of the process: open the store, serve, stop.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use cachecluster_telemetry::{Admin, Readiness, process};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use prometheus_client::registry::Registry;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;
use crate::router::{App, router};
use crate::settings::{Settings, StoreSettings};
use crate::shutdown;
use crate::store::{MemoryStore, RedisStore, Store};

/// How long a connection may take to send a request's head, the time between two requests included.
const HEAD_TIMEOUT: Duration = Duration::from_secs(75);

/// How long to wait after a connection could not be accepted, e.g. for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How often readiness follows what the store knows.
const READINESS_PERIOD: Duration = Duration::from_millis(100);

/// The process's two sockets.
pub struct Listeners {
    /// For the public routes.
    pub public: TcpListener,
    /// For the admin port.
    pub admin: TcpListener,
}

impl Listeners {
    /// Binds the addresses of the settings.
    ///
    /// # Errors
    /// When an address is taken or not ours.
    pub async fn bind(settings: &Settings) -> io::Result<Self> {
        let bind = async |address: std::net::SocketAddr| {
            TcpListener::bind(address).await.map_err(|error| {
                io::Error::new(error.kind(), format!("cannot listen on {address}: {error}"))
            })
        };
        Ok(Self {
            public: bind(settings.listen).await?,
            admin: bind(settings.admin_listen).await?,
        })
    }
}

/// Serves until `stop`, and then until what was begun is done.
///
/// # Errors
/// When the admin port fails for good.
pub async fn run(
    settings: Settings,
    listeners: Listeners,
    stop: CancellationToken,
) -> io::Result<()> {
    let mut registry = process::registry();
    let metrics = Arc::new(Metrics::register(&mut registry));
    match &settings.store {
        StoreSettings::Memory { limit } => {
            let store = MemoryStore::new(*limit);
            serve(store, &settings, listeners, registry, metrics, stop).await
        }
        StoreSettings::Redis(redis) => {
            let store = RedisStore::open(redis.clone(), metrics.clone());
            serve(store, &settings, listeners, registry, metrics, stop).await
        }
    }
}

async fn serve<S: Store>(
    store: S,
    settings: &Settings,
    listeners: Listeners,
    registry: Registry,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) -> io::Result<()> {
    let app = App::new(store, settings.limits, metrics);
    let liveness = Readiness::not_ready("starting");
    liveness.set(Ok(()));
    let readiness = Readiness::not_ready("starting");
    let admin = Admin {
        registry: Arc::new(registry),
        liveness,
        readiness: readiness.clone(),
    };
    // The admin port goes last: until the process ends, its probes and metrics tell what it is doing.
    let ended = CancellationToken::new();
    let admin = tokio::spawn(admin.serve(listeners.admin, ended.clone()));
    if let (Ok(public), store) = (listeners.public.local_addr(), &settings.store) {
        let store = match store {
            StoreSettings::Memory { .. } => "memory",
            StoreSettings::Redis(_) => "redis",
        };
        tracing::info!(%public, store, "serving");
    }

    let closing = CancellationToken::new();
    let connections = accept(
        listeners.public,
        router(app.clone()),
        settings.max_connections,
        closing.clone(),
    );
    let stopping = async {
        tokio::select! {
            () = follow(&app, &readiness) => {}
            () = stop.cancelled() => {}
        }
        shutdown::announce(&app, &readiness, settings.drain_delay).await;
        closing.cancel();
    };
    let (connections, ()) = tokio::join!(connections, stopping);
    shutdown::drain(connections, settings.drain_timeout).await;
    ended.cancel();
    admin.await.map_err(io::Error::other)?
}

/// Keeps readiness at what the store knows. Never ends by itself.
async fn follow<S: Store>(app: &App<S>, readiness: &Readiness) {
    let mut last = None;
    loop {
        let now = app.store.ready();
        if last.as_ref() != Some(&now) {
            match &now {
                Ok(()) => tracing::info!("ready"),
                Err(reason) => tracing::warn!(reason, "not ready"),
            }
            readiness.set(now.clone());
            last = Some(now);
        }
        tokio::time::sleep(READINESS_PERIOD).await;
    }
}

/// Accepts connections until `closing`; returns those that are still open.
async fn accept(
    listener: TcpListener,
    router: Router,
    most: usize,
    closing: CancellationToken,
) -> GracefulShutdown {
    let graceful = GracefulShutdown::new();
    let service = TowerToHyperService::new(router);
    let room = Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS)));
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .pipeline_flush(true);
    builder.http2().timer(TokioTimer::new());

    let take = |stream: TcpStream, permit| {
        // Answers are small and written whole: waiting for more to send only adds latency.
        let _ = stream.set_nodelay(true);
        let connection = builder.serve_connection(TokioIo::new(stream), service.clone());
        let connection = graceful.watch(connection.into_owned());
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection ended");
            }
            drop(permit);
        });
    };
    loop {
        let permit = tokio::select! {
            biased;
            () = closing.cancelled() => break,
            permit = room.clone().acquire_owned() => permit,
        };
        tokio::select! {
            biased;
            () = closing.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => take(stream, permit.ok()),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    // Those whom the kernel has accepted already were promised an answer: closing the socket now would reset them.
    while let Ok(permit) = room.clone().try_acquire_owned() {
        match futures::FutureExt::now_or_never(listener.accept()) {
            Some(Ok((stream, _))) => take(stream, Some(permit)),
            _ => break,
        }
    }
    graceful
}
