//! One fault at a time, under writers through Redis and through HTTP.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cachecluster_contract::labels;
use cachecluster_crd::conditions;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::ListParams;

use super::{Place, Scenario, Turn};
use crate::chaos::fault::{Fault, Kind, Role, Target};
use crate::chaos::inject::{Sight, exhaust};
use crate::cluster::{Ctx, READY, small};
use crate::figure::Figure;
use crate::probe::Place as Where;
use crate::trial::{
    Seen, inject, lasting, node_of_primary, now_ms, of, of_primary, steady, strike, watched,
};

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::new(
            "one-shard-server-killed",
            Turn::Together,
            "in a cluster of one shard, where nobody can vote, the primary's server is killed by SIGKILL under load: its replica takes over at once, no request fails, only unreplicated writes are lost, and the Service for plain clients follows",
            |ctx| Box::pin(one_shard_struck(ctx)),
        ),
        Scenario::new(
            "server-out-of-memory",
            Turn::Together,
            "the system kills a primary's server for want of memory under load: its replica takes over, no request fails, only unreplicated writes are lost, and the condition OutOfMemory tells",
            |ctx| Box::pin(out_of_memory(ctx)),
        ),
        Scenario::new(
            "server-hung",
            Turn::Together,
            "a primary's server hangs (SIGSTOP) under load: its replica takes over, no request fails, only unreplicated writes are lost",
            |ctx| Box::pin(struck(ctx, lasting(of_primary(Kind::HangServer), 8), 1.5)),
        ),
        Scenario::new(
            "agent-and-server-killed",
            Turn::Together,
            "agent and server of a primary are killed at once under load, so that nobody is left to tell: its replica takes over, no request fails, only unreplicated writes are lost",
            |ctx| Box::pin(struck(ctx, of_primary(Kind::KillContainer), 1.5)),
        )
        .only(Place::Testbed),
        Scenario::new(
            "majority-killed",
            Turn::Together,
            "agents and servers of two of three primaries are killed at once, so that nobody can vote: their replicas take over, and only unreplicated writes are lost",
            |ctx| Box::pin(majority_killed(ctx)),
        )
        .only(Place::Testbed),
        Scenario::new(
            "node-drained",
            Turn::Last,
            "a node with a primary is drained under load: no request fails and no acknowledged write is lost",
            |ctx| Box::pin(node_drained(ctx)),
        )
        .only(Place::Testbed),
        Scenario::new(
            "operator-killed-in-a-loop",
            Turn::Last,
            "a primary's pod is deleted under load while the operator is killed again and again: no request fails and no acknowledged write is lost, as if it were there",
            |ctx| Box::pin(operator_killed_in_a_loop(ctx)),
        )
        .only(Place::Testbed)
        .on_request(),
    ]
}

/// The cache cluster's name.
const NAME: &str = "struck";
/// How long writers write: longer than a fault and the way back from it.
const SECONDS: Duration = Duration::from_secs(35);
/// The longest gap for a fault in which the primary has time to hand over, in seconds.
const ORDERLY: f64 = 0.12;
/// The same where nobody can vote and the operator has to be sure that nobody goes on elsewhere.
const MAJORITY: f64 = 10.0;

/// Does a fault to a cluster of three shards: no request fails, and only what was written at the crash is lost.
async fn struck(ctx: &Ctx, fault: Fault, gap: f64) -> Result<Vec<Figure>> {
    ctx.create_ready(NAME, small(3, 1)).await?;
    ctx.write_keys(NAME, 500).await?;
    let act = strike(ctx, NAME, &fault, 1, READY);
    let (seen, struck) = watched(ctx, NAME, SECONDS, Where::Anywhere, act).await?;
    // What hangs may be found dead, and be lost, at any time while it hangs.
    let until = struck.crash.end() + i64::try_from(fault.lasts.as_millis())?;
    seen.lost_only_within(Some(*struck.crash.start()..=until))?;
    seen.primary_was_replaced()?;
    nobody_noticed(&seen)?;
    kept(ctx).await?;
    Ok(figures(&seen, gap, struck.whole))
}

/// After how many seconds the Service of a single primary is to lead to the new one.
const MARKED: f64 = 2.0;

async fn one_shard_struck(ctx: &Ctx) -> Result<Vec<Figure>> {
    ctx.create_ready(NAME, small(1, 1)).await?;
    ctx.write_keys(NAME, 500).await?;
    let role = format!("{}={}", labels::ROLE, labels::ROLE_PRIMARY);
    let marked = ListParams::default().labels(&role);
    let pods = ctx.api::<Pod>();
    let act = async {
        let old = primary(ctx, NAME).await?;
        let start = std::time::Instant::now();
        let follows = ctx.eventually("the Service follows", READY, async || {
            let found: Vec<String> = pods
                .list(&marked)
                .await?
                .iter()
                .map(ResourceExt::name_any)
                .collect();
            ensure!(found.len() == 1 && found[0] != old, "marked are {found:?}");
            Ok(start.elapsed())
        });
        let fault = of_primary(Kind::KillServer);
        tokio::try_join!(strike(ctx, NAME, &fault, 1, READY), follows)
    };
    let (seen, (struck, follows)) = watched(ctx, NAME, SECONDS, Where::Anywhere, act).await?;
    seen.lost_only_within(Some(struck.crash))?;
    seen.primary_was_replaced()?;
    nobody_noticed(&seen)?;
    kept(ctx).await?;
    let mut figures = figures(&seen, 0.25, struck.whole);
    figures.push(Figure::seconds("Service follows after", follows).at_most(MARKED));
    Ok(figures)
}

async fn out_of_memory(ctx: &Ctx) -> Result<Vec<Figure>> {
    ctx.create_ready(NAME, small(3, 1)).await?;
    ctx.write_keys(NAME, 500).await?;
    let act = async {
        let primary = primary(ctx, NAME).await?;
        let (start, began) = (std::time::Instant::now(), now_ms());
        ensure!(exhaust(ctx, &primary).await?, "{primary} was not killed");
        let crash = began..=now_ms();
        let whole = steady(ctx, NAME, 1, start, READY).await?;
        ctx.told(NAME, conditions::OUT_OF_MEMORY, true, &primary)
            .await?;
        Ok((crash, whole))
    };
    let (seen, (crash, whole)) = watched(ctx, NAME, SECONDS, Where::Anywhere, act).await?;
    seen.lost_only_within(Some(crash))?;
    seen.primary_was_replaced()?;
    nobody_noticed(&seen)?;
    kept(ctx).await?;
    Ok(figures(&seen, 0.25, whole))
}

/// The first shard's primary.
pub(super) async fn primary(ctx: &Ctx, name: &str) -> Result<String> {
    let members = Sight::of(ctx, name).await?.placement.members;
    let mut primaries = members.into_iter().filter(|it| it.shard == 0 && it.primary);
    Ok(primaries
        .next()
        .context("the first shard has no primary")?
        .pod)
}

async fn majority_killed(ctx: &Ctx) -> Result<Vec<Figure>> {
    ctx.create_ready(NAME, small(3, 1)).await?;
    ctx.write_keys(NAME, 500).await?;
    let act = async {
        let sight = Sight::of(ctx, NAME).await?;
        let (start, began) = (std::time::Instant::now(), now_ms());
        for shard in 0..2 {
            let fault = of(Kind::KillContainer, Target::Member(shard, Role::Primary));
            inject(ctx, &sight, &fault).await?;
        }
        let crash = began..=now_ms();
        let whole = steady(ctx, NAME, 1, start, READY).await?;
        Ok((crash, whole))
    };
    let lasts = Duration::from_secs(45);
    let (seen, (crash, whole)) = watched(ctx, NAME, lasts, Where::Anywhere, act).await?;
    seen.lost_only_within(Some(crash))?;
    seen.primary_was_replaced()?;
    kept(ctx).await?;
    Ok(figures(&seen, MAJORITY, whole))
}

/// Waits until no node holds two of the three primaries: how long that took. Kubernetes moves no pod back to a node that was
/// drained; so the operator has to move a replica there before hand-overs can help.
pub(super) async fn spread(ctx: &Ctx, name: &str) -> Result<Figure> {
    let start = std::time::Instant::now();
    ctx.eventually("primaries are spread", READY, async || {
        let members = Sight::of(ctx, name).await?.placement.members;
        let mut load: BTreeMap<_, usize> = members.iter().map(|m| (m.node, 0)).collect();
        for member in members.iter().filter(|member| member.primary) {
            *load.entry(member.node).or_default() += 1;
        }
        ensure!(
            load.values().sum::<usize>() == 3 && load.values().all(|held| *held <= 1),
            "primaries of each node: {load:?}"
        );
        Ok(())
    })
    .await?;
    Ok(Figure::seconds("primaries spread after", start.elapsed()))
}

async fn node_drained(ctx: &Ctx) -> Result<Vec<Figure>> {
    ctx.create_ready(NAME, small(3, 1)).await?;
    ctx.write_keys(NAME, 500).await?;
    let (number, node) = node_of_primary(ctx, NAME).await?;
    let away = Where::AwayFrom(std::slice::from_ref(&node));
    let fault = of(Kind::Drain, Target::Node(number));
    let act = strike(ctx, NAME, &fault, 1, READY);
    let (seen, struck) = watched(ctx, NAME, SECONDS, away, act).await?;
    seen.lost_only_within(None)?;
    seen.primary_was_replaced()?;
    nobody_noticed(&seen)?;
    kept(ctx).await?;
    let mut figures = figures(&seen, ORDERLY, struck.whole);
    figures.push(spread(ctx, NAME).await?);
    Ok(figures)
}

async fn operator_killed_in_a_loop(ctx: &Ctx) -> Result<Vec<Figure>> {
    ctx.create_ready(NAME, small(3, 1)).await?;
    ctx.write_keys(NAME, 500).await?;
    let act = async {
        let sight = Sight::of(ctx, NAME).await?;
        let killing = inject(ctx, &sight, &of(Kind::KillOperatorLoop, Target::TheOne)).await?;
        let start = std::time::Instant::now();
        inject(ctx, &sight, &of_primary(Kind::DeletePod)).await?;
        // Long enough that the pod is back while there is no operator.
        tokio::time::sleep(Duration::from_secs(12)).await;
        killing.now().await?;
        // Nobody wrote a status before.
        let before = start.elapsed();
        let after = steady(ctx, NAME, 1, std::time::Instant::now(), READY).await?;
        Ok(before + after)
    };
    let lasts = Duration::from_secs(40);
    let (seen, whole) = watched(ctx, NAME, lasts, Where::Anywhere, act).await?;
    seen.lost_only_within(None)?;
    seen.primary_was_replaced()?;
    nobody_noticed(&seen)?;
    kept(ctx).await?;
    Ok(figures(&seen, ORDERLY, whole))
}

fn nobody_noticed(seen: &Seen) -> Result<()> {
    let Seen { redis, http } = seen;
    ensure!(
        redis.failed == 0 && http.failed == 0,
        "requests failed by {}: {redis:?} {http:?}",
        now_ms()
    );
    Ok(())
}

/// That what was written long before is there.
async fn kept(ctx: &Ctx) -> Result<()> {
    let keys = ctx.read_keys(NAME, 500).await?;
    ensure!(keys.absent == 0, "keys were lost: {keys:?}");
    Ok(())
}

/// What was seen; `gap` is the bound of the longest gap, in seconds.
pub(super) fn figures(seen: &Seen, gap: f64, whole: Duration) -> Vec<Figure> {
    let Seen { redis, http } = seen;
    vec![
        Figure::count("longest gap of a shard", redis.gap_ms)
            .unit("ms")
            .at_most(gap * 1000.0),
        Figure::number("slowest HTTP write", http.max_ms, "ms"),
        Figure::count("failed", redis.failed + http.failed),
        Figure::count("of", redis.acked + http.acked + redis.failed + http.failed),
        Figure::count("lost", seen.lost()),
        Figure::seconds("whole again after", whole),
    ]
}
