//! Lines to another node's server and to its agent, kept open between questions.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use cachecluster_redis_admin::{Connection, Password, connect, is_refusal};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_util::task::AbortOnDropHandle;

/// More than any answer of an agent that is asked here.
const LONGEST_ANSWER: usize = 4096;

/// To a server.
pub(super) struct ServerLine {
    addr: (IpAddr, u16),
    open: Option<Connection>,
}

impl ServerLine {
    pub(super) fn new(addr: (IpAddr, u16)) -> Self {
        Self { addr, open: None }
    }

    /// Whether the server answers at all within `deadline`, be it with a refusal.
    pub(super) async fn answers(&mut self, password: &Password, deadline: Duration) -> bool {
        let asking = async {
            let mut open = match self.open.take() {
                Some(open) => open,
                None => match connect(self.addr, password, deadline).await {
                    Ok(open) => open,
                    Err(error) => return is_refusal(&error),
                },
            };
            let answers = open.answers().await;
            if answers {
                self.open = Some(open);
            }
            answers
        };
        tokio::time::timeout(deadline, asking)
            .await
            .unwrap_or(false)
    }
}

/// To an agent.
pub(super) struct AgentLine {
    addr: SocketAddr,
    open: Option<Open>,
}

struct Open {
    requests: SendRequest<Empty<Bytes>>,
    /// Carries the requests; ends with the line.
    _carrier: AbortOnDropHandle<()>,
}

/// What an agent answered.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) body: Bytes,
}

impl AgentLine {
    pub(super) fn new(addr: (IpAddr, u16)) -> Self {
        Self {
            addr: addr.into(),
            open: None,
        }
    }

    /// What the agent answers to a GET of `path`, if anything within `deadline`.
    pub(super) async fn get(&mut self, path: &str, deadline: Duration) -> Option<Answer> {
        let asking = async {
            let mut open = match self.open.take() {
                Some(open) if !open.requests.is_closed() => open,
                _ => Open::new(self.addr).await?,
            };
            let request = Request::get(path)
                .header(header::HOST, self.addr.to_string())
                .body(Empty::new())
                .ok()?;
            open.requests.ready().await.ok()?;
            let response = open.requests.send_request(request).await.ok()?;
            let (head, body) = response.into_parts();
            let body = Limited::new(body, LONGEST_ANSWER).collect().await.ok()?;
            self.open = Some(open);
            Some(Answer {
                status: head.status,
                body: body.to_bytes(),
            })
        };
        tokio::time::timeout(deadline, asking).await.ok()?
    }
}

impl Open {
    async fn new(addr: SocketAddr) -> Option<Self> {
        let stream = TcpStream::connect(addr).await.ok()?;
        stream.set_nodelay(true).ok()?;
        let (requests, connection) = http1::handshake(TokioIo::new(stream)).await.ok()?;
        let carrier = tokio::spawn(async move {
            // How it ends is seen by whoever asks next.
            let _ = connection.await;
        });
        Some(Self {
            requests,
            _carrier: AbortOnDropHandle::new(carrier),
        })
    }
}
