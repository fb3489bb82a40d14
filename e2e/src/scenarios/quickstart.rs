//! The README's first screen, with the operator installed by Helm.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{Scenario, Turn};
use crate::cluster::{Ctx, READY, SOON};
use crate::figure::Figure;
use crate::prober::report::LoadReport;

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![Scenario::new(
        "quickstart",
        Turn::First,
        "kubectl apply of the quickstart example makes a cache that keeps the whole HTTP contract and a burst of 100 clients",
        |ctx| Box::pin(quickstart(ctx)),
    )]
}

/// The quickstart example as a user applies it, except for the fixed port on the nodes, which a cache that is already
/// there may have.
pub(super) fn example(ctx: &Ctx) -> Result<(String, String)> {
    let path = ctx.settings.manifests.join("examples/quickstart.yaml");
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let mut resource: Value = serde_norway::from_str(&text).context("the quickstart example")?;
    if let Some(service) = resource
        .pointer_mut("/spec/api/service")
        .and_then(Value::as_object_mut)
    {
        service.remove("nodePort");
    }
    let name = resource["metadata"]["name"]
        .as_str()
        .context("the example has no name")?
        .to_owned();
    Ok((name, resource.to_string()))
}

/// Applies the example, waits until it is ready, and proves the contract: how long it took to become ready.
pub(super) async fn apply_and_use(ctx: &Ctx) -> Result<(String, Duration)> {
    let (name, resource) = example(ctx)?;
    let start = Instant::now();
    let args = ["--namespace", &ctx.namespace, "apply", "-f", "-"];
    ctx.settings
        .target
        .kubectl_with(&args, Some(&resource), SOON)
        .await?;
    ctx.ready(&name, READY).await?;
    let ready = start.elapsed();
    ctx.contract(&name).await?;
    Ok((name, ready))
}

async fn quickstart(ctx: &Ctx) -> Result<Vec<Figure>> {
    let (name, ready) = apply_and_use(ctx).await?;
    ensure!(
        ready <= Duration::from_secs(60),
        "ready after {ready:?}: more than a minute with the images present"
    );
    let report: LoadReport = ctx
        .ask(
            &["burst", "--url", &ctx.url(&name)],
            Duration::from_secs(180),
        )
        .await?;
    ensure!(report.failed == 0, "the burst: {report:?}");
    Ok(vec![
        Figure::seconds("apply to Ready", ready).at_most(12.0),
        Figure::count("burst requests", report.ok),
        Figure::number("burst p99", report.p99_ms, "ms"),
    ])
}
