//! A primary that dies together with its agent, or seems to. The others' own time-out is far away.

use std::time::{Duration, Instant};

use cachecluster_contract::Persistence;
use cachecluster_redis_admin::fixture::until;
use cachecluster_topology::Role;

use nix::sys::signal::{Signal, kill};

use crate::agent::{Agent, NODE_TIMEOUT};
use crate::cluster::{cluster, cluster_with, until_agreed, until_writable};

/// Milliseconds.
const FAR: u64 = 15_000;
const KEY: &str = "{bar}key";
const OTHER: &str = "{bar}other";
const AT_MOST: Duration = Duration::from_millis(1500);

/// What another agent says of a node.
async fn heard(agent: &Agent, node: &str) -> (u16, String) {
    agent.get(&format!("/heard?node={node}")).await
}

async fn promotions(agent: &Agent, outcome: &str) -> u64 {
    let metrics = agent.get("/metrics").await.1;
    let name = format!("cachecluster_redis_vigil_promotions_total{{outcome=\"{outcome}\"}} ");
    let value = metrics.lines().find_map(|line| line.strip_prefix(&name));
    value.unwrap().parse().unwrap()
}

async fn silence(agent: &Agent) -> f64 {
    let metrics = agent.get("/metrics").await.1;
    let name = "cachecluster_redis_primary_silence_seconds ";
    let value = metrics.lines().find_map(|line| line.strip_prefix(name));
    value.unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_primary_that_dies_with_its_agent_is_replaced_at_once() {
    let mut agents = cluster_with(Persistence::Ephemeral, 3, 1, FAR, &[]).await;
    let id = agents[0].view().await.unwrap().id;
    let alive = agents[1].view().await.unwrap().id;
    assert_eq!(heard(&agents[5], id.as_str()).await.1, "{\"heard\":true}");
    let mut writing = agents[0].connect().await.unwrap();
    let mut safe = String::new();
    for _ in 0..100 {
        safe = writing.text(&["INCR", KEY]).await.unwrap();
    }
    assert_eq!(writing.text(&["WAIT", "1", "2000"]).await.unwrap(), "1");
    let writer = tokio::spawn(async move {
        let mut last = String::new();
        while let Ok(count) = writing.text(&["INCR", KEY]).await {
            last = count;
        }
        last
    });

    let server = agents[0].server_pid().await;
    until("the writer is at it", async || {
        let count = agents[0].text(&["GET", KEY]).await;
        count.parse::<u64>().unwrap() > 1000
    })
    .await;
    agents[0].end(server);
    let replica = &agents[3];
    let took = until_writable(replica, OTHER).await;
    let number = |text: String| text.parse::<u64>().unwrap();
    let (last, kept) = (
        number(writer.await.unwrap()),
        number(replica.text(&["GET", KEY]).await),
    );
    println!("killed with its agent: writable after {took:?}; {last} acknowledged, {kept} kept");
    assert!(took < AT_MOST, "{took:?}\n{}", replica.log());
    assert!(kept >= number(safe));
    until("the promotion is counted", async || {
        promotions(replica, "promoted").await == 1
    })
    .await;
    for other in [1, 2, 4, 5] {
        assert_eq!(promotions(&agents[other], "promoted").await, 0);
    }
    until("there is no silence any more", async || {
        silence(replica).await == 0.0
    })
    .await;

    assert_eq!(heard(&agents[5], id.as_str()).await.1, "{\"heard\":false}");
    assert_eq!(
        heard(&agents[5], alive.as_str()).await.1,
        "{\"heard\":true}"
    );
    assert_eq!(heard(&agents[5], &"0".repeat(40)).await.0, 404);
    assert_eq!(heard(&agents[5], "127.0.0.1").await.0, 400);
}

#[tokio::test]
async fn a_primary_that_freezes_with_its_agent_is_replaced_and_then_gives_way() {
    let agents = cluster_with(Persistence::Ephemeral, 3, 1, FAR, &[]).await;
    let (primary, replica) = (&agents[0], &agents[3]);
    let id = primary.view().await.unwrap().id;
    primary.text(&["SET", KEY, "before"]).await;
    until("the replica has the key", async || {
        replica.view().await.unwrap().keys == 1
    })
    .await;
    let mut writing = primary.connect().await.unwrap();
    let server = primary.server_pid().await;
    // Connections are still taken, and nobody answers: as when a machine loses power.
    primary.freeze(server);
    let took = until_writable(replica, OTHER).await;
    println!("frozen with its agent: writable after {took:?}");
    assert!(took < AT_MOST, "{took:?}\n{}", replica.log());
    assert_eq!(replica.text(&["GET", KEY]).await, "before");

    // An agent looks into a few questions at a time only.
    let questions = (0..40).map(|_| heard(&agents[4], id.as_str()));
    let answers = futures::future::join_all(questions).await;
    let of = |status| answers.iter().filter(|answer| answer.0 == status).count();
    assert_eq!((of(200), of(503)), (16, 24), "{answers:?}");

    primary.thaw(server);
    let started = Instant::now();
    let mut acknowledged = 0;
    while writing.text(&["SET", OTHER, "stale"]).await.is_ok() {
        acknowledged += 1;
        assert!(started.elapsed() < Duration::from_secs(5));
    }
    let took = started.elapsed();
    println!("thawed: {acknowledged} writes acknowledged by the old primary, for {took:?}");
    until("the old primary follows", async || {
        primary.is(Role::Replica).await
    })
    .await;
    assert_eq!(replica.text(&["GET", OTHER]).await, "after");
}

#[tokio::test]
async fn where_there_is_one_shard_a_replica_says_by_its_readiness_that_its_primary_is_silent() {
    let agents = cluster_with(Persistence::Ephemeral, 1, 1, FAR, &[]).await;
    let (primary, replica) = (&agents[0], &agents[1]);
    let server = primary.server_pid().await;
    // The link stays up, as far as the replica's server can tell.
    primary.freeze(server);
    until("the replica is not ready", async || {
        let (status, said) = replica.get("/readyz").await;
        status == 503 && said.contains("silent")
    })
    .await;
    assert!(replica.view().await.unwrap().link_up);
    assert!(replica.is(Role::Replica).await);
    primary.thaw(server);
    replica.until_ready().await;
}

#[tokio::test]
async fn of_two_primaries_one_that_dies_with_its_agent_is_replaced_without_votes() {
    let mut agents = cluster_with(Persistence::Ephemeral, 2, 1, FAR, &[]).await;
    agents[0].text(&["SET", KEY, "before"]).await;
    until("the replica has the key", async || {
        agents[2].view().await.unwrap().keys == 1
    })
    .await;
    let server = agents[0].server_pid().await;
    agents[0].end(server);
    let replica = &agents[2];
    let took = until_writable(replica, OTHER).await;
    println!("one of two primaries killed with its agent: writable after {took:?}");
    assert!(took < AT_MOST, "{took:?}\n{}", replica.log());
    assert_eq!(replica.text(&["GET", KEY]).await, "before");
    // The other primary agrees: it goes on with the new one, and its own replica stays what it is.
    until("everybody knows", async || {
        let other = agents[1].view().await.unwrap();
        let id = replica.view().await.unwrap().id;
        other.cluster_ok && other.known[&id].role == Role::Primary
    })
    .await;
    assert!(agents[3].is(Role::Replica).await);
}

#[tokio::test]
async fn a_silent_primary_whose_agent_answers_keeps_its_place() {
    let agents = cluster_with(Persistence::Ephemeral, 3, 1, FAR, &[]).await;
    agents[0].text(&["SET", KEY, "before"]).await;
    until("the replica has the key", async || {
        agents[3].view().await.unwrap().keys == 1
    })
    .await;
    agents[0].compute(3000).await;
    assert!(agents[0].is(Role::Primary).await);
    assert!(agents[3].is(Role::Replica).await);
    for outcome in ["promoted", "failed"] {
        assert_eq!(promotions(&agents[3], outcome).await, 0);
    }
}

#[tokio::test]
async fn the_fresher_of_two_replicas_is_promoted() {
    two_replicas(true).await;
}

#[tokio::test]
async fn the_fresher_of_two_replicas_is_promoted_by_the_others_agent_if_its_own_does_not_act() {
    two_replicas(false).await;
}

/// Kills a primary with its agent when one of its replicas is behind, and expects the other in its place.
async fn two_replicas(has_its_agent: bool) {
    let mut agents = cluster_with(Persistence::Ephemeral, 3, 2, FAR, &[]).await;
    let (primary, fresh, stale) = (&agents[0], &agents[3], &agents[4]);
    primary.text(&["SET", KEY, "early"]).await;
    until("both have the key", async || {
        fresh.view().await.unwrap().keys == 1 && stale.view().await.unwrap().keys == 1
    })
    .await;
    stale
        .text(&["CONFIG", "SET", "masterauth", "something else"])
        .await;
    primary.text(&["CLIENT", "KILL", "TYPE", "replica"]).await;
    until("one of them is cut off", async || {
        fresh.view().await.unwrap().link_up && !stale.view().await.unwrap().link_up
    })
    .await;
    primary.text(&["SET", KEY, "late"]).await;
    primary.text(&["SET", OTHER, "late"]).await;
    until("the other has it all", async || {
        fresh.view().await.unwrap().keys == 2
    })
    .await;
    until_agreed(&agents).await;

    let server = agents[0].server_pid().await;
    if !has_its_agent {
        kill(agents[3].pid(), Signal::SIGSTOP).unwrap();
    }
    agents[0].end(server);
    let (fresh, stale) = (&agents[3], &agents[4]);
    let took = until_writable(fresh, OTHER).await;
    println!("two replicas, {has_its_agent}: writable after {took:?}");
    kill(fresh.pid(), Signal::SIGCONT).unwrap();
    assert!(took < AT_MOST, "{took:?}\n{}\n{}", fresh.log(), stale.log());
    assert_eq!(fresh.text(&["GET", KEY]).await, "late");
    assert!(stale.is(Role::Replica).await);
    let promoter = if has_its_agent { fresh } else { stale };
    until("the promotion is counted", async || {
        promotions(promoter, "promoted").await == 1
    })
    .await;
    assert!(has_its_agent || stale.log().contains("goes first"));
}

#[tokio::test]
async fn where_no_agent_acts_the_other_primaries_time_out_and_votes_replace_a_primary() {
    let agents = cluster(Persistence::Ephemeral, 3, 1).await;
    let (primary, replica) = (&agents[0], &agents[3]);
    let mut writing = primary.connect().await.unwrap();
    writing.text(&["SET", KEY, "v"]).await.unwrap();
    assert_eq!(writing.text(&["WAIT", "1", "2000"]).await.unwrap(), "1");
    let server = primary.server_pid().await;
    let send = |signal| {
        for agent in &agents {
            kill(agent.pid(), signal).unwrap();
        }
    };
    send(Signal::SIGSTOP);
    kill(server, Signal::SIGKILL).unwrap();
    let took = until_writable(replica, OTHER).await;
    println!("all agents stopped, server killed: writable after {took:?}");
    assert!(
        took >= Duration::from_millis(NODE_TIMEOUT / 2),
        "{took:?}: proves nothing"
    );
    assert!(took < Duration::from_millis(3 * NODE_TIMEOUT), "{took:?}");
    assert_eq!(replica.text(&["GET", KEY]).await, "v");
    send(Signal::SIGCONT);
    primary.until_ready().await;
    assert!(primary.is(Role::Replica).await);
}
