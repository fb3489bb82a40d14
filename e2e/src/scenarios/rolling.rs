//! The HTTP API rolls under load.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use cachecluster_contract::{labels, names};
use k8s_openapi::api::apps::v1::Deployment;
use kube::ResourceExt;
use serde_json::json;

use super::{Scenario, Turn};
use crate::cluster::{Ctx, small};
use crate::figure::Figure;
use crate::prober::report::LoadReport;

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![Scenario::new(
        "api-rolls",
        Turn::Together,
        "the API's pods are restarted, changed and scaled under load, and no request fails",
        |ctx| Box::pin(api_rolls(ctx)),
    )]
}

/// How long requests go on: longer than the three changes.
const SECONDS: u64 = 50;

async fn api_rolls(ctx: &Ctx) -> Result<Vec<Figure>> {
    ctx.create_ready("rolling", small(1, 1)).await?;
    let before = uids(ctx).await?;
    let (url, seconds) = (ctx.url("rolling"), SECONDS.to_string());
    let args = ["load", "--url", &url, "--seconds", &seconds];
    let load = ctx.probe(&args).await?;
    load.started().await?;
    let start = Instant::now();

    let deployment = format!("deployment/{}", names::api("rolling"));
    let limit = Duration::from_secs(90);
    ctx.kubectl(&["rollout", "restart", &deployment], limit)
        .await?;
    rolled(ctx, &deployment, 2).await?;
    let restarted = uids(ctx).await?;
    ensure!(
        restarted.iter().all(|uid| !before.contains(uid)),
        "kubectl rollout restart kept pods: the operator took the restart back"
    );

    let resources = json!({"requests": {"cpu": "15m", "memory": "24Mi"}});
    ctx.change("rolling", json!({"api": {"resources": resources}}))
        .await?;
    ctx.eventually("the change arrives", limit, async || {
        let pods = uids(ctx).await?;
        ensure!(
            pods.len() == 2 && pods.iter().all(|uid| !restarted.contains(uid)),
            "pods from before the change are there"
        );
        Ok(())
    })
    .await?;
    rolled(ctx, &deployment, 2).await?;

    ctx.change("rolling", json!({"api": {"replicas": 3}}))
        .await?;
    rolled(ctx, &deployment, 3).await?;
    ctx.change("rolling", json!({"api": {"replicas": 1}}))
        .await?;
    rolled(ctx, &deployment, 1).await?;
    let taken = start.elapsed();

    let report: LoadReport = load.report(Duration::from_secs(SECONDS + 60)).await?;
    ensure!(report.failed == 0, "requests failed: {report:?}");
    ensure!(
        taken < Duration::from_secs(SECONDS),
        "the changes took {taken:?}, longer than the load"
    );
    Ok(vec![
        Figure::seconds("four changes in", taken),
        Figure::count("failed", report.failed).at_most(0.0),
        Figure::count("requests", report.ok),
        Figure::number("longest latency", report.max_ms, "ms"),
    ])
}

async fn uids(ctx: &Ctx) -> Result<Vec<String>> {
    let pods = ctx.pods("rolling", labels::COMPONENT_API).await?;
    Ok(pods
        .iter()
        .filter(|pod| pod.metadata.deletion_timestamp.is_none())
        .filter_map(ResourceExt::uid)
        .collect())
}

/// Waits until the Deployment wants so many pods and has them, all of the newest kind.
async fn rolled(ctx: &Ctx, deployment: &str, replicas: i32) -> Result<()> {
    let name = names::api("rolling");
    let limit = Duration::from_secs(60);
    ctx.when(&name, limit, |deployment: Option<&Deployment>| {
        deployment
            .and_then(|deployment| deployment.spec.as_ref()?.replicas)
            .is_some_and(|wanted| wanted == replicas)
    })
    .await?;
    ctx.kubectl(
        &["rollout", "status", deployment, "--timeout=90s"],
        Duration::from_secs(100),
    )
    .await?;
    Ok(())
}
