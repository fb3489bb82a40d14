//! The namespace of a scenario, made before it and removed after it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use cachecluster_crd::CacheCluster;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, ServiceAccount};
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use kube::runtime::wait::await_condition;

use crate::cluster::Ctx;

/// Makes the namespace. It lets in no pod that does not fit the `restricted` Pod Security Standard.
///
/// # Errors
/// When the API server refuses it, or what every namespace has does not come.
pub(crate) async fn create(ctx: &Ctx) -> Result<()> {
    let mut namespace = Namespace::default();
    namespace.metadata.name = Some(ctx.namespace.clone());
    namespace.metadata.labels = Some(BTreeMap::from([
        (
            "pod-security.kubernetes.io/enforce".to_owned(),
            "restricted".to_owned(),
        ),
        (
            "app.kubernetes.io/managed-by".to_owned(),
            "cachecluster-e2e".to_owned(),
        ),
    ]));
    Api::<Namespace>::all(ctx.client.clone())
        .create(&PostParams::default(), &namespace)
        .await
        .with_context(|| format!("creating the namespace {}", ctx.namespace))?;
    furnished(ctx).await
}

/// Waits for what controllers put into every namespace, without which pods are refused and whose coming would look like
/// something that a scenario has left.
async fn furnished(ctx: &Ctx) -> Result<()> {
    let limit = Duration::from_secs(30);
    ctx.eventually("the namespace is furnished", limit, async || {
        let account = ctx.api::<ServiceAccount>().get_opt("default").await?;
        let root = ctx.api::<ConfigMap>().get_opt("kube-root-ca.crt").await?;
        ensure!(account.is_some(), "it has no default ServiceAccount");
        ensure!(root.is_some(), "it has no ConfigMap kube-root-ca.crt");
        Ok(())
    })
    .await
}

/// Removes the namespace and waits until nothing is left of it.
///
/// # Errors
/// When it, or a pod of its caches, does not go within its time.
pub(crate) async fn remove(ctx: &Ctx) -> Result<()> {
    let api: Api<Namespace> = Api::all(ctx.client.clone());
    if api.get_opt(&ctx.namespace).await?.is_none() {
        return Ok(());
    }
    // The caches first: once pods are told to stop by the namespace's end, Kubernetes looks again only after their
    // whole grace period.
    ctx.api::<CacheCluster>()
        .delete_collection(&DeleteParams::default(), &ListParams::default())
        .await?;
    let stopped = pods_stop(ctx, Duration::from_secs(60)).await;
    // If they do not, the namespace's end is tried all the same.
    api.delete(&ctx.namespace, &DeleteParams::default()).await?;
    let gone = await_condition(api, &ctx.namespace, |namespace: Option<&Namespace>| {
        namespace.is_none()
    });
    let limit = Duration::from_secs(120);
    tokio::time::timeout(limit, gone).await.with_context(|| {
        format!(
            "the namespace {} is still there after {limit:?}",
            ctx.namespace
        )
    })??;
    stopped
}

async fn pods_stop(ctx: &Ctx, limit: Duration) -> Result<()> {
    let until = Instant::now() + limit;
    loop {
        let pods = ctx
            .api::<Pod>()
            .list_metadata(&ListParams::default())
            .await?;
        let left: Vec<String> = pods
            .items
            .iter()
            .map(ResourceExt::name_any)
            .filter(|pod| !pod.starts_with("probe-"))
            .collect();
        if left.is_empty() {
            return Ok(());
        }
        if Instant::now() >= until {
            bail!("{left:?} are still there {limit:?} after their cache was deleted");
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}
