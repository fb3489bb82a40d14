//! A primary that is told to stop.

use std::time::{Duration, Instant};

use cachecluster_contract::Persistence;
use cachecluster_redis_admin::fixture::until;
use cachecluster_topology::{Action, Role};

use crate::cluster::{cluster, cluster_with, copy_slowly, fill, run, until_agreed, until_writable};

#[tokio::test]
async fn told_to_stop_a_primary_hands_over_and_nothing_is_lost() {
    let mut agents = cluster(Persistence::Ephemeral, 1, 1).await;
    let mut acknowledged = 0;
    let (primary, replica) = (&agents[0], &agents[1]);
    let mut writing = primary.connect().await.unwrap();
    let mut since = None;
    // Writes as fast as answers come, until the old primary says that it is none any more.
    loop {
        match writing.text(&["INCR", "counter"]).await {
            Ok(count) => acknowledged = count.parse().unwrap(),
            Err(_) => break,
        }
        if acknowledged == 200 {
            primary.terminate();
            since = Some(Instant::now());
        }
    }
    let took = until_writable(replica, "other").await;
    let outage = since.unwrap().elapsed();
    println!("told to stop to writable again: {outage:?} (of it after the last write: {took:?})");
    assert!(outage < Duration::from_secs(1), "{outage:?}");
    assert!(replica.is(Role::Primary).await);
    let counter: u64 = replica.text(&["GET", "counter"]).await.parse().unwrap();
    assert_eq!(counter, acknowledged);
    assert_ne!(primary.get("/readyz").await.0, 200);
    assert!(agents[0].wait().success());

    // The pod's container comes back with the files that it had, and follows.
    agents[0].spawn();
    agents[0].until_ready().await;
    assert!(agents[0].is(Role::Replica).await);
    assert_eq!(
        agents[0].view().await.unwrap().keys,
        agents[1].view().await.unwrap().keys
    );
}

#[tokio::test]
async fn a_hand_over_that_finds_no_votes_still_leaves_a_primary_with_all_the_data() {
    // Primaries vote for a replica of the same node once in two node timeouts only: the third hand-over gets no votes.
    let mut agents = cluster_with(Persistence::Ephemeral, 3, 1, 30_000, &[]).await;
    const KEY: &str = "{bar}key";
    for (from, to) in [(0, 3), (3, 0), (0, 3)] {
        let count = agents[from].text(&["INCR", KEY]).await;
        agents[from].terminate();
        let took = until_writable(&agents[to], "{bar}other").await;
        // Far sooner than the others' time-out: by the agent.
        println!("hand-over {count}: writable after {took:?}");
        assert!(agents[from].wait().success());
        assert_eq!(agents[to].text(&["GET", KEY]).await, count);
        agents[from].spawn();
        until("the old primary is in step", async || {
            agents[from].view().await.is_some_and(|view| view.link_up)
        })
        .await;
        until_agreed(&agents).await;
    }
    assert!(agents[0].log().contains("outcome=Failed"));
    assert_eq!(agents[3].text(&["GET", KEY]).await, "3");
}

#[tokio::test]
async fn told_to_stop_a_primary_waits_for_a_replica_that_is_behind() {
    let agents = cluster(Persistence::Ephemeral, 1, 1).await;
    let (primary, replica) = (&agents[0], &agents[1]);
    let replica_pid = replica.server_pid().await;
    replica.freeze(replica_pid);
    // More than the connection takes: most of it is in the primary's memory alone.
    const COUNT: usize = 30_000;
    fill(primary, COUNT, 1000).await;
    primary.terminate();
    until("nobody can take over", async || {
        primary.log().contains("outcome=NoReplica")
    })
    .await;
    replica.thaw(replica_pid);
    until("the replica has taken over", async || {
        replica.is(Role::Primary).await
    })
    .await;
    assert_eq!(replica.view().await.unwrap().keys, COUNT as u64);
}

#[tokio::test]
async fn told_to_stop_a_primary_hands_over_also_while_it_takes_no_more_clients() {
    let agents = cluster(Persistence::Ephemeral, 1, 1).await;
    let (primary, replica) = (&agents[0], &agents[1]);
    primary.text(&["SET", "k", "v"]).await;
    let mut crowd = Vec::new();
    while primary.connect().await.is_some() {
        assert!(crowd.len() < 1000, "it takes them all");
        crowd.push(tokio::net::TcpStream::connect(("127.0.0.1", primary.port)).await);
    }
    primary.terminate();
    until("the replica has taken over", async || {
        replica.is(Role::Primary).await
    })
    .await;
    let log = primary.log();
    assert!(log.contains("a replica is the primary now"), "{log}");
    assert_eq!(replica.text(&["GET", "k"]).await, "v");
}

/// More than a replica is given to read the end of a stream.
const LONG_COPY: Duration = Duration::from_secs(6);

/// Tells a primary to stop while its only replica copies its data, and expects that it serves on until it can hand over.
async fn told_to_stop_during_a_copy(save_delay: u32, load_delay: u32) {
    let mut agents = cluster(Persistence::Ephemeral, 1, 1).await;
    let (primary, replica) = agents.split_at_mut(1);
    let (primary, replica) = (&mut primary[0], &mut replica[0]);
    const COUNT: usize = 3000;
    fill(primary, COUNT, 100).await;
    copy_slowly(primary, replica, save_delay, load_delay).await;
    until("the replica copies", async || {
        let replicas = primary.text(&["INFO", "replication"]).await;
        match load_delay {
            0 => replicas.contains("state=") && !replicas.contains("state=online"),
            _ => replica.probe().await.is_loading(),
        }
    })
    .await;
    let started = Instant::now();
    primary.terminate();
    until("it is waited for", async || {
        primary
            .log()
            .contains("one copies the data: waiting for it")
    })
    .await;
    primary.text(&["SET", "{bar}meanwhile", "v"]).await;
    until("the replica has taken over", async || {
        replica.is(Role::Primary).await
    })
    .await;
    let took = started.elapsed();
    assert!(took > LONG_COPY, "{took:?}: proves nothing");
    assert_eq!(replica.view().await.unwrap().keys, COUNT as u64 + 1);
    assert!(primary.wait().success());
}

#[tokio::test]
async fn told_to_stop_while_its_only_replica_is_sent_a_copy_a_primary_serves_until_it_can_hand_over()
 {
    told_to_stop_during_a_copy(3000, 0).await;
}

#[tokio::test]
async fn told_to_stop_while_its_only_replica_loads_a_copy_a_primary_serves_until_it_can_hand_over()
{
    told_to_stop_during_a_copy(0, 3000).await;
}

#[tokio::test]
async fn plain_clients_of_the_only_shard_are_sent_away_by_a_primary_that_was_demoted() {
    let agents = cluster(Persistence::Ephemeral, 1, 1).await;
    let (primary, replica) = (&agents[0], &agents[1]);
    let mut plain = primary.connect().await.unwrap();
    plain.text(&["SET", "key", "value"]).await.unwrap();
    let replica_node = replica.node().await;
    run(Action::Failover {
        replica: replica_node,
    })
    .await;
    // A redirection is an answer, over a connection that stands.
    let started = Instant::now();
    while !matches!(plain.text(&["GET", "key"]).await, Err(error) if error.code().is_none()) {
        assert!(started.elapsed() < Duration::from_secs(5));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    primary.until_ready().await;
    assert!(primary.is(Role::Replica).await);
}
