//! A node loses its power.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use cachecluster_contract::labels;
use cachecluster_crd::CacheClusterStatus;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::ResourceExt;
use kube::api::{Api, ListParams, Patch, PatchParams};
use serde_json::json;

use super::survival::{lost_only_at, now_ms, start_writer, whole};
use super::{Place, Scenario, Turn};
use crate::cluster::{Ctx, READY, is_pod_ready, small};
use crate::command::program;
use crate::figure::Figure;
use crate::probe::Place as Where;
use crate::prober::report::WriterReport;

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::new(
            "node-power-off",
            Turn::Last,
            "a node with a primary loses its power: within a minute all slots are served again, requests go to its API pod no more before Kubernetes notices, only unreplicated writes are lost, and with the node the cluster is whole again",
            |ctx| Box::pin(node_power_off(ctx)),
        )
        .only(Place::Testbed),
    ]
}

/// How long writes go on: longer than Kubernetes takes to leave out the API pod of a lost node.
const SECONDS: u64 = 40;
/// The lease by which one of the operator's pods leads.
const LEASE: &str = "cachecluster-operator";
/// Within this time all slots are to be served again.
const SERVED: Duration = Duration::from_secs(60);
/// Within this time no requests are to be sent any more to the API pod of the node: Kubernetes takes 16 s on the testbed, and
/// three times that elsewhere.
const LEFT_OUT: Duration = Duration::from_secs(8);
/// How long a kubelet may take to correct what is wrong of its pod: it looks every ten seconds.
const CORRECTED: Duration = Duration::from_secs(30);
/// Hash slots of a cluster.
const SLOTS: usize = 16384;

async fn node_power_off(ctx: &Ctx) -> Result<Vec<Figure>> {
    ctx.create_ready("darkened", small(3, 1)).await?;
    ctx.write_keys("darkened", 500).await?;
    let node = victim(ctx).await?;
    let gone: BTreeSet<String> = ctx
        .pods("darkened", labels::COMPONENT_REDIS)
        .await?
        .iter()
        .filter(|pod| node_of(pod) == Some(&node))
        .map(ResourceExt::name_any)
        .collect();
    let away = Where::AwayFrom(std::slice::from_ref(&node));
    let writer = start_writer(ctx, "darkened", SECONDS, away).await?;
    writer.started().await?;

    let start = Instant::now();
    let began = now_ms();
    let cut = PowerCut::of(ctx, &node).await?;
    let crash = began..=now_ms();
    let on_the_rest = |status: &CacheClusterStatus| {
        let primaries = status.shards.iter().map(|shard| shard.primary.as_ref());
        let living = primaries
            .into_iter()
            .all(|primary| primary.is_some_and(|primary| !gone.contains(primary)));
        living && slots(status) == SLOTS
    };
    let serving = async {
        ctx.cluster_when("darkened", "serves all slots again", SERVED, |cluster| {
            cluster.status.as_ref().is_some_and(on_the_rest)
        })
        .await?;
        anyhow::Ok(start.elapsed())
    };
    let leaving_out = async {
        ctx.eventually("its API pod is left out", LEFT_OUT, async || {
            let mut there = ctx.pods("darkened", labels::COMPONENT_API).await?;
            there.retain(|pod| node_of(pod) == Some(&node));
            ensure!(!there.is_empty(), "no API pod is there");
            ensure!(!there.iter().any(is_pod_ready), "it passes for ready");
            Ok(())
        })
        .await?;
        anyhow::Ok(start.elapsed())
    };
    let (served, left_out) = tokio::try_join!(serving, leaving_out)?;
    let writer: WriterReport = writer.report(Duration::from_secs(SECONDS + 90)).await?;
    ensure!(
        writer.acked > 500,
        "too few writes to say anything: {writer:?}"
    );
    lost_only_at(&writer, crash)?;
    let keys = ctx.read_keys("darkened", 500).await?;
    ensure!(keys.absent == 0, "keys were lost: {keys:?}");

    let start = Instant::now();
    cut.end(ctx).await?;
    whole(ctx, "darkened", 1).await?;
    let again = start.elapsed();
    ctx.eventually("the operator's pods are back", READY, async || {
        let pods = ctx.operator_pods().await?;
        ensure!(pods.iter().all(is_pod_ready), "some are not ready");
        Ok(())
    })
    .await?;
    ctx.contract("darkened").await?;
    let corrected = corrected(ctx).await?;
    Ok(vec![
        Figure::seconds("all slots served after", served).at_most(SERVED.as_secs_f64()),
        Figure::seconds("its API pod left out after", left_out).at_most(LEFT_OUT.as_secs_f64()),
        Figure::count("longest gap between writes", writer.gap_ms).unit("ms"),
        Figure::count("writes failed", writer.failed),
        Figure::count("of", writer.acked + writer.failed),
        Figure::count("writes lost", writer.lost),
        Figure::seconds("whole after the node's return", again),
        Figure::seconds("a wrong mark corrected after", corrected),
    ])
}

/// Marks an API pod that lives as the operator would if it could not reach its node, and waits until the kubelet, who knows
/// better, has taken that back: how long that took.
async fn corrected(ctx: &Ctx) -> Result<Duration> {
    let pods = ctx.pods("darkened", labels::COMPONENT_API).await?;
    let pod = pods.first().context("no API pod is there")?.name_any();
    let mark = json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}});
    let api = ctx.api::<Pod>();
    let marked = api
        .patch_status(&pod, &PatchParams::default(), &Patch::Strategic(mark))
        .await?;
    ensure!(!is_pod_ready(&marked), "the mark does not show: {marked:?}");
    let start = Instant::now();
    ctx.eventually("the kubelet has taken it back", CORRECTED, async || {
        ensure!(is_pod_ready(&api.get(&pod).await?), "it is not ready");
        Ok(())
    })
    .await?;
    Ok(start.elapsed())
}

/// The slots that the status tells, e.g. `0-5460,6000`.
fn slots(status: &CacheClusterStatus) -> usize {
    let ranges = status
        .shards
        .iter()
        .flat_map(|shard| shard.slots.split([',', ' ']));
    ranges
        .filter_map(|range| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let (first, last) = (first.parse::<usize>().ok()?, last.parse::<usize>().ok()?);
            (last + 1).checked_sub(first)
        })
        .sum()
}

fn node_of(pod: &Pod) -> Option<&String> {
    pod.spec.as_ref()?.node_name.as_ref()
}

/// A node that holds a primary and an API pod, but neither all pods of a shard, nor the only ready pod of the operator or the
/// API, nor the operator that leads, which another one would have to replace first.
async fn victim(ctx: &Ctx) -> Result<String> {
    let cluster = ctx.ready("darkened", READY).await?;
    let shards = cluster.status.unwrap_or_default().shards;
    let redis = ctx.pods("darkened", labels::COMPONENT_REDIS).await?;
    let needed = [
        ctx.operator_pods().await?,
        ctx.pods("darkened", labels::COMPONENT_API).await?,
    ];
    let at = |name: &String| {
        redis
            .iter()
            .find(|pod| pod.name_any() == *name)
            .and_then(node_of)
    };
    let mut nodes: Vec<&String> = shards
        .iter()
        .filter_map(|shard| at(shard.primary.as_ref()?))
        .collect();
    nodes.retain(|node| {
        let serves_on = needed.iter().all(|pods| {
            pods.iter()
                .any(|pod| is_pod_ready(pod) && node_of(pod) != Some(node))
        });
        let copies = shards.iter().all(|shard| {
            let mut pods = shard.primary.iter().chain(&shard.replicas);
            pods.any(|pod| at(pod) != Some(node))
        });
        serves_on && copies
    });
    let [operator, api] = &needed;
    let leases: Api<Lease> = Api::namespaced(ctx.client.clone(), &ctx.settings.operator_namespace);
    let lease = leases.get(LEASE).await?.spec.unwrap_or_default();
    let leads = |pod: &Pod| lease.holder_identity.as_deref() == pod.metadata.name.as_deref();
    let on = |pod: &Pod, node: &String| node_of(pod) == Some(node);
    nodes.retain(|node| {
        api.iter().any(|pod| on(pod, node))
            && !operator.iter().any(|pod| leads(pod) && on(pod, node))
    });
    match nodes.first() {
        Some(node) => Ok((*node).clone()),
        None => bail!("no node holds what is to be lost, and nothing that is nowhere else"),
    }
}

/// A node without power. It gets it back also if the scenario fails or is cut short.
struct PowerCut {
    testbed: PathBuf,
    number: String,
    over: bool,
}

impl PowerCut {
    async fn of(ctx: &Ctx, node: &str) -> Result<Self> {
        let testbed = ctx.settings.testbed.clone().context("no testbed")?;
        let number = node
            .strip_prefix("node")
            .with_context(|| format!("{node} is no node of the testbed"))?;
        let cut = Self {
            testbed,
            number: number.to_owned(),
            over: false,
        };
        let limit = Duration::from_secs(30);
        program(&cut.testbed, &["kill-node", number], limit).await?;
        Ok(cut)
    }

    async fn end(mut self, ctx: &Ctx) -> Result<()> {
        let limit = Duration::from_secs(60);
        program(&self.testbed, &["start-node", &self.number], limit).await?;
        self.over = true;
        let nodes = Api::<Node>::all(ctx.client.clone());
        let count = nodes.list_metadata(&ListParams::default()).await?.items;
        nodes_ready(ctx, count.len()).await
    }
}

/// Waits until so many nodes are ready, and no more.
pub(super) async fn nodes_ready(ctx: &Ctx, wanted: usize) -> Result<()> {
    let nodes = Api::<Node>::all(ctx.client.clone());
    ctx.eventually("as many nodes as wanted are ready", READY, async || {
        let nodes = nodes.list(&ListParams::default()).await?;
        let is_ready = |node: &&Node| {
            let conditions = node.status.iter().flat_map(|status| &status.conditions);
            conditions
                .flatten()
                .any(|c| c.type_ == "Ready" && c.status == "True")
        };
        let ready = nodes.iter().filter(is_ready).count();
        ensure!(ready == wanted, "{ready} are, {wanted} are wanted");
        Ok(())
    })
    .await
}

impl Drop for PowerCut {
    fn drop(&mut self) {
        if !self.over {
            let started = Command::new(&self.testbed)
                .args(["start-node", &self.number])
                .status();
            if !started.is_ok_and(|status| status.success()) {
                eprintln!("node {} could not be started again", self.number);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use cachecluster_crd::ShardStatus;

    use super::*;

    #[test]
    fn slots_are_counted_over_ranges_and_shards() {
        let shard = |slots: &str| ShardStatus {
            slots: slots.to_owned(),
            ..ShardStatus::default()
        };
        let status = CacheClusterStatus {
            shards: vec![shard("0-5460"), shard("5461-10922, 10924"), shard("")],
            ..CacheClusterStatus::default()
        };
        assert_eq!(slots(&status), 10_924);
    }
}
