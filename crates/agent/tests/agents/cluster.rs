//! A cluster of agents, and what everybody asks of it.

use std::time::{Duration, Instant};

use cachecluster_contract::Persistence;
use cachecluster_redis_admin::execute;
use cachecluster_redis_admin::fixture::{password, until};
use cachecluster_topology::{Action, LinkState, SlotRange, SlotRanges};

use crate::agent::{Agent, DEADLINE, NODE_TIMEOUT};

pub(crate) async fn run(action: Action) {
    execute(&action, &password(), DEADLINE).await.unwrap();
}

/// Primaries share the slots; each has `replicas` replicas, listed after all primaries, shard by shard.
pub(crate) async fn cluster(persistence: Persistence, shards: u16, replicas: u16) -> Vec<Agent> {
    cluster_with(persistence, shards, replicas, NODE_TIMEOUT, &[]).await
}

pub(crate) async fn cluster_with(
    persistence: Persistence,
    shards: u16,
    replicas: u16,
    node_timeout: u64,
    flags: &'static [&'static str],
) -> Vec<Agent> {
    let agents: Vec<Agent> = (0..shards * (1 + replicas))
        .map(|_| Agent::start_with(persistence, node_timeout, flags))
        .collect();
    let mut nodes = Vec::new();
    for agent in &agents {
        agent.until_answers().await;
        nodes.push(agent.node().await);
    }
    let size = 16384 / shards;
    let assignments = (0..shards).map(|shard| {
        let start = shard * size;
        let end = if shard + 1 == shards {
            16383
        } else {
            start + size - 1
        };
        let slots = SlotRanges::from_ranges([SlotRange { start, end }]);
        (
            nodes[usize::from(shard)].clone(),
            slots,
            u64::from(shard) + 1,
        )
    });
    run(Action::AssignSlots {
        assignments: assignments.collect(),
    })
    .await;
    run(Action::Meet {
        via: nodes[0].clone(),
        peers: nodes[1..].to_vec(),
    })
    .await;
    for agent in &agents {
        until("everybody knows everybody", async || {
            let view = agent.view().await.unwrap();
            view.known.len() + 1 == nodes.len()
                && view.known.values().all(|node| node.link == LinkState::Ok)
        })
        .await;
    }
    if replicas > 0 {
        let pairs = (shards..shards * (1 + replicas)).map(|i| {
            let primary = (i - shards) / replicas;
            (
                nodes[usize::from(i)].clone(),
                nodes[usize::from(primary)].id.clone(),
            )
        });
        run(Action::Replicate {
            pairs: pairs.collect(),
        })
        .await;
    }
    for agent in &agents {
        agent.until_ready().await;
    }
    until_agreed(&agents).await;
    agents
}

/// Waits until everybody hears everybody and says of it what it says of itself: before that, votes are refused or lost.
pub(crate) async fn until_agreed(agents: &[Agent]) {
    until("everybody agrees on who follows whom", async || {
        let mut views = Vec::new();
        for agent in agents {
            match agent.view().await {
                Some(view) => views.push(view),
                None => return false,
            }
        }
        views.iter().all(|one| {
            views
                .iter()
                .filter(|other| other.id != one.id)
                .all(|other| {
                    other.known.get(&one.id).is_some_and(|known| {
                        known.role == one.role
                            && known.primary == one.primary
                            && known.slots == one.slots
                            && known.link == LinkState::Ok
                    })
                })
        })
    })
    .await;
}

/// Writes `count` keys of `bytes` each, and returns when all are acknowledged.
pub(crate) async fn fill(agent: &Agent, count: usize, bytes: usize) {
    let mut connection = agent.connect().await.unwrap();
    let value = "x".repeat(bytes);
    let keys: Vec<String> = (0..count).map(|n| format!("{{bar}}{n}")).collect();
    for chunk in keys.chunks(500) {
        let words: Vec<[&str; 3]> = chunk.iter().map(|key| ["SET", key, &value]).collect();
        let commands: Vec<&[&str]> = words.iter().map(|words| &words[..]).collect();
        for answer in connection.texts(&commands).await.unwrap() {
            answer.unwrap();
        }
    }
}

/// Asks until it succeeds, and says how long that took.
pub(crate) async fn until_writable(agent: &Agent, key: &str) -> Duration {
    let started = Instant::now();
    while let Err(error) = agent.try_text(&["SET", key, "after"]).await {
        assert!(started.elapsed() < Duration::from_secs(20), "{error}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    started.elapsed()
}

/// Has the replica start anew with nothing, so that it copies all of its primary's data, which the primary sends at
/// `save_delay` and the replica loads at `load_delay`, in microseconds for each key.
pub(crate) async fn copy_slowly(
    primary: &Agent,
    replica: &mut Agent,
    save_delay: u32,
    load_delay: u32,
) {
    let save_delay = save_delay.to_string();
    primary
        .text(&["CONFIG", "SET", "rdb-key-save-delay", &save_delay])
        .await;
    replica.crash().await;
    let _ = std::fs::remove_file(replica.dir.path().join("data/dump.rdb"));
    replica.direct("key-load-delay", &load_delay.to_string());
    // So that it says meanwhile that it loads.
    replica.direct("loading-process-events-interval-bytes", "1024");
    replica.spawn();
}
