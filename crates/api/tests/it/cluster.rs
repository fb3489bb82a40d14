//! What a cluster does to its clients: redirections, failovers, nodes that hang, passwords that change.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use cachecluster_api::redis::slots::slot_of;

use crate::api::{Api, until};
use crate::servers::{Cluster, Server};

/// A key whose slot the server at `index` of `of` primaries owns at first.
fn key_on(index: usize, of: usize) -> String {
    let (first, next) = (16384 * index / of, 16384 * (index + 1) / of);
    (0..)
        .map(|number| format!("key-{number}"))
        .find(|key| (first..next).contains(&usize::from(slot_of(key.as_bytes()))))
        .unwrap()
}

pub(crate) fn counted(metrics: &str, line: &str) -> bool {
    metrics
        .lines()
        .any(|found| found.starts_with(line) && !found.ends_with(" 0"))
}

#[tokio::test]
async fn a_slot_that_moves_is_followed_through_every_stage() {
    let cluster = Cluster::start(3, 0).await;
    let api = Api::over(&cluster.urls(), &[]).await;
    let (source, target) = (&cluster.servers[0], &cluster.servers[1]);
    let (source_id, target_id) = (source.id().await, target.id().await);
    let key = key_on(0, 3);
    let slot = slot_of(key.as_bytes());
    assert_eq!(api.set(&key, "before").await.0, 200);

    // Half-way: the key has moved already, the slot has not, so the source answers ASK.
    let () = target
        .run(&format!("CLUSTER SETSLOT {slot} IMPORTING {source_id}"))
        .await;
    let () = source
        .run(&format!("CLUSTER SETSLOT {slot} MIGRATING {target_id}"))
        .await;
    assert!(api.get(&key).await.1.contains("before"), "not moved yet");
    let () = source
        .run(&format!("MIGRATE 127.0.0.1 {} {key} 0 5000", target.port))
        .await;
    assert!(api.get(&key).await.1.contains("before"));
    assert_eq!(api.set(&key, "between").await.0, 200);
    assert!(api.get(&key).await.1.contains("between"));
    assert!(counted(
        &api.metrics().await,
        r#"cachecluster_api_upstream_redirects_total{kind="ask"}"#
    ));

    // Moved for good: the source answers MOVED.
    for server in [target, source, &cluster.servers[2]] {
        let () = server
            .run(&format!("CLUSTER SETSLOT {slot} NODE {target_id}"))
            .await;
    }
    assert!(api.get(&key).await.1.contains("between"));
    assert_eq!(api.set(&key, "after").await.0, 200);
    assert!(api.get(&key).await.1.contains("after"));
    assert_eq!(api.delete(&key).await.0, 200);
    let holds: u32 = target.run(&format!("EXISTS {key}")).await;
    assert_eq!(holds, 0);
}

#[tokio::test]
async fn a_wrong_map_is_corrected_by_moved() {
    let cluster = Cluster::start(3, 0).await;
    let api = Api::over(&cluster.urls(), &[]).await;
    let (source, target) = (&cluster.servers[0], &cluster.servers[1]);
    let target_id = target.id().await;
    // Slots change hands between two refreshes of the map; that none is under way is not known, so there are many.
    let keys: Vec<String> = (0..200)
        .map(|number| format!("free-{number}"))
        .filter(|key| slot_of(key.as_bytes()) < 5461)
        .collect();
    for key in &keys {
        let slot = slot_of(key.as_bytes());
        for server in [target, source, &cluster.servers[2]] {
            let () = server
                .run(&format!("CLUSTER SETSLOT {slot} NODE {target_id}"))
                .await;
        }
        assert_eq!(api.set(key, "v").await.0, 200);
    }
    assert!(counted(
        &api.metrics().await,
        r#"cachecluster_api_upstream_redirects_total{kind="moved"}"#
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_wait_while_a_replica_takes_over_from_a_dead_primary() {
    let mut cluster = Cluster::start(3, 1).await;
    let api = Api::over(&cluster.urls(), &[]).await;
    let key = key_on(0, 3);
    assert_eq!(api.set(&key, "before").await.0, 200);
    until("the replica has the value", async || {
        let info: String = cluster.servers[3].run("INFO keyspace").await;
        info.contains("keys=1")
    })
    .await;

    cluster.servers[0].kill();
    let waiting = {
        let url = api.url(&format!("/cache/{key}"));
        tokio::spawn(api.http.get(url).send())
    };
    let began = Instant::now();
    let replica = &cluster.servers[3];
    let () = replica.run("CLUSTER FAILOVER FORCE").await;
    let response = waiting.await.unwrap().unwrap();
    assert_eq!(response.status(), 200);
    assert!(response.text().await.unwrap().contains("before"));
    assert_eq!(api.set(&key, "after").await.0, 200);
    eprintln!(
        "readable and writable {:?} after the failover was asked for",
        began.elapsed()
    );
    let role: String = replica.run("INFO replication").await;
    assert!(role.contains("role:master"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_under_load_fails_no_request() {
    let mut cluster = Cluster::start(3, 1).await;
    let api = Arc::new(Api::over(&cluster.urls(), &[]).await);
    let over = Arc::new(AtomicBool::new(false));
    let answered = Arc::new(AtomicUsize::new(0));
    let clients: Vec<_> = (0..32)
        .map(|client| {
            let (api, over, answered) = (api.clone(), over.clone(), answered.clone());
            tokio::spawn(async move {
                let mut longest = Duration::ZERO;
                for number in 0.. {
                    if over.load(Ordering::Relaxed) {
                        break;
                    }
                    let key = format!("key-{client}-{}", number % 20);
                    let began = Instant::now();
                    let (status, body) = api.set(&key, &number.to_string()).await;
                    longest = longest.max(began.elapsed());
                    assert_eq!(status, 200, "{body}");
                    let (status, body) = api.get(&key).await;
                    // Replication is asynchronous: what was just written may go with the primary.
                    assert!(status == 200 || status == 404, "{status} {body}");
                    answered.fetch_add(1, Ordering::Relaxed);
                }
                longest
            })
        })
        .collect();
    let under_load = async || {
        let before = answered.load(Ordering::Relaxed);
        until("there is load", async || {
            answered.load(Ordering::Relaxed) > before + 500
        })
        .await;
    };
    under_load().await;
    // A hand-over that was planned, and one that was not.
    let () = cluster.servers[4].run("CLUSTER FAILOVER").await;
    under_load().await;
    cluster.servers[0].kill();
    let () = cluster.servers[3].run("CLUSTER FAILOVER FORCE").await;
    under_load().await;
    over.store(true, Ordering::Relaxed);
    let mut longest = Duration::ZERO;
    for client in clients {
        longest = longest.max(client.await.unwrap());
    }
    eprintln!("the longest request took {longest:?}");
    assert!(counted(
        &api.metrics().await,
        "cachecluster_api_upstream_retries_total"
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_shard_without_a_majority_is_taken_over_all_the_same() {
    let mut cluster = Cluster::start(1, 1).await;
    let api = Api::over(&cluster.urls(), &[]).await;
    assert_eq!(api.set("k", "v").await.0, 200);
    cluster.servers[0].kill();
    let () = cluster.servers[1].run("CLUSTER FAILOVER TAKEOVER").await;
    assert_eq!(api.set("k", "w").await.0, 200);
    assert!(api.get("k").await.1.contains('w'));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_do_not_wait_for_a_primary_that_hangs() {
    let cluster = Cluster::start(3, 1).await;
    let api = Api::over(&cluster.urls(), &[]).await;
    let key = key_on(0, 3);
    assert_eq!(api.set(&key, "v").await.0, 200);
    let primary = &cluster.servers[0];
    primary.signal("STOP");
    let began = Instant::now();
    // The majority votes by itself, once the node has been silent for its time-out of one second.
    let (status, body) = api.set(&key, "w").await;
    primary.signal("CONT");
    assert_eq!(status, 200, "{body}");
    assert!(began.elapsed() < Duration::from_millis(4800));
    // Awake again, the old primary does not win its requests back.
    for _ in 0..50 {
        assert!(api.get(&key).await.1.contains('w'));
    }
}

#[tokio::test]
async fn nodes_that_all_come_back_elsewhere_are_found_through_the_seeds() {
    let directives = [
        "--cluster-enabled",
        "yes",
        "--cluster-require-full-coverage",
        "no",
    ];
    let mut first = Server::start(&directives).await;
    let second = Server::start(&directives).await;
    let () = first.run("CLUSTER ADDSLOTSRANGE 0 16383").await;
    let urls = format!("{},{}", first.url(), second.url());
    let api = Api::over(&urls, &[]).await;
    until("the first one serves", async || {
        api.set("k", "v").await.0 == 200
    })
    .await;
    first.kill();
    let () = second.run("CLUSTER ADDSLOTSRANGE 0 16383").await;
    until("the second one serves", async || {
        api.set("k", "v").await.0 == 200
    })
    .await;
}

#[tokio::test]
async fn a_new_password_is_read_from_its_file() {
    let server = Server::start(&["--requirepass", "first"]).await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("password");
    std::fs::write(&file, "first\n").unwrap();
    let password_file = file.to_str().unwrap();
    let api = Api::over(&server.url(), &["--redis-password-file", password_file]).await;
    assert_eq!(api.set("k", "v").await.0, 200);

    let client = redis::Client::open(format!("redis://:first@127.0.0.1:{}", server.port)).unwrap();
    let mut admin = client.get_multiplexed_async_connection().await.unwrap();
    let () = redis::cmd("ACL")
        .arg(&["SETUSER", "default", "resetpass", ">second"])
        .query_async(&mut admin)
        .await
        .unwrap();
    std::fs::write(&file, "second\n").unwrap();
    // Every connection of ours is cut; the next ones come with the new password.
    let () = redis::cmd("CLIENT")
        .arg(&["KILL", "TYPE", "normal", "SKIPME", "yes"])
        .query_async(&mut admin)
        .await
        .unwrap();
    assert_eq!(api.set("k", "w").await.0, 200);
    assert!(api.get("k").await.1.contains('w'));
}

#[tokio::test]
async fn a_wrong_password_is_said_to_be_one() {
    let server = Server::start(&["--requirepass", "right"]).await;
    let url = format!("redis://:wrong@127.0.0.1:{}", server.port);
    let api = Api::start(&["--redis-url", &url, "--request-deadline", "500ms"]).await;
    assert_eq!(api.get("k").await.0, 503);
    assert!(!api.is_ready().await);
}

#[tokio::test]
async fn a_late_attempt_does_not_prolong_a_ttl() {
    let server = Server::start(&[]).await;
    let api = Api::over(&server.url(), &[]).await;
    server.signal("STOP");
    let set = {
        let request = api
            .http
            .post(api.url("/cache"))
            .body(r#"{"key":"k","value":"v","ttl_seconds":100}"#);
        tokio::spawn(request.send())
    };
    let waited = Duration::from_millis(1500);
    tokio::time::sleep(waited).await;
    server.signal("CONT");
    assert_eq!(set.await.unwrap().unwrap().status(), 200);
    let left: u64 = server.run("PTTL k").await;
    assert!(
        left <= 100_000 - 500,
        "the TTL was counted anew: {left} ms left"
    );
}
