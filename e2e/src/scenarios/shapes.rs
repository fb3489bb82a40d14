//! Shards, replicas and engines in their combinations.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use cachecluster_contract::labels;
use k8s_openapi::api::core::v1::{Node, Service};
use kube::ResourceExt;
use kube::api::{Api, ListParams};
use serde_json::json;

use super::{Scenario, Turn};
use crate::cluster::{Ctx, small};
use crate::figure::Figure;

pub(super) fn scenarios() -> Vec<Scenario> {
    let turn = Turn::Together;
    vec![
        Scenario::new(
            "empty-spec",
            turn,
            "spec: {} is a working cluster of three shards with a replica each",
            |ctx| Box::pin(empty_spec(ctx)),
        ),
        Scenario::new(
            "one-node",
            turn,
            "one shard without replicas keeps the contract",
            |ctx| Box::pin(shape(ctx, 0, 1, 0)),
        ),
        Scenario::new(
            "one-shard",
            turn,
            "one shard with a replica also serves plain Redis clients at its primary Service",
            |ctx| Box::pin(shape(ctx, 0, 1, 1)),
        ),
        Scenario::new(
            "one-shard-other-engine",
            turn,
            "the other engine, too, serves plain Redis clients",
            |ctx| Box::pin(shape(ctx, 1, 1, 1)),
        ),
        Scenario::new(
            "three-shards-other-engine",
            turn,
            "three shards of the other engine keep the contract",
            |ctx| Box::pin(shape(ctx, 1, 3, 1)),
        ),
    ]
}

async fn empty_spec(ctx: &Ctx) -> Result<Vec<Figure>> {
    let ready = ctx.create_ready("empty", json!({})).await?;
    prove(ctx, "empty", 3, 1).await?;
    Ok(vec![Figure::seconds("ready", ready)])
}

/// A cluster of one shape, of the engine with this number in the settings.
async fn shape(ctx: &Ctx, engine: usize, shards: u32, replicas: u32) -> Result<Vec<Figure>> {
    let image = ctx
        .settings
        .engine_images
        .get(engine)
        .with_context(|| format!("--engine-images names no engine number {}", engine + 1))?;
    let mut spec = small(shards, replicas);
    spec["engine"] = json!({"image": image});
    let ready = ctx.create_ready("shape", spec).await?;
    prove(ctx, "shape", shards, replicas).await?;
    for pod in ctx.pods("shape", labels::COMPONENT_REDIS).await? {
        let images = pod.spec.iter().flat_map(|spec| &spec.containers);
        ensure!(
            images
                .filter_map(|container| container.image.as_ref())
                .any(|running| running == image),
            "{} does not run {image}",
            pod.name_any()
        );
    }
    Ok(vec![Figure::seconds("ready", ready)])
}

/// The contract, what Redis clients see, and that a shard's nodes are not all on one machine if there are more.
async fn prove(ctx: &Ctx, name: &str, shards: u32, replicas: u32) -> Result<()> {
    ctx.contract(name).await?;
    let one_shard = shards == 1;
    let report = ctx.redis_check(name, one_shard).await?;
    let nodes = (shards * (1 + replicas)) as usize;
    ensure!(
        report.nodes.len() == nodes && report.primaries == shards as usize,
        "{nodes} nodes with {shards} primaries are wanted: {report:?}"
    );
    for (name, wanted) in [
        ("cluster_state", "ok".to_owned()),
        ("cluster_slots_ok", "16384".to_owned()),
        ("cluster_size", shards.to_string()),
    ] {
        let said = report.info.get(name);
        ensure!(
            said == Some(&wanted),
            "{name}: {said:?} instead of {wanted}"
        );
    }
    let primary = cachecluster_contract::names::primary(name);
    let there = ctx.api::<Service>().get_opt(&primary).await?.is_some();
    ensure!(
        there == one_shard,
        "the Service {primary} is for clusters of one shard, and there: {there}"
    );
    spread(ctx, name, shards).await
}

async fn spread(ctx: &Ctx, name: &str, shards: u32) -> Result<()> {
    let nodes = Api::<Node>::all(ctx.client.clone())
        .list(&ListParams::default())
        .await?;
    let nodes = nodes.items.iter().filter(|node| takes_pods(node)).count();
    let pods = ctx.pods(name, labels::COMPONENT_REDIS).await?;
    for shard in 0..shards {
        let places: Vec<&str> = pods
            .iter()
            .filter(|pod| pod.labels().get(labels::SHARD) == Some(&shard.to_string()))
            .filter_map(|pod| pod.spec.as_ref()?.node_name.as_deref())
            .collect();
        let distinct: BTreeSet<_> = places.iter().collect();
        ensure!(
            distinct.len() >= places.len().min(nodes),
            "shard {shard} of {name} has its nodes at {places:?}, with {nodes} machines to choose from"
        );
    }
    Ok(())
}

/// Whether pods without tolerations may be placed on a node.
fn takes_pods(node: &Node) -> bool {
    node.spec.as_ref().is_none_or(|spec| {
        spec.unschedulable != Some(true)
            && spec
                .taints
                .iter()
                .flatten()
                .all(|taint| taint.effect == "PreferNoSchedule")
    })
}
