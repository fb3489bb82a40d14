//! The public port: who is let in, and how each connection lives and ends.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use axum::Router;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulConnection;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

use crate::connection::Connection;
use crate::life::{Active, IDLE_TIMEOUT, Life};

/// How long an HTTP/1 connection may take to send a request's head, the time between two requests included. Before its
/// first bytes [`crate::connection::FIRST_BYTES_TIMEOUT`] holds instead.
const HEAD_TIMEOUT: Duration = IDLE_TIMEOUT;

/// How long an HTTP/2 connection may be silent before it is asked for a sign of life.
const PING_AFTER: Duration = Duration::from_secs(30);

/// How long that may take.
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// Most that is read ahead of one connection's requests, in bytes; a head must fit in.
pub(crate) const READ_AHEAD: usize = 64 << 10;

/// Most headers that a request may have: the server's default, which costs it no allocation.
pub(crate) const MAX_HEADERS: usize = 100;

/// Most that a client may send of all bodies on one HTTP/2 connection before handlers have taken it, in bytes.
const HTTP2_WINDOW: u32 = 256 << 10;

/// How long to wait after a connection could not be accepted, e.g. for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How long a connection that has said nothing yet is listened to when the process stops: its request may be on the way.
const LAST_WORDS: Duration = Duration::from_millis(250);

/// The connections that are open. Each holds a receiver for as long as it is.
#[derive(Default)]
pub struct Connections(watch::Sender<()>);

impl Connections {
    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.receiver_count()
    }

    /// Ends those that are idle, the others when their responses are out; returns when all have ended.
    pub async fn shutdown(self) {
        self.0.send_replace(());
        self.0.closed().await;
    }
}

fn server() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    // Each response is written before the next request is looked at: a client that sends many and reads nothing would
    // otherwise have all of its answers gathered here.
    builder
        .http1()
        .timer(TokioTimer::new())
        // A client that has nothing more to send is still there for its answer.
        .half_close(true)
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(READ_AHEAD);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_AFTER)
        .keep_alive_timeout(PING_TIMEOUT)
        .initial_stream_window_size(HTTP2_WINDOW)
        .initial_connection_window_size(HTTP2_WINDOW);
    builder
}

/// Accepts connections until `closing`; returns those that are still open.
pub(crate) async fn accept(
    listener: TcpListener,
    router: Router,
    most: usize,
    closing: CancellationToken,
) -> Connections {
    let connections = Connections::default();
    let service = TowerToHyperService::new(router);
    let room = Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS)));
    let server = Arc::new(server());
    let take = |stream: TcpStream, permit| {
        // Answers are small and written whole: waiting for more to send only adds latency.
        let _ = stream.set_nodelay(true);
        let (server, service, mut stop) =
            (server.clone(), service.clone(), connections.0.subscribe());
        tokio::spawn(async move {
            serve(&server, stream, service, &mut stop).await;
            drop((stop, permit));
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
    // Closing the socket would reset those whom the kernel has accepted already. They are taken as well.
    while let Ok(permit) = room.clone().try_acquire_owned() {
        match futures::FutureExt::now_or_never(listener.accept()) {
            Some(Ok((stream, _))) => take(stream, Some(permit)),
            _ => break,
        }
    }
    connections
}

/// Serves a connection to its end.
async fn serve(
    server: &auto::Builder<TokioExecutor>,
    stream: TcpStream,
    service: TowerToHyperService<Router>,
    stop: &mut watch::Receiver<()>,
) {
    let life = Arc::new(Life::default());
    let (stream, mut parted) = Connection::new(TokioIo::new(stream), life.clone());
    let lived = life.clone();
    let service = service_fn(move |request| {
        let active = Active::begin(&lived);
        let answer = service.call(request);
        async move {
            let _active = active;
            answer.await
        }
    });
    let outcome = attend(server.serve_connection(stream, service), &life, stop).await;
    let error = outcome.err();
    if let Some(error) = &error {
        tracing::debug!(%error, "connection ended");
    }
    if let Ok(parting) = parted.try_recv() {
        let why = error.as_ref().and_then(|error| error.downcast_ref());
        parting.map(TokioIo::into_inner).conclude(why).await;
    }
}

/// Lets a connection run until it ends, which it is made to, gracefully at first, when it is idle or the process stops.
async fn attend<C>(
    connection: C,
    life: &Life,
    stop: &mut watch::Receiver<()>,
) -> Result<(), Failure>
where
    C: GracefulConnection<Error = Failure>,
{
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        biased;
        outcome = &mut connection => return outcome,
        () = life.idle() => {}
        _ = stop.changed() => {
            // Before the version is known, to be ended gracefully is to be dropped.
            let opened = poll_fn(|context| match connection.as_mut().poll(context) {
                Poll::Ready(outcome) => Poll::Ready(Some(outcome)),
                Poll::Pending if life.is_open() => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            });
            if let Ok(Some(outcome)) = tokio::time::timeout(LAST_WORDS, opened).await {
                return outcome;
            }
        }
    }
    connection.as_mut().graceful_shutdown();
    tokio::select! {
        outcome = connection => outcome,
        () = life.stuck() => Err("the client does not read".into()),
    }
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

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

    /// Serves `router` until the test ends.
    async fn serving(router: Router) -> std::net::SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(accept(listener, router, 8, CancellationToken::new()));
        address
    }

    /// An HTTP/2 client, which answers pings and understands a graceful end.
    async fn http2(
        address: std::net::SocketAddr,
    ) -> (
        hyper::client::conn::http2::SendRequest<axum::body::Body>,
        tokio::task::JoinHandle<hyper::Result<()>>,
    ) {
        let stream = TokioIo::new(TcpStream::connect(address).await.unwrap());
        let (sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), stream)
                .await
                .unwrap();
        (sender, tokio::spawn(connection))
    }

    #[tokio::test(start_paused = true)]
    async fn pings_do_not_hold_a_connection_but_requests_do() {
        let address = serving(Router::new()).await;
        let began = Instant::now();
        let (_idle, ended) = http2(address).await;
        let (mut busy, mut still) = http2(address).await;
        let requests = async {
            loop {
                let request = http::Request::new(axum::body::Body::empty());
                assert_eq!(busy.send_request(request).await.unwrap().status(), 404);
                tokio::time::sleep(IDLE_TIMEOUT / 2).await;
            }
        };
        let over = async {
            tokio::time::timeout(Duration::from_secs(3600), ended)
                .await
                .expect("the idle one ends")
                .unwrap()
                .expect("gracefully");
            assert!(began.elapsed() < 2 * IDLE_TIMEOUT + Duration::from_secs(5));
            tokio::time::sleep(4 * IDLE_TIMEOUT).await;
        };
        tokio::select! { () = requests => {}, () = over => {} }
        assert!(!still.is_finished(), "the busy one goes on");
        drop(busy);
        let _ = (&mut still).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_response_that_nobody_takes_does_not_hold_a_connection() {
        let large = axum::routing::get(async || vec![0_u8; 1 << 20]);
        let address = serving(Router::new().route("/", large)).await;
        let (mut sender, ended) = http2(address).await;
        let request = http::Request::new(axum::body::Body::empty());
        let response = sender.send_request(request).await.unwrap();
        assert_eq!(response.status(), 200);
        let _ = tokio::time::timeout(Duration::from_secs(3600), ended)
            .await
            .expect("cut off");
        drop(response);
    }

    #[tokio::test]
    async fn who_waits_to_be_accepted_at_the_end_is_answered() {
        for late in [false, true] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let mut client = TcpStream::connect(address).await.unwrap();
            let request = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";
            if !late {
                client.write_all(request).await.unwrap();
            }
            let closing = CancellationToken::new();
            closing.cancel();
            let connections = accept(listener, Router::new(), 8, closing).await;
            assert_eq!(connections.count(), 1);
            let hear = async {
                if late {
                    tokio::task::yield_now().await;
                    client.write_all(request).await.unwrap();
                }
                let mut answer = String::new();
                client.read_to_string(&mut answer).await.unwrap();
                answer
            };
            let ((), answer) = tokio::join!(connections.shutdown(), hear);
            assert!(answer.starts_with("HTTP/1.1 404"), "{late}: {answer:?}");
        }
    }
}
