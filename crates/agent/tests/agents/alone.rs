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
    fs::write(&settings, text.replace("allkeys-lru", "no-such-policy")).unwrap();
    agent.spawn();
    assert!(!agent.wait().success());
    assert!(agent.log().contains("giving up"), "{}", agent.log());
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
                let _ = kill(pid, Signal::SIGKILL);
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
