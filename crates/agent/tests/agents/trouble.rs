//! A disk that fails, and a machine without memory.

use std::fs;

use cachecluster_contract::Persistence;
use cachecluster_contract::report::Report;
use cachecluster_redis_admin::fixture::until;
use cachecluster_topology::FailedSaves;
use nix::sys::signal::{Signal, kill};

use crate::agent::{Agent, NODE_TIMEOUT};
use crate::cluster::cluster;

async fn report(agent: &Agent) -> Report {
    let (status, body) = agent.get("/report").await;
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}

/// What the kernel would count.
fn count_kills(agent: &Agent, kills: u64) {
    let text = format!("max 9\noom {kills}\noom_kill {kills}\n");
    fs::write(agent.dir.path().join("cgroup/memory.events"), text).unwrap();
}

#[tokio::test]
async fn a_server_that_is_killed_for_want_of_memory_is_told_from_one_that_is_just_killed() {
    let agent = Agent::start(Persistence::Ephemeral, NODE_TIMEOUT);
    agent.until_answers().await;
    assert_eq!(report(&agent).await, Report::default());
    let shot = async |restarts: u32| {
        kill(agent.server_pid().await, Signal::SIGKILL).unwrap();
        until("another server runs", async || {
            let metrics = agent.get("/metrics").await.1;
            metrics.contains(&format!("cachecluster_redis_restarts_total {restarts}"))
                && agent.view().await.is_some()
        })
        .await;
    };
    shot(1).await;
    assert_eq!(report(&agent).await.oom_kills, 0);
    assert!(!agent.log().contains("want of memory"), "{}", agent.log());

    count_kills(&agent, 4);
    shot(2).await;
    let told = report(&agent).await;
    assert_eq!(told.oom_kills, 1, "three were before its time");
    assert!(told.last_oom_kill.is_some());
    assert!(agent.log().contains("want of memory"), "{}", agent.log());
    assert!(agent.log().contains("starved=true"), "{}", agent.log());
    let metrics = agent.get("/metrics").await.1;
    assert!(
        metrics.contains("cachecluster_redis_oom_kills_total 1"),
        "{metrics}"
    );
    // A kill that the kernel did not count comes later.
    shot(3).await;
    assert_eq!(report(&agent).await.oom_kills, 1);
}

#[tokio::test]
async fn a_save_that_fails_shows_until_one_succeeds_and_stops_no_writes() {
    let agents = cluster(Persistence::Volume, 1, 0).await;
    let agent = &agents[0];
    let failed = async || agent.view().await.map(|view| view.failed_saves);
    assert_eq!(failed().await, Some(FailedSaves::default()));
    let metrics = async |line: &str| agent.get("/metrics").await.1.contains(line);
    // A file cannot take the place of a directory, whoever asks.
    let snapshot = agent.dir.path().join("data/dump.rdb");
    fs::create_dir(&snapshot).unwrap();
    agent.text(&["BGSAVE"]).await;
    let only_snapshot = FailedSaves {
        snapshot: true,
        ..FailedSaves::default()
    };
    until("the failure shows", async || {
        failed().await == Some(only_snapshot)
    })
    .await;
    until("the metric says so", async || {
        metrics("cachecluster_redis_rdb_last_save_ok 0").await
    })
    .await;
    assert_eq!(agent.text(&["SET", "k", "v"]).await, "OK");
    fs::remove_dir(&snapshot).unwrap();
    agent.text(&["BGSAVE"]).await;
    until("all is well again", async || {
        failed().await == Some(FailedSaves::default())
    })
    .await;

    // What a server keeps besides, so that it cannot be made: the place of the next append-only file is taken.
    let next = agent
        .dir
        .path()
        .join("data/appendonlydir/appendonly.aof.2.incr.aof");
    fs::create_dir(&next).unwrap();
    agent
        .try_text(&["BGREWRITEAOF"])
        .await
        .expect_err("there is no place for it");
    until("the failure shows", async || {
        failed().await.is_some_and(|failed| failed.rewrite)
    })
    .await;
    assert_eq!(agent.text(&["SET", "k", "w"]).await, "OK");
    fs::remove_dir(&next).unwrap();
    agent.text(&["BGREWRITEAOF"]).await;
    until("all is well again", async || {
        failed().await == Some(FailedSaves::default())
    })
    .await;

    until("the volume is told of", async || {
        report(agent).await.volume.is_some()
    })
    .await;
    let volume = report(agent).await.volume.unwrap();
    assert!(volume.size > volume.free && !volume.refused, "{volume:?}");
    assert!(metrics("cachecluster_redis_volume_free_bytes ").await);
}

#[tokio::test]
async fn a_full_disk_refuses_writes_and_shows_while_reads_go_on() {
    let agents = cluster(Persistence::Volume, 1, 0).await;
    let agent = &agents[0];
    agent.text(&["SET", "k", "v"]).await;
    // The next append-only file is on a device that is always full.
    let next = "data/appendonlydir/appendonly.aof.2.incr.aof";
    std::os::unix::fs::symlink("/dev/full", agent.dir.path().join(next)).unwrap();
    agent.text(&["BGREWRITEAOF"]).await;
    until("writes are refused", async || {
        let refusal = agent.try_text(&["SET", "other", "v"]).await;
        refusal.is_err_and(|why| why.contains("No space left"))
    })
    .await;
    assert_eq!(agent.text(&["GET", "k"]).await, "v");
    assert!(agent.view().await.unwrap().failed_saves.append);
    until("the volume is told of", async || {
        let volume = report(agent).await.volume;
        volume.is_some_and(|volume| volume.refused)
    })
    .await;
    until("the metric says so", async || {
        let metrics = agent.get("/metrics").await.1;
        metrics.contains("cachecluster_redis_aof_last_write_ok 0")
    })
    .await;
    assert_eq!(agent.get("/livez").await.0, 200);
}
