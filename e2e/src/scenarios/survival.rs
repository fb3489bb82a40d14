//! Redis pods go away under load.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::api::DeleteParams;

use super::{Scenario, Turn};
use crate::cluster::{Ctx, READY, is_whole, small};
use crate::figure::Figure;
use crate::prober::report::{LoadReport, WriterReport};

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::new(
            "primary-pod-deleted",
            Turn::Together,
            "a primary's pod is deleted under load: no request fails, no acknowledged write is lost, and it comes back by itself",
            |ctx| Box::pin(primary_pod_deleted(ctx)),
        ),
        Scenario::new(
            "replica-pod-deleted",
            Turn::Together,
            "a replica's pod is deleted under load in a cluster of one shard: no request fails, and it comes back in sync",
            |ctx| Box::pin(replica_pod_deleted(ctx)),
        ),
    ]
}

/// How long requests go on: longer than the disturbance and the way back from it.
const SECONDS: u64 = 30;

/// Disturbs a cluster while requests and writes go on, and proves that nobody noticed.
///
/// `disturb` returns when the cluster is whole again.
pub(super) async fn unnoticed(
    ctx: &Ctx,
    name: &str,
    disturb: impl Future<Output = Result<()>>,
) -> Result<Vec<Figure>> {
    let (url, seconds) = (ctx.url(name), SECONDS.to_string());
    let load = ctx
        .probe(&["load", "--url", &url, "--seconds", &seconds])
        .await?;
    let writer = ctx
        .probe(&["writer", "--url", &url, "--seconds", &seconds])
        .await?;
    load.started().await?;
    writer.started().await?;
    let start = Instant::now();
    disturb.await?;
    let whole = start.elapsed();
    let limit = Duration::from_secs(120);
    let load: LoadReport = load.report(limit).await?;
    let writer: WriterReport = writer.report(limit).await?;
    ensure!(
        load.failed == 0 && writer.failed == 0,
        "requests failed: {load:?} {writer:?}"
    );
    ensure!(
        writer.lost == 0 && writer.unread == 0,
        "acknowledged writes were lost: {writer:?}"
    );
    ensure!(
        whole < Duration::from_secs(SECONDS),
        "whole again after {whole:?}, when the requests had ended"
    );
    ensure!(
        load.ok > 1_000 && writer.acked > 1_000,
        "too few requests to say anything: {load:?} {writer:?}"
    );
    Ok(vec![
        Figure::seconds("whole again after", whole),
        Figure::count("failed of", load.failed + writer.failed).at_most(0.0),
        Figure::count("requests", load.ok + writer.acked),
        Figure::count("writes lost", writer.lost).at_most(0.0),
        Figure::number("longest latency", load.max_ms, "ms"),
    ])
}

async fn primary_pod_deleted(ctx: &Ctx) -> Result<Vec<Figure>> {
    ctx.create_ready("lively", small(3, 1)).await?;
    ctx.write_keys("lively", 500).await?;
    let cluster = ctx.ready("lively", READY).await?;
    let primary = cluster
        .status
        .and_then(|status| status.shards.into_iter().next()?.primary)
        .context("the status names no primary of the first shard")?;
    let figures = unnoticed(ctx, "lively", async {
        ctx.replace_pod(&primary).await?;
        whole(ctx, "lively", 1).await
    })
    .await?;
    let keys = ctx.read_keys("lively", 500).await?;
    ensure!(keys.absent == 0, "keys were lost: {keys:?}");
    Ok(figures)
}

async fn replica_pod_deleted(ctx: &Ctx) -> Result<Vec<Figure>> {
    ctx.create_ready("lively", small(1, 1)).await?;
    let cluster = ctx.ready("lively", READY).await?;
    let replica = cluster
        .status
        .and_then(|status| status.shards.into_iter().next()?.replicas.pop())
        .context("the status names no replica of the shard")?;
    unnoticed(ctx, "lively", async {
        ctx.replace_pod(&replica).await?;
        whole(ctx, "lively", 1).await
    })
    .await
}

/// Waits until every shard has a primary and all its replicas in sync.
pub(super) async fn whole(ctx: &Ctx, name: &str, replicas: usize) -> Result<()> {
    ctx.cluster_when(name, "is whole", READY, |cluster| {
        is_whole(cluster, replicas)
    })
    .await?;
    Ok(())
}

/// Deletes every Redis pod of a cluster at once and waits until all are there anew and the cluster is whole.
pub(super) async fn replace_all(ctx: &Ctx, name: &str, replicas: usize) -> Result<()> {
    let before = ctx.redis_pods(name).await?;
    ensure!(!before.is_empty(), "{name} has no Redis pods");
    let api = ctx.api::<Pod>();
    for pod in before.keys() {
        api.delete(pod, &DeleteParams::default())
            .await
            .with_context(|| format!("deleting {pod}"))?;
    }
    for (pod, uid) in &before {
        ctx.successor(pod, uid).await?;
    }
    whole(ctx, name, replicas).await
}
