//! The legacy contract, the same over every store.

use crate::api::{Api, answer, until};
use crate::servers::{Cluster, Server};

#[tokio::test]
async fn memory_keeps_the_contract() {
    contract(&Api::start(&[]).await).await;
}

#[tokio::test]
async fn a_standalone_server_keeps_the_contract() {
    let server = Server::start(&[]).await;
    contract(&Api::over(&server.url(), &[]).await).await;
}

#[tokio::test]
async fn a_cluster_keeps_the_contract() {
    let cluster = Cluster::start(3, 0).await;
    let api = Api::over(&cluster.servers[1].url(), &["--redis-connections", "2"]).await;
    contract(&api).await;
    let (status, stats) = answer(api.http.get(api.url("/stats"))).await;
    assert_eq!(status, 200);
    let stats: serde_json::Value = serde_json::from_str(&stats).unwrap();
    let shards = stats["shards"].as_array().unwrap();
    assert_eq!(shards.len(), 3);
    let names: Vec<_> = shards
        .iter()
        .map(|shard| shard["name"].as_str().unwrap())
        .collect();
    let ports: Vec<_> = cluster
        .servers
        .iter()
        .map(|server| format!("127.0.0.1:{}", server.port))
        .collect();
    assert_eq!(names, ports);
}

async fn contract(api: &Api) {
    api.until_ready().await;
    exact_bodies(api).await;
    scalars(api).await;
    keys(api).await;
    expiry(api).await;
    bad_requests(api).await;
    around_the_routes(api).await;
    about(api).await;
}

fn is(got: (u16, String), status: u16, body: &str) {
    assert_eq!((got.0, got.1.as_str()), (status, body));
}

async fn post(api: &Api, body: &str) -> (u16, String) {
    answer(api.http.post(api.url("/cache")).body(body.to_owned())).await
}

async fn exact_bodies(api: &Api) {
    is(api.get("test").await, 404, r#"{"error":"Key not found"}"#);
    is(
        api.delete("test").await,
        404,
        r#"{"error":"Key not found"}"#,
    );
    let set = r#"{"message":"Cache set successfully!"}"#;
    is(post(api, r#"{"key":"test","value":"123"}"#).await, 200, set);
    is(
        api.get("test").await,
        200,
        r#"{"key":"test","value":"123"}"#,
    );
    is(
        post(api, r#"{"key":"test","value":"456","ttl_seconds":60}"#).await,
        200,
        set,
    );
    is(
        api.get("test").await,
        200,
        r#"{"key":"test","value":"456"}"#,
    );
    is(
        api.delete("test").await,
        200,
        r#"{"message":"Key deleted"}"#,
    );
    is(api.get("test").await, 404, r#"{"error":"Key not found"}"#);

    let response = api.http.get(api.url("/cache/test")).send().await.unwrap();
    assert_eq!(response.headers()["content-type"], "application/json");
}

async fn scalars(api: &Api) {
    for (written, read) in [
        ("123", "123"),
        ("1.50", "1.50"),
        ("true", "true"),
        (r#""""#, ""),
    ] {
        assert_eq!(
            post(api, &format!(r#"{{"key":"n","value":{written}}}"#))
                .await
                .0,
            200
        );
        is(
            api.get("n").await,
            200,
            &format!(r#"{{"key":"n","value":"{read}"}}"#),
        );
    }
    let text = "quotes \" slashes \\ lines \n zero \0 é 🦀";
    api.set("text", text).await;
    let expected = serde_json::json!({"key": "text", "value": text}).to_string();
    is(api.get("text").await, 200, &expected);
    // Far more than one segment, and near the limit.
    let large = "x".repeat(1_000_000);
    assert_eq!(api.set("large", &large).await.0, 200);
    assert_eq!(
        api.get("large").await.1.len(),
        large.len() + r#"{"key":"large","value":""}"#.len()
    );
}

async fn keys(api: &Api) {
    for (key, path) in [
        ("a/b//c", "a/b//c"),
        ("a/b", "a%2Fb"),
        ("with space", "with%20space"),
        ("100%", "100%25"),
        ("ключ", "%D0%BA%D0%BB%D1%8E%D1%87"),
        ("{tag}.x", "%7Btag%7D.x"),
        ("?#&", "%3F%23%26"),
        (&"k".repeat(1024), &"k".repeat(1024)),
    ] {
        api.delete(path).await;
        assert_eq!(api.set(key, "v").await.0, 200, "{key}");
        let expected = serde_json::json!({"key": key, "value": "v"}).to_string();
        is(api.get(path).await, 200, &expected);
    }
    for index in 0..50 {
        let (key, value) = (format!("many-{index}"), format!("value-{index}"));
        assert_eq!(api.set(&key, &value).await.0, 200);
        is(
            api.get(&key).await,
            200,
            &format!(r#"{{"key":"{key}","value":"{value}"}}"#),
        );
    }
}

async fn expiry(api: &Api) {
    post(api, r#"{"key":"brief","value":"v","ttl_seconds":1}"#).await;
    assert_eq!(api.get("brief").await.0, 200);
    post(api, r#"{"key":"kept","value":"v","ttl_seconds":1}"#).await;
    post(api, r#"{"key":"kept","value":"v"}"#).await;
    until("the value expires", async || {
        api.get("brief").await.0 == 404
    })
    .await;
    assert_eq!(api.delete("brief").await.0, 404);
    assert_eq!(
        api.get("kept").await.0,
        200,
        "a TTL ends with the value that had it"
    );
}

async fn bad_requests(api: &Api) {
    for (body, words) in [
        ("", "empty"),
        ("{", "JSON"),
        ("[]", "JSON object"),
        (r#"{"value":"v"}"#, "key"),
        (r#"{"key":"","value":"v"}"#, "key"),
        (r#"{"key":"k"}"#, "value"),
        (r#"{"key":"k","value":null}"#, "value"),
        (r#"{"key":"k","value":{"a":1}}"#, "value"),
        (r#"{"key":"k","value":["a"]}"#, "value"),
        (r#"{"key":"k","value":"v","ttl_seconds":0}"#, "ttl_seconds"),
        (r#"{"key":"k","value":"v","ttl_seconds":-5}"#, "ttl_seconds"),
        (
            r#"{"key":"k","value":"v","ttl_seconds":"soon"}"#,
            "ttl_seconds",
        ),
        (
            r#"{"key":"k","value":"v","ttl_seconds":1e30}"#,
            "ttl_seconds",
        ),
    ] {
        let (status, answer) = post(api, body).await;
        let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
        let error = answer["error"].as_str().unwrap();
        assert!(
            status == 400 && error.contains(words),
            "{body}: {status} {error}"
        );
    }
    for path in [
        "/cache/",
        "/cache/%ff",
        &format!("/cache/{}", "k".repeat(1025)),
    ] {
        for method in [reqwest::Method::GET, reqwest::Method::DELETE] {
            let (status, body) = answer(api.http.request(method, api.url(path))).await;
            assert!(
                status == 400 && body.contains("key"),
                "{path}: {status} {body}"
            );
        }
    }
}

async fn around_the_routes(api: &Api) {
    is(
        answer(api.http.get(api.url("/nowhere"))).await,
        404,
        r#"{"error":"Not found"}"#,
    );
    for (method, path, allowed) in [
        (reqwest::Method::PUT, "/cache/k", "GET,HEAD,DELETE"),
        (reqwest::Method::GET, "/cache", "POST"),
        (reqwest::Method::POST, "/health", "GET,HEAD"),
    ] {
        let response = api
            .http
            .request(method, api.url(path))
            .send()
            .await
            .unwrap();
        assert_eq!(response.status(), 405, "{path}");
        assert_eq!(response.headers()["allow"], allowed);
        assert_eq!(
            response.text().await.unwrap(),
            r#"{"error":"Method not allowed"}"#
        );
    }
    api.set("head", "v").await;
    let response = api.http.head(api.url("/cache/head")).send().await.unwrap();
    assert_eq!(
        (
            response.status().as_u16(),
            response.headers()["content-length"].to_str().unwrap()
        ),
        (200, "26")
    );

    let mine = api
        .http
        .get(api.url("/cache/head"))
        .header("x-request-id", "mine-7");
    assert_eq!(
        mine.send().await.unwrap().headers()["x-request-id"],
        "mine-7"
    );
    let made = api.http.get(api.url("/cache/head")).send().await.unwrap();
    assert_eq!(made.headers()["x-request-id"].len(), 16);
}

async fn about(api: &Api) {
    let (status, health) = answer(api.http.get(api.url("/health"))).await;
    assert!(
        status == 200 && health.starts_with(r#"{"status":"healthy","#),
        "{status} {health}"
    );

    let (status, stats) = answer(api.http.get(api.url("/stats"))).await;
    let stats: serde_json::Value = serde_json::from_str(&stats).unwrap();
    assert_eq!(status, 200);
    let total = |name: &str| -> u64 {
        let shards = stats["shards"].as_array().unwrap();
        shards
            .iter()
            .map(|shard| shard[name].as_u64().unwrap())
            .sum()
    };
    assert!(
        total("keyspace_hits") > 50 && total("keyspace_misses") > 0,
        "{stats}"
    );
    assert!(total("used_memory") > 0 && total("keys") > 50, "{stats}");

    let metrics = api.metrics().await;
    for line in [
        r#"cachecluster_api_requests_total{route="/cache",method="POST",status="200"}"#,
        r#"cachecluster_api_request_duration_seconds_count{route="/cache/{key}"}"#,
        "cachecluster_api_requests_in_flight 0",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
}
