//! What clients of the API feel of a fault: how long they wait, and that they see no error.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cachecluster_api::redis::slots::slot_of;
use tokio::task::JoinHandle;

use crate::api::{Api, until};
use crate::cluster::counted;
use crate::netns;
use crate::servers::{Cluster, Server};

/// Clients that each write to the first shard, one request after the other, a few milliseconds apart.
struct Writers {
    over: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    clients: Vec<JoinHandle<Duration>>,
}

impl Writers {
    fn start(api: &Arc<Api>, primaries: usize) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(AtomicU64::new(0));
        let clients = (0..)
            .map(|number| format!("w-{number}"))
            .filter(|key| usize::from(slot_of(key.as_bytes())) < 16384 / primaries)
            .take(3)
            .map(|key| {
                let (api, over, acknowledged) = (api.clone(), over.clone(), acknowledged.clone());
                tokio::spawn(async move {
                    let mut longest = Duration::ZERO;
                    while !over.load(Ordering::Relaxed) {
                        let began = Instant::now();
                        let (status, body) = api.set(&key, "v").await;
                        longest = longest.max(began.elapsed());
                        assert_eq!(status, 200, "after {:?}: {body}", began.elapsed());
                        acknowledged.fetch_add(1, Ordering::Relaxed);
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                    longest
                })
            })
            .collect();
        Self {
            over,
            acknowledged,
            clients,
        }
    }

    /// Waits until all goes well, also after what was done before.
    async fn go_on(&self) {
        let before = self.acknowledged.load(Ordering::Relaxed);
        until("writes are acknowledged", async || {
            self.acknowledged.load(Ordering::Relaxed) > before + 100
        })
        .await;
    }

    /// The longest that one request took.
    async fn end(self) -> Duration {
        self.over.store(true, Ordering::Relaxed);
        let mut longest = Duration::ZERO;
        for client in self.clients {
            longest = longest.max(client.await.unwrap());
        }
        longest
    }
}

/// How long the servers take until the replica calls itself a primary, once `asked`.
async fn promoted(replica: &Server, asked: Instant) -> Duration {
    loop {
        let info: String = replica.run("INFO replication").await;
        if info.contains("role:master") {
            return asked.elapsed();
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// A cluster, an API over it, and writers that have begun.
async fn under_writes() -> (Cluster, Arc<Api>, Writers) {
    let cluster = Cluster::start(3, 1).await;
    let api = Arc::new(Api::over(&cluster.urls(), &[]).await);
    let writers = Writers::start(&api, 3);
    writers.go_on().await;
    (cluster, api, writers)
}

/// Lets the replica of the first shard take over with a `command`; tells for how long the longest request waited beyond
/// what the servers took, when they had been `away` for some time already.
async fn taken_over(
    cluster: &Cluster,
    writers: Writers,
    command: &str,
    away: Duration,
) -> Duration {
    let asked = Instant::now();
    let replica = &cluster.servers[3];
    let () = replica.run(command).await;
    let servers = promoted(replica, asked).await;
    writers.go_on().await;
    let longest = writers.end().await;
    eprintln!(
        "{command}: longest request {longest:?}, of which the servers took {servers:?} after {away:?}"
    );
    longest.saturating_sub(servers + away)
}

/// Machines that run tests are not quiet: of a few rounds, one must stay within `bound`.
async fn once_within(bound: Duration, mut round: impl AsyncFnMut() -> Duration) {
    let mut seen = Vec::new();
    for _ in 0..4 {
        let took = round().await;
        if took <= bound {
            return;
        }
        seen.push(took);
    }
    panic!("never within {bound:?}: {seen:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_planned_failover_costs_little() {
    once_within(Duration::from_millis(80), async || {
        let (cluster, _api, writers) = under_writes().await;
        taken_over(&cluster, writers, "CLUSTER FAILOVER", Duration::ZERO).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_primary_costs_little_more_than_the_vote() {
    once_within(Duration::from_millis(60), async || {
        let (mut cluster, _api, writers) = under_writes().await;
        cluster.servers[0].kill();
        taken_over(&cluster, writers, "CLUSTER FAILOVER FORCE", Duration::ZERO).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hung_primary_costs_little_more_than_the_vote() {
    once_within(Duration::from_millis(75), async || {
        let (cluster, _api, writers) = under_writes().await;
        cluster.servers[0].signal("STOP");
        let ours = taken_over(&cluster, writers, "CLUSTER FAILOVER FORCE", Duration::ZERO).await;
        cluster.servers[0].signal("CONT");
        ours
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_whose_packets_vanish_costs_little_more_than_the_vote() {
    if !netns::is_inside("faults::a_primary_whose_packets_vanish_costs_little_more_than_the_vote") {
        return;
    }
    once_within(Duration::from_millis(75), async || {
        let (cluster, _api, writers) = under_writes().await;
        let began = Instant::now();
        netns::vanish(&[cluster.servers[0].port, cluster.servers[0].bus], true);
        // As late as a power-off is noticed: every connection was given up and is being made again.
        tokio::time::sleep(Duration::from_millis(700)).await;
        taken_over(&cluster, writers, "CLUSTER FAILOVER FORCE", began.elapsed()).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_is_seen_while_the_name_service_is_away() {
    if !netns::is_inside("faults::a_failover_is_seen_while_the_name_service_is_away") {
        return;
    }
    let hosts = netns::replace("/etc/hosts", "127.0.0.1 nodes.test\n");
    let _servers = netns::replace("/etc/resolv.conf", "nameserver 127.0.0.9\n");
    netns::run("iptables -I INPUT -d 127.0.0.9 -j DROP");
    let mut cluster = Cluster::start(3, 1).await;
    let url = format!("redis://nodes.test:{}", cluster.servers[1].port);
    let api = Arc::new(Api::over(&url, &[]).await);
    std::fs::write(hosts.path(), "").unwrap();
    let writers = Writers::start(&api, 3);
    writers.go_on().await;
    // The next look-up hangs, and those after it.
    tokio::time::sleep(Duration::from_millis(2500)).await;
    cluster.servers[0].kill();
    let away = Duration::from_millis(1100);
    tokio::time::sleep(away).await;
    let ours = taken_over(&cluster, writers, "CLUSTER FAILOVER FORCE", away).await;
    assert!(ours < Duration::from_millis(300), "{ours:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_come_back_under_other_addresses_are_found_by_name() {
    if !netns::is_inside("faults::nodes_that_come_back_under_other_addresses_are_found_by_name") {
        return;
    }
    let hosts = netns::replace("/etc/hosts", "127.0.0.1 nodes.test\n");
    let mut server = Server::start(&[]).await;
    let (port, bus) = (server.port, server.bus);
    let api = Api::over(&format!("redis://nodes.test:{port}"), &[]).await;
    assert_eq!(api.set("k", "v").await.0, 200);
    server.kill();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let _elsewhere = Server::start_on(port, bus, &["--bind", "127.0.0.2"])
        .await
        .unwrap();
    std::fs::write(hosts.path(), "127.0.0.2 nodes.test\n").unwrap();
    let began = Instant::now();
    assert_eq!(api.set("k", "v").await.0, 200);
    let took = began.elapsed();
    eprintln!("found under another address after {took:?}");
    assert!(took < Duration::from_millis(800), "{took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_restarts_where_it_was_is_used_at_once() {
    once_within(Duration::from_millis(50), async || {
        let mut server = Server::start(&[]).await;
        let api = Arc::new(Api::over(&server.url(), &[]).await);
        let writers = Writers::start(&api, 1);
        writers.go_on().await;
        let (port, bus) = (server.port, server.bus);
        let began = Instant::now();
        server.kill();
        tokio::time::sleep(Duration::from_millis(600)).await;
        let _again = Server::start_on(port, bus, &[]).await.unwrap();
        let away = began.elapsed();
        writers.go_on().await;
        let longest = writers.end().await;
        eprintln!("restart: away {away:?}, longest request {longest:?}");
        longest.saturating_sub(away)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packets_that_vanish_for_a_while_cost_little_more_than_that() {
    if !netns::is_inside("faults::packets_that_vanish_for_a_while_cost_little_more_than_that") {
        return;
    }
    once_within(Duration::from_millis(350), async || {
        let server = Server::start(&[]).await;
        let api = Arc::new(Api::over(&server.url(), &[]).await);
        let mut most = Duration::ZERO;
        for vanished in [900, 1500] {
            let writers = Writers::start(&api, 1);
            writers.go_on().await;
            let began = Instant::now();
            netns::vanish(&[server.port], true);
            tokio::time::sleep(Duration::from_millis(vanished)).await;
            netns::vanish(&[server.port], false);
            let away = began.elapsed();
            writers.go_on().await;
            let longest = writers.end().await;
            eprintln!("vanished for {away:?}, longest request {longest:?}");
            most = most.max(longest.saturating_sub(away));
        }
        most
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_died_while_nobody_used_it_holds_nobody_up() {
    if !netns::is_inside("faults::a_connection_that_died_while_nobody_used_it_holds_nobody_up") {
        return;
    }
    let server = Server::start(&[]).await;
    let api = Arc::new(Api::over(&server.url(), &[]).await);
    assert_eq!(api.set("k", "v").await.0, 200);
    // As when a machine between forgets its connections: the old ones are dead, new ones are not.
    let clients: String = server.run("CLIENT LIST").await;
    for client in clients.lines().filter(|line| !line.contains("cmd=client")) {
        let address = client.split("addr=127.0.0.1:").nth(1).unwrap();
        let port: u16 = address.split(' ').next().unwrap().parse().unwrap();
        netns::vanish(&[port], true);
    }
    until("the connection is dropped", async || {
        counted(
            &api.metrics().await,
            r#"cachecluster_api_upstream_connections_dropped_total{cause="silent"}"#,
        )
    })
    .await;
    let began = Instant::now();
    assert_eq!(api.get("k").await.0, 200);
    assert!(began.elapsed() < Duration::from_millis(400));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_abandoned_write_does_not_arrive_after_a_later_one() {
    if !netns::is_inside("faults::an_abandoned_write_does_not_arrive_after_a_later_one") {
        return;
    }
    let server = Server::start(&[]).await;
    let api = Api::over(&server.url(), &["--request-deadline", "1s"]).await;
    let other = Api::over(&server.url(), &[]).await;
    assert_eq!(api.set("k", "first").await.0, 200);
    netns::vanish(&[server.port], true);
    assert_ne!(api.set("k", "abandoned").await.0, 200);
    netns::vanish(&[server.port], false);
    assert_eq!(other.set("k", "later").await.0, 200);
    // The kernel would send it again within the next seconds, if it were still to be sent.
    let until = Instant::now() + Duration::from_secs(4);
    while Instant::now() < until {
        assert!(other.get("k").await.1.contains("later"));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_a_hung_server_still_has_is_not_carried_out_after_a_later_one() {
    let server = Server::start(&[]).await;
    let api = Api::over(&server.url(), &["--request-deadline", "1s"]).await;
    let other = Arc::new(Api::over(&server.url(), &[]).await);
    assert_eq!(api.set("k", "first").await.0, 200);
    assert_eq!(other.get("k").await.0, 200);
    server.signal("STOP");
    assert_eq!(api.set("k", "abandoned").await.0, 504);
    let later = {
        let other = other.clone();
        tokio::spawn(async move { other.set("k", "later").await })
    };
    tokio::time::sleep(Duration::from_millis(200)).await;
    server.signal("CONT");
    assert_eq!(later.await.unwrap().0, 200);
    let until = Instant::now() + Duration::from_secs(1);
    while Instant::now() < until {
        assert!(other.get("k").await.1.contains("later"));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_status_tells_whether_a_write_may_have_been_carried_out() {
    let mut server = Server::start(&[]).await;
    let api = Api::over(&server.url(), &["--request-deadline", "700ms"]).await;
    let set = async || {
        let body = r#"{"key":"k","value":"v"}"#;
        let request = api.http.post(api.url("/cache")).body(body);
        let response = request.send().await.unwrap();
        assert!(response.headers().contains_key("retry-after"));
        (response.status().as_u16(), response.text().await.unwrap())
    };
    assert_eq!(api.set("k", "v").await.0, 200);
    server.signal("STOP");
    let (status, body) = set().await;
    assert_eq!(status, 504, "{body}");
    assert!(body.contains("not known whether"), "{body}");
    // A question that was not answered is only that.
    assert_eq!(api.get("k").await.0, 503);
    server.kill();
    until("its connections are known to be gone", async || {
        set().await.0 == 503
    })
    .await;
}

#[tokio::test]
async fn a_delete_that_had_to_be_sent_twice_says_deleted() {
    let server = Server::start(&[]).await;
    let api = Api::over(&server.url(), &[]).await;
    assert_eq!(api.set("k", "v").await.0, 200);
    server.signal("STOP");
    let delete = tokio::spawn(api.http.delete(api.url("/cache/k")).send());
    until("it was sent again", async || {
        counted(
            &api.metrics().await,
            r#"cachecluster_api_upstream_retries_total{reason="timeout"}"#,
        )
    })
    .await;
    server.signal("CONT");
    assert_eq!(delete.await.unwrap().unwrap().status(), 200);
    assert_eq!(api.delete("k").await.0, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deposed_primary_that_is_cut_off_with_us_does_not_pull_the_map_back() {
    if !netns::is_inside(
        "faults::a_deposed_primary_that_is_cut_off_with_us_does_not_pull_the_map_back",
    ) {
        return;
    }
    let cluster = Cluster::start(1, 1).await;
    let (old, new) = (&cluster.servers[0], &cluster.servers[1]);
    let api = Api::over(&cluster.urls(), &["--request-deadline", "500ms"]).await;
    assert_eq!(api.set("k", "old").await.0, 200);
    // The nodes lose sight of each other, and both go on as primaries: of two, neither needs the other's vote.
    netns::vanish(&[old.bus, new.bus], true);
    let () = new.run("CLUSTER FAILOVER TAKEOVER").await;
    let taken = Instant::now();
    until("the newer claim holds", async || {
        let _ = api.set("k", "new").await;
        let value: Option<String> = new.run("GET k").await;
        value.as_deref() == Some("new")
    })
    .await;
    // Nothing tells of it but the refresh whose time it is.
    assert!(taken.elapsed() < Duration::from_millis(1500));
    netns::vanish(&[new.port], true);
    let cut_off = Instant::now();
    while cut_off.elapsed() < Duration::from_secs(5) {
        let (status, body) = api.get("k").await;
        assert_ne!(status, 200, "{body} after {:?}", cut_off.elapsed());
    }
    netns::vanish(&[new.port, old.bus, new.bus], false);
    until("all is well again", async || {
        let (status, body) = api.get("k").await;
        assert!(!body.contains("old"), "{body}");
        status == 200
    })
    .await;
}
