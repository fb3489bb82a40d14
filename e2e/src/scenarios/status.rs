//! What `kubectl` shows.

use anyhow::{Context, Result, ensure};
use cachecluster_crd::conditions;
use serde_json::Value;

use super::{Scenario, Turn};
use crate::cluster::{Ctx, READY, SOON, small};
use crate::figure::Figure;

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![Scenario::new(
        "status",
        Turn::Together,
        "kubectl get, wait and describe tell what the cluster is doing",
        |ctx| Box::pin(status(ctx)),
    )]
}

async fn status(ctx: &Ctx) -> Result<Vec<Figure>> {
    ctx.create("telling", small(2, 1)).await?;
    let wait = [
        "wait",
        "--for=condition=Ready",
        "cc/telling",
        "--timeout=120s",
    ];
    ctx.kubectl(&wait, READY + SOON).await?;

    let table = ctx.kubectl(&["get", "cc", "telling"], SOON).await?;
    let rows: Vec<Vec<&str>> = table
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    let [header, row] = rows.as_slice() else {
        anyhow::bail!("kubectl get cc shows {table}");
    };
    ensure!(
        header.as_slice() == ["NAME", "READY", "PHASE", "SHARDS", "REPLICAS", "AGE"]
            && row.get(..5) == Some(["telling", "True", "Ready", "2", "1"].as_slice()),
        "kubectl get cc shows {table}"
    );

    let status = ctx
        .ready("telling", READY)
        .await?
        .status
        .context("no status")?;
    for kind in [
        conditions::READY,
        conditions::PROGRESSING,
        conditions::DEGRADED,
        conditions::ACCEPTED,
    ] {
        let condition = status
            .conditions
            .iter()
            .find(|condition| condition.type_ == kind)
            .with_context(|| format!("there is no condition {kind}: {:?}", status.conditions))?;
        ensure!(
            !condition.reason.is_empty() && !condition.message.is_empty(),
            "{kind} says too little: {condition:?}"
        );
    }
    let slots: Vec<&str> = status
        .shards
        .iter()
        .map(|shard| shard.slots.as_str())
        .collect();
    ensure!(
        status.shards.len() == 2
            && status
                .shards
                .iter()
                .all(|shard| shard.primary.is_some() && shard.replicas.len() == 1)
            && slots.iter().all(|slots| !slots.is_empty()),
        "the status tells too little of the shards: {:?}",
        status.shards
    );
    let endpoint = status.endpoint.context("the status names no endpoint")?;
    ensure!(
        endpoint.starts_with("http://"),
        "the endpoint is {endpoint}"
    );
    let selector = status.selector.context("the status has no selector")?;
    let pods = ctx
        .kubectl(&["get", "pods", "-l", &selector, "-o", "name"], SOON)
        .await?;
    ensure!(
        pods.lines().count() == 4,
        "the selector {selector} finds {pods}"
    );
    let scale = ctx
        .kubectl(
            &["get", "cc", "telling", "--subresource=scale", "-o", "json"],
            SOON,
        )
        .await?;
    let scale: Value = serde_json::from_str(&scale)?;
    ensure!(
        scale["spec"]["replicas"] == 2 && scale["status"]["replicas"] == 2,
        "the scale subresource says {scale}"
    );

    let events = events(ctx, "telling").await?;
    ensure!(!events.is_empty(), "there are no events on the cluster");
    for event in &events {
        let repeated = event["series"]["count"]
            .as_u64()
            .max(event["count"].as_u64())
            .or(event["deprecatedCount"].as_u64())
            .unwrap_or(1);
        ensure!(
            repeated <= 3,
            "an event repeats although nothing changed: {event}"
        );
    }
    Ok(vec![Figure::count("events", events.len() as u64)])
}

/// The events on a CacheCluster.
pub(super) async fn events(ctx: &Ctx, name: &str) -> Result<Vec<Value>> {
    let text = ctx
        .kubectl(&["get", "events.v1.events.k8s.io", "-o", "json"], SOON)
        .await?;
    let list: Value = serde_json::from_str(&text)?;
    Ok(list["items"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|event| {
            event["regarding"]["kind"] == "CacheCluster" && event["regarding"]["name"] == name
        })
        .cloned()
        .collect())
}
