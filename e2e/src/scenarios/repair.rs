//! Objects that the operator made go missing, or are changed.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cachecluster_contract::names;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{Scenario, Turn};
use crate::cluster::{Ctx, READY, small};
use crate::figure::Figure;

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![Scenario::new(
        "deleted-objects-return",
        Turn::Together,
        "Services, ConfigMaps, the API's Deployment, budgets and policies come back when somebody deletes them, selectors that somebody widened are put right, and no Redis pod restarts",
        |ctx| Box::pin(deleted_objects_return(ctx)),
    )]
}

async fn deleted_objects_return(ctx: &Ctx) -> Result<Vec<Figure>> {
    ctx.create_ready("mended", small(1, 1)).await?;
    let pods = ctx.redis_pods("mended").await?;
    let mut slowest = Duration::ZERO;
    for service in [
        names::api("mended"),
        names::redis("mended"),
        names::headless("mended"),
        names::primary("mended"),
    ] {
        slowest = slowest.max(returns::<Service>(ctx, &service).await?);
    }
    slowest = slowest.max(returns::<ConfigMap>(ctx, &names::agent("mended")).await?);
    slowest = slowest.max(returns::<Deployment>(ctx, &names::api("mended")).await?);
    for budget in names_of::<PodDisruptionBudget>(ctx).await? {
        slowest = slowest.max(returns::<PodDisruptionBudget>(ctx, &budget).await?);
    }
    for policy in names_of::<NetworkPolicy>(ctx).await? {
        slowest = slowest.max(returns::<NetworkPolicy>(ctx, &policy).await?);
    }
    let service = json!({"spec": {"selector": {"x": "y"}}});
    let mut mended = undone::<Service>(ctx, &names::api("mended"), &service).await?;
    let policy = json!({"spec": {"podSelector": {"matchLabels": {"x": "y"}}}});
    for name in names_of::<NetworkPolicy>(ctx).await? {
        mended = mended.max(undone::<NetworkPolicy>(ctx, &name, &policy).await?);
    }
    let budget = json!({"spec": {"selector": {"matchLabels": {"x": "y"}}}});
    for name in names_of::<PodDisruptionBudget>(ctx).await? {
        mended = mended.max(undone::<PodDisruptionBudget>(ctx, &name, &budget).await?);
    }
    ctx.ready("mended", READY).await?;
    ctx.contract("mended").await?;
    ensure!(
        ctx.redis_pods("mended").await? == pods,
        "Redis pods were made anew"
    );
    Ok(vec![
        Figure::seconds("slowest return", slowest),
        Figure::seconds("slowest mending", mended),
    ])
}

/// The names of the operator's objects of a kind; there must be some.
async fn names_of<K>(ctx: &Ctx) -> Result<Vec<String>>
where
    K: Resource<Scope = NamespaceResourceScope> + Clone + std::fmt::Debug + DeserializeOwned,
    K::DynamicType: Default,
{
    let list = ctx
        .api::<K>()
        .list_metadata(&ListParams::default().labels("app.kubernetes.io/instance=mended"))
        .await?;
    let names: Vec<String> = list.items.iter().map(ResourceExt::name_any).collect();
    ensure!(
        !names.is_empty(),
        "there is no {}",
        K::kind(&K::DynamicType::default())
    );
    Ok(names)
}

/// Deletes an object and waits for another in its place: how long that took.
async fn returns<K>(ctx: &Ctx, name: &str) -> Result<Duration>
where
    K: Resource<Scope = NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + Send
        + DeserializeOwned
        + 'static,
    K::DynamicType: Default,
{
    let kind = K::kind(&K::DynamicType::default()).into_owned();
    let api = ctx.api::<K>();
    let old = api
        .get(name)
        .await
        .with_context(|| format!("{kind} {name}"))?
        .uid();
    let start = Instant::now();
    api.delete(name, &DeleteParams::default())
        .await
        .with_context(|| format!("deleting {kind} {name}"))?;
    ctx.when(name, Duration::from_secs(30), |object: Option<&K>| {
        object
            .is_some_and(|object| object.uid() != old && object.meta().deletion_timestamp.is_none())
    })
    .await
    .with_context(|| format!("{kind} {name} did not come back"))?;
    Ok(start.elapsed())
}

/// Changes an object by a merge patch and waits until its specification is what it was: how long that took.
async fn undone<K>(ctx: &Ctx, name: &str, change: &Value) -> Result<Duration>
where
    K: Resource<Scope = NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + Send
        + Serialize
        + DeserializeOwned
        + 'static,
    K::DynamicType: Default,
{
    let kind = K::kind(&K::DynamicType::default()).into_owned();
    let api = ctx.api::<K>();
    let spec = |object: &K| serde_json::to_value(object).map(|object| object["spec"].clone());
    let before = spec(&api.get(name).await?)?;
    let start = Instant::now();
    let patched = api
        .patch(name, &PatchParams::default(), &Patch::Merge(change))
        .await
        .with_context(|| format!("changing {kind} {name}"))?;
    ensure!(spec(&patched)? != before, "{kind} {name} was not changed");
    ctx.when(name, Duration::from_secs(30), |object: Option<&K>| {
        object.is_some_and(|object| spec(object).is_ok_and(|now| now == before))
    })
    .await
    .with_context(|| format!("{kind} {name} was not put right"))?;
    Ok(start.elapsed())
}
