//! Real servers for tests: `redis-server` processes in cluster mode on 127.0.0.1, each with a directory of its own.
//!
//! Only behind the feature `fixture`. Failures panic, as a test wants.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::{Connection, Password, connect};

/// The password of every server that this fixture starts.
pub const PASSWORD: &str = "pa ss\"word#1";

/// [`PASSWORD`], wrapped.
#[must_use]
pub fn password() -> Password {
    Password::new(PASSWORD)
}

/// A port that is free now, and whose bus port (10000 above) is free as well.
#[must_use]
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Below the range from which the system takes ports for outgoing connections; processes start at places of their own.
    const FIRST: u16 = 12_000;
    const COUNT: u16 = 10_000;
    let start = (std::process::id() as u16).wrapping_mul(61);
    for _ in 0..COUNT {
        let turn = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = FIRST + start.wrapping_add(turn) % COUNT;
        let is_free = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
        if is_free(port) && is_free(port + 10_000) {
            return port;
        }
    }
    panic!("no free pair of ports");
}

/// One server; killed when dropped.
pub struct Server {
    /// Its client port on 127.0.0.1.
    pub port: u16,
    dir: TempDir,
    extra: Vec<String>,
    child: Option<Child>,
}

impl Server {
    /// Starts a blank cluster node with a node timeout of one second, and waits until it answers.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// As [`Server::start`], with further arguments of `redis-server`, e.g. `["--appendonly", "yes"]`.
    pub async fn start_with(extra: &[&str]) -> Self {
        let mut server = Self {
            port: free_port(),
            dir: tempfile::tempdir().unwrap(),
            extra: extra.iter().map(|&word| word.to_owned()).collect(),
            child: None,
        };
        server.resume().await;
        server
    }

    /// Starts the server again after [`Server::kill`], with the directory that it had.
    pub async fn resume(&mut self) {
        self.spawn();
        let deadline = Instant::now() + Duration::from_secs(10);
        while let Err(error) = self.connect().await {
            assert!(Instant::now() < deadline, "no answer: {error}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Starts the process without waiting for its first answer.
    pub fn spawn(&mut self) {
        assert!(self.child.is_none(), "already running");
        let config = self.dir.path().join("redis.conf");
        let quoted = PASSWORD.replace('"', "\\\"");
        let text = format!(
            "port {port}\nbind 127.0.0.1\ndir {dir}\ncluster-enabled yes\ncluster-node-timeout 1000\n\
             cluster-require-full-coverage no\ncluster-replica-validity-factor 0\ncluster-allow-replica-migration no\n\
             repl-diskless-sync-delay 0\nsave \"\"\nrequirepass \"{quoted}\"\nmasterauth \"{quoted}\"\n",
            port = self.port,
            dir = self.dir.path().display(),
        );
        std::fs::write(&config, text).unwrap();
        let log = std::fs::File::create(self.dir.path().join("log")).unwrap();
        let child = Command::new("redis-server")
            .arg(config)
            .args(&self.extra)
            .stdin(Stdio::null())
            .stdout(log)
            .spawn()
            .expect("redis-server is a requirement of these tests");
        self.child = Some(child);
    }

    /// Ends the process at once, as a crash does; the directory stays.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Stops the process where it is, as a machine that hangs does, until [`Server::thaw`].
    pub fn freeze(&self) {
        self.signal("-STOP");
    }

    /// Lets the process go on.
    pub fn thaw(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.as_ref().expect("running").id().to_string();
        let sent = Command::new("kill").args([signal, &pid]).status().unwrap();
        assert!(sent.success());
    }

    /// Its address.
    #[must_use]
    pub fn addr(&self) -> (IpAddr, u16) {
        (IpAddr::V4(Ipv4Addr::LOCALHOST), self.port)
    }

    /// Where its `nodes.conf` and its log are.
    #[must_use]
    pub fn dir(&self) -> PathBuf {
        self.dir.path().to_owned()
    }

    /// A connection to it.
    ///
    /// # Errors
    /// When it does not answer within a second.
    pub async fn connect(&self) -> Result<Connection, redis::RedisError> {
        connect(self.addr(), &password(), Duration::from_secs(1)).await
    }

    /// Sends one command on a connection of its own.
    pub async fn text(&self, words: &[&str]) -> String {
        self.connect().await.unwrap().text(words).await.unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Awaits `condition`, asked every 20 ms, and panics with `what` after 30 s.
pub async fn until<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition().await {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
