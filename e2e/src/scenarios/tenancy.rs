//! Two clusters side by side.

use anyhow::{Result, ensure};
use cachecluster_contract::{names, paths};
use k8s_openapi::api::core::v1::Secret;

use super::{Scenario, Turn};
use crate::cluster::{Ctx, READY, small};
use crate::figure::Figure;

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![Scenario::new(
        "two-clusters",
        Turn::Together,
        "two clusters in one namespace share neither keys nor nodes nor passwords",
        |ctx| Box::pin(two_clusters(ctx)),
    )]
}

async fn two_clusters(ctx: &Ctx) -> Result<Vec<Figure>> {
    ctx.create("left", small(1, 1)).await?;
    ctx.create("right", small(2, 1)).await?;
    ctx.ready("left", READY).await?;
    ctx.ready("right", READY).await?;

    ctx.write_keys("left", 200).await?;
    let there = ctx.read_keys("left", 200).await?;
    let elsewhere = ctx.read_keys("right", 200).await?;
    ensure!(
        there.present == 200 && elsewhere.absent == 200,
        "keys of one are in the other: {there:?} {elsewhere:?}"
    );

    let left = ctx.redis_check("left", true).await?.nodes;
    let right = ctx.redis_check("right", false).await?.nodes;
    ensure!(
        left.len() == 2 && right.len() == 4 && left.is_disjoint(&right),
        "the nodes mix: {left:?} {right:?}"
    );
    ensure!(
        password(ctx, "left").await? != password(ctx, "right").await?,
        "both have the same password"
    );
    Ok(Vec::new())
}

/// The password that the operator generated for a cluster.
pub(super) async fn password(ctx: &Ctx, cluster: &str) -> Result<Vec<u8>> {
    let secret = ctx.api::<Secret>().get(&names::auth(cluster)).await?;
    let password = secret
        .data
        .and_then(|mut data| data.remove(paths::PASSWORD_KEY))
        .map(|bytes| bytes.0)
        .unwrap_or_default();
    ensure!(
        password.len() >= 16,
        "the password of {cluster} has {} bytes",
        password.len()
    );
    Ok(password)
}
