//! Whole passes against an API server that lives in the test: what is written when, and above all what is not.

#![allow(clippy::unwrap_used, clippy::panic)] // A test may stop where it stands.

mod durable;
mod maintenance;
mod server;

use std::sync::Arc;
use std::time::Duration;

use cachecluster_crd::{CacheCluster, CacheClusterSpec, Phase};
use cachecluster_operator::events::Events;
use cachecluster_operator::memory::Memory;
use cachecluster_operator::news::Newsroom;
use cachecluster_operator::reconcile::{Context, Error, reconcile};
use cachecluster_operator::settings::Workload;
use kube::core::DeserializeGuard;
use serde_json::{Value, json};
use server::Server;

const CLUSTERS: &str = "/apis/cachecluster.io/v1alpha1/namespaces/ns/cacheclusters";
const SECRET: &str = "/api/v1/namespaces/ns/secrets/demo-auth";
const CONFIG_MAP: &str = "/api/v1/namespaces/ns/configmaps/demo-agent";
const SHARD: &str = "/apis/apps/v1/namespaces/ns/statefulsets/demo-shard-0";

/// An operator that was just started, with watches that know what the server has.
struct Operator {
    context: Arc<Context>,
    watches: server::Watches,
}

impl Operator {
    fn start(server: &Server) -> Self {
        let (stores, watches) = server::watches();
        let client = server.client();
        let context = Arc::new(Context {
            events: Events::new(client.clone(), "test"),
            client,
            stores,
            memory: Memory::default(),
            metrics: Arc::default(),
            newsroom: Newsroom::open().0,
            workload: Workload {
                agent_image: "agent:1".to_owned(),
                api_image: "api:1".to_owned(),
                image_pull_policy: "IfNotPresent".to_owned(),
                image_pull_secrets: Vec::new(),
                operator_namespace: "cachecluster-system".to_owned(),
                node_timeout: 2000,
            },
            deadline: Duration::from_secs(5),
        });
        Self { context, watches }
    }

    /// Makes a pass on what the watches know by now; returns what it asked of the server.
    async fn pass(&mut self, server: &Server) -> (Vec<String>, Result<(), Error>) {
        self.watches.catch_up(server);
        let cluster: CacheCluster =
            serde_json::from_value(server.get(&format!("{CLUSTERS}/demo")).unwrap()).unwrap();
        server.requests();
        let guarded = Arc::new(DeserializeGuard(Ok(cluster)));
        let result = reconcile(guarded, self.context.clone()).await;
        (server.requests(), result.map(drop))
    }

    /// Passes until nothing is asked any more.
    async fn settle(&mut self, server: &Server) {
        for _ in 0..5 {
            let (requests, result) = self.pass(server).await;
            result.unwrap();
            if requests.is_empty() {
                return;
            }
        }
        panic!("passes do not come to rest");
    }
}

fn server_with(spec: Value) -> Server {
    let server = Server::default();
    let spec: CacheClusterSpec = serde_json::from_value(spec).unwrap();
    let mut cluster = serde_json::to_value(CacheCluster::new("demo", spec)).unwrap();
    cluster["metadata"]["namespace"] = json!("ns");
    server.put(&format!("{CLUSTERS}/demo"), cluster);
    server
}

fn status(server: &Server) -> cachecluster_crd::CacheClusterStatus {
    let cluster = server.get(&format!("{CLUSTERS}/demo")).unwrap();
    serde_json::from_value(cluster["status"].clone()).unwrap()
}

fn condition(server: &Server, type_: &str) -> (String, String) {
    status(server)
        .conditions
        .into_iter()
        .find(|condition| condition.type_ == type_)
        .map(|condition| (condition.status, condition.reason))
        .unwrap()
}

fn writes(requests: &[String]) -> Vec<&String> {
    requests
        .iter()
        .filter(|request| !request.starts_with("GET "))
        .collect()
}

#[tokio::test]
async fn the_first_pass_makes_every_object_and_says_so() {
    let server = server_with(json!({"shards": 2}));
    let mut operator = Operator::start(&server);
    operator.pass(&server).await.1.unwrap();
    insta::assert_snapshot!(server.paths().join("\n"));
    assert_eq!(status(&server).phase, Some(Phase::Creating));
}

#[tokio::test]
async fn a_steady_world_is_asked_nothing_and_written_nothing() {
    let server = server_with(json!({}));
    let mut operator = Operator::start(&server);
    operator.settle(&server).await;
    for _ in 0..3 {
        assert_eq!(operator.pass(&server).await.0, Vec::<String>::new());
    }
}

#[tokio::test]
async fn a_restarted_operator_reads_the_password_once_and_writes_nothing() {
    let server = server_with(json!({}));
    Operator::start(&server).settle(&server).await;
    let mut restarted = Operator::start(&server);
    assert_eq!(restarted.pass(&server).await.0, [format!("GET {SECRET}")]);
    assert_eq!(restarted.pass(&server).await.0, Vec::<String>::new());
}

#[tokio::test]
async fn watches_that_lag_behind_cause_no_second_write() {
    let server = server_with(json!({}));
    let mut operator = Operator::start(&server);
    operator.settle(&server).await;
    // The shard changes, the operator puts it right, and its watch still shows the change.
    server.change(SHARD, |set| set["spec"]["replicas"] = json!(7));
    operator.pass(&server).await.1.unwrap();
    operator.watches.freeze();
    let (requests, _) = operator.pass(&server).await;
    assert_eq!(writes(&requests), Vec::<&String>::new());
}

#[tokio::test]
async fn what_somebody_changed_is_put_right_with_one_write() {
    let server = server_with(json!({}));
    let mut operator = Operator::start(&server);
    operator.settle(&server).await;
    server.change(SHARD, |set| set["spec"]["replicas"] = json!(7));
    let (requests, result) = operator.pass(&server).await;
    result.unwrap();
    assert_eq!(requests, [format!("PATCH {SHARD}")]);
    assert_eq!(server.get(SHARD).unwrap()["spec"]["replicas"], 2);
}

#[tokio::test]
async fn an_endpoint_that_is_not_served_any_more_is_not_published_any_more() {
    let server = server_with(json!({}));
    let mut operator = Operator::start(&server);
    operator.settle(&server).await;
    assert!(status(&server).endpoint.is_some());
    server.change(&format!("{CLUSTERS}/demo"), |cluster| {
        cluster["spec"]["api"]["replicas"] = json!(0);
    });
    operator.settle(&server).await;
    assert_eq!(status(&server).endpoint, None);
    assert_eq!(operator.pass(&server).await.0, Vec::<String>::new());
}

#[tokio::test]
async fn fields_that_others_add_are_left_alone() {
    let server = server_with(json!({}));
    let mut operator = Operator::start(&server);
    operator.settle(&server).await;
    server.change(SHARD, |set| {
        set["metadata"]["annotations"]["somebody/else"] = json!("was here");
        set["spec"]["minReadySeconds"] = json!(0);
    });
    assert_eq!(operator.pass(&server).await.0, Vec::<String>::new());
}

#[tokio::test]
async fn an_object_of_somebody_else_is_not_touched_and_starts_no_pod() {
    let server = server_with(json!({}));
    let theirs = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "demo-agent", "namespace": "ns"}, "data": {"their": "data"},
    });
    server.put(CONFIG_MAP, theirs);
    let before = server.get(CONFIG_MAP);
    let mut operator = Operator::start(&server);
    operator.pass(&server).await.1.unwrap();
    assert_eq!(server.get(CONFIG_MAP), before);
    assert_eq!(server.get(SHARD), None);
    let (status, reason) = condition(&server, "Accepted");
    assert_eq!((status.as_str(), reason.as_str()), ("False", "NameTaken"));
}

#[tokio::test]
async fn a_port_that_somebody_has_is_named_in_the_status_and_in_an_event() {
    let service = json!({"type": "NodePort", "nodePort": 30500});
    let server = server_with(json!({"api": {"service": service}}));
    let message = "Invalid value: 30500: provided port is already allocated";
    server.refuse_with(
        "PATCH /api/v1/namespaces/ns/services/demo-api",
        json!({
            "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 422, "reason": "Invalid",
            "message": format!("Service \"demo-api\" is invalid: spec.ports[0].nodePort: {message}"),
            "details": {"causes": [{"message": message, "field": "spec.ports[0].nodePort"}]},
        }),
    );
    let mut operator = Operator::start(&server);
    for _ in 0..2 {
        // Trying again soon is no help: this is no failed pass.
        operator.pass(&server).await.1.unwrap();
    }
    for condition in status(&server).conditions {
        assert_eq!(condition.status, "False", "{condition:?}");
        assert_eq!(condition.reason, "NodePortUnavailable", "{condition:?}");
        let told = "spec.api.service.nodePort 30500: provided port is already allocated: choose";
        assert!(condition.message.starts_with(told), "{condition:?}");
    }
    assert_eq!(server.events(), ["NodePortUnavailable"]);
}

#[tokio::test]
async fn an_object_that_the_server_calls_invalid_is_told_in_its_words() {
    let server = server_with(json!({"api": {"service": {"annotations": {"bad key!!": "x"}}}}));
    let why = "metadata.annotations: Invalid value: \"bad key!!\": name part must consist of alphanumeric characters";
    server.refuse_with(
        "PATCH /api/v1/namespaces/ns/services/demo-api",
        json!({
            "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 422, "reason": "Invalid",
            "message": format!("Service \"demo-api\" is invalid: {why}"),
        }),
    );
    let mut operator = Operator::start(&server);
    for _ in 0..2 {
        operator.pass(&server).await.1.unwrap();
    }
    for condition in status(&server).conditions {
        assert_eq!(condition.status, "False", "{condition:?}");
        assert_eq!(condition.reason, "InvalidSpec", "{condition:?}");
        assert!(condition.message.ends_with(why), "{condition:?}");
    }
    assert_eq!(status(&server).phase, Some(Phase::Invalid));
    assert_eq!(server.events(), ["InvalidSpec"]);
}

#[tokio::test]
async fn a_secret_that_exists_is_never_written() {
    let server = server_with(json!({}));
    let mut operator = Operator::start(&server);
    operator.pass(&server).await.1.unwrap();
    let generated = server.get(SECRET).unwrap();
    let mut restarted = Operator::start(&server);
    restarted.settle(&server).await;
    operator.settle(&server).await;
    assert_eq!(server.get(SECRET), Some(generated));
}

#[tokio::test]
async fn a_secret_that_was_deleted_comes_back_with_the_same_password() {
    let server = server_with(json!({}));
    let mut operator = Operator::start(&server);
    operator.settle(&server).await;
    let generated = server.get(SECRET).unwrap();
    server.delete(SECRET);
    operator.pass(&server).await.1.unwrap();
    assert_eq!(server.get(SECRET).unwrap()["data"], generated["data"]);
}

#[tokio::test]
async fn a_missing_secret_of_the_user_is_named_and_awaited() {
    let server = server_with(json!({"auth": {"secretName": "mine"}}));
    let mut operator = Operator::start(&server);
    operator.pass(&server).await.1.unwrap();
    let (status_, reason) = condition(&server, "Accepted");
    assert_eq!(
        (status_.as_str(), reason.as_str()),
        ("False", "SecretMissing")
    );
    assert_eq!(status(&server).phase, Some(Phase::Invalid));
    assert_eq!(server.get(SHARD), None);

    let secret = json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": "mine", "namespace": "ns"}, "data": {"password": "c2VjcmV0"},
    });
    server.put("/api/v1/namespaces/ns/secrets/mine", secret);
    operator.pass(&server).await.1.unwrap();
    assert_eq!(condition(&server, "Accepted").0, "True");
    assert!(server.get(SHARD).is_some());
}

#[tokio::test]
async fn a_pass_that_fails_half_way_is_told_in_the_status() {
    let server = server_with(json!({}));
    server.refuse("PATCH /api/v1/namespaces/ns/services/demo-api");
    let mut operator = Operator::start(&server);
    let (_, result) = operator.pass(&server).await;
    assert!(matches!(result, Err(Error::Apply(_))), "{result:?}");
    assert_eq!(condition(&server, "Progressing").1, "ReconcileFailed");
    let mut all = status(&server).conditions.into_iter();
    let ready = all.find(|condition| condition.type_ == "Ready").unwrap();
    let told = ready.message.starts_with("Service demo-api: ");
    assert!(told, "{}", ready.message);
    assert!(server.get(CONFIG_MAP).is_some());
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_does_not_answer_holds_a_pass_no_longer_than_its_deadline() {
    let server = server_with(json!({}));
    server.hang(&format!("GET {SECRET}"));
    let mut operator = Operator::start(&server);
    let (_, result) = operator.pass(&server).await;
    assert!(matches!(result, Err(Error::Deadline(_))), "{result:?}");
}

#[tokio::test(start_paused = true)]
async fn a_failure_that_lasts_is_told_in_the_status_and_counted() {
    let server = server_with(json!({}));
    server.hang(&format!("GET {SECRET}"));
    let mut operator = Operator::start(&server);
    for _ in 0..2 {
        operator.pass(&server).await.1.unwrap_err();
        assert_eq!(
            server.get(&format!("{CLUSTERS}/demo")).unwrap()["status"],
            Value::Null
        );
    }
    operator.pass(&server).await.1.unwrap_err();
    assert_eq!(condition(&server, "Progressing").1, "ReconcileFailed");
    let (requests, _) = operator.pass(&server).await;
    assert_eq!(writes(&requests), Vec::<&String>::new());
}

#[tokio::test]
async fn a_resource_that_cannot_be_read_counts_as_a_failure_and_is_told_once() {
    let server = server_with(json!({}));
    server.change(&format!("{CLUSTERS}/demo"), |cluster| {
        cluster["spec"]["shards"] = json!("many");
    });
    let operator = Operator::start(&server);
    let raw = server.get(&format!("{CLUSTERS}/demo")).unwrap();
    let uid = raw["metadata"]["uid"].as_str().unwrap().to_owned();
    let cluster: Arc<DeserializeGuard<CacheCluster>> =
        Arc::new(serde_json::from_value(raw).unwrap());
    assert!(cluster.0.is_err());
    for failures in 1..=3 {
        let result = reconcile(cluster.clone(), operator.context.clone()).await;
        assert!(matches!(result, Err(Error::Unreadable(_))), "{result:?}");
        let memory = operator.context.memory.of(&uid);
        assert_eq!(memory.lock().await.failures, failures);
    }
    assert_eq!(server.events(), ["InvalidSpec"]);
}

/// A node took the password: what a pass notes when one answers.
async fn a_node_answered(operator: &Operator, server: &Server) {
    let cluster = server.get(&format!("{CLUSTERS}/demo")).unwrap();
    let memory = operator
        .context
        .memory
        .of(cluster["metadata"]["uid"].as_str().unwrap());
    memory.lock().await.password.as_mut().unwrap().proven = true;
}

const MINE: &str = "/api/v1/namespaces/ns/secrets/mine";

fn mine(base64: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": "mine", "namespace": "ns"}, "data": {"password": base64},
    })
}

#[tokio::test(start_paused = true)]
async fn a_living_cluster_is_looked_after_though_its_secret_is_gone() {
    let server = server_with(json!({"auth": {"secretName": "mine"}}));
    server.put(MINE, mine("c2VjcmV0"));
    let mut operator = Operator::start(&server);
    operator.settle(&server).await;
    a_node_answered(&operator, &server).await;
    server.delete(MINE);
    tokio::time::advance(Duration::from_secs(300)).await;
    server.change(SHARD, |set| set["spec"]["replicas"] = json!(7));
    operator.pass(&server).await.1.unwrap();
    assert_eq!(condition(&server, "Accepted").1, "SecretMissing");
    assert_eq!(server.get(SHARD).unwrap()["spec"]["replicas"], 2);

    server.put(MINE, mine("Y2hhbmdlZA=="));
    operator.pass(&server).await.1.unwrap();
    assert_eq!(condition(&server, "Accepted").1, "SecretChanged");
    server.put(MINE, mine("c2VjcmV0"));
    operator.pass(&server).await.1.unwrap();
    assert_eq!(condition(&server, "Accepted").1, "Valid");
}

#[tokio::test]
async fn a_generated_password_that_was_edited_is_put_back() {
    let server = server_with(json!({}));
    let mut operator = Operator::start(&server);
    operator.settle(&server).await;
    a_node_answered(&operator, &server).await;
    let generated = server.get(SECRET).unwrap()["data"].clone();
    for edited in [json!("Y2hhbmdlZA=="), json!("Cg==")] {
        server.change(SECRET, |secret| {
            secret["data"]["password"] = edited.clone();
        });
        operator.pass(&server).await.1.unwrap();
        assert_eq!(server.get(SECRET).unwrap()["data"], generated);
        assert_eq!(condition(&server, "Accepted").1, "Valid");
    }
    operator.settle(&server).await;
    assert_eq!(operator.pass(&server).await.0, Vec::<String>::new());
}
