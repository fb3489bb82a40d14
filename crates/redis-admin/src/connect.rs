//! One connection to one node.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use redis::io::tcp::TcpSettings;
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ErrorKind, IntoConnectionInfo, ProtocolVersion,
    RedisConnectionInfo, RedisError,
};

/// The cluster's password. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

impl Password {
    /// Wraps a password.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The password itself, for the one place that authenticates.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(…)")
    }
}

/// An authenticated connection to one node; every command on it has a deadline. Clones share the connection.
#[derive(Clone)]
pub struct Connection(pub(crate) redis::aio::MultiplexedConnection);

impl Connection {
    /// Sends one command whose answer is text (a status, a bulk or an integer), e.g. `["CLUSTER", "MYID"]`.
    ///
    /// # Errors
    /// When the server refuses, does not answer within the connection's deadline, or answers something else.
    pub async fn text(&mut self, words: &[&str]) -> Result<String, RedisError> {
        command(words).query_async(&mut self.0).await
    }

    /// The value of a configuration directive; `None` if the server has none of that name.
    ///
    /// # Errors
    /// When the server refuses or does not answer within the connection's deadline.
    pub async fn config(&mut self, name: &str) -> Result<Option<String>, RedisError> {
        let answer: Vec<String> = command(&["CONFIG", "GET", name])
            .query_async(&mut self.0)
            .await?;
        Ok(answer.into_iter().nth(1))
    }

    /// Whether the server answers at all within the connection's deadline. A refusal, because it loads its data or is busy
    /// with a script, is an answer.
    pub async fn answers(&mut self) -> bool {
        match self.text(&["PING"]).await {
            Ok(_) => true,
            Err(error) => is_refusal(&error),
        }
    }

    /// Sends commands in one round trip. Each has an answer of its own: one that is refused does not hide the others.
    ///
    /// # Errors
    /// When the connection fails or the deadline passes.
    pub async fn texts(
        &mut self,
        commands: &[&[&str]],
    ) -> Result<Vec<Result<String, RedisError>>, RedisError> {
        let mut pipe = redis::pipe();
        pipe.ignore_errors();
        for words in commands {
            pipe.add_command(command(words));
        }
        pipe.query_async(&mut self.0).await
    }
}

/// Whether the server itself said no, as opposed to a connection that failed.
#[must_use]
pub fn is_refusal(error: &RedisError) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Server(_) | ErrorKind::Extension | ErrorKind::AuthenticationFailed
    )
}

fn command(words: &[&str]) -> redis::Cmd {
    let mut command = redis::Cmd::new();
    for word in words {
        command.arg(*word);
    }
    command
}

/// Connects and authenticates. An empty password stands for a server that wants none.
///
/// # Errors
/// When the node does not answer within `deadline`, or refuses the password.
pub async fn connect(
    addr: (IpAddr, u16),
    password: &Password,
    deadline: Duration,
) -> Result<Connection, RedisError> {
    let mut settings = RedisConnectionInfo::default()
        .set_protocol(ProtocolVersion::RESP2)
        .set_skip_set_lib_name();
    if !password.expose().is_empty() {
        settings = settings.set_password(password.expose());
    }
    let info = ConnectionAddr::Tcp(addr.0.to_string(), addr.1)
        .into_connection_info()?
        .set_tcp_settings(TcpSettings::default().set_nodelay(true))
        .set_redis_settings(settings);
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(deadline))
        .set_response_timeout(Some(deadline));
    let connecting = Client::open(info)?;
    // The client's own time-out covers the TCP handshake alone; authentication has to fit in as well.
    let connection = tokio::time::timeout(
        deadline,
        connecting.get_multiplexed_async_connection_with_config(&config),
    )
    .await
    .map_err(|_| RedisError::from(std::io::Error::from(std::io::ErrorKind::TimedOut)))??;
    Ok(Connection(connection))
}
