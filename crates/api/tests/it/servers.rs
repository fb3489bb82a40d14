//! Real Redis servers, on free ports, in directories that go away with them.

use std::process::{Child, Command, Stdio};

use redis::aio::MultiplexedConnection;
use redis::{Cmd, FromRedisValue};
use tempfile::TempDir;

use crate::api::until;

pub(crate) struct Server {
    pub(crate) port: u16,
    pub(crate) bus: u16,
    child: Child,
    _directory: TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Server {
    /// Starts one, with further directives, e.g. `--requirepass secret`.
    pub(crate) async fn start(directives: &[&str]) -> Self {
        for _ in 0..20 {
            let (port, bus) = (free_port(), free_port());
            if let Some(server) = Self::start_on(port, bus, directives).await {
                return server;
            }
        }
        panic!("no redis-server starts");
    }

    /// Starts one on a given port.
    pub(crate) async fn start_on(port: u16, bus: u16, directives: &[&str]) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let clustered = directives.contains(&"--cluster-enabled");
        let mut bound = directives.iter().skip_while(|word| **word != "--bind");
        let host = *bound.nth(1).unwrap_or(&"127.0.0.1");
        let mut command = Command::new("redis-server");
        command
            .args(["--port", &port.to_string(), "--bind", host])
            .args(["--dir", directory.path().to_str().unwrap()])
            .args(["--save", "", "--appendonly", "no"])
            .args(directives)
            .stdout(Stdio::null());
        if clustered {
            command.args(["--cluster-port", &bus.to_string()]);
        }
        let mut server = Self {
            port,
            bus,
            child: command.spawn().unwrap(),
            _directory: directory,
        };
        loop {
            if server.child.try_wait().unwrap().is_some() {
                return None;
            }
            if tokio::net::TcpStream::connect((host, port)).await.is_ok() {
                return Some(server);
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Stops it as a crash would.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Sends it a signal, e.g. `STOP`.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-s", name, &pid])
                .status()
                .unwrap()
                .success()
        );
    }

    pub(crate) async fn connection(&self) -> MultiplexedConnection {
        let client = redis::Client::open(self.url()).unwrap();
        client.get_multiplexed_async_connection().await.unwrap()
    }

    /// Runs a command, written as words.
    pub(crate) async fn run<T: FromRedisValue>(&self, words: &str) -> T {
        let mut command = Cmd::new();
        for word in words.split(' ') {
            command.arg(word);
        }
        let mut connection = self.connection().await;
        command
            .query_async(&mut connection)
            .await
            .unwrap_or_else(|error| panic!("{words}: {error}"))
    }

    pub(crate) async fn id(&self) -> String {
        self.run("CLUSTER MYID").await
    }
}

/// A port below the range from which the kernel takes those of outgoing connections.
fn free_port() -> u16 {
    loop {
        let port = rand::random_range(20_000..32_000);
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// A cluster: `servers[..primaries]` are its primaries, and `servers[primaries + i]` replicates `servers[i % primaries]`.
pub(crate) struct Cluster {
    pub(crate) servers: Vec<Server>,
}

impl Cluster {
    pub(crate) async fn start(primaries: usize, replicas: usize) -> Self {
        let directives = [
            "--cluster-enabled",
            "yes",
            "--cluster-node-timeout",
            "1000",
            "--cluster-require-full-coverage",
            "no",
            "--repl-diskless-sync-delay",
            "0",
        ];
        let mut servers = Vec::new();
        for _ in 0..primaries * (1 + replicas) {
            servers.push(Server::start(&directives).await);
        }
        for (index, server) in servers[..primaries].iter().enumerate() {
            let (first, last) = (
                16384 * index / primaries,
                16384 * (index + 1) / primaries - 1,
            );
            let () = server
                .run(&format!("CLUSTER ADDSLOTSRANGE {first} {last}"))
                .await;
            let () = server
                .run(&format!("CLUSTER SET-CONFIG-EPOCH {}", index + 1))
                .await;
        }
        let first = &servers[0];
        for server in &servers[1..] {
            let () = server
                .run(&format!(
                    "CLUSTER MEET 127.0.0.1 {} {}",
                    first.port, first.bus
                ))
                .await;
        }
        let all = servers.len();
        for server in &servers {
            until("the nodes know each other", async || {
                let nodes: String = server.run("CLUSTER NODES").await;
                nodes
                    .lines()
                    .filter(|line| line.ends_with("connected") || line.contains(" connected "))
                    .count()
                    == all
                    && !nodes.contains("handshake")
            })
            .await;
        }
        for (index, server) in servers[primaries..].iter().enumerate() {
            let primary = servers[index % primaries].id().await;
            let () = server.run(&format!("CLUSTER REPLICATE {primary}")).await;
        }
        for server in &servers {
            until("the cluster is in order", async || {
                let info: String = server.run("CLUSTER INFO").await;
                info.contains("cluster_state:ok") && info.contains("cluster_slots_ok:16384")
            })
            .await;
        }
        for server in &servers[primaries..] {
            until("the replicas are in step", async || {
                let info: String = server.run("INFO replication").await;
                info.contains("master_link_status:up")
            })
            .await;
        }
        Self { servers }
    }

    /// All seeds, as `--redis-url` takes them.
    pub(crate) fn urls(&self) -> String {
        let urls: Vec<_> = self.servers.iter().map(Server::url).collect();
        urls.join(",")
    }
}
