//! A cluster that keeps acknowledged writes, and rather waits than promotes who may lack some.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cachecluster_crd::{CacheCluster, conditions};
use serde_json::{Value, json};

use super::fencing::fence;
use super::{Scenario, Turn};
use crate::chaos::fault::Kind;
use crate::cluster::{Ctx, READY, SOON, small};
use crate::figure::Figure;
use crate::probe::Place as Where;
use crate::trial::{of_primary, strike, watched};

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::new(
            "durable-server-killed",
            Turn::Together,
            "in a Durable cluster of one shard the primary's server is killed under load: writes wait until a replica reads along again or is known to be down, no HTTP request fails, only unreplicated writes are lost",
            |ctx| Box::pin(server_killed(ctx)),
        ),
        Scenario::new(
            "durable-unsafe-promotion",
            Turn::Together,
            "in a Durable cluster a replica that fell behind is not promoted when its primary is lost: the cluster says so, and is whole with all its data when the primary is back; only the annotation overrides that",
            |ctx| Box::pin(unsafe_promotion(ctx)),
        ),
    ]
}

const NAME: &str = "kept";
/// What a user types.
const ALLOW_UNSAFE_PROMOTION: &str = "cachecluster.io/allow-unsafe-promotion";
/// How long writers write.
const SECONDS: Duration = Duration::from_secs(30);
/// The longest time for which writes wait for a replica, in seconds, unless one is merely silent.
const PAUSE: f64 = 5.0;

fn spec() -> Value {
    let mut spec = small(1, 1);
    spec["profile"] = json!("Durable");
    spec["durability"] = json!({"fsync": "Always"});
    spec["engine"] = json!({"eviction": "noeviction"});
    spec["storage"] = json!({"size": "128Mi", "onDelete": "Delete"});
    spec
}

async fn server_killed(ctx: &Ctx) -> Result<Vec<Figure>> {
    ctx.create_ready(NAME, spec()).await?;
    in_sync(ctx, 2).await?;
    let fault = of_primary(Kind::KillServer);
    let act = strike(ctx, NAME, &fault, 1, READY);
    let (seen, struck) = watched(ctx, NAME, SECONDS, Where::Anywhere, act).await?;
    seen.lost_only_within(Some(struck.crash))?;
    ensure!(seen.http.failed == 0, "requests failed: {:?}", seen.http);
    in_sync(ctx, 2).await?;
    Ok(vec![
        Figure::number("slowest HTTP write", seen.http.max_ms, "ms").never_above(PAUSE * 1000.0),
        Figure::count("lost", seen.lost()),
        Figure::seconds("whole again after", struck.whole),
    ])
}

async fn unsafe_promotion(ctx: &Ctx) -> Result<Vec<Figure>> {
    ctx.create_ready(NAME, spec()).await?;
    ctx.write_keys(NAME, 100).await?;
    let (primary, replica) = behind(ctx, 300).await?;

    // The one that has everything is back: nothing is lost.
    fence(ctx, NAME, "").await?;
    whole(ctx, Some(&primary)).await?;
    all_there(ctx, 300).await?;

    let again = behind(ctx, 500).await?;
    ensure!(again == (primary.clone(), replica.clone()), "{again:?}");
    let allow = format!("{ALLOW_UNSAFE_PROMOTION}={replica}");
    ctx.kubectl(&["annotate", "cachecluster", NAME, &allow], SOON)
        .await?;
    let start = Instant::now();
    ctx.cluster_when(NAME, "has the one as primary that was allowed", SOON, |c| {
        shard(c).is_some_and(|shard| shard.primary.as_ref() == Some(&replica))
    })
    .await?;
    let promoted = start.elapsed();
    events(ctx, &["UnsafePromotion"]).await?;
    let withdrawn = format!("{ALLOW_UNSAFE_PROMOTION}-");
    ctx.kubectl(&["annotate", "cachecluster", NAME, &withdrawn], SOON)
        .await?;
    fence(ctx, NAME, "").await?;
    whole(ctx, Some(&replica)).await?;
    // The primary was let go on alone, and held to a replica again.
    events(ctx, &["WritesRelaxed", "WritesTightened"]).await?;
    // The loss that was accepted, and no other.
    let keys = ctx.read_keys(NAME, 500).await?;
    ensure!(keys.present >= 300, "{keys:?}");
    Ok(vec![
        Figure::seconds("promoted when allowed", promoted),
        Figure::count("given up", keys.absent),
    ])
}

/// Waits for events of these reasons.
async fn events(ctx: &Ctx, reasons: &[&str]) -> Result<()> {
    let what = format!("the events {}", reasons.join(", "));
    ctx.eventually(&what, SOON, async || {
        let all = [
            "get",
            "events.events.k8s.io",
            "-o",
            "jsonpath={.items[*].reason}",
        ];
        let there = ctx.kubectl(&all, SOON).await?;
        let there: Vec<&str> = there.split_whitespace().collect();
        let all_there = reasons.iter().all(|reason| there.contains(reason));
        ensure!(all_there, "{there:?}");
        Ok(())
    })
    .await
}

/// Makes the replica miss what `keys` keys hold, loses the primary, and brings the replica back: nobody is promoted. Returns
/// the pods of both.
async fn behind(ctx: &Ctx, keys: u64) -> Result<(String, String)> {
    let cluster = in_sync(ctx, 2).await?;
    let shard = shard(&cluster).context("there is no shard")?;
    let primary = shard.primary.clone().context("there is no primary")?;
    let replica = shard
        .replicas
        .first()
        .context("there is no replica")?
        .clone();
    fence(ctx, NAME, &replica).await?;
    in_sync(ctx, 1).await?;
    ctx.write_keys(NAME, keys).await?;
    let both = format!("{primary},{replica}");
    fence(ctx, NAME, &both).await?;
    fence(ctx, NAME, &primary).await?;
    let refused = |cluster: &CacheCluster| {
        let conditions = cluster.status.iter().flat_map(|status| &status.conditions);
        conditions.into_iter().any(|condition| {
            condition.type_ == conditions::READY
                && condition.reason == conditions::reason::UNSAFE_PROMOTION_REFUSED
                && condition.message.contains(ALLOW_UNSAFE_PROMOTION)
                && condition.message.contains(&primary)
        })
    };
    ctx.cluster_when(NAME, "refuses to promote the replica", READY, refused)
        .await?;
    Ok((primary, replica))
}

fn shard(cluster: &CacheCluster) -> Option<&cachecluster_crd::ShardStatus> {
    cluster.status.as_ref()?.shards.first()
}

async fn in_sync(ctx: &Ctx, members: usize) -> Result<CacheCluster> {
    let what = format!("has {members} members in sync");
    ctx.cluster_when(NAME, &what, READY, |cluster| {
        shard(cluster)
            .is_some_and(|shard| shard.in_sync.len() == members && shard.primary.is_some())
    })
    .await
}

/// Waits until the shard has this primary and a replica in sync.
async fn whole(ctx: &Ctx, primary: Option<&String>) -> Result<()> {
    super::survival::whole(ctx, NAME, 1).await?;
    let cluster = in_sync(ctx, 2).await?;
    let now = shard(&cluster).and_then(|shard| shard.primary.as_ref());
    ensure!(now == primary, "the primary is {now:?}, not {primary:?}");
    Ok(())
}

async fn all_there(ctx: &Ctx, keys: u64) -> Result<()> {
    let found = ctx.read_keys(NAME, keys).await?;
    ensure!(found.present == keys, "{found:?}");
    Ok(())
}
