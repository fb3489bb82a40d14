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

use crate::connection::Connection;
use crate::metrics::Metrics;
use crate::router::{App, router};
use crate::settings::{Settings, StoreSettings};
use crate::shutdown;
use crate::store::{MemoryStore, RedisStore, Store};

/// How long an HTTP/1 connection may take to send a request's head, the time between two requests included. Before its
/// first bytes [`crate::connection::FIRST_BYTES_TIMEOUT`] holds instead.
const HEAD_TIMEOUT: Duration = Duration::from_secs(75);

/// How long an HTTP/2 connection may be silent before it is asked for a sign of life.
const PING_AFTER: Duration = Duration::from_secs(30);

/// How long that may take.
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// Most that is read ahead of one connection's requests, in bytes; a head must fit in.
const READ_AHEAD: usize = 64 << 10;

/// Most that a client may send of all bodies on one HTTP/2 connection before handlers have taken it, in bytes.
const HTTP2_WINDOW: u32 = 256 << 10;

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
        .max_buf_size(READ_AHEAD)
        .pipeline_flush(true);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_AFTER)
        .keep_alive_timeout(PING_TIMEOUT)
        .initial_stream_window_size(HTTP2_WINDOW)
        .initial_connection_window_size(HTTP2_WINDOW);

    let take = |stream: TcpStream, permit| {
        // Answers are small and written whole: waiting for more to send only adds latency.
        let _ = stream.set_nodelay(true);
        let stream = Connection::new(TokioIo::new(stream));
        let connection = builder.serve_connection(stream, service.clone());
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
    // Closing the socket would reset those whom the kernel has accepted already. They are taken as well, though one that
    // has not sent its first bytes by the time of the drain may still be closed unanswered.
    while let Ok(permit) = room.clone().try_acquire_owned() {
        match futures::FutureExt::now_or_never(listener.accept()) {
            Some(Ok((stream, _))) => take(stream, Some(permit)),
            _ => break,
        }
    }
    graceful
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::Instant;

    /// After how long, by a clock that runs ahead while everybody waits, the server closes on a client that says `words`
    /// and then nothing.
    async fn held(words: &[u8]) -> Duration {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let closing = CancellationToken::new();
        let server = tokio::spawn(accept(listener, Router::new(), 8, closing.clone()));
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(words).await.unwrap();
        let began = Instant::now();
        let mut answer = Vec::new();
        let end = client.read_to_end(&mut answer);
        let _ = tokio::time::timeout(Duration::from_secs(3600), end).await;
        closing.cancel();
        server.await.unwrap();
        began.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_holds_a_connection_by_silence() {
        let first = crate::connection::FIRST_BYTES_TIMEOUT;
        let slack = Duration::from_secs(5);
        for (words, bound) in [
            (&b""[..], first),
            (b"P", first),
            (b"PRI * HTTP/2.0\r\n", first),
            (b"G", HEAD_TIMEOUT),
            (b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", HEAD_TIMEOUT),
            (
                b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
                PING_AFTER + PING_TIMEOUT,
            ),
        ] {
            let held = held(words).await;
            assert!(held < bound + slack, "{}: {held:?}", words.escape_ascii());
        }
    }
}
