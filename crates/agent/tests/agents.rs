//! Agents with real servers on this machine: what a pod's life does to the data.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cachecluster_contract::{AgentSettings, Persistence};
use cachecluster_redis_admin::fixture::{PASSWORD, free_port, password, until};
use cachecluster_redis_admin::{Connection, connect, execute, probe};
use cachecluster_topology::{Action, NodeRef, NodeView, Probe, Role, SlotRange, SlotRanges};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

const DEADLINE: Duration = Duration::from_secs(2);
const NODE_TIMEOUT: u64 = 2000;

/// An agent as a pod runs it; it and its server are ended when dropped.
struct Agent {
    port: u16,
    admin: u16,
    dir: TempDir,
    process: Option<Child>,
}

impl Agent {
    fn start(persistence: Persistence, node_timeout: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let settings = AgentSettings {
            cluster: "test".to_owned(),
            peers: "localhost".to_owned(),
            maxmemory: 64 << 20,
            eviction: "allkeys-lru".to_owned(),
            node_timeout,
            persistence,
            directives: [("maxclients".to_owned(), "200".to_owned())].into(),
        };
        let text = serde_json::to_string(&settings).unwrap();
        fs::write(dir.path().join("settings.json"), text).unwrap();
        fs::write(dir.path().join("password"), format!("{PASSWORD}\n")).unwrap();
        fs::create_dir(dir.path().join("data")).unwrap();
        let mut agent = Self {
            port: free_port(),
            admin: free_port(),
            dir,
            process: None,
        };
        agent.spawn();
        agent
    }

    fn spawn(&mut self) {
        let path = |name: &str| self.dir.path().join(name);
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(path("log"))
            .unwrap();
        let process = Command::new(env!("CARGO_BIN_EXE_cachecluster-agent"))
            .arg("run")
            .args(["--redis-port", &self.port.to_string()])
            .args(["--admin-port", &self.admin.to_string()])
            .arg("--settings")
            .arg(path("settings.json"))
            .arg("--password-file")
            .arg(path("password"))
            .arg("--data-dir")
            .arg(path("data"))
            .arg("--run-dir")
            .arg(path("run"))
            .env("POD_IP", "127.0.0.1")
            .env("POD_NAME", format!("test-{}", self.port))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.process = Some(process);
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap()
    }

    async fn connect(&self) -> Option<Connection> {
        let addr = ([127, 0, 0, 1].into(), self.port);
        connect(addr, &password(), DEADLINE).await.ok()
    }

    async fn try_text(&self, words: &[&str]) -> Result<String, String> {
        let mut connection = self.connect().await.ok_or("not reachable")?;
        connection.text(words).await.map_err(|e| e.to_string())
    }

    async fn text(&self, words: &[&str]) -> String {
        self.try_text(words).await.unwrap()
    }

    async fn view(&self) -> Option<NodeView> {
        let addr = ([127, 0, 0, 1].into(), self.port);
        match probe(addr, &password(), DEADLINE).await {
            Probe::Answered(view) => Some(*view),
            Probe::Silent(_) => None,
        }
    }

    async fn node(&self) -> NodeRef {
        NodeRef {
            id: self.view().await.unwrap().id,
            name: self.port.to_string(),
            addr: ([127, 0, 0, 1].into(), self.port),
        }
    }

    async fn is(&self, role: Role) -> bool {
        self.view().await.is_some_and(|view| view.role == role)
    }

    async fn get(&self, path: &str) -> (u16, String) {
        let url = format!("http://127.0.0.1:{}{path}", self.admin);
        match reqwest::get(url).await {
            Ok(answer) => (answer.status().as_u16(), answer.text().await.unwrap()),
            Err(error) => (0, error.to_string()),
        }
    }

    async fn until_answers(&self) {
        until("the server answers", async || self.view().await.is_some()).await;
    }

    async fn until_ready(&self) {
        until("/readyz is 200", async || {
            self.get("/readyz").await.0 == 200
        })
        .await;
    }

    async fn server_pid(&self) -> Pid {
        let info = self.text(&["INFO", "server"]).await;
        let pid = info.lines().find_map(|l| l.strip_prefix("process_id:"));
        Pid::from_raw(pid.unwrap().trim().parse().unwrap())
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.process.as_ref().unwrap().id() as i32)
    }

    fn terminate(&self) {
        kill(self.pid(), Signal::SIGTERM).unwrap();
    }

    fn wait(&mut self) -> std::process::ExitStatus {
        self.process.take().unwrap().wait().unwrap()
    }

    /// Ends agent and server at once, as a power-off does.
    async fn crash(&mut self) {
        let server = self.server_pid().await;
        let mut process = self.process.take().unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
        kill(server, Signal::SIGKILL).unwrap();
        until("the port is free", async || self.connect().await.is_none()).await;
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- agent {}\n{}", self.port, self.log());
        }
        let Some(mut process) = self.process.take() else {
            return;
        };
        // A server whose agent is killed stays; told to stop, the agent takes it along.
        let _ = kill(Pid::from_raw(process.id() as i32), Signal::SIGTERM);
        let patience = Instant::now() + Duration::from_secs(20);
        while Instant::now() < patience {
            if let Ok(Some(_)) = process.try_wait() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = process.kill();
    }
}

async fn run(action: Action) {
    execute(&action, &password(), DEADLINE).await.unwrap();
}

/// Primaries share the slots; each has `replicas` replicas, listed after all primaries, shard by shard.
async fn cluster(persistence: Persistence, shards: u16, replicas: u16) -> Vec<Agent> {
    cluster_with(persistence, shards, replicas, NODE_TIMEOUT).await
}

async fn cluster_with(
    persistence: Persistence,
    shards: u16,
    replicas: u16,
    node_timeout: u64,
) -> Vec<Agent> {
    let agents: Vec<Agent> = (0..shards * (1 + replicas))
        .map(|_| Agent::start(persistence, node_timeout))
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
                && view
                    .known
                    .values()
                    .all(|node| node.link == cachecluster_topology::LinkState::Ok)
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
    for (i, agent) in agents.iter().enumerate() {
        let followers = if i < usize::from(shards) { replicas } else { 0 };
        until("the replicas are known", async || {
            let view = agent.view().await.unwrap();
            view.known
                .values()
                .filter(|n| n.primary.as_ref() == Some(&view.id))
                .count()
                == usize::from(followers)
        })
        .await;
    }
    agents
}

/// Asks until it succeeds, and says how long that took.
async fn until_writable(agent: &Agent, key: &str) -> Duration {
    let started = Instant::now();
    while let Err(error) = agent.try_text(&["SET", key, "after"]).await {
        assert!(started.elapsed() < Duration::from_secs(20), "{error}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    started.elapsed()
}

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
async fn a_hand_over_that_finds_no_votes_still_leaves_a_primary_with_all_the_data() {
    // Primaries vote for a replica of the same node once in two node timeouts only: the third hand-over gets no votes.
    let mut agents = cluster_with(Persistence::Ephemeral, 3, 1, 15_000).await;
    const KEY: &str = "{bar}key";
    for (from, to) in [(0, 3), (3, 0), (0, 3)] {
        let count = agents[from].text(&["INCR", KEY]).await;
        agents[from].terminate();
        let took = until_writable(&agents[to], "{bar}other").await;
        println!("hand-over {count}: writable after {took:?}");
        assert!(took < Duration::from_secs(4), "{took:?}");
        assert!(agents[from].wait().success());
        assert_eq!(agents[to].text(&["GET", KEY]).await, count);
        agents[from].spawn();
        until("the old primary is in step", async || {
            agents[from].view().await.is_some_and(|view| view.link_up)
        })
        .await;
    }
    assert!(agents[0].log().contains("outcome=Failed"));
    assert_eq!(agents[3].text(&["GET", KEY]).await, "3");
}

#[tokio::test]
async fn a_hung_server_is_replaced() {
    let agents = cluster(Persistence::Ephemeral, 1, 1).await;
    agents[0].text(&["SET", "k", "v"]).await;
    let pid = agents[0].server_pid().await;
    kill(pid, Signal::SIGSTOP).unwrap();
    until("the silent server is not ready", async || {
        agents[0].get("/readyz").await.0 == 503
    })
    .await;
    let took = until_writable(&agents[1], "other").await;
    println!("hung: writable again after {took:?}");
    assert_eq!(agents[1].text(&["GET", "k"]).await, "v");
    agents[0].until_ready().await;
    assert_ne!(agents[0].server_pid().await, pid);
    let metrics = agents[0].get("/metrics").await.1;
    assert!(metrics.contains("cachecluster_redis_restarts_total 1"));
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
