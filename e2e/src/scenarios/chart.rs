//! The chart's own test, and its upgrade.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kube::ResourceExt;

use super::operator::back;
use super::{Scenario, Turn};
use crate::cluster::{Ctx, READY, small};
use crate::figure::Figure;

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::new(
            "helm-test",
            Turn::Last,
            "helm test sets and gets a key through a cluster of its own",
            |ctx| Box::pin(helm_test(ctx)),
        ),
        Scenario::new(
            "helm-upgrade",
            Turn::Last,
            "helm upgrade with other arguments and resources replaces the operator's pods, and no pod of a running cluster",
            |ctx| Box::pin(helm_upgrade(ctx)),
        ),
    ]
}

const LIMIT: Duration = Duration::from_secs(240);

async fn helm_test(ctx: &Ctx) -> Result<Vec<Figure>> {
    let settings = &ctx.settings;
    let args = [
        "test",
        &settings.release,
        "--namespace",
        &settings.operator_namespace,
        "--timeout=180s",
        "--logs",
    ];
    let said = settings.target.helm(&args, LIMIT).await?;
    ensure!(said.contains("Succeeded"), "helm test said: {said}");
    Ok(Vec::new())
}

async fn helm_upgrade(ctx: &Ctx) -> Result<Vec<Figure>> {
    ctx.create_ready("steady", small(3, 1)).await?;
    ctx.write_keys("steady", 300).await?;
    let all = async || {
        let kinds = ctx.kinds.snapshot(&ctx.client, &ctx.namespace, "").await?;
        let pods = kinds
            .into_iter()
            .filter(|(name, _)| name.starts_with("Pod/") && !name.starts_with("Pod/probe-"));
        anyhow::Ok(
            pods.map(|(name, mark)| (name, mark.uid))
                .collect::<Vec<_>>(),
        )
    };
    let before = all().await?;
    let operators = operators(ctx).await?;

    let settings = &ctx.settings;
    let chart = settings.chart.to_str().context("the chart's path")?;
    let args = [
        "upgrade",
        &settings.release,
        chart,
        "--namespace",
        &settings.operator_namespace,
        "--reuse-values",
        "--set",
        "log.level=debug,resources.requests.cpu=25m",
        "--wait",
        "--timeout=120s",
    ];
    settings.target.helm(&args, LIMIT).await?;
    let proof = async {
        back(ctx).await?;
        ctx.eventually("the operator's pods are new", READY, async || {
            let now = self::operators(ctx).await?;
            ensure!(
                !now.is_empty() && now.iter().all(|uid| !operators.contains(uid)),
                "the upgrade left pods of the operator as they were"
            );
            Ok(())
        })
        .await?;
        // A change that only the new operator can make shows that it has taken over.
        ctx.change(
            "steady",
            serde_json::json!({"api": {"service": {"annotations": {"e2e": "seen"}}}}),
        )
        .await?;
        ctx.ready("steady", READY).await?;
        ensure!(
            all().await? == before,
            "pods were made anew: {before:?} became {:?}",
            all().await?
        );
        let keys = ctx.read_keys("steady", 300).await?;
        ensure!(keys.absent == 0, "keys were lost: {keys:?}");
        Ok(vec![
            Figure::count("operator pods replaced", operators.len() as u64),
            Figure::count("pods untouched", before.len() as u64),
        ])
    }
    .await;

    let args = [
        "rollback",
        &settings.release,
        "--namespace",
        &settings.operator_namespace,
        "--wait",
        "--timeout=120s",
    ];
    settings.target.helm(&args, LIMIT).await?;
    back(ctx).await?;
    proof
}

/// The uids of the operator's pods that are not on their way out.
async fn operators(ctx: &Ctx) -> Result<Vec<String>> {
    let pods = ctx.operator_pods().await?;
    Ok(pods
        .iter()
        .filter(|pod| pod.metadata.deletion_timestamp.is_none())
        .filter_map(ResourceExt::uid)
        .collect())
}
