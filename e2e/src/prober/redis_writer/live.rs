//! The writer against real servers.

#![allow(clippy::unwrap_used)] // a test, also in its own functions

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::{Args, run};

const PASSWORD: &str = "of the test";

struct Server {
    port: u16,
    directory: PathBuf,
    process: Child,
}

impl Server {
    fn start() -> Self {
        let port = free_port();
        let directory = std::env::temp_dir().join(format!("writer-{}-{port}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join("password"), PASSWORD).unwrap();
        let process = Command::new("redis-server")
            .current_dir(&directory)
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
            .args(["--cluster-enabled", "yes", "--cluster-node-timeout", "2000"])
            .args(["--requirepass", PASSWORD, "--masterauth", PASSWORD])
            .args(["--save", "", "--repl-diskless-sync-delay", "0"])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let server = Self {
            port,
            directory,
            process,
        };
        until(|| server.ask(&["PING"]) == "PONG");
        server
    }

    fn ask(&self, words: &[&str]) -> String {
        let output = Command::new("redis-cli")
            .args(["-p", &self.port.to_string(), "-a", PASSWORD])
            .arg("--no-auth-warning")
            .args(words)
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    fn args(&self, seconds: u64) -> Args {
        Args {
            url: format!("redis://127.0.0.1:{}", self.port),
            password_file: self.directory.join("password"),
            seconds,
            rate: 200,
            reads: 100,
            workers: 2,
            keys: 0,
            again: 0,
            prefix: "test".to_owned(),
            patience: 10,
            settle: 10,
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// One whose bus port, 10,000 higher, is free as well.
fn free_port() -> u16 {
    loop {
        let port = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = port.local_addr().unwrap().port();
        let bus = port.checked_add(10_000);
        if bus.is_some_and(|bus| TcpListener::bind(("127.0.0.1", bus)).is_ok()) {
            return port;
        }
    }
}

fn until(holds: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hand_over_loses_nothing_and_both_primaries_are_told() {
    let (old, new) = (Server::start(), Server::start());
    old.ask(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]);
    old.ask(&["CLUSTER", "MEET", "127.0.0.1", &new.port.to_string()]);
    let id = old.ask(&["CLUSTER", "MYID"]);
    until(|| new.ask(&["CLUSTER", "REPLICATE", &id]) == "OK");
    until(|| {
        new.ask(&["INFO", "replication"])
            .contains("master_link_status:up")
    });
    // It knows of its replica by gossip only; before, it would not let go of its slots.
    until(|| old.ask(&["CLUSTER", "NODES"]).contains("slave"));

    let args = old.args(5);
    let (report, ()) = tokio::join!(run(&args), async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        tokio::task::block_in_place(|| {
            until(|| {
                new.ask(&["CLUSTER", "FAILOVER"]);
                new.ask(&["ROLE"]).starts_with("master")
            });
        });
    });
    let report = report.unwrap();
    assert_eq!(
        (report.lost, report.unread, report.failed, report.stale),
        (0, 0, 0, 0),
        "{report:?}"
    );
    assert!(report.acked > 500 && report.reads > 100, "{report:?}");
    let served = report.shards[0].served.iter();
    let nodes: Vec<_> = served.map(|served| served.node.as_str()).collect();
    let address = |server: &Server| format!("127.0.0.1:{}", server.port);
    assert_eq!(nodes, [address(&old), address(&new)], "{report:?}");
    assert!(report.gap_ms < 3_000, "{report:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_goes_missing_is_told() {
    let server = Server::start();
    server.ask(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]);
    let args = server.args(2);
    let (report, ()) = tokio::join!(run(&args), async {
        tokio::time::sleep(Duration::from_millis(1_200)).await;
        tokio::task::block_in_place(|| {
            until(|| server.ask(&["DEL", "test-3"]) == "1");
        });
    });
    let report = report.unwrap();
    assert_eq!((report.lost, report.shards[0].lost), (1, 1), "{report:?}");
    assert!(report.lost_first_ms.is_some() && report.lost_first_ms == report.lost_last_ms);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_write_over_a_newer_one_is_told_also_if_a_newer_one_follows() {
    let server = Server::start();
    server.ask(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]);
    let mut args = server.args(4);
    args.again = 4;
    let key = "test-again-1-0";
    let number = |said: &str| said.parse::<u64>().unwrap_or_default();
    let (report, ()) = tokio::join!(run(&args), async {
        tokio::time::sleep(Duration::from_millis(1_000)).await;
        tokio::task::block_in_place(|| {
            until(|| number(&server.ask(&["SET", key, "1", "XX", "GET"])) > 1);
        });
    });
    let report = report.unwrap();
    // Of 32 keys of the worker, each is written again within a second and a half.
    assert!(number(&server.ask(&["GET", key])) > 1, "{report:?}");
    assert_eq!((report.lost, report.stale), (1, 0), "{report:?}");
    assert!(report.shards[0].lost_first_ms.is_some(), "{report:?}");
    let few = server.ask(&["EVAL", "return #redis.call('KEYS', 'test-again-*')", "0"]);
    assert_eq!(few, "64");
}
