//! Redis pods go away and Redis servers crash under load.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cachecluster_crd::CacheCluster;
use k8s_openapi::api::core::v1::Pod;
use kube::api::DeleteParams;

use super::{Scenario, Turn};
use crate::cluster::{Ctx, READY, SOON, is_whole, small};
use crate::figure::Figure;
use crate::probe::{Place, Probe};
use crate::prober::report::{LoadReport, WriterReport};

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::new(
            "primary-pod-deleted",
            Turn::Together,
            "a primary's pod is deleted under load: no request fails, no acknowledged write is lost, and it comes back by itself",
            |ctx| Box::pin(primary_pod_deleted(ctx)),
        ),
        Scenario::new(
            "replica-pod-deleted",
            Turn::Together,
            "a replica's pod is deleted under load in a cluster of one shard: no request fails, and it comes back in sync",
            |ctx| Box::pin(replica_pod_deleted(ctx)),
        ),
        Scenario::new(
            "primary-server-killed",
            Turn::Together,
            "a primary's server is killed by SIGKILL under load: no request fails, its replica takes over, and it comes back as a replica",
            |ctx| Box::pin(primary_server_killed(ctx)),
        ),
    ]
}

/// How long requests go on: longer than the disturbance and the way back from it.
const SECONDS: u64 = 30;

/// Writes a second.
const RATE: u64 = 200;

/// Which acknowledged writes may be lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loss {
    /// None: what is disturbed has time to hand over.
    None,
    /// Those that had not reached a replica when the primary crashed.
    Unreplicated,
}

/// How long before a crash a write may have been acknowledged and not have reached a replica. Clocks of the writer's node
/// and of this machine may differ by part of that.
const LAG: Duration = Duration::from_secs(1);

/// Starts a writer that writes each key once, so that every acknowledged write is looked for at the end.
pub(super) async fn start_writer<'a>(
    ctx: &'a Ctx,
    cluster: &str,
    seconds: u64,
    place: Place<'_>,
) -> Result<Probe<'a>> {
    let (url, keys) = (ctx.url(cluster), (RATE * (seconds + 1)).to_string());
    let (seconds, rate) = (seconds.to_string(), RATE.to_string());
    let args = [
        "writer",
        "--url",
        &url,
        "--seconds",
        &seconds,
        "--rate",
        &rate,
        "--keys",
        &keys,
    ];
    ctx.probe_as(&args, None, place).await
}

/// Milliseconds since 1970.
pub(super) fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

/// That the lost writes, if there are any, were acknowledged when the primary crashed, which was within `crash`.
pub(super) fn lost_only_at(
    writer: &WriterReport,
    crash: std::ops::RangeInclusive<i64>,
) -> Result<()> {
    ensure!(writer.unread == 0, "keys cannot be read: {writer:?}");
    let lag = i64::try_from(LAG.as_millis())?;
    for lost in [writer.lost_first_ms, writer.lost_last_ms]
        .into_iter()
        .flatten()
    {
        ensure!(
            (crash.start() - lag..=crash.end() + lag).contains(&lost),
            "a write was lost that was acknowledged {} ms after the crash began: {writer:?}",
            lost - crash.start()
        );
    }
    Ok(())
}

/// Disturbs a cluster while requests and writes go on, and proves that nobody noticed.
///
/// `disturb` returns when the cluster is whole again, and in which milliseconds something crashed.
async fn disturbed(
    ctx: &Ctx,
    name: &str,
    loss: Loss,
    disturb: impl Future<Output = Result<std::ops::RangeInclusive<i64>>>,
) -> Result<Vec<Figure>> {
    let (url, seconds) = (ctx.url(name), SECONDS.to_string());
    let load = ctx
        .probe(&["load", "--url", &url, "--seconds", &seconds])
        .await?;
    let writer = start_writer(ctx, name, SECONDS, Place::Anywhere).await?;
    load.started().await?;
    writer.started().await?;
    let start = Instant::now();
    let crash = disturb.await?;
    let whole = start.elapsed();
    let limit = Duration::from_secs(120);
    let load: LoadReport = load.report(limit).await?;
    let writer: WriterReport = writer.report(limit).await?;
    ensure!(
        load.failed == 0 && writer.failed == 0,
        "requests failed: {load:?} {writer:?}"
    );
    ensure!(
        loss == Loss::Unreplicated || writer.lost == 0,
        "acknowledged writes were lost: {writer:?}"
    );
    lost_only_at(&writer, crash)?;
    ensure!(
        whole < Duration::from_secs(SECONDS),
        "whole again after {whole:?}, when the requests had ended"
    );
    ensure!(
        load.ok > 1_000 && writer.acked > 1_000,
        "too few requests to say anything: {load:?} {writer:?}"
    );
    Ok(vec![
        Figure::seconds("whole again after", whole),
        Figure::count("failed of", load.failed + writer.failed).at_most(0.0),
        Figure::count("requests", load.ok + writer.acked),
        Figure::count("writes lost", writer.lost).at_most(0.0),
        Figure::count("longest gap between writes", writer.gap_ms).unit("ms"),
        Figure::number("longest latency", load.max_ms, "ms"),
    ])
}

/// Disturbs a cluster in an orderly way while requests and writes go on: none fails, and none is lost.
///
/// `disturb` returns when the cluster is whole again.
pub(super) async fn unnoticed(
    ctx: &Ctx,
    name: &str,
    disturb: impl Future<Output = Result<()>>,
) -> Result<Vec<Figure>> {
    disturbed(ctx, name, Loss::None, async {
        disturb.await?;
        let now = now_ms();
        Ok(now..=now)
    })
    .await
}

async fn primary_pod_deleted(ctx: &Ctx) -> Result<Vec<Figure>> {
    ctx.create_ready("lively", small(3, 1)).await?;
    ctx.write_keys("lively", 500).await?;
    let cluster = ctx.ready("lively", READY).await?;
    let primary = cluster
        .status
        .and_then(|status| status.shards.into_iter().next()?.primary)
        .context("the status names no primary of the first shard")?;
    let figures = unnoticed(ctx, "lively", async {
        ctx.replace_pod(&primary).await?;
        whole(ctx, "lively", 1).await
    })
    .await?;
    let keys = ctx.read_keys("lively", 500).await?;
    ensure!(keys.absent == 0, "keys were lost: {keys:?}");
    Ok(figures)
}

async fn replica_pod_deleted(ctx: &Ctx) -> Result<Vec<Figure>> {
    ctx.create_ready("lively", small(1, 1)).await?;
    let cluster = ctx.ready("lively", READY).await?;
    let replica = cluster
        .status
        .and_then(|status| status.shards.into_iter().next()?.replicas.pop())
        .context("the status names no replica of the shard")?;
    unnoticed(ctx, "lively", async {
        ctx.replace_pod(&replica).await?;
        whole(ctx, "lively", 1).await
    })
    .await
}

/// Ends every Redis server in a container by SIGKILL, with the shell's own means only, and tells their process ids. It
/// fails if there is none. The agent, process 1, goes on: for Kubernetes nothing has happened.
const KILL_SERVER: &str = r#"
killed=
for process in /proc/[0-9]*; do
  read -r name 2>/dev/null <"$process/comm" || continue
  case $name in redis-server*|valkey-server*) kill -KILL "${process#/proc/}" && killed="$killed ${process#/proc/}" ;; esac
done
echo "$killed"
[ -n "$killed" ]
"#;

async fn primary_server_killed(ctx: &Ctx) -> Result<Vec<Figure>> {
    ctx.create_ready("lively", small(3, 1)).await?;
    ctx.write_keys("lively", 500).await?;
    let before = ctx.redis_pods("lively").await?;
    let cluster = ctx.ready("lively", READY).await?;
    let shard = cluster
        .status
        .and_then(|status| status.shards.into_iter().next())
        .context("the status has no shard")?;
    let primary = shard.primary.context("the first shard has no primary")?;
    let figures = disturbed(ctx, "lively", Loss::Unreplicated, async {
        let began = now_ms();
        let kill = ["exec", &primary, "--", "sh", "-c", KILL_SERVER];
        ctx.kubectl(&kill, SOON).await?;
        let crash = began..=now_ms();
        // The killed one as the other's replica: an older status cannot say that.
        let turned = |cluster: &CacheCluster| {
            let now = cluster
                .status
                .as_ref()
                .and_then(|status| status.shards.iter().find(|now| now.name == shard.name));
            is_whole(cluster, 1) && now.is_some_and(|now| now.replicas.contains(&primary))
        };
        ctx.cluster_when("lively", "has its replica as primary", READY, turned)
            .await?;
        Ok(crash)
    })
    .await?;
    ensure!(
        ctx.redis_pods("lively").await? == before,
        "pods were made anew"
    );
    let keys = ctx.read_keys("lively", 500).await?;
    ensure!(keys.absent == 0, "keys were lost: {keys:?}");
    Ok(figures)
}

/// Waits until every shard has a primary and all its replicas in sync.
pub(super) async fn whole(ctx: &Ctx, name: &str, replicas: usize) -> Result<()> {
    ctx.cluster_when(name, "is whole", READY, |cluster| {
        is_whole(cluster, replicas)
    })
    .await?;
    Ok(())
}

/// Deletes every Redis pod of a cluster at once and waits until all are there anew and the cluster is whole.
pub(super) async fn replace_all(ctx: &Ctx, name: &str, replicas: usize) -> Result<()> {
    let before = ctx.redis_pods(name).await?;
    ensure!(!before.is_empty(), "{name} has no Redis pods");
    let api = ctx.api::<Pod>();
    for pod in before.keys() {
        api.delete(pod, &DeleteParams::default())
            .await
            .with_context(|| format!("deleting {pod}"))?;
    }
    for (pod, uid) in &before {
        ctx.successor(pod, uid).await?;
    }
    whole(ctx, name, replicas).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crash_excuses_only_the_loss_of_what_was_written_just_then() {
        let writer = |first, last| WriterReport {
            lost: 2,
            lost_first_ms: Some(first),
            lost_last_ms: Some(last),
            ..WriterReport::default()
        };
        assert!(lost_only_at(&WriterReport::default(), 10_000..=10_200).is_ok());
        assert!(lost_only_at(&writer(9_500, 10_100), 10_000..=10_200).is_ok());
        assert!(lost_only_at(&writer(8_000, 10_100), 10_000..=10_200).is_err());
        assert!(lost_only_at(&writer(9_500, 14_000), 10_000..=10_200).is_err());
        let unread = WriterReport {
            unread: 1,
            ..WriterReport::default()
        };
        assert!(lost_only_at(&unread, 0..=0).is_err());
    }
}
