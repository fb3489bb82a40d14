//! The operator installed by kustomize instead of Helm.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cachecluster_crd::CacheCluster;
use k8s_openapi::api::apps::v1::Deployment;
use kube::ResourceExt;
use kube::api::{Api, ListParams};
use serde_json::{Value, json};

use super::operator::back;
use super::quickstart::apply_and_use;
use super::{Scenario, Turn};
use crate::cluster::{Ctx, OPERATOR, SOON};
use crate::figure::Figure;

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![Scenario::new(
        "kustomize",
        Turn::Last,
        "kubectl apply -k installs an operator that makes the quickstart work, and Helm takes over again",
        |ctx| Box::pin(kustomize(ctx)),
    )]
}

const LIMIT: Duration = Duration::from_secs(180);

/// The operator's objects as kustomize renders them, less the definition, which stays, and the namespace, which is there.
struct Rendered(Value);

async fn kustomize(ctx: &Ctx) -> Result<Vec<Figure>> {
    let settings = &ctx.settings;
    let others = Api::<CacheCluster>::all(ctx.client.clone())
        .list_metadata(&ListParams::default())
        .await?;
    let others: Vec<String> = others
        .items
        .iter()
        .filter_map(|cluster| cluster.namespace())
        .filter(|namespace| !namespace.starts_with("cc-e2e-"))
        .collect();
    // Those clusters would be without an operator for a while, which they bear; it is said, not hidden.
    if !others.is_empty() {
        eprintln!("clusters in {others:?} have no operator for some seconds");
    }
    let values = installed_values(ctx).await?;
    let rendered = render(ctx).await?;

    let release = &settings.release;
    let system = &settings.operator_namespace;
    settings
        .target
        .helm(
            &["uninstall", release, "--namespace", system, "--wait"],
            LIMIT,
        )
        .await?;
    let proof = async {
        rendered.apply(ctx).await?;
        back(ctx).await?;
        apply_and_use(ctx).await
    }
    .await;
    let removed = rendered.remove(ctx).await;
    let reinstalled = reinstall(ctx, &values).await;
    let (_, ready) = proof?;
    removed?;
    reinstalled?;
    back(ctx).await?;
    Ok(vec![Figure::seconds("apply to Ready", ready)])
}

/// The values of the Helm release, so that it is installed again as it was.
async fn installed_values(ctx: &Ctx) -> Result<Value> {
    let settings = &ctx.settings;
    let args = [
        "get",
        "values",
        &settings.release,
        "--namespace",
        &settings.operator_namespace,
        "--output=json",
    ];
    let text = settings.target.helm(&args, SOON).await?;
    serde_json::from_str(text.trim()).context("the release's values")
}

/// Renders the base with the images that the installed operator has: what a user's own overlay does.
async fn render(ctx: &Ctx) -> Result<Rendered> {
    let settings = &ctx.settings;
    let api: Api<Deployment> = Api::namespaced(ctx.client.clone(), &settings.operator_namespace);
    let list = api.list(&ListParams::default().labels(OPERATOR)).await?;
    let [running] = list.items.as_slice() else {
        anyhow::bail!(
            "one operator Deployment is wanted, {} are there",
            list.items.len()
        );
    };
    let running = serde_json::to_value(running)?;
    let container = "/spec/template/spec/containers/0";
    let base = settings.manifests.join("base");
    let base = base.to_str().context("the manifests' path")?;
    let text = settings.target.kubectl(&["kustomize", base], SOON).await?;
    let mut objects = Vec::new();
    let mut kinds = Vec::new();
    for document in text.split("\n---\n") {
        let mut object: Value =
            serde_norway::from_str(document).context("what kustomize renders")?;
        let kind = object["kind"].as_str().unwrap_or_default().to_owned();
        kinds.push(kind.clone());
        if kind == "Namespace" || kind == "CustomResourceDefinition" {
            continue;
        }
        if kind == "Deployment" {
            for field in ["image", "env", "imagePullPolicy"] {
                let theirs = running.pointer(container).map(|c| c[field].clone());
                if let (Some(theirs), Some(ours)) = (theirs, object.pointer_mut(container)) {
                    ours[field] = theirs;
                }
            }
        }
        objects.push(object);
    }
    for kind in [
        "Namespace",
        "CustomResourceDefinition",
        "Deployment",
        "ClusterRole",
    ] {
        ensure!(
            kinds.iter().any(|rendered| rendered == kind),
            "kustomize renders no {kind}: {kinds:?}"
        );
    }
    Ok(Rendered(
        json!({"apiVersion": "v1", "kind": "List", "items": objects}),
    ))
}

impl Rendered {
    async fn apply(&self, ctx: &Ctx) -> Result<()> {
        let base = ctx.settings.manifests.join("base");
        let base = base.to_str().context("the manifests' path")?;
        let target = &ctx.settings.target;
        // The whole of it, definition included, as the API server sees it.
        let args = [
            "apply",
            "--server-side",
            "--force-conflicts",
            "--dry-run=server",
            "-k",
            base,
        ];
        target.kubectl(&args, SOON).await?;
        let args = ["apply", "--server-side", "--force-conflicts", "-f", "-"];
        target
            .kubectl_with(&args, Some(&self.0.to_string()), SOON)
            .await?;
        Ok(())
    }

    async fn remove(&self, ctx: &Ctx) -> Result<()> {
        let args = ["delete", "--ignore-not-found", "--wait", "-f", "-"];
        ctx.settings
            .target
            .kubectl_with(&args, Some(&self.0.to_string()), LIMIT)
            .await?;
        Ok(())
    }
}

async fn reinstall(ctx: &Ctx, values: &Value) -> Result<()> {
    let settings = &ctx.settings;
    let chart = settings.chart.to_str().context("the chart's path")?;
    let file = std::env::temp_dir().join(format!("{}-values.json", ctx.namespace));
    let given = if values.is_null() {
        json!({})
    } else {
        values.clone()
    };
    std::fs::write(&file, given.to_string()).context("writing the release's values")?;
    let path = file.to_str().context("the temporary directory's path")?;
    let args = [
        "install",
        &settings.release,
        chart,
        "--namespace",
        &settings.operator_namespace,
        "--values",
        path,
        "--take-ownership",
        "--wait",
        "--timeout=120s",
    ];
    let installed = settings.target.helm(&args, LIMIT).await;
    std::fs::remove_file(&file).context("removing the release's values")?;
    installed?;
    Ok(())
}
