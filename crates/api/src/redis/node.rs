//! One node: a few connections to it, made when needed, dropped when dead, shared by everyone.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Cmd, ErrorKind, Pipeline, ProtocolVersion, RedisConnectionInfo,
    RedisError, Value,
};
use tokio::net::TcpStream;
use tokio::sync::{Mutex, Semaphore};
use tokio::task::AbortHandle;

use super::view::Address;

/// How long a connection may take to be made, the handshake included.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(800);

/// For how long a connection that could not be made is not tried again: everyone who waits for it shares one attempt.
const RETRY_CONNECT_AFTER: Duration = Duration::from_millis(30);

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
    /// What [`Link`] counts its milliseconds from.
    pub started: Instant,
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
        let stream = TcpStream::connect((&*address.host, address.port))
            .await
            .map_err(broken)?;
        stream.set_nodelay(true).map_err(broken)?;
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
        Ok(Link {
            connection,
            driver: tokio::spawn(driver).abort_handle(),
            condemned: AtomicBool::new(false),
            heard: AtomicU64::new(self.now()),
        })
    }

    /// Milliseconds since the start.
    fn now(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }
}

/// A connection that was made.
pub struct Link {
    connection: MultiplexedConnection,
    driver: AbortHandle,
    condemned: AtomicBool,
    /// When the last answer came, of whomever.
    heard: AtomicU64,
}

impl Link {
    fn is_usable(&self) -> bool {
        !self.condemned.load(Ordering::Relaxed) && !self.driver.is_finished()
    }

    /// Closes the connection at once; whoever waits for an answer from it gets an error instead.
    pub fn condemn(&self) {
        self.condemned.store(true, Ordering::Relaxed);
        self.driver.abort();
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// A command that was sent: down which connection, and when.
#[derive(Default)]
pub struct Sent(OnceLock<(Arc<Link>, u64)>);

impl Sent {
    /// Whether the node may have got it.
    pub fn is_sent(&self) -> bool {
        self.0.get().is_some()
    }
}

#[derive(Default)]
struct Lane {
    link: RwLock<Option<Arc<Link>>>,
    /// Held by the one who makes the connection, with how the last attempt failed.
    connecting: Mutex<Option<(Instant, Fault)>>,
}

impl Lane {
    fn usable(&self) -> Option<Arc<Link>> {
        let link = self.link.read().unwrap_or_else(PoisonError::into_inner);
        link.as_ref().filter(|link| link.is_usable()).cloned()
    }
}

/// A Redis node.
pub struct Node {
    address: Address,
    connector: Arc<Connector>,
    lanes: Box<[Lane]>,
    turn: AtomicUsize,
    outstanding: Semaphore,
}

impl Node {
    /// A node to which nothing is connected yet.
    #[must_use]
    pub fn new(address: Address, connector: Arc<Connector>) -> Arc<Self> {
        let lanes = (0..connector.connections.max(1))
            .map(|_| Lane::default())
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
        let mut connection = link.connection.clone();
        let _ = sent.0.set((link.clone(), self.connector.now()));
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
                link.heard.store(self.connector.now(), Ordering::Relaxed);
                Ok(value)
            }
            Err(error) => {
                match error.code() {
                    // The password was changed under this connection: the next one reads the new one.
                    Some("NOAUTH") => link.condemn(),
                    // An error is an answer as well.
                    Some(_) => link.heard.store(self.connector.now(), Ordering::Relaxed),
                    None => link.condemn(),
                }
                Err(Fault::Reply(error))
            }
        }
    }

    /// Closes the connection that `sent` went down if it has been silent for `bound` since then. A connection that
    /// answers others is slow, not dead.
    pub fn condemn_if_silent(&self, sent: &Sent, bound: Duration) -> bool {
        let Some((link, at)) = sent.0.get() else {
            return false;
        };
        let last = link.heard.load(Ordering::Relaxed).max(*at);
        let silent = self.connector.now().saturating_sub(last) >= bound.as_millis() as u64;
        if silent {
            link.condemn();
        }
        silent
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
        let mut last = lane.connecting.lock().await;
        // While this one waited for its turn, another one may have succeeded, or failed.
        if let Some(link) = lane.usable() {
            return Ok(link);
        }
        if let Some((at, fault)) = &*last
            && at.elapsed() < RETRY_CONNECT_AFTER
        {
            return Err(fault.clone());
        }
        match self.connector.connect(&self.address).await {
            Ok(link) => {
                tracing::debug!(node = %self.address, "connected");
                let link = Arc::new(link);
                *lane.link.write().unwrap_or_else(PoisonError::into_inner) = Some(link.clone());
                *last = None;
                Ok(link)
            }
            Err(fault) => {
                tracing::debug!(node = %self.address, ?fault, "cannot connect");
                *last = Some((Instant::now(), fault.clone()));
                Err(fault)
            }
        }
    }
}
