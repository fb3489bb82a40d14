//! Everything at once: all pods, all nodes, the operator, the API server.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use serde_json::{Value, json};

use super::faults::figures;
use super::operator::back;
use super::power::nodes_ready;
use super::survival::whole;
use super::{Place, Scenario, Turn};
use crate::chaos::fault::{Kind, Role, Target};
use crate::chaos::inject::Sight;
use crate::cluster::{Ctx, OPERATOR, READY, small};
use crate::command::program;
use crate::figure::Figure;
use crate::probe::Place as Where;
use crate::trial::{inject, now_ms, of, steady, strike, watched};

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::new(
            "every-pod-deleted",
            Turn::Together,
            "every pod of a cluster with storage is deleted at once under load, those of the API too: it is whole again within 20 seconds, and no acknowledged write is lost",
            |ctx| Box::pin(every_pod_deleted(ctx)),
        ),
        Scenario::new(
            "operator-away",
            Turn::Last,
            "every Redis pod is deleted while there is no operator: with storage their servers run again without it, and with it the cluster is whole and has its data",
            |ctx| Box::pin(operator_away(ctx)),
        ),
        Scenario::new(
            "api-server-away",
            Turn::Last,
            "the API server is away while the primaries of three shards are killed one after the other: each is replaced all the same, and no request fails",
            |ctx| Box::pin(api_server_away(ctx)),
        )
        .only(Place::Testbed),
        Scenario::new(
            "every-node-off",
            Turn::Last,
            "every node loses its power and gets it back: the cluster is whole by itself, with storage with its data, without it empty",
            |ctx| Box::pin(every_node_off(ctx)),
        )
        .only(Place::Testbed)
        .on_request(),
    ]
}

/// The cache cluster's name.
const NAME: &str = "struck";
/// Within so many seconds a cluster of which every pod was deleted is to be whole.
pub(super) const WHOLE: f64 = 20.0;

fn stored() -> Value {
    let mut spec = small(3, 1);
    spec["storage"] = json!({"size": "128Mi", "onDelete": "Delete"});
    spec
}

async fn every_pod_deleted(ctx: &Ctx) -> Result<Vec<Figure>> {
    ctx.create_ready(NAME, stored()).await?;
    ctx.write_keys(NAME, 500).await?;
    let fault = of(Kind::DeleteAll, Target::TheOne);
    let act = strike(ctx, NAME, &fault, 1, READY);
    let lasts = Duration::from_secs(45);
    let (seen, struck) = watched(ctx, NAME, lasts, Where::Anywhere, act).await?;
    seen.lost_only_within(None)?;
    let keys = ctx.read_keys(NAME, 500).await?;
    ensure!(keys.absent == 0, "keys were lost: {keys:?}");
    let mut figures = figures(&seen, WHOLE, Duration::ZERO);
    figures.pop();
    figures.push(Figure::seconds("whole again after", struck.whole).at_most(WHOLE));
    Ok(figures)
}

async fn operator_away(ctx: &Ctx) -> Result<Vec<Figure>> {
    ctx.create_ready(NAME, stored()).await?;
    ctx.write_keys(NAME, 500).await?;
    let before = ctx.redis_pods(NAME).await?;
    let away = OperatorAway::begin(ctx).await?;
    let pods = ctx.api::<Pod>();
    for pod in before.keys() {
        pods.delete(pod, &DeleteParams::default()).await?;
    }
    // The StatefulSets bring the pods back. They are not ready, all of them, before somebody introduces them.
    ctx.eventually("all Redis pods run again", READY, async || {
        let now = ctx.redis_pods(NAME).await?;
        let new = now
            .iter()
            .filter(|(name, uid)| before.get(*name) != Some(*uid))
            .count();
        ensure!(new == before.len(), "{new} of {} are back", before.len());
        Ok(())
    })
    .await?;
    let start = Instant::now();
    away.end(ctx).await?;
    let taken = steady(ctx, NAME, 1, start, READY).await?;
    let keys = ctx.read_keys(NAME, 500).await?;
    ensure!(keys.absent == 0, "keys were lost: {keys:?}");
    ctx.contract(NAME).await?;
    Ok(vec![Figure::seconds(
        "whole after the operator's return",
        taken,
    )])
}

/// The operator scaled to none. It gets its replicas back also if the scenario fails or is cut short.
struct OperatorAway {
    target: crate::command::Target,
    namespace: String,
    deployments: Vec<(String, i32)>,
    over: bool,
}

impl OperatorAway {
    async fn begin(ctx: &Ctx) -> Result<Self> {
        let namespace = ctx.settings.operator_namespace.clone();
        let api: Api<Deployment> = Api::namespaced(ctx.client.clone(), &namespace);
        let found = api.list(&ListParams::default().labels(OPERATOR)).await?;
        let deployments: Vec<(String, i32)> = found
            .items
            .iter()
            .filter_map(|deployment| {
                let replicas = deployment.spec.as_ref()?.replicas?;
                Some((deployment.name_any(), replicas))
            })
            .collect();
        ensure!(!deployments.is_empty(), "there is no operator");
        let away = Self {
            target: ctx.settings.target.clone(),
            namespace,
            deployments,
            over: false,
        };
        for (name, _) in &away.deployments {
            let none = json!({"spec": {"replicas": 0}});
            api.patch(name, &PatchParams::default(), &Patch::Merge(none))
                .await?;
        }
        ctx.eventually("the operator is gone", READY, async || {
            let left = ctx.operator_pods().await?.len();
            ensure!(left == 0, "{left} pods are there");
            Ok(())
        })
        .await?;
        Ok(away)
    }

    fn words(&self, name: &str, replicas: i32) -> Vec<std::ffi::OsString> {
        let replicas = format!("--replicas={replicas}");
        let deployment = format!("deployment/{name}");
        let words = [
            "--namespace",
            &self.namespace,
            "scale",
            &deployment,
            &replicas,
        ];
        self.target.words(&words)
    }

    async fn end(mut self, ctx: &Ctx) -> Result<()> {
        let api: Api<Deployment> = Api::namespaced(ctx.client.clone(), &self.namespace);
        for (name, replicas) in &self.deployments {
            let again = json!({"spec": {"replicas": replicas}});
            api.patch(name, &PatchParams::default(), &Patch::Merge(again))
                .await
                .context("bringing the operator back")?;
        }
        self.over = true;
        back(ctx).await
    }
}

impl Drop for OperatorAway {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        for (name, replicas) in &self.deployments {
            let words = self.words(name, *replicas);
            let scaled = std::process::Command::new("kubectl").args(words).status();
            if !scaled.is_ok_and(|status| status.success()) {
                eprintln!("{name} could not be scaled to {replicas} again");
            }
        }
    }
}

async fn api_server_away(ctx: &Ctx) -> Result<Vec<Figure>> {
    ctx.create_ready(NAME, small(3, 1)).await?;
    ctx.write_keys(NAME, 500).await?;
    let began = now_ms();
    let act = async {
        // Nobody tells later where anything is.
        let sight = Sight::of(ctx, NAME).await?;
        let start = Instant::now();
        let back = inject(ctx, &sight, &of(Kind::StopApiServer, Target::TheOne)).await?;
        for shard in 0..3 {
            let fault = of(Kind::KillServer, Target::Member(shard, Role::Primary));
            inject(ctx, &sight, &fault).await?;
            tokio::time::sleep(Duration::from_secs(4)).await;
        }
        let crashed = now_ms();
        let replaced = start.elapsed();
        back.now().await?;
        steady(ctx, NAME, 1, start, READY).await?;
        Ok((crashed, replaced))
    };
    let lasts = Duration::from_secs(40);
    let (seen, (crashed, away)) = watched(ctx, NAME, lasts, Where::Anywhere, act).await?;
    seen.lost_only_within(Some(began..=crashed))?;
    let (redis, http) = (&seen.redis, &seen.http);
    ensure!(
        redis.failed == 0 && http.failed == 0,
        "requests failed: {redis:?} {http:?}"
    );
    for shard in &redis.shards {
        ensure!(
            shard.served.len() > 1,
            "{} was served by one node only: {redis:?}",
            shard.slots
        );
    }
    let keys = ctx.read_keys(NAME, 500).await?;
    ensure!(keys.absent == 0, "keys were lost: {keys:?}");
    Ok(figures(&seen, 0.25, away))
}

async fn every_node_off(ctx: &Ctx) -> Result<Vec<Figure>> {
    ctx.create_ready("stored", stored()).await?;
    ctx.create_ready("fleeting", small(3, 1)).await?;
    ctx.write_keys("stored", 500).await?;
    let testbed = ctx.settings.testbed.as_deref().context("no testbed")?;
    let nodes = Power::off(ctx, testbed).await?;
    let start = Instant::now();
    nodes.on(ctx).await?;
    let on = start.elapsed();
    for name in ["stored", "fleeting"] {
        steady(ctx, name, 1, start, 2 * READY).await?;
    }
    let taken = start.elapsed();
    back(ctx).await?;
    let keys = ctx.read_keys("stored", 500).await?;
    ensure!(keys.absent == 0, "keys were lost: {keys:?}");
    for name in ["stored", "fleeting"] {
        whole(ctx, name, 1).await?;
        ctx.contract(name).await?;
    }
    Ok(vec![
        Figure::seconds("nodes on after", on),
        Figure::seconds("both clusters whole after", taken),
    ])
}

/// The power of every node. It comes back also if the scenario fails or is cut short.
struct Power {
    testbed: std::path::PathBuf,
    nodes: Vec<String>,
}

impl Power {
    async fn off(ctx: &Ctx, testbed: &std::path::Path) -> Result<Self> {
        let count = crate::chaos::inject::nodes(testbed).await?;
        let power = Self {
            testbed: testbed.to_owned(),
            nodes: (1..=count).map(|node| node.to_string()).collect(),
        };
        for node in &power.nodes {
            program(testbed, &["kill-node", node], READY).await?;
        }
        // Long enough that Kubernetes sees it: what comes back then has been given up.
        nodes_ready(ctx, 0).await?;
        Ok(power)
    }

    async fn on(mut self, ctx: &Ctx) -> Result<()> {
        let count = self.nodes.len();
        while let Some(node) = self.nodes.last() {
            program(&self.testbed, &["start-node", node], READY).await?;
            self.nodes.pop();
        }
        nodes_ready(ctx, count).await
    }
}

impl Drop for Power {
    fn drop(&mut self) {
        for node in &self.nodes {
            let started = std::process::Command::new(&self.testbed)
                .args(["start-node", node])
                .status();
            if !started.is_ok_and(|status| status.success()) {
                eprintln!("node {node} could not be started again");
            }
        }
    }
}
