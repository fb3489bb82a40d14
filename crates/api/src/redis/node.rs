//! One node: a few connections to it, made when needed, dropped when dead, shared by everyone.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Cmd, ErrorKind, Pipeline, ProtocolVersion, RedisConnectionInfo,
    RedisError, Value,
};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_util::task::AbortOnDropHandle;

use super::link::Link;
use super::view::Address;
use crate::metrics::{Dropped, Metrics};

/// How long a connection may take to be made, the handshake included.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(800);

/// How long the other side's kernel may take to accept. Shorter than the second after which ours would ask again: who
/// comes back is not to be met a second later for a packet that was lost.
const ACCEPT_TIMEOUT: Duration = Duration::from_millis(250);

/// For how long a connection that could not be made is not tried again: everyone who waits for it shares one attempt.
const RETRY_CONNECT_AFTER: Duration = Duration::from_millis(15);

/// Commands that one node may owe answers to; further ones queue for their turn, within their deadlines.
const OUTSTANDING: usize = 2_048;

/// Why a node did not answer a command properly.
#[derive(Clone, Debug)]
pub enum Fault {
    /// There is no connection, so nothing was sent.
    Connect(String),
    /// The node does not accept our credentials, so nothing was sent.
    Credentials(String),
    /// The connection broke, or the node answered with an error.
    Reply(RedisError),
}

/// How connections are made: the same for every node.
pub struct Connector {
    /// User and password of the URL.
    pub username: Option<String>,
    /// See `username`. The file goes before it.
    pub password: Option<String>,
    /// File with the password, read for every connection, so that a new password needs no restart.
    pub password_file: Option<PathBuf>,
    /// Connections to each node.
    pub connections: usize,
    /// Where connections that were dropped are counted.
    pub metrics: Arc<Metrics>,
}

impl Connector {
    async fn connect(&self, address: &Address) -> Result<Link, Fault> {
        tokio::time::timeout(CONNECT_TIMEOUT, self.open(address))
            .await
            .unwrap_or_else(|_| Err(Fault::Connect("the connection took too long".to_owned())))
    }

    async fn open(&self, address: &Address) -> Result<Link, Fault> {
        let broken = |error: std::io::Error| Fault::Connect(error.to_string());
        let password = match &self.password_file {
            Some(path) => {
                let text = tokio::fs::read_to_string(path).await;
                let text =
                    text.map_err(|error| Fault::Credentials(format!("password file: {error}")))?;
                Some(text.trim_end_matches(['\r', '\n']).to_owned()).filter(|text| !text.is_empty())
            }
            None => self.password.clone(),
        };
        let mut info = RedisConnectionInfo::default()
            .set_protocol(ProtocolVersion::RESP3)
            .set_skip_set_lib_name();
        if let Some(username) = &self.username {
            info = info.set_username(username);
        }
        if let Some(password) = password {
            info = info.set_password(password);
        }
        let accepted = TcpStream::connect((&*address.host, address.port));
        let stream = tokio::time::timeout(ACCEPT_TIMEOUT, accepted)
            .await
            .map_err(|_| Fault::Connect("nobody accepts the connection".to_owned()))?
            .map_err(broken)?;
        stream.set_nodelay(true).map_err(broken)?;
        // What was written down a connection that is then given up must not arrive afterwards: a kernel would go on sending
        // it for minutes, and a write that was repeated elsewhere since would undo later ones.
        stream.set_zero_linger().map_err(broken)?;
        // Time-outs are ours to keep: the router knows deadlines, and when a whole connection is silent.
        let config = AsyncConnectionConfig::new()
            .set_response_timeout(None)
            .set_connection_timeout(None)
            .set_pipeline_buffer_size(OUTSTANDING);
        let (connection, driver) = MultiplexedConnection::new_with_config(&info, stream, config)
            .await
            .map_err(|error| match (error.kind(), error.code()) {
                (ErrorKind::AuthenticationFailed, _)
                | (_, Some("WRONGPASS" | "NOAUTH" | "NOPERM")) => {
                    Fault::Credentials(error.to_string())
                }
                _ => Fault::Connect(error.to_string()),
            })?;
        Ok(Link::new(connection, driver, self.metrics.clone()))
    }
}

/// A command that was sent: down which connection, and when.
#[derive(Default)]
pub struct Sent(OnceLock<(Arc<Link>, Instant)>);

impl Sent {
    /// Whether the node may have got it.
    pub fn is_sent(&self) -> bool {
        self.0.get().is_some()
    }
}

/// A place for one connection.
#[derive(Default)]
struct Lane {
    link: RwLock<Option<Arc<Link>>>,
    connecting: Mutex<Connecting>,
}

/// How far the next connection of a lane is.
#[derive(Default)]
enum Connecting {
    /// Nobody has asked for one, or it was made.
    #[default]
    Idle,
    /// It is being made, whoever goes on waiting for it.
    Busy(Shared<BoxFuture<'static, Result<Arc<Link>, Fault>>>),
    /// It could not be made.
    Failed(Instant, Fault),
}

impl Lane {
    fn usable(&self) -> Option<Arc<Link>> {
        let link = self.link.read().unwrap_or_else(PoisonError::into_inner);
        link.as_ref().filter(|link| link.is_usable()).cloned()
    }

    /// Notes what an attempt came to.
    fn settle(&self, made: Result<Link, Fault>) -> Result<Arc<Link>, Fault> {
        let made = made.map(Arc::new);
        let mut connecting = self
            .connecting
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *connecting = match &made {
            Ok(link) => {
                *self.link.write().unwrap_or_else(PoisonError::into_inner) = Some(link.clone());
                Connecting::Idle
            }
            Err(fault) => Connecting::Failed(Instant::now(), fault.clone()),
        };
        made
    }
}

/// A Redis node.
pub struct Node {
    address: Address,
    connector: Arc<Connector>,
    lanes: Box<[Arc<Lane>]>,
    turn: AtomicUsize,
    outstanding: Semaphore,
}

impl Node {
    /// A node to which nothing is connected yet.
    #[must_use]
    pub fn new(address: Address, connector: Arc<Connector>) -> Arc<Self> {
        let lanes = (0..connector.connections.max(1))
            .map(|_| Arc::default())
            .collect();
        Arc::new(Self {
            address,
            connector,
            lanes,
            turn: AtomicUsize::new(0),
            outstanding: Semaphore::new(OUTSTANDING),
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Sends a command and awaits its answer, for as long as the caller cares to wait. `sent` tells whether it left.
    /// With `asking` the node serves it even while the slot is still being imported.
    ///
    /// # Errors
    /// See [`Fault`]; an error that the node answers with is a [`Fault::Reply`].
    pub async fn send(&self, command: &Cmd, asking: bool, sent: &Sent) -> Result<Value, Fault> {
        // The semaphore is never closed, so that an error cannot be; a permit that is none would do no harm.
        let _permit = match self.outstanding.try_acquire() {
            Ok(permit) => Some(permit),
            Err(_) => self.outstanding.acquire().await.ok(),
        };
        self.send_unbounded(command, asking, sent).await
    }

    /// As [`Node::send`], but past the queue: for the few questions that must be heard while the queue is full.
    ///
    /// # Errors
    /// As [`Node::send`].
    pub async fn send_unbounded(
        &self,
        command: &Cmd,
        asking: bool,
        sent: &Sent,
    ) -> Result<Value, Fault> {
        let link = self.link().await?;
        let mut connection = link.connection();
        let _ = sent.0.set((link.clone(), Instant::now()));
        let answer = if asking {
            let mut pipeline = Pipeline::with_capacity(2);
            pipeline.cmd("ASKING").add_command(command.clone());
            let answers = connection.send_packed_commands(&pipeline, 1, 1).await;
            answers.map(|mut answers| answers.pop().unwrap_or_default())
        } else {
            connection.send_packed_command(command).await
        };
        match answer.and_then(Value::extract_error) {
            Ok(value) => {
                link.heard();
                Ok(value)
            }
            Err(error) => {
                match error.code() {
                    // The password was changed under this connection: the next one reads the new one.
                    Some("NOAUTH") => link.condemn(Dropped::Credentials),
                    // An error is an answer as well.
                    Some(_) => link.heard(),
                    None => link.condemn(Dropped::Broken),
                }
                Err(Fault::Reply(error))
            }
        }
    }

    /// Closes the connection that `sent` went down if it has been silent for `bound` since then. A connection that
    /// answers others is slow, not dead.
    pub fn drop_if_silent(&self, sent: &Sent, bound: Duration, cause: Dropped) -> bool {
        let Some((link, at)) = sent.0.get() else {
            return false;
        };
        let silent = link.silence_since(*at) >= bound;
        if silent {
            link.condemn(cause);
        }
        silent
    }

    /// Closes every connection that has owed an answer for `bound` without giving any, though nobody may wait for it any more.
    pub fn drop_silent(&self, bound: Duration) {
        for link in self.lanes.iter().filter_map(|lane| lane.usable()) {
            if link.owing().is_some_and(|silence| silence >= bound) {
                link.condemn(Dropped::Silent);
            }
        }
    }

    /// A connection that works as far as known.
    async fn link(&self) -> Result<Arc<Link>, Fault> {
        let lane = match &*self.lanes {
            [only] => only,
            lanes => &lanes[self.turn.fetch_add(1, Ordering::Relaxed) % lanes.len()],
        };
        if let Some(link) = lane.usable() {
            return Ok(link);
        }
        let attempt = {
            let mut connecting = lane
                .connecting
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            match &*connecting {
                Connecting::Busy(attempt) => attempt.clone(),
                Connecting::Failed(at, fault) if at.elapsed() < RETRY_CONNECT_AFTER => {
                    return Err(fault.clone());
                }
                _ => match lane.usable() {
                    Some(link) => return Ok(link),
                    None => {
                        let attempt = self.connect(lane);
                        *connecting = Connecting::Busy(attempt.clone());
                        attempt
                    }
                },
            }
        };
        attempt.await
    }

    /// Begins to make a connection. In a task of its own: that somebody stops waiting for it takes it from nobody else.
    fn connect(&self, lane: &Arc<Lane>) -> Shared<BoxFuture<'static, Result<Arc<Link>, Fault>>> {
        let (connector, address) = (self.connector.clone(), self.address.clone());
        // Weak, lest the lane keep the task and the task the lane.
        let lane = Arc::downgrade(lane);
        let making = tokio::spawn(async move {
            let made = connector.connect(&address).await;
            match &made {
                Ok(_) => tracing::debug!(node = %address, "connected"),
                Err(fault) => tracing::debug!(node = %address, ?fault, "cannot connect"),
            }
            match lane.upgrade() {
                Some(lane) => lane.settle(made),
                None => made.map(Arc::new),
            }
        });
        let making = AbortOnDropHandle::new(making);
        let made = async move {
            let gone = |_| Err(Fault::Connect("the attempt was given up".to_owned()));
            making.await.unwrap_or_else(gone)
        };
        made.boxed().shared()
    }
}
