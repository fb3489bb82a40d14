//! The life of the process: open the store, serve, stop.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use cachecluster_telemetry::{Admin, Readiness, process};
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::accept::accept;
use crate::metrics::Metrics;
use crate::router::{App, router};
use crate::settings::{Settings, StoreSettings};
use crate::shutdown;
use crate::store::{MemoryStore, RedisStore, Store};

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
