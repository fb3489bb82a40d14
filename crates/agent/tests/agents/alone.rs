//! One node by itself.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use cachecluster_contract::Persistence;
use cachecluster_redis_admin::fixture::{PASSWORD, until};
use cachecluster_topology::{Action, SlotRange, SlotRanges};
use nix::sys::signal::{Signal, kill};

use crate::agent::{Agent, NODE_TIMEOUT};
use crate::cluster::run;

#[tokio::test]
async fn one_node_serves_tells_how_it_is_and_keeps_its_secret() {
    let mut agent = Agent::start(Persistence::Ephemeral, NODE_TIMEOUT);
    agent.until_answers().await;
    let (status, reason) = agent.get("/readyz").await;
    assert_eq!(status, 503);
    assert!(!reason.is_empty());
    let slots = SlotRanges::from_ranges([SlotRange {
        start: 0,
        end: 16383,
    }]);
    run(Action::AssignSlots {
        assignments: vec![(agent.node().await, slots, 1)],
    })
    .await;
    agent.until_ready().await;
    assert_eq!(agent.get("/livez").await.0, 200);
    agent.text(&["SET", "k", "v"]).await;
    agent.text(&["GET", "k"]).await;

    until("the scrape shows the hit", async || {
        agent
            .get("/metrics")
            .await
            .1
            .contains("cachecluster_redis_keyspace_hits_total 1")
    })
    .await;
    let metrics = agent.get("/metrics").await.1;
    for line in [
        "cachecluster_redis_up 1",
        "cachecluster_redis_role{role=\"primary\"} 1",
        "cachecluster_redis_keys 1",
        "cachecluster_redis_slots 16384",
        "cachecluster_redis_memory_max_bytes 67108864",
        "cachecluster_redis_restarts_total 0",
    ] {
        assert!(
            metrics.lines().any(|l| l.starts_with(line)),
            "{line}\n{metrics}"
        );
    }

    let config = agent.dir.path().join("run/redis.conf");
    assert_eq!(
        fs::metadata(config).unwrap().permissions().mode() & 0o777,
        0o600
    );
    for pid in [agent.pid(), agent.server_pid().await] {
        for file in ["cmdline", "environ"] {
            let bytes = fs::read(format!("/proc/{pid}/{file}")).unwrap();
            assert!(!String::from_utf8_lossy(&bytes).contains(PASSWORD));
        }
    }
    assert!(!agent.log().contains(PASSWORD));
    let clients = agent.text(&["INFO", "clients"]).await;
    assert!(
        clients.contains("maxclients:200"),
        "the user's directive is in force"
    );
    let nodes = agent.text(&["CLUSTER", "NODES"]).await;
    assert!(
        nodes.contains(&format!(",test-{} ", agent.port)),
        "the pod's name is announced: {nodes}"
    );

    agent.terminate();
    assert!(agent.wait().success());
}

#[tokio::test]
async fn a_server_that_cannot_start_ends_the_agent() {
    let mut agent = Agent::start(Persistence::Ephemeral, NODE_TIMEOUT);
    agent.until_answers().await;
    agent.terminate();
    assert!(agent.wait().success());
    let settings = agent.dir.path().join("settings.json");
    let text = fs::read_to_string(&settings).unwrap();
    fs::write(&settings, text.replace("\"200\"", "\"many\"")).unwrap();
    agent.spawn();
    assert!(!agent.wait().success());
    assert!(agent.log().contains("giving up"), "{}", agent.log());
    // The server's own words, which `kubectl describe pod` shows.
    let message = agent.termination_message();
    assert!(message.len() <= 4096, "{message}");
    let last = message.lines().last().unwrap();
    for words in ["5 times", "FATAL CONFIG FILE ERROR", "maxclients many"] {
        assert!(last.contains(words), "{words}: {message}");
    }
    assert!(!message.contains(PASSWORD));
}

#[tokio::test]
async fn what_a_pod_lacks_is_in_its_status() {
    let mut agent = Agent::start(Persistence::Ephemeral, NODE_TIMEOUT);
    agent.until_answers().await;
    agent.terminate();
    assert!(agent.wait().success());
    assert_eq!(
        agent.termination_message(),
        "",
        "an end in order has no reason"
    );
    fs::remove_file(agent.dir.path().join("password")).unwrap();
    agent.spawn();
    assert!(!agent.wait().success());
    let message = agent.termination_message();
    assert!(message.contains("cannot read"), "{message}");
    assert!(message.contains("password"), "{message}");
}

#[tokio::test]
async fn a_server_that_is_slow_or_busy_is_left_alone() {
    let agent = Agent::start_with(
        Persistence::Ephemeral,
        NODE_TIMEOUT,
        &["--hang-limit-ms", "3000"],
    );
    agent.until_answers().await;
    let slots = SlotRanges::from_ranges([SlotRange {
        start: 0,
        end: 16383,
    }]);
    run(Action::AssignSlots {
        assignments: vec![(agent.node().await, slots, 1)],
    })
    .await;
    agent.until_ready().await;
    let pid = agent.server_pid().await;

    // Silent, at work, and for less than the limit.
    let silent = until("it is not ready", async || {
        agent.get("/readyz").await.0 == 503
    });
    tokio::join!(agent.compute(2500), silent);
    agent.until_ready().await;

    // In a script for more than the limit; it says so.
    agent
        .text(&["CONFIG", "SET", "busy-reply-threshold", "100"])
        .await;
    let script = agent.try_text(&["EVAL", "while true do end", "0"]);
    let watching = async {
        until("the server says that it is busy", async || {
            agent.get("/readyz").await.1.contains("BUSY")
        })
        .await;
        // Nothing tells of a kill that does not happen but time.
        tokio::time::sleep(Duration::from_secs(4)).await;
        assert!(agent.get("/readyz").await.1.contains("BUSY"));
        assert_eq!(agent.get("/livez").await.0, 200);
        let mut connection = agent.connect().await.unwrap();
        connection.text(&["SCRIPT", "KILL"]).await.unwrap();
    };
    let _ = tokio::join!(script, watching);
    agent.until_ready().await;
    assert_eq!(agent.server_pid().await, pid);
    let metrics = agent.get("/metrics").await.1;
    assert!(metrics.contains("cachecluster_redis_server_kills_total 0"));
}

#[tokio::test]
async fn a_server_that_dies_soon_after_each_start_ends_the_agent() {
    let mut agent = Agent::start(Persistence::Ephemeral, NODE_TIMEOUT);
    let ended = async {
        while agent
            .process
            .as_mut()
            .unwrap()
            .try_wait()
            .unwrap()
            .is_none()
        {
            // It has answered the agent, too.
            if agent
                .get("/metrics")
                .await
                .1
                .contains("cachecluster_redis_up 1")
            {
                let pid = agent.server_pid().await;
                // As of its own; a kill would be somebody else's doing.
                let _ = kill(pid, Signal::SIGABRT);
                until("the agent has noticed", async || {
                    !agent
                        .get("/metrics")
                        .await
                        .1
                        .contains("cachecluster_redis_up 1")
                })
                .await;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), ended)
        .await
        .expect("the agent gives up");
    assert!(!agent.wait().success());
    assert!(agent.log().contains("giving up"), "{}", agent.log());
}

#[tokio::test]
async fn a_server_that_somebody_kills_again_and_again_is_started_again_each_time() {
    let agent = Agent::start(Persistence::Ephemeral, NODE_TIMEOUT);
    for restarts in 1..=7 {
        agent.until_answers().await;
        until("the agent has looked", async || {
            let metrics = agent.get("/metrics").await.1;
            metrics.contains("cachecluster_redis_up 1")
        })
        .await;
        kill(agent.server_pid().await, Signal::SIGKILL).unwrap();
        until("it is started again", async || {
            let metrics = agent.get("/metrics").await.1;
            metrics.contains(&format!("cachecluster_redis_restarts_total {restarts}"))
        })
        .await;
    }
}
