//! The operator itself is killed.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cachecluster_crd::CacheCluster;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::{Api, DeleteParams, LogParams};
use kube::{Resource, ResourceExt};

use super::survival::whole;
use super::tenancy::password;
use super::{Scenario, Turn};
use crate::cluster::{Ctx, READY, is_pod_ready, is_ready, small};
use crate::figure::Figure;

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![Scenario::new(
        "operator-killed",
        Turn::Last,
        "the operator is killed while it forms a cluster and again when it is formed: the cluster becomes ready, and neither pods nor password change",
        |ctx| Box::pin(operator_killed(ctx)),
    )]
}

async fn operator_killed(ctx: &Ctx) -> Result<Vec<Figure>> {
    let start = Instant::now();
    ctx.create("robust", small(3, 1)).await?;
    kill(ctx).await?;
    // Once more when pods are there and nodes are being joined.
    ctx.eventually("Redis pods start", READY, async || {
        let pods = ctx.redis_pods("robust").await?;
        ensure!(pods.len() == 6, "{} of 6 pods are there", pods.len());
        Ok(())
    })
    .await?;
    let forming = ctx.api::<CacheCluster>().get("robust").await?;
    ensure!(!is_ready(&forming), "the cluster is formed already");
    kill(ctx).await?;
    ctx.ready("robust", Duration::from_secs(150)).await?;
    let formed = start.elapsed();
    ctx.contract("robust").await?;
    ctx.write_keys("robust", 300).await?;

    let secret = secret(ctx).await?;
    let pods = ctx.redis_pods("robust").await?;
    let password =
        String::from_utf8(password(ctx, "robust").await?).context("the password is no text")?;
    hidden(ctx, &password).await?;
    kill(ctx).await?;
    back(ctx).await?;
    // A change that only a working operator makes shows that it looked at the cluster again.
    let patch = serde_json::json!({"api": {"replicas": 3}});
    ctx.change("robust", patch).await?;
    whole(ctx, "robust", 1).await?;
    ensure!(
        self::secret(ctx).await? == secret,
        "the password's Secret was written"
    );
    ensure!(
        ctx.redis_pods("robust").await? == pods,
        "Redis pods were made anew"
    );
    let keys = ctx.read_keys("robust", 300).await?;
    ensure!(keys.absent == 0, "keys were lost: {keys:?}");
    hidden(ctx, &password).await?;
    Ok(vec![Figure::seconds("ready despite two kills", formed)])
}

/// Deletes the operator's pods without a moment's grace.
async fn kill(ctx: &Ctx) -> Result<()> {
    let api: Api<Pod> = Api::namespaced(ctx.client.clone(), &ctx.settings.operator_namespace);
    let pods = ctx.operator_pods().await?;
    ensure!(!pods.is_empty(), "there are no operator pods to kill");
    for pod in pods {
        let now = DeleteParams::default().grace_period(0);
        match api.delete(&pod.name_any(), &now).await {
            Ok(_) => {}
            // Another kill's pod, gone in the meantime.
            Err(kube::Error::Api(status)) if status.is_not_found() => {}
            Err(error) => return Err(error).context("killing the operator"),
        }
    }
    Ok(())
}

/// Waits until an operator pod is ready.
pub(super) async fn back(ctx: &Ctx) -> Result<()> {
    ctx.eventually("the operator is back", READY, async || {
        let pods = ctx.operator_pods().await?;
        ensure!(
            pods.iter().any(is_pod_ready),
            "none of {} operator pods is ready",
            pods.len()
        );
        Ok(())
    })
    .await
}

/// The uid and version of the password's Secret.
async fn secret(ctx: &Ctx) -> Result<(Option<String>, Option<String>)> {
    let name = cachecluster_contract::names::auth("robust");
    let secret = ctx.api::<Secret>().get(&name).await?;
    Ok((secret.uid(), secret.resource_version()))
}

/// That the password is in no log of the operator, and in no object but its Secret.
async fn hidden(ctx: &Ctx, password: &str) -> Result<()> {
    let api: Api<Pod> = Api::namespaced(ctx.client.clone(), &ctx.settings.operator_namespace);
    for pod in ctx.operator_pods().await? {
        // A pod that is starting has no log yet; it is read the next time.
        if let Ok(log) = api.logs(&pod.name_any(), &LogParams::default()).await {
            ensure!(!log.contains(password), "{} logs it", pod.name_any());
        }
    }
    let api = ctx.api::<Pod>();
    for pod in api.list(&kube::api::ListParams::default()).await? {
        let text = serde_json::to_string(&pod)?;
        ensure!(
            !text.contains(password),
            "the pod {} has the password in its specification",
            pod.meta().name.as_deref().unwrap_or_default()
        );
        for container in pod.spec.iter().flat_map(|spec| &spec.containers) {
            let params = LogParams {
                container: Some(container.name.clone()),
                ..LogParams::default()
            };
            if let Ok(log) = api.logs(&pod.name_any(), &params).await {
                ensure!(!log.contains(password), "{} logs it", pod.name_any());
            }
        }
    }
    let yaml = ctx
        .kubectl(
            &["get", "cacheclusters,configmaps,events", "-o", "yaml"],
            crate::cluster::SOON,
        )
        .await?;
    ensure!(
        !yaml.contains(password),
        "an object other than the Secret has the password"
    );
    Ok(())
}
