//! The user's own hand: a pod is fenced, a cluster is paused.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use cachecluster_contract::{fence, names};
use cachecluster_crd::{CacheCluster, conditions};
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::api::DeleteParams;
use serde_json::json;

use super::survival::{unnoticed, whole};
use super::{Scenario, Turn};
use crate::cluster::{Ctx, READY, SOON, is_pod_ready, small};
use crate::figure::Figure;

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::new(
            "fenced",
            Turn::Together,
            "a primary's pod is fenced under load and let go again: it hands over, its server stays down over a restart of its container, no request fails and nothing is lost",
            |ctx| Box::pin(fenced(ctx)),
        ),
        Scenario::new(
            "paused",
            Turn::Together,
            "a paused cluster is left as it is, and says so; Redis's own failover and the agents go on; resumed, it is put right",
            |ctx| Box::pin(paused(ctx)),
        ),
    ]
}

const NAME: &str = "held";

/// Fences these pods, separated by commas, and no others, and waits until their servers are down and the others' may start.
pub(super) async fn fence(ctx: &Ctx, cluster: &str, pods: &str) -> Result<()> {
    let annotation = match pods {
        "" => format!("{}-", fence::ANNOTATION),
        _ => format!("{}={pods}", fence::ANNOTATION),
    };
    let args = [
        "annotate",
        "cachecluster",
        cluster,
        &annotation,
        "--overwrite",
    ];
    ctx.kubectl(&args, SOON).await?;
    let wanted: BTreeSet<&str> = pods.split(',').filter(|pod| !pod.is_empty()).collect();
    ctx.cluster_when(cluster, "tells who is fenced", READY, |cluster| {
        let told = cluster.status.iter().flat_map(|status| &status.fenced);
        told.map(String::as_str).collect::<BTreeSet<_>>() == wanted
    })
    .await?;
    for pod in wanted {
        ctx.when(pod, SOON, |pod: Option<&Pod>| {
            pod.is_some_and(|pod| !is_pod_ready(pod))
        })
        .await?;
    }
    Ok(())
}

async fn fenced(ctx: &Ctx) -> Result<Vec<Figure>> {
    ctx.create_ready(NAME, small(3, 1)).await?;
    ctx.write_keys(NAME, 500).await?;
    let cluster = ctx.ready(NAME, READY).await?;
    let primary = primary(&cluster).context("the first shard has no primary")?;
    let figures = unnoticed(ctx, NAME, async {
        fence(ctx, NAME, &primary).await?;
        let handed_over =
            |cluster: &CacheCluster| self::primary(cluster).is_some_and(|now| now != primary);
        ctx.cluster_when(NAME, "has another primary", SOON, handed_over)
            .await?;
        // The container comes back, the server does not.
        ctx.kubectl(&["exec", &primary, "--", "sh", "-c", "kill -TERM 1"], SOON)
            .await?;
        ctx.when(&primary, SOON, |pod: Option<&Pod>| {
            pod.is_some_and(|pod| restarts(pod) > 0 && !is_pod_ready(pod))
        })
        .await?;
        let servers = "for p in /proc/[0-9]*; do read -r n 2>/dev/null <$p/comm && echo $n; done";
        let running = ctx
            .kubectl(&["exec", &primary, "--", "sh", "-c", servers], SOON)
            .await?;
        ensure!(!running.contains("-server"), "a fenced pod runs {running}");
        fence(ctx, NAME, "").await?;
        whole(ctx, NAME, 1).await
    })
    .await?;
    let keys = ctx.read_keys(NAME, 500).await?;
    ensure!(keys.absent == 0, "keys were lost: {keys:?}");
    Ok(figures)
}

fn primary(cluster: &CacheCluster) -> Option<String> {
    cluster.status.as_ref()?.shards.first()?.primary.clone()
}

fn restarts(pod: &Pod) -> i32 {
    let statuses = pod
        .status
        .iter()
        .flat_map(|s| s.container_statuses.iter().flatten());
    statuses.map(|status| status.restart_count).sum()
}

async fn paused(ctx: &Ctx) -> Result<Vec<Figure>> {
    ctx.create_ready(NAME, small(3, 1)).await?;
    ctx.write_keys(NAME, 500).await?;
    ctx.change(NAME, json!({"maintenance": {"paused": true}}))
        .await?;
    ctx.cluster_when(NAME, "says that it is paused", SOON, |cluster| {
        is(cluster, conditions::PAUSED, "True") && is(cluster, conditions::READY, "True")
    })
    .await?;
    let service = names::api(NAME);
    ctx.api::<Service>()
        .delete(&service, &DeleteParams::default())
        .await?;
    let before = ctx.ready(NAME, SOON).await?;
    let primary = primary(&before).context("the first shard has no primary")?;
    // Its agent hands over, and without the operator nobody joins the new pod.
    ctx.api::<Pod>()
        .delete(&primary, &DeleteParams::default())
        .await?;
    ctx.cluster_when(NAME, "has another primary and lacks a replica", SOON, |c| {
        let failed_over = self::primary(c).is_some_and(|now| now != primary);
        failed_over && is(c, conditions::READY, "False") && is(c, conditions::PAUSED, "True")
    })
    .await?;
    let left = ctx.api::<Service>().get_opt(&service).await?;
    ensure!(left.is_none(), "a paused cluster's Service was made anew");

    ctx.change(NAME, json!({"maintenance": {"paused": false}}))
        .await?;
    whole(ctx, NAME, 1).await?;
    ctx.cluster_when(NAME, "says that it was resumed", SOON, |cluster| {
        is(cluster, conditions::PAUSED, "False")
    })
    .await?;
    let keys = ctx.read_keys(NAME, 500).await?;
    ensure!(keys.present == 500, "keys were lost: {keys:?}");
    Ok(Vec::new())
}

fn is(cluster: &CacheCluster, kind: &str, state: &str) -> bool {
    let conditions = cluster.status.iter().flat_map(|status| &status.conditions);
    conditions
        .into_iter()
        .any(|condition| condition.type_ == kind && condition.status == state)
}
