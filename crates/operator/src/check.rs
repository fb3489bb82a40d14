//! `check`: proves an installation with a small cluster of its own. What `helm test` runs.

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use cachecluster_crd::{ByteSize, CacheCluster, CacheClusterSpec, conditions};
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{DeleteParams, PostParams};
use kube::{Api as KubeApi, Client};
use tokio::time::{Instant, sleep, timeout, timeout_at};

/// Marks the clusters of this check: one that an interrupted run left behind is replaced, anybody else's is not touched.
const LABEL: (&str, &str) = ("cachecluster.io/check", "true");

/// Between two looks at the cluster.
const LOOK: Duration = Duration::from_secs(1);
/// Longest time for one request.
const REQUEST: Duration = Duration::from_secs(10);
/// Longest time for the removal at the end, which the time limit of the check does not cover.
const REMOVAL: Duration = Duration::from_secs(30);

/// Arguments of `check`.
#[derive(Debug, clap::Args)]
pub struct CheckArgs {
    /// Name of the CacheCluster to make, and to delete again
    #[arg(long, default_value = "cachecluster-check")]
    name: String,
    /// Its namespace
    #[arg(long, env = "POD_NAMESPACE", default_value = "default")]
    namespace: String,
    /// How long it may take until a key was set and read, e.g. 120s
    #[arg(long, default_value = "120s", value_parser = seconds)]
    timeout: Duration,
}

/// Makes a cluster of one Redis pod and one API pod, waits until it is ready, sets and gets a key through its Service,
/// and deletes it, whatever came of it.
///
/// # Errors
/// The first step that failed, or that had not ended in time.
pub async fn check(client: Client, args: &CheckArgs) -> anyhow::Result<()> {
    let clusters = KubeApi::<CacheCluster>::namespaced(client, &args.namespace);
    let deadline = Instant::now() + args.timeout;
    make_room(&clusters, &args.name, deadline).await?;

    println!("creating CacheCluster {}/{}", args.namespace, args.name);
    request(clusters.create(&PostParams::default(), &cluster(&args.name))).await?;
    let outcome = prove(&clusters, &args.name, deadline).await;
    let removed = timeout(
        REMOVAL,
        clusters.delete(&args.name, &DeleteParams::foreground()),
    )
    .await;
    outcome?;
    removed.context("deleting it took too long")??;
    println!("passed");
    Ok(())
}

fn cluster(name: &str) -> CacheCluster {
    let mut cluster = CacheCluster::new(
        name,
        CacheClusterSpec {
            shards: 1,
            replicas: 0,
            memory: ByteSize::new("64Mi"),
            api: cachecluster_crd::Api {
                replicas: 1,
                ..Default::default()
            },
            ..Default::default()
        },
    );
    cluster.metadata.labels = Some([(LABEL.0.to_owned(), LABEL.1.to_owned())].into());
    cluster
}

/// Removes what an interrupted check left behind.
async fn make_room(
    clusters: &KubeApi<CacheCluster>,
    name: &str,
    deadline: Instant,
) -> anyhow::Result<()> {
    let Some(found) = request(clusters.get_opt(name)).await? else {
        return Ok(());
    };
    let labels = found.metadata.labels.unwrap_or_default();
    ensure!(
        labels.get(LABEL.0).is_some_and(|value| value == LABEL.1),
        "a CacheCluster {name} exists already and is not of a check: choose another --name"
    );
    println!("deleting what an earlier check left behind");
    if let Err(error) = clusters.delete(name, &DeleteParams::foreground()).await
        && !matches!(&error, kube::Error::Api(status) if status.is_not_found())
    {
        return Err(error.into());
    }
    while request(clusters.get_opt(name)).await?.is_some() {
        ensure!(Instant::now() < deadline, "it is not gone in time");
        sleep(LOOK).await;
    }
    Ok(())
}

/// Waits for the cluster and uses it.
async fn prove(
    clusters: &KubeApi<CacheCluster>,
    name: &str,
    deadline: Instant,
) -> anyhow::Result<()> {
    let endpoint = ready(clusters, name, deadline).await?;
    println!("ready; setting and getting a key at {endpoint}");
    timeout_at(deadline, exchange(&endpoint))
        .await
        .context("setting and getting a key took too long")?
}

/// Waits until the cluster is ready; returns where its API is.
async fn ready(
    clusters: &KubeApi<CacheCluster>,
    name: &str,
    deadline: Instant,
) -> anyhow::Result<String> {
    let mut told = String::new();
    loop {
        let status = request(clusters.get(name)).await?.status;
        let condition = status
            .iter()
            .flat_map(|status| &status.conditions)
            .find(|condition| condition.type_ == conditions::READY);
        if condition.is_some_and(|condition| condition.status == "True") {
            return status
                .and_then(|status| status.endpoint)
                .context("it is ready, but its status has no endpoint");
        }
        let state = describe(condition);
        ensure!(Instant::now() < deadline, "not ready in time: {state}");
        if state != told {
            println!("waiting: {state}");
            told = state;
        }
        sleep(LOOK).await;
    }
}

fn describe(condition: Option<&Condition>) -> String {
    condition.map_or_else(
        || "no operator has looked at it yet".to_owned(),
        |condition| format!("{}: {}", condition.reason, condition.message),
    )
}

/// Sets a key and gets it back.
async fn exchange(endpoint: &str) -> anyhow::Result<()> {
    // A value of its own each time, so that nothing old can be taken for it.
    let value = format!("{:016x}", rand::random::<u64>());
    let set = format!(r#"{{"key":"check","value":"{value}"}}"#);
    expect(
        call("POST", &format!("{endpoint}/cache"), set).await?,
        r#"{"message":"Cache set successfully!"}"#,
    )?;
    expect(
        call("GET", &format!("{endpoint}/cache/check"), String::new()).await?,
        &format!(r#"{{"key":"check","value":"{value}"}}"#),
    )
}

fn expect(got: (http::StatusCode, Bytes), body: &str) -> anyhow::Result<()> {
    let (status, bytes) = got;
    if status != http::StatusCode::OK || bytes != body {
        let text = String::from_utf8_lossy(&bytes);
        bail!("answered {status} {text}, where 200 {body} was expected");
    }
    Ok(())
}

async fn call(method: &str, url: &str, body: String) -> anyhow::Result<(http::StatusCode, Bytes)> {
    let client: HttpClient<HttpConnector, Full<Bytes>> =
        HttpClient::builder(TokioExecutor::new()).build_http();
    let asked = http::Request::builder()
        .method(method)
        .uri(url)
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body)))?;
    let what = format!("{method} {url}");
    let answer = timeout(REQUEST, async {
        let response = loop {
            match client.request(asked.clone()).await {
                // Nodes learn of a new Service, and of its ready pods, a moment after the API server does.
                Err(error) if error.is_connect() => sleep(LOOK).await,
                other => break other?,
            }
        };
        let status = response.status();
        anyhow::Ok((status, response.into_body().collect().await?.to_bytes()))
    });
    answer
        .await
        .with_context(|| format!("{what}: no answer within {REQUEST:?}"))?
        .context(what)
}

/// A request to the API server, with a bound.
async fn request<T>(asked: impl Future<Output = kube::Result<T>>) -> anyhow::Result<T> {
    Ok(timeout(REQUEST, asked)
        .await
        .context("the API server does not answer")??)
}

fn seconds(text: &str) -> Result<Duration, String> {
    text.strip_suffix('s')
        .unwrap_or(text)
        .parse()
        .map(Duration::from_secs)
        .map_err(|_| format!("{text:?} is no number of seconds: write it like 120s"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::Router;
    use axum::routing::{get, post};

    async fn served(router: Router) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await });
        format!("http://{address}")
    }

    #[tokio::test]
    async fn a_service_that_keeps_what_it_is_given_passes() {
        let kept = std::sync::Arc::new(std::sync::Mutex::new(String::new()));
        let written = kept.clone();
        let router = Router::new()
            .route(
                "/cache",
                post(async move |body: String| {
                    *written.lock().unwrap() = body;
                    r#"{"message":"Cache set successfully!"}"#
                }),
            )
            .route(
                "/cache/check",
                get(async move || kept.lock().unwrap().clone()),
            );
        exchange(&served(router).await).await.unwrap();
    }

    #[tokio::test]
    async fn a_service_that_answers_something_else_fails_with_its_words() {
        let router = Router::new()
            .route(
                "/cache",
                post(async || r#"{"message":"Cache set successfully!"}"#),
            )
            .route(
                "/cache/check",
                get(async || r#"{"key":"check","value":"old"}"#),
            );
        let error = exchange(&served(router).await).await.unwrap_err();
        assert!(error.to_string().contains(r#""value":"old""#), "{error}");
        let refusing = served(Router::new()).await;
        let error = exchange(&refusing).await.unwrap_err();
        assert!(error.to_string().contains("404"), "{error}");
    }

    #[test]
    fn the_time_limit_is_in_seconds() {
        assert_eq!(seconds("120s"), Ok(Duration::from_secs(120)));
        assert!(seconds("2m").is_err());
    }
}
