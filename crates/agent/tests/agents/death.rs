//! A primary whose server dies, hangs, or comes back without its memory.

use std::time::{Duration, Instant};

use cachecluster_contract::Persistence;
use cachecluster_contract::news::News;
use cachecluster_redis_admin::fixture::until;
use cachecluster_topology::Role;
use nix::sys::signal::{Signal, kill};

use crate::agent::{Agent, NODE_TIMEOUT};
use crate::cluster::{cluster, cluster_with, copy_slowly, fill, until_writable};

/// Kills the server of the first primary, and expects its replica in its place with all the data.
async fn a_server_dies(shards: u16) {
    let agents = cluster(Persistence::Ephemeral, shards, 1).await;
    let (primary, replica) = (&agents[0], &agents[usize::from(shards)]);
    // In the first shard's slots, however many shards there are.
    const KEY: &str = "{bar}key";
    assert!(
        primary
            .text(&["CLUSTER", "KEYSLOT", KEY])
            .await
            .parse::<u16>()
            .unwrap()
            < 5461
    );
    primary.text(&["SET", KEY, "before"]).await;
    until("the replica has the key", async || {
        replica.view().await.unwrap().keys == 1
    })
    .await;
    let pid = primary.server_pid().await;
    until("the agent has looked", async || {
        primary
            .get("/metrics")
            .await
            .1
            .contains("cachecluster_redis_keys 1")
    })
    .await;

    kill(pid, Signal::SIGKILL).unwrap();
    let took = until_writable(replica, "{bar}other").await;
    println!("{shards} shards, server killed: writable again after {took:?}");
    assert!(took < Duration::from_secs(1), "{took:?}\n{}", primary.log());
    assert_eq!(replica.text(&["GET", KEY]).await, "before");

    until("the old primary follows", async || {
        primary.is(Role::Replica).await
    })
    .await;
    primary.until_ready().await;
    assert_eq!(replica.text(&["GET", KEY]).await, "before");
    assert_eq!(primary.view().await.unwrap().keys, 2);
    assert!(
        primary
            .get("/metrics")
            .await
            .1
            .contains("cachecluster_redis_restarts_total 1")
    );
    assert_eq!(primary.get("/livez").await.0, 200);
}

#[tokio::test]
async fn a_server_dies_and_its_replica_takes_over_where_nobody_can_vote() {
    a_server_dies(1).await;
}

#[tokio::test]
async fn a_server_dies_and_its_replica_takes_over_by_votes() {
    a_server_dies(3).await;
}

#[tokio::test]
async fn a_primary_without_its_memory_does_not_come_back_over_its_replica() {
    let mut agents = cluster(Persistence::Ephemeral, 1, 1).await;
    agents[0].text(&["SET", "k", "v"]).await;
    until("the replica has the key", async || {
        agents[1].view().await.unwrap().keys == 1
    })
    .await;
    // Agent and server are gone, and nobody but the next agent of this pod will do anything about it.
    agents[0].crash().await;
    agents[0].spawn();
    until("the replica has taken over", async || {
        agents[1].is(Role::Primary).await
    })
    .await;
    agents[0].until_ready().await;
    assert!(agents[0].is(Role::Replica).await);
    assert_eq!(agents[1].text(&["GET", "k"]).await, "v");
    assert_eq!(agents[0].view().await.unwrap().keys, 1);
}

#[tokio::test]
async fn a_primary_without_its_memory_does_not_come_back_over_a_replica_that_loads_its_copy() {
    // Waits for a second only where nobody is heard; and one that loads for longer does not hang.
    let flags = &["--hold-seconds", "1", "--hang-limit-ms", "1000"];
    let mut agents = cluster_with(Persistence::Ephemeral, 1, 1, NODE_TIMEOUT, flags).await;
    let (primary, replica) = agents.split_at_mut(1);
    let (primary, replica) = (&mut primary[0], &mut replica[0]);
    const COUNT: usize = 2000;
    fill(primary, COUNT, 100).await;
    copy_slowly(primary, replica, 0, 3000).await;
    until("the replica loads", async || {
        replica.probe().await.is_loading()
    })
    .await;
    let started = Instant::now();
    primary.crash().await;
    primary.spawn();
    until("the replica has taken over", async || {
        replica.is(Role::Primary).await
    })
    .await;
    let took = started.elapsed();
    assert!(took > Duration::from_secs(3), "{took:?}: proves nothing");
    assert_eq!(replica.view().await.unwrap().keys, COUNT as u64);
    primary.until_ready().await;
    assert!(primary.is(Role::Replica).await);
    assert!(primary.log().contains("which loads its data or is busy"));
}

#[tokio::test]
async fn a_server_that_is_stopped_is_replaced() {
    let agents = cluster(Persistence::Ephemeral, 1, 1).await;
    agents[0].text(&["SET", "k", "v"]).await;
    let pid = agents[0].server_pid().await;
    kill(pid, Signal::SIGSTOP).unwrap();
    let took = until_writable(&agents[1], "other").await;
    println!("stopped: writable again after {took:?}");
    assert!(took < Duration::from_millis(1500), "{took:?}");
    assert_eq!(agents[1].text(&["GET", "k"]).await, "v");
    agents[0].until_ready().await;
    assert_ne!(agents[0].server_pid().await, pid);
    let metrics = agents[0].get("/metrics").await.1;
    assert!(metrics.contains("cachecluster_redis_restarts_total 1"));
}

#[tokio::test]
async fn a_server_that_is_stopped_is_killed_and_its_replica_takes_over_by_votes_without_loss() {
    // The others' own time-out is far away, and so is the time that a server has that works.
    let agents = cluster_with(Persistence::Ephemeral, 3, 1, 30_000, &[]).await;
    let (primary, replica) = (&agents[0], &agents[3]);
    const KEY: &str = "{bar}key";
    let mut writing = primary.connect().await.unwrap();
    let mut acknowledged = String::new();
    for _ in 0..100 {
        acknowledged = writing.text(&["INCR", KEY]).await.unwrap();
    }
    // A server that stops in the midst of it may keep an answer's write to itself.
    assert_eq!(writing.text(&["WAIT", "1", "2000"]).await.unwrap(), "1");
    let pid = primary.server_pid().await;
    kill(pid, Signal::SIGSTOP).unwrap();
    let took = until_writable(replica, "{bar}other").await;
    println!("3 shards, stopped: writable again after {took:?}");
    assert!(took < Duration::from_millis(1500), "{took:?}");
    assert_eq!(replica.text(&["GET", KEY]).await, acknowledged);
    primary.until_ready().await;
    assert!(primary.is(Role::Replica).await);
    assert_ne!(primary.server_pid().await, pid);
    let metrics = primary.get("/metrics").await.1;
    assert!(metrics.contains("cachecluster_redis_server_kills_total 1"));
    assert!(primary.log().contains("lives and does not answer: killed"));
}

#[tokio::test]
async fn a_replica_takes_over_only_after_it_has_read_what_it_received() {
    let agents = cluster(Persistence::Ephemeral, 1, 1).await;
    let (primary, replica) = (&agents[0], &agents[1]);
    let primary_pid = primary.server_pid().await;
    let replica_pid = replica.server_pid().await;
    replica.freeze(replica_pid);
    const COUNT: usize = 10_000;
    fill(primary, COUNT, 10).await;
    until("the primary has sent everything", async || {
        let clients = primary.text(&["CLIENT", "LIST", "TYPE", "replica"]).await;
        // Only what is still to be written makes it wait to write.
        clients.contains(" events=r ")
    })
    .await;
    kill(primary_pid, Signal::SIGKILL).unwrap();
    // What the replica says to a server that is about to end would make the kernel throw away what that one has sent.
    until("the primary is gone", async || {
        primary.log().contains("the server ended")
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
async fn a_failover_is_news_to_whoever_listens_to_the_agents() {
    let agents = cluster(Persistence::Ephemeral, 1, 1).await;
    let number = async |agent: &Agent, query: &str| {
        let (status, body) = agent.get(&format!("/news{query}")).await;
        assert_eq!(status, 200, "{body}");
        serde_json::from_str::<News>(&body).unwrap().number
    };
    let mut heard = Vec::new();
    for agent in &agents {
        heard.push(number(agent, "").await);
    }
    let server = agents[0].server_pid().await;
    let listening = async |at: usize| number(&agents[at], &format!("?after={}", heard[at])).await;
    let started = Instant::now();
    let ending = async { kill(server, Signal::SIGKILL).unwrap() };
    let (one, other, ()) = futures::join!(listening(0), listening(1), ending);
    assert!(one > heard[0] && other > heard[1]);
    let took = started.elapsed();
    assert!(took < Duration::from_secs(2), "{took:?}");
}

#[tokio::test]
async fn a_copy_that_was_received_long_ago_does_not_come_back_as_data() {
    // In the end nobody is left to be waited for.
    let flags = &["--hold-seconds", "1"];
    let mut agents = cluster_with(Persistence::Ephemeral, 1, 1, NODE_TIMEOUT, flags).await;
    agents[0].text(&["SET", "k", "old"]).await;
    // It begins with a copy that has the key.
    let (primary, replica) = agents.split_at_mut(1);
    copy_slowly(&primary[0], &mut replica[0], 0, 0).await;
    until("the replica has the key", async || {
        let view = agents[1].view().await;
        view.is_some_and(|view| view.link_up && view.keys == 1)
    })
    .await;
    agents[0].terminate();
    until("the replica has taken over", async || {
        agents[1].is(Role::Primary).await
    })
    .await;
    assert!(agents[0].wait().success());
    agents[1].text(&["SET", "k", "new"]).await;
    // Now nobody has the new value, and nobody else the old one.
    agents[1].crash().await;
    agents[1].spawn();
    until("it serves without a memory", async || {
        agents[1].try_text(&["EXISTS", "k"]).await == Ok("0".to_owned())
    })
    .await;
}
