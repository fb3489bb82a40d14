//! Volumes, and what becomes of them.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use cachecluster_contract::labels;
use cachecluster_crd::{CacheCluster, conditions};
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::{Api, DeleteParams, ListParams};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};

use super::faults::primary;
use super::outage::WHOLE;
use super::survival::replace_all;
use super::{Scenario, Turn};
use crate::chaos::inject::{REPAIR, SPOIL};
use crate::cluster::{Ctx, READY, is_ready, small};
use crate::figure::Figure;

pub(super) fn scenarios() -> Vec<Scenario> {
    let turn = Turn::Together;
    vec![
        Scenario::new(
            "storage-survives",
            turn,
            "with storage, data survives the deletion of every Redis pod at once",
            |ctx| Box::pin(survives(ctx)),
        ),
        Scenario::new(
            "storage-retain",
            turn,
            "with onDelete Retain, volumes stay, and a cluster of the same name finds its data again",
            |ctx| Box::pin(retain(ctx)),
        ),
        Scenario::new(
            "storage-delete",
            turn,
            "with onDelete Delete, volumes go with the cluster",
            |ctx| Box::pin(delete(ctx)),
        ),
        Scenario::new(
            "save-fails",
            turn,
            "a server that cannot rewrite its append-only file is told of by the condition PersistenceFailing until it can again, and serves all the while",
            |ctx| Box::pin(save_fails(ctx)),
        ),
        Scenario::new(
            "no-storage",
            turn,
            "without storage there is no volume, and a cluster that lost every pod serves again by itself",
            |ctx| Box::pin(without(ctx)),
        ),
    ]
}

const KEYS: u64 = 300;

fn stored(shards: u32, replicas: u32, on_delete: &str) -> Value {
    let mut spec = small(shards, replicas);
    spec["storage"] = json!({"size": "128Mi", "onDelete": on_delete});
    spec["api"] = json!({"replicas": 1});
    spec
}

/// The scenarios use the default class, as users do.
async fn needs_default_class(client: &Client) -> Result<()> {
    let classes = Api::<StorageClass>::all(client.clone())
        .list(&ListParams::default())
        .await?;
    let default = classes.items.iter().any(|class| {
        class
            .annotations()
            .get("storageclass.kubernetes.io/is-default-class")
            .is_some_and(|value| value == "true")
    });
    ensure!(default, "the cluster has no default StorageClass");
    Ok(())
}

async fn claims(ctx: &Ctx, cluster: &str) -> Result<Vec<String>> {
    let selector = format!("{}={cluster}", labels::INSTANCE);
    let list = ctx
        .api::<PersistentVolumeClaim>()
        .list(&ListParams::default().labels(&selector))
        .await?;
    Ok(list.items.iter().map(ResourceExt::name_any).collect())
}

async fn survives(ctx: &Ctx) -> Result<Vec<Figure>> {
    needs_default_class(&ctx.client).await?;
    ctx.create_ready("stored", stored(1, 1, "Delete")).await?;
    ctx.write_keys("stored", KEYS).await?;
    let start = Instant::now();
    replace_all(ctx, "stored", 1).await?;
    let whole = start.elapsed();
    let keys = ctx.read_keys("stored", KEYS).await?;
    ensure!(keys.absent == 0, "data was lost: {keys:?}");
    Ok(vec![
        Figure::seconds("whole again after", whole).at_most(WHOLE),
    ])
}

async fn save_fails(ctx: &Ctx) -> Result<Vec<Figure>> {
    needs_default_class(&ctx.client).await?;
    ctx.create_ready("spoilt", stored(1, 1, "Delete")).await?;
    ctx.write_keys("spoilt", KEYS).await?;
    let pod = primary(ctx, "spoilt").await?;
    ctx.in_server(&pod, SPOIL).await?;
    let start = Instant::now();
    ctx.told("spoilt", conditions::PERSISTENCE_FAILING, true, &pod)
        .await?;
    let told = start.elapsed();
    let cluster = ctx.api::<CacheCluster>().get("spoilt").await?;
    ensure!(is_ready(&cluster), "what is served is served still");
    ctx.contract("spoilt").await?;
    let keys = ctx.read_keys("spoilt", KEYS).await?;
    ensure!(keys.absent == 0, "data was lost: {keys:?}");
    ctx.in_server(&pod, REPAIR).await?;
    ctx.told("spoilt", conditions::PERSISTENCE_FAILING, false, &pod)
        .await?;
    Ok(vec![Figure::seconds("told after", told)])
}

async fn retain(ctx: &Ctx) -> Result<Vec<Figure>> {
    needs_default_class(&ctx.client).await?;
    ctx.create_ready("kept", stored(1, 0, "Retain")).await?;
    ctx.write_keys("kept", KEYS).await?;
    let before = claims(ctx, "kept").await?;
    ensure!(before.len() == 1, "one volume is wanted: {before:?}");
    ctx.delete("kept").await?;
    pods_gone(ctx, "kept").await?;
    ensure!(
        claims(ctx, "kept").await? == before,
        "the volume did not stay"
    );
    ctx.create_ready("kept", stored(1, 0, "Retain")).await?;
    let keys = ctx.read_keys("kept", KEYS).await?;
    ensure!(keys.absent == 0, "data was lost: {keys:?}");
    // What the cluster leaves is the user's to remove.
    ctx.delete("kept").await?;
    pods_gone(ctx, "kept").await?;
    for claim in before {
        ctx.api::<PersistentVolumeClaim>()
            .delete(&claim, &DeleteParams::default())
            .await?;
    }
    Ok(vec![Figure::count("keys found again", keys.present)])
}

async fn delete(ctx: &Ctx) -> Result<Vec<Figure>> {
    needs_default_class(&ctx.client).await?;
    ctx.create_ready("passing", stored(1, 1, "Delete")).await?;
    let before = claims(ctx, "passing").await?;
    ensure!(before.len() == 2, "two volumes are wanted: {before:?}");
    let start = Instant::now();
    ctx.delete("passing").await?;
    ctx.eventually("the volumes go", Duration::from_secs(60), async || {
        let left = claims(ctx, "passing").await?;
        ensure!(left.is_empty(), "{left:?} are left");
        Ok(())
    })
    .await?;
    Ok(vec![Figure::seconds("gone after", start.elapsed())])
}

async fn without(ctx: &Ctx) -> Result<Vec<Figure>> {
    ctx.create_ready("fleeting", small(3, 1)).await?;
    ctx.write_keys("fleeting", KEYS).await?;
    let volumes = claims(ctx, "fleeting").await?;
    ensure!(volumes.is_empty(), "nobody asked for {volumes:?}");
    let start = Instant::now();
    replace_all(ctx, "fleeting", 1).await?;
    ctx.ready("fleeting", READY).await?;
    let whole = start.elapsed();
    ctx.write_keys("fleeting", KEYS).await?;
    Ok(vec![
        Figure::seconds("whole again after", whole).at_most(WHOLE),
    ])
}

async fn pods_gone(ctx: &Ctx, cluster: &str) -> Result<()> {
    ctx.eventually("the Redis pods go", Duration::from_secs(60), async || {
        let left = ctx.redis_pods(cluster).await?;
        ensure!(left.is_empty(), "{:?} are left", left.keys());
        Ok(())
    })
    .await
}
