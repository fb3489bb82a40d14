//! Servers whose data are on disk.

use std::time::{Duration, Instant};

use cachecluster_contract::Persistence;
use cachecluster_redis_admin::fixture::until;
use cachecluster_topology::Role;
use nix::sys::signal::{Signal, kill};

use crate::cluster::{cluster, fill, until_writable};

#[tokio::test]
async fn with_a_volume_a_lone_primary_comes_back_with_its_data() {
    let mut agents = cluster(Persistence::Volume, 1, 0).await;
    agents[0].text(&["SET", "k", "v"]).await;
    let pid = agents[0].server_pid().await;
    agents[0].terminate();
    assert!(agents[0].wait().success());
    agents[0].spawn();
    agents[0].until_ready().await;
    assert_ne!(agents[0].server_pid().await, pid);
    assert_eq!(agents[0].text(&["GET", "k"]).await, "v");
}

#[tokio::test]
async fn with_a_volume_a_replica_in_step_is_preferred_to_the_disk() {
    let agents = cluster(Persistence::Volume, 1, 1).await;
    agents[0].text(&["SET", "k", "v"]).await;
    until("the replica has the key", async || {
        agents[1].view().await.unwrap().keys == 1
    })
    .await;
    kill(agents[0].server_pid().await, Signal::SIGKILL).unwrap();
    let took = until_writable(&agents[1], "other").await;
    println!("volumes, server killed: writable again after {took:?}");
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert_eq!(agents[1].text(&["GET", "k"]).await, "v");
    agents[0].until_ready().await;
    assert!(agents[0].is(Role::Replica).await);
}

#[tokio::test]
async fn with_a_volume_a_replica_that_listened_to_the_end_goes_before_the_disk() {
    let mut agents = cluster(Persistence::Volume, 1, 1).await;
    agents[0].text(&["SET", "k", "v"]).await;
    until("the replica has the key", async || {
        agents[1].view().await.unwrap().keys == 1
    })
    .await;
    agents[0].crash().await;
    agents[0].spawn();
    until("the replica has taken over", async || {
        agents[1].is(Role::Primary).await
    })
    .await;
    agents[0].until_ready().await;
    assert!(agents[0].is(Role::Replica).await);
    assert_eq!(agents[0].view().await.unwrap().keys, 1);
}

#[tokio::test]
async fn with_a_volume_the_disk_goes_before_a_replica_that_missed_the_end_and_nobody_waits_long() {
    let mut agents = cluster(Persistence::Volume, 1, 1).await;
    agents[0].text(&["SET", "k", "v"]).await;
    agents[1].crash().await;
    agents[0].text(&["SET", "late", "v"]).await;
    agents[0].crash().await;
    // The replica is there, with data and without ever having heard its primary.
    agents[1].spawn();
    agents[1].until_answers().await;
    let started = Instant::now();
    agents[0].spawn();
    agents[0].until_answers().await;
    let took = started.elapsed();
    println!("volumes, everybody restarted: answers after {took:?}");
    assert!(took < Duration::from_secs(2), "{took:?}");
    agents[0].until_ready().await;
    assert!(agents[0].is(Role::Primary).await);
    assert_eq!(agents[0].text(&["GET", "late"]).await, "v");
    // Nor is there a long wait when nobody else is there at all.
    agents[1].crash().await;
    agents[0].crash().await;
    let started = Instant::now();
    agents[0].spawn();
    agents[0].until_answers().await;
    let took = started.elapsed();
    println!("volumes, alone: answers after {took:?}");
    assert!(took < Duration::from_secs(3), "{took:?}");
    assert!(agents[0].is(Role::Primary).await);
}

#[tokio::test]
async fn with_a_volume_nobody_promotes_a_replica_from_its_disk_before_its_primary_can_be_back_from_its_own()
 {
    let mut agents = cluster(Persistence::Volume, 3, 1).await;
    // In the slots of the first, whose replica comes after all primaries.
    let (key, replica) = ("{bar}", 3);
    agents[0].text(&["SET", key, "early"]).await;
    until("the replica has the key", async || {
        agents[replica].view().await.unwrap().keys == 1
    })
    .await;
    agents[replica].crash().await;
    agents[0].text(&["SET", key, "late"]).await;
    agents[0].crash().await;
    agents[replica].spawn();
    // Its own agent knows better, and so do the votes.
    for words in ["came from its disk a moment ago", "for longer than allowed"] {
        until(words, async || agents[replica].log().contains(words)).await;
    }
    assert!(agents[replica].is(Role::Replica).await);
    agents[0].spawn();
    agents[0].until_ready().await;
    assert!(agents[0].is(Role::Primary).await);
    assert_eq!(agents[0].text(&["GET", key]).await, "late");
}

#[tokio::test]
async fn with_a_volume_a_replica_that_lost_touch_long_ago_is_not_promoted_for_its_offset() {
    let agents = cluster(Persistence::Volume, 1, 1).await;
    let (primary, replica) = (&agents[0], &agents[1]);
    fill(primary, 100, 10).await;
    until("the replica has the keys", async || {
        replica.view().await.unwrap().keys == 100
    })
    .await;
    // It stays where it is, and its link stays down.
    replica
        .text(&["CONFIG", "SET", "masterauth", "another"])
        .await;
    primary.text(&["CLIENT", "KILL", "TYPE", "replica"]).await;
    until("the replica has been out of step", async || {
        let standing = replica.view().await.unwrap().standing;
        standing.unheard_seconds.is_some_and(|seconds| seconds >= 3)
    })
    .await;
    // First what the last sample may not have seen; then a server that has begun to count anew.
    for (round, key) in [(1, "late"), (2, "later")] {
        primary.text(&["SET", key, "v"]).await;
        kill(primary.server_pid().await, Signal::SIGKILL).unwrap();
        until("the server is back", async || {
            let metrics = primary.get("/metrics").await.1;
            let restarts = format!("cachecluster_redis_restarts_total {round}");
            metrics.contains(&restarts)
        })
        .await;
        primary.until_ready().await;
        let keys = format!("cachecluster_redis_keys {}", 100 + round);
        until("the agent has looked", async || {
            primary.get("/metrics").await.1.contains(&keys)
        })
        .await;
        assert!(primary.is(Role::Primary).await);
        assert!(replica.is(Role::Replica).await);
        assert_eq!(primary.text(&["GET", key]).await, "v");
    }
}
