//! The number of replicas changes online.

use anyhow::{Result, ensure};
use cachecluster_contract::names;
use serde_json::json;

use super::survival::{unnoticed, whole};
use super::{Scenario, Turn};
use crate::cluster::{Ctx, small};
use crate::figure::Figure;

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![Scenario::new(
        "replicas-change",
        Turn::Together,
        "replicas go from 1 to 2 and back to 1 under load, and no request fails",
        |ctx| Box::pin(replicas_change(ctx)),
    )]
}

async fn replicas_change(ctx: &Ctx) -> Result<Vec<Figure>> {
    ctx.create_ready("growing", small(1, 1)).await?;
    let figures = unnoticed(ctx, "growing", async {
        for replicas in [2, 1] {
            ctx.change("growing", json!({"replicas": replicas})).await?;
            whole(ctx, "growing", replicas).await?;
        }
        Ok(())
    })
    .await?;
    // The pod that is too many is on its way out when the status says so.
    ctx.eventually("two pods remain", crate::cluster::READY, async || {
        let pods = ctx.redis_pods("growing").await?;
        let wanted = [0, 1].map(|ordinal| names::shard_pod("growing", 0, ordinal));
        ensure!(pods.keys().eq(wanted.iter()), "{:?}", pods.keys());
        Ok(())
    })
    .await?;
    let report = ctx.redis_check("growing", true).await?;
    ensure!(
        report.nodes.len() == 2,
        "the node that left was not forgotten: {report:?}"
    );
    Ok(figures)
}
