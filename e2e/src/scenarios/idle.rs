//! A cluster that nobody uses.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cachecluster_contract::{labels, ports};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt};
use serde_json::Value;

use super::status::events;
use super::{Scenario, Turn};
use crate::cluster::{Ctx, small};
use crate::figure::Figure;
use crate::metrics::{fetch, of_pod, samples};
use crate::objects::{Snapshot, changes};

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![Scenario::new(
        "idle",
        Turn::First,
        "an idle cluster costs no write to the API server, and little memory and time",
        |ctx| Box::pin(idle(ctx)),
    )]
}

async fn idle(ctx: &Ctx) -> Result<Vec<Figure>> {
    ctx.create_ready("quiet", small(3, 1)).await?;
    let before = settled(ctx).await?;
    let events_before = events(ctx, "quiet").await?.len();
    let start = Meter::read(ctx).await?;
    tokio::time::sleep(ctx.settings.idle).await;
    let end = Meter::read(ctx).await?;
    let after = snapshot(ctx).await?;

    let written = changes(&before, &after);
    ensure!(
        written.is_empty(),
        "objects changed while idle: {written:?}"
    );
    ensure!(
        events(ctx, "quiet").await?.len() == events_before,
        "events were recorded while idle"
    );
    let writes = grown(&start.server_writes, &end.server_writes);
    ensure!(
        writes.is_empty(),
        "the API server counted writes: {writes:?}"
    );
    let own = end.own_writes - start.own_writes;
    ensure!(own == 0.0, "the operator counted {own} writes of its own");

    let mut figures = vec![
        Figure::seconds("watched for", ctx.settings.idle),
        Figure::number("API-server writes", own, "").at_most(0.0),
    ];
    let minutes = ctx.settings.idle.as_secs_f64() / 60.0;
    if let (Some(before), Some(after)) = (start.cpu_seconds, end.cpu_seconds) {
        figures.push(
            Figure::number("operator CPU a minute", (after - before) / minutes, "s").at_most(0.2),
        );
    }
    figures.extend(memory(ctx).await?);
    Ok(figures)
}

async fn snapshot(ctx: &Ctx) -> Result<Snapshot> {
    ctx.kinds.snapshot(&ctx.client, &ctx.namespace, "").await
}

/// Waits until nothing was written for some seconds: kubelets and controllers finish after Ready.
async fn settled(ctx: &Ctx) -> Result<Snapshot> {
    let until = Instant::now() + Duration::from_secs(60);
    let mut last = snapshot(ctx).await?;
    let mut since = Instant::now();
    while since.elapsed() < Duration::from_secs(6) {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = snapshot(ctx).await?;
        let changed = changes(&last, &now);
        if !changed.is_empty() {
            ensure!(
                Instant::now() < until,
                "the cluster does not come to rest: {changed:?}"
            );
            since = Instant::now();
            last = now;
        }
    }
    Ok(last)
}

/// Counters at one moment.
struct Meter {
    /// Requests that only the operator makes, as the API server counted them.
    server_writes: BTreeMap<String, f64>,
    /// Writes as the operator's replicas counted them.
    own_writes: f64,
    /// CPU time of the operator's replicas, where the kubelets tell it.
    cpu_seconds: Option<f64>,
}

impl Meter {
    async fn read(ctx: &Ctx) -> Result<Self> {
        let text = fetch(&ctx.client, "/metrics").await?;
        let mut server_writes = BTreeMap::new();
        for sample in samples(&text, "apiserver_request_total") {
            let verb = sample.label("verb");
            let ours = sample.label("group") == "cachecluster.io";
            let write = match verb {
                // Of all that runs in a plain cluster, only the operator applies on the server's side. Its lease is
                // renewed all the time, as every controller's is.
                "APPLY" => sample.label("resource") != "leases",
                "POST" | "PUT" | "PATCH" | "DELETE" => ours,
                _ => false,
            };
            if write {
                let name = format!("{verb} {}", sample.label("resource"));
                *server_writes.entry(name).or_default() += sample.value;
            }
        }
        let mut own_writes = 0.0;
        let namespace = &ctx.settings.operator_namespace;
        for pod in ctx.operator_pods().await? {
            let port = ports::OPERATOR_ADMIN;
            let text = of_pod(&ctx.client, namespace, &pod.name_any(), port).await?;
            let writes = samples(&text, "cachecluster_operator_api_writes_total");
            own_writes += writes.iter().map(|sample| sample.value).sum::<f64>();
        }
        let cpu_seconds = operator_stats(ctx).await?.map(|stats| stats.cpu_seconds);
        Ok(Self {
            server_writes,
            own_writes,
            cpu_seconds,
        })
    }
}

fn grown(before: &BTreeMap<String, f64>, after: &BTreeMap<String, f64>) -> Vec<String> {
    after
        .iter()
        .map(|(name, value)| (name, value - before.get(name).copied().unwrap_or_default()))
        .filter(|(_, more)| *more > 0.0)
        .map(|(name, more)| format!("{name}: {more}"))
        .collect()
}

/// What the kubelets say of one kind of pod: the sum of CPU time, the largest memory.
struct Stats {
    cpu_seconds: f64,
    resident: u64,
}

async fn operator_stats(ctx: &Ctx) -> Result<Option<Stats>> {
    let namespace = &ctx.settings.operator_namespace;
    stats(&ctx.client, namespace, &ctx.operator_pods().await?).await
}

/// Reads the kubelets' summaries for these pods; nothing if they have none on them.
async fn stats(client: &Client, namespace: &str, pods: &[Pod]) -> Result<Option<Stats>> {
    let names: Vec<String> = pods.iter().map(ResourceExt::name_any).collect();
    let mut found = Vec::new();
    let nodes = Api::<Node>::all(client.clone())
        .list_metadata(&ListParams::default())
        .await?;
    for node in nodes.items {
        let path = format!("/api/v1/nodes/{}/proxy/stats/summary", node.name_any());
        let summary: Value =
            serde_json::from_str(&fetch(client, &path).await?).context("the kubelet's summary")?;
        for pod in summary["pods"].as_array().into_iter().flatten() {
            let reference = &pod["podRef"];
            let name = reference["name"].as_str().unwrap_or_default();
            if reference["namespace"] != namespace || !names.iter().any(|n| n == name) {
                continue;
            }
            for container in pod["containers"].as_array().into_iter().flatten() {
                let memory = &container["memory"];
                let resident = memory["rssBytes"]
                    .as_u64()
                    .or(memory["workingSetBytes"].as_u64());
                let nanos = container["cpu"]["usageCoreNanoSeconds"].as_f64();
                if let (Some(resident), Some(nanos)) = (resident, nanos) {
                    found.push((resident, nanos / 1e9));
                }
            }
        }
    }
    Ok((!found.is_empty()).then(|| Stats {
        cpu_seconds: found.iter().map(|(_, cpu)| cpu).sum(),
        resident: found.iter().map(|(memory, _)| *memory).max().unwrap_or(0),
    }))
}

/// Resident memory of each part, the largest of its pods. A process's own figure is preferred; the kubelet's serves for
/// containers of one process.
async fn memory(ctx: &Ctx) -> Result<Vec<Figure>> {
    let api = ctx.pods("quiet", labels::COMPONENT_API).await?;
    let redis = ctx.pods("quiet", labels::COMPONENT_REDIS).await?;
    let operator = ctx.operator_pods().await?;
    let system = ctx.settings.operator_namespace.as_str();
    let own = ctx.namespace.as_str();
    let mut figures = Vec::new();
    for (name, namespace, pods, port, bound, alone) in [
        (
            "operator",
            system,
            &operator,
            ports::OPERATOR_ADMIN,
            40.0,
            true,
        ),
        ("API", own, &api, ports::API_ADMIN, 20.0, true),
        ("agent", own, &redis, ports::AGENT, 8.0, false),
    ] {
        let mut resident = None;
        for pod in pods {
            let text = of_pod(&ctx.client, namespace, &pod.name_any(), port).await?;
            for sample in samples(&text, "process_resident_memory_bytes") {
                #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
                let bytes = sample.value as u64;
                resident = resident.max(Some(bytes));
            }
        }
        if resident.is_none() && alone {
            let stats = stats(&ctx.client, namespace, pods).await?;
            resident = stats.map(|stats| stats.resident);
        }
        if let Some(bytes) = resident {
            figures.push(Figure::mebibytes(name, bytes).at_most(bound));
        }
    }
    Ok(figures)
}
