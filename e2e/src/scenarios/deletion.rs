//! Deleting a cluster removes everything.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use cachecluster_contract::labels;

use super::{Scenario, Turn};
use crate::cluster::{Ctx, small};
use crate::figure::Figure;

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![Scenario::new(
        "deletion",
        Turn::Together,
        "after kubectl delete no object of the cluster is left",
        |ctx| Box::pin(deletion(ctx)),
    )]
}

async fn deletion(ctx: &Ctx) -> Result<Vec<Figure>> {
    let before = ctx.kinds.snapshot(&ctx.client, &ctx.namespace, "").await?;
    ctx.create_ready("leaving", small(3, 1)).await?;
    let selector = format!("{}=leaving", labels::INSTANCE);
    let snapshot = async |selector: &str| {
        ctx.kinds
            .snapshot(&ctx.client, &ctx.namespace, selector)
            .await
    };
    let made = snapshot(&selector).await?.len() as u64;
    ensure!(made > 15, "only {made} objects carry the cluster's label");

    let start = Instant::now();
    ctx.delete("leaving").await?;
    ctx.eventually("everything goes", Duration::from_secs(90), async || {
        // With or without the label: the namespace must look as before.
        let left: Vec<String> = snapshot("")
            .await?
            .into_keys()
            .filter(|object| !before.contains_key(object))
            .collect();
        ensure!(left.is_empty(), "{left:?} are left");
        Ok(())
    })
    .await?;
    Ok(vec![
        Figure::count("objects", made),
        Figure::seconds("gone after", start.elapsed()).at_most(60.0),
    ])
}
