//! What the user's own hand does: a cluster that is paused, and pods that are fenced.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::State as Shared;
use axum::http::{HeaderMap, Method, StatusCode};
use axum::routing::any;
use cachecluster_contract::{fence, ports};
use serde_json::{Value, json};

use super::*;

fn change_cluster(server: &Server, change: impl FnOnce(&mut Value)) {
    server.change(&format!("{CLUSTERS}/demo"), change);
}

fn pause(server: &Server, paused: bool) {
    change_cluster(server, |cluster| {
        cluster["spec"]["maintenance"]["paused"] = json!(paused);
    });
}

fn message(server: &Server, type_: &str) -> String {
    let mut conditions = status(server).conditions.into_iter();
    conditions.find(|it| it.type_ == type_).unwrap().message
}

#[tokio::test]
async fn of_a_cluster_that_is_made_paused_there_is_only_a_status() {
    let server = server_with(json!({"maintenance": {"paused": true}}));
    let mut operator = Operator::start(&server);
    operator.pass(&server).await.1.unwrap();
    assert_eq!(server.paths(), [format!("{CLUSTERS}/demo")]);
    assert_eq!(status(&server).phase, Some(Phase::Paused));
    let requested = ("True".to_owned(), "Requested".to_owned());
    assert_eq!(condition(&server, "Paused"), requested);
    assert!(message(&server, "Paused").contains("spec.maintenance.paused to false"));
    assert_eq!(condition(&server, "Progressing").1, "Paused");
    let (requests, _) = operator.pass(&server).await;
    assert_eq!(writes(&requests), Vec::<&String>::new());

    pause(&server, false);
    operator.settle(&server).await;
    assert!(server.get(SHARD).is_some());
    assert_eq!(status(&server).phase, Some(Phase::Creating));
    assert_eq!(condition(&server, "Paused").1, "Resumed");
    assert_eq!(server.events(), ["Paused", "Resumed"]);
}

#[tokio::test]
async fn nothing_is_put_right_while_a_cluster_is_paused_and_all_of_it_afterwards() {
    let server = server_with(json!({}));
    let mut operator = Operator::start(&server);
    operator.settle(&server).await;
    let mut conditions = status(&server).conditions.into_iter();
    assert!(!conditions.any(|it| it.type_ == "Paused"), "never paused");
    pause(&server, true);
    server.change(SHARD, |set| set["spec"]["replicas"] = json!(7));
    server.delete(CONFIG_MAP);
    let (requests, result) = operator.pass(&server).await;
    result.unwrap();
    let status_alone = [format!("PATCH {CLUSTERS}/demo/status")];
    assert_eq!(requests, status_alone);
    assert_eq!(operator.pass(&server).await.0, Vec::<String>::new());
    // The operator that starts meanwhile does not begin by tidying up.
    let mut restarted = Operator::start(&server);
    assert_eq!(restarted.pass(&server).await.0, [format!("GET {SECRET}")]);

    pause(&server, false);
    operator.settle(&server).await;
    assert_eq!(server.get(SHARD).unwrap()["spec"]["replicas"], 2);
    assert!(server.get(CONFIG_MAP).is_some());
}

#[tokio::test]
async fn a_paused_cluster_can_be_deleted() {
    let server = server_with(json!({"maintenance": {"paused": true}}));
    let mut operator = Operator::start(&server);
    operator.pass(&server).await.1.unwrap();
    change_cluster(&server, |cluster| {
        cluster["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    });
    operator.pass(&server).await.1.unwrap();
    assert_eq!(status(&server).phase, Some(Phase::Deleting));
}

const POD: &str = "demo-shard-0-1";
const POD_PATH: &str = "/api/v1/namespaces/ns/pods/demo-shard-0-1";

/// An agent that keeps its fence, for one password.
#[derive(Clone, Default)]
struct Agent(Arc<Mutex<Kept>>);

#[derive(Default)]
struct Kept {
    fenced: bool,
    /// Whether it does what it is told and never says so.
    mute: bool,
    asked: Vec<String>,
}

impl Agent {
    /// Listens where the operator finds the agent of a pod with that address.
    async fn listen(&self, ip: Ipv4Addr) -> tokio::task::JoinHandle<()> {
        let listener = tokio::net::TcpListener::bind((ip, ports::AGENT)).await;
        let router = Router::new()
            .route(fence::PATH, any(Self::told))
            .with_state(self.clone());
        let listener = listener.unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() })
    }

    async fn told(
        Shared(agent): Shared<Self>,
        method: Method,
        headers: HeaderMap,
    ) -> (StatusCode, String) {
        if headers[fence::HEADER].as_bytes() != fence::credentials("secret").as_bytes() {
            return (StatusCode::UNAUTHORIZED, String::new());
        }
        let (state, mute) = {
            let mut kept = agent.0.lock().unwrap();
            kept.fenced = method == Method::PUT;
            kept.asked.push(method.to_string());
            let (fenced, stopped) = (kept.fenced, kept.fenced);
            (fence::State { fenced, stopped }, kept.mute)
        };
        if mute {
            std::future::pending::<()>().await;
        }
        (StatusCode::OK, serde_json::to_string(&state).unwrap())
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap().asked)
    }

    fn is_fenced(&self) -> bool {
        self.0.lock().unwrap().fenced
    }
}

/// An address that no other test has.
fn address() -> Ipv4Addr {
    let [a, b, c]: [u8; 3] = rand::random();
    Ipv4Addr::new(127, a.max(1), b, c.clamp(2, 250))
}

/// A cluster at rest with one pod, which has that address.
async fn with_pod(ip: Ipv4Addr, spec: Value, password: &str) -> (Server, Operator) {
    let mut spec = spec;
    spec["auth"]["secretName"] = json!("mine");
    let server = server_with(spec);
    server.put(MINE, mine(password));
    put_pod(&server, POD, ip);
    let mut operator = Operator::start(&server);
    operator.settle(&server).await;
    (server, operator)
}

fn put_pod(server: &Server, name: &str, ip: Ipv4Addr) {
    server.put(
        &format!("/api/v1/namespaces/ns/pods/{name}"),
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": "ns", "labels": {
                "app.kubernetes.io/name": "cachecluster", "app.kubernetes.io/instance": "demo",
                "app.kubernetes.io/component": "redis", "app.kubernetes.io/managed-by": "cachecluster-operator",
                "cachecluster.io/shard": "0",
            }},
            "spec": {"containers": [], "nodeName": "n1"},
            "status": {"podIP": ip.to_string(), "phase": "Running", "containerStatuses": [{
                "name": "redis", "image": "", "imageID": "", "ready": true, "restartCount": 0,
                "state": {"running": {}},
            }]},
        }),
    );
}

fn annotate(server: &Server, pods: Option<&str>) {
    change_cluster(server, |cluster| {
        cluster["metadata"]["annotations"] = match pods {
            Some(pods) => json!({fence::ANNOTATION: pods}),
            None => json!({}),
        };
    });
}

async fn fence_and_lift(paused: bool) {
    let (ip, agent) = (address(), Agent::default());
    let listening = agent.listen(ip).await;
    let spec = json!({"maintenance": {"paused": paused}});
    let (server, mut operator) = with_pod(ip, spec, "c2VjcmV0").await;
    assert!(agent.asked().is_empty(), "nobody is asked without need");

    annotate(&server, Some(POD));
    operator.pass(&server).await.1.unwrap();
    assert_eq!(agent.asked(), ["PUT"]);
    assert_eq!(status(&server).fenced, [POD]);
    let told = format!("fenced by the annotation cachecluster.io/fenced: {POD}");
    assert!(message(&server, "Ready").starts_with(&told));

    // A pod without a volume that was replaced knows nothing of it.
    agent.0.lock().unwrap().fenced = false;
    assert_eq!(operator.pass(&server).await.0, Vec::<String>::new());
    assert!(agent.is_fenced());
    agent.asked();

    // Lifted while the agent cannot be told: that is made up for.
    listening.abort();
    let _ = listening.await;
    annotate(&server, None);
    operator.pass(&server).await.1.unwrap();
    assert_eq!(status(&server).fenced, [POD]);
    let told = format!("the fence of {POD} is to be lifted: its agent does not answer");
    assert!(message(&server, "Ready").starts_with(&told));
    let listening = agent.listen(ip).await;
    operator.pass(&server).await.1.unwrap();
    assert_eq!(agent.asked(), ["DELETE"]);
    assert!(!agent.is_fenced());
    assert!(status(&server).fenced.is_empty());
    operator.settle(&server).await;
    assert!(agent.asked().is_empty(), "nobody is asked any more");
    let mut events = server.events();
    events.retain(|event| event != "Paused");
    assert_eq!(events, ["Fenced", "FenceLifted"]);
    listening.abort();
}

#[tokio::test]
async fn agents_are_told_what_the_annotation_says_until_they_match_it() {
    fence_and_lift(false).await;
}

#[tokio::test]
async fn fences_are_the_users_own_hand_and_work_while_a_cluster_is_paused() {
    fence_and_lift(true).await;
}

#[tokio::test]
async fn an_agent_that_does_not_know_us_is_not_fenced() {
    let (ip, agent) = (address(), Agent::default());
    let listening = agent.listen(ip).await;
    let (server, mut operator) = with_pod(ip, json!({}), "b3RoZXI=").await;
    annotate(&server, Some(POD));
    operator.settle(&server).await;
    assert!(!agent.is_fenced() && status(&server).fenced.is_empty());
    let told = format!("{POD} is to be fenced: its agent refuses the password");
    assert!(message(&server, "Ready").starts_with(&told));
    listening.abort();
}

#[tokio::test]
async fn a_fence_that_was_raised_and_not_confirmed_is_lifted_when_it_is_not_wanted_any_more() {
    let (ip, agent) = (address(), Agent::default());
    let listening = agent.listen(ip).await;
    let (server, mut operator) = with_pod(ip, json!({}), "c2VjcmV0").await;
    agent.0.lock().unwrap().mute = true;
    annotate(&server, Some(POD));
    operator.pass(&server).await.1.unwrap();
    assert!(agent.is_fenced());
    assert_eq!(status(&server).fenced, [POD]);
    let told = format!("{POD} is to be fenced: its agent does not answer");
    assert!(message(&server, "Ready").starts_with(&told));
    // One that lets us wait is not waited for in each pass.
    assert_eq!(agent.asked(), ["PUT"]);
    operator.pass(&server).await.1.unwrap();
    assert!(agent.asked().is_empty());
    // What is wanted now is another thing.
    agent.0.lock().unwrap().mute = false;
    annotate(&server, None);
    operator.pass(&server).await.1.unwrap();
    assert_eq!(agent.asked(), ["DELETE"]);
    assert!(!agent.is_fenced() && status(&server).fenced.is_empty());
    listening.abort();
}

#[tokio::test]
async fn a_fence_is_written_down_before_the_agent_is_asked() {
    let (ip, agent) = (address(), Agent::default());
    let listening = agent.listen(ip).await;
    let (server, mut operator) = with_pod(ip, json!({}), "c2VjcmV0").await;
    agent.0.lock().unwrap().mute = true;
    annotate(&server, Some(POD));
    {
        let cut = std::pin::pin!(operator.pass(&server));
        let asked = async {
            while !agent.is_fenced() {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            _ = cut => panic!("the agent does not answer"),
            () = asked => {}
        }
    }
    assert_eq!(status(&server).fenced, [POD]);
    agent.0.lock().unwrap().mute = false;
    annotate(&server, None);
    Operator::start(&server).pass(&server).await.1.unwrap();
    assert!(!agent.is_fenced() && status(&server).fenced.is_empty());
    listening.abort();
}

#[tokio::test]
async fn a_fence_goes_with_the_pod_that_had_no_volume() {
    let (ip, agent) = (address(), Agent::default());
    let listening = agent.listen(ip).await;
    let (server, mut operator) = with_pod(ip, json!({}), "c2VjcmV0").await;
    annotate(&server, Some(POD));
    operator.settle(&server).await;
    server.delete(POD_PATH);
    operator.settle(&server).await;
    assert_eq!(status(&server).fenced, Vec::<String>::new());
    let told = format!("{POD} is to be fenced: its pod has no address");
    assert!(message(&server, "Ready").starts_with(&told));
    annotate(&server, None);
    operator.settle(&server).await;
    assert!(!message(&server, "Ready").contains("fence"));
    listening.abort();
}

#[tokio::test]
async fn names_that_are_no_pods_are_told_once_and_do_nothing() {
    let server = server_with(json!({}));
    let mut operator = Operator::start(&server);
    operator.settle(&server).await;
    let before = server.get(SHARD);
    annotate(&server, Some("demo-shard-9-0,demo-api-0"));
    operator.settle(&server).await;
    let told = "the annotation cachecluster.io/fenced names what is no pod of this cluster: \
                demo-api-0, demo-shard-9-0";
    assert!(message(&server, "Accepted").ends_with(told));
    assert_eq!(condition(&server, "Accepted").0, "True");
    assert!(status(&server).fenced.is_empty());
    assert_eq!(server.get(SHARD), before);
    Operator::start(&server).settle(&server).await;
    assert_eq!(server.events(), ["UnknownPod"]);
    annotate(&server, None);
    operator.settle(&server).await;
    assert_eq!(message(&server, "Accepted"), "The spec is acted upon");
}

/// A Redis server where the operator finds that of a pod with that address; killed when dropped.
struct Redis {
    process: std::process::Child,
    ip: Ipv4Addr,
    _dir: tempfile::TempDir,
}

impl Redis {
    fn start(ip: Ipv4Addr) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let process = std::process::Command::new("redis-server")
            .args(["--port", &ports::REDIS.to_string(), "--save", ""])
            .args(["--bind", &ip.to_string()])
            .args(["--cluster-announce-ip", &ip.to_string()])
            .args(["--cluster-enabled", "yes", "--cluster-node-timeout", "1000"])
            .args(["--requirepass", "secret", "--masterauth", "secret"])
            .args(["--repl-diskless-sync-delay", "0"])
            .current_dir(dir.path())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let _dir = dir;
        Self { process, ip, _dir }
    }

    async fn put(&self, key: &str) {
        let addr = (self.ip.into(), ports::REDIS);
        let password = cachecluster_redis_admin::Password::new("secret");
        let second = Duration::from_secs(1);
        let connected = cachecluster_redis_admin::connect(addr, &password, second).await;
        let mut connected = connected.unwrap();
        // A node that has just got its slots waits a moment.
        let mut tries = 0..250;
        while connected.text(&["SET", key, "v"]).await.is_err() {
            assert!(tries.next().is_some(), "it takes no key for five seconds");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Stops the process where it is, as a machine that hangs does.
    fn freeze(&self) {
        let pid = self.process.id().to_string();
        let kill = std::process::Command::new("kill")
            .args(["-STOP", &pid])
            .status();
        assert!(kill.unwrap().success());
    }

    async fn view(&self) -> Option<cachecluster_topology::NodeView> {
        let addr = Some((self.ip.into(), ports::REDIS));
        let password = cachecluster_redis_admin::Password::new("secret");
        let second = Duration::from_secs(1);
        let mut probes = cachecluster_redis_admin::observe(&[addr], &password, second).await;
        match probes.remove(0) {
            cachecluster_topology::Probe::Answered(view) => Some(*view),
            _ => None,
        }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test]
async fn an_agent_that_is_away_holds_up_no_takeover() {
    const PODS: [&str; 2] = ["demo-shard-0-0", "demo-shard-0-1"];
    let nodes = [(); 2].map(|()| Redis::start(address()));
    let spec = json!({"shards": 1, "replicas": 1, "auth": {"secretName": "mine"}});
    let server = server_with(spec);
    server.put(MINE, mine("c2VjcmV0"));
    for (name, node) in PODS.into_iter().zip(&nodes) {
        put_pod(&server, name, node.ip);
    }
    let mut operator = Operator::start(&server);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    let mut until =
        async |what: &str, condition: &dyn Fn(&cachecluster_topology::NodeView) -> bool| {
            while !nodes[1].view().await.is_some_and(|view| condition(&view)) {
                assert!(
                    tokio::time::Instant::now() < deadline,
                    "waited in vain: {what}; {}",
                    message(&server, "Progressing")
                );
                operator.pass(&server).await.1.unwrap();
            }
        };
    let follows = |view: &cachecluster_topology::NodeView| view.primary.is_some() && view.link_up;
    until("the second node follows the first", &follows).await;

    nodes[0].put("a key").await;
    let has_it = |view: &cachecluster_topology::NodeView| view.keys == 1;
    until("the second node has what the first one has", &has_it).await;

    // A machine hangs with the primary and with a pod that the user fences: neither says no, and neither answers.
    nodes[0].freeze();
    let agents = tokio::net::TcpListener::bind((nodes[0].ip, ports::AGENT)).await;
    annotate(&server, Some(PODS[0]));
    let leads = |view: &cachecluster_topology::NodeView| !view.slots.is_empty();
    until("the second node leads", &leads).await;
    drop(agents);
}
