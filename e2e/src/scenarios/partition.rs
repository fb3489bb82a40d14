//! A node is cut off from the others and healed.

use std::ops::RangeInclusive;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::faults::{figures, spread};
use super::{Place, Scenario, Turn};
use crate::chaos::fault::{Cut, Kind, Target};
use crate::cluster::{Ctx, READY, small};
use crate::figure::Figure;
use crate::probe::Place as Where;
use crate::prober::report::{RedisWriterReport, Served};
use crate::trial::{LAG, lasting, node_of_primary, of, strike, watched};

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::new(
            "node-partitioned",
            Turn::Last,
            "a node with a primary is cut off from all others and healed: a replica takes over, the old primary stops to acknowledge within one and a half node timeouts and comes back as a replica, and only what it alone acknowledged is lost",
            |ctx| Box::pin(node_partitioned(ctx)),
        )
        .only(Place::Testbed),
    ]
}

/// The cache cluster's name.
const NAME: &str = "struck";
/// How long the partition lasts, in seconds: longer than the old primary may acknowledge, and than a replica takes.
const CUT: u64 = 10;
/// For how long, from the cut on, a primary that hears no majority may acknowledge, in milliseconds: one and a half node
/// timeouts, and two tenths of a second (ARCHITECTURE.md, `crates/agent`).
const ISOLATED: i64 = 3_200;
/// The part of that which may overlap with its successor.
const OVERLAP: i64 = 2_500;
/// How exactly times of two pods and of this machine compare, in milliseconds.
const GRAIN: i64 = 300;

async fn node_partitioned(ctx: &Ctx) -> Result<Vec<Figure>> {
    ctx.create_ready(NAME, small(3, 1)).await?;
    ctx.write_keys(NAME, 500).await?;
    let (number, node) = node_of_primary(ctx, NAME).await?;
    let lasts = Duration::from_secs(40);
    let seconds = lasts.as_secs().to_string();
    let inside = [
        "--seconds",
        &seconds,
        "--prefix",
        "inside",
        "--settle",
        "60",
    ];
    let inside = ctx.redis_writer(NAME, &inside, Where::On(&node)).await?;
    inside.started().await?;
    let fault = lasting(of(Kind::Partition, Target::Link(number, Cut::All)), CUT);
    let act = strike(ctx, NAME, &fault, 1, READY);
    let away = Where::AwayFrom(std::slice::from_ref(&node));
    let (seen, struck) = watched(ctx, NAME, lasts, away, act).await?;
    let limit = lasts + Duration::from_secs(120);
    let inside: RedisWriterReport = inside.report(limit).await?;

    let cut = *struck.crash.start();
    let mut longest = (0, 0);
    for (theirs, ours) in inside.shards.iter().zip(&seen.redis.shards) {
        ensure!(
            theirs.slots == ours.slots,
            "the writers see different shards: {inside:?} {:?}",
            seen.redis
        );
        let Some((alone, both)) = doubled(&theirs.served, &ours.served, &struck.crash) else {
            continue;
        };
        longest = (longest.0.max(alone), longest.1.max(both));
    }
    ensure!(
        longest.0 > 0,
        "no shard had its primary on the node that was cut off: {inside:?}"
    );
    ensure!(
        longest.0 <= ISOLATED + GRAIN,
        "a primary acknowledged for {} ms after it was cut off: {inside:?}",
        longest.0
    );
    // What was acknowledged where nobody else heard of it, and the tail that had not reached a replica.
    let alone = cut..=struck.crash.end() + ISOLATED;
    seen.lost_only_within(Some(alone.clone()))?;
    lost_within(&inside, &alone)?;
    let keys = ctx.read_keys(NAME, 500).await?;
    ensure!(keys.absent == 0, "keys were lost: {keys:?}");
    let mut figures = figures(&seen, 1.5, struck.whole);
    figures.extend([
        Figure::count("lost on the node that was cut off", inside.lost),
        Figure::number("acknowledged alone for", ms(longest.0), "ms").at_most(ms(ISOLATED)),
        Figure::number("two acknowledged for", ms(longest.1), "ms")
            .never_above(ms(OVERLAP + GRAIN)),
    ]);
    figures.push(spread(ctx, NAME).await?);
    Ok(figures)
}

#[allow(clippy::cast_precision_loss)]
fn ms(time: i64) -> f64 {
    time as f64
}

/// Of a shard whose primary was cut off: how long after the cut it acknowledged, and for how long of that its successor
/// did, too, in milliseconds. Nothing of another shard, and of one without a successor.
fn doubled(inside: &[Served], outside: &[Served], cut: &RangeInclusive<i64>) -> Option<(i64, i64)> {
    let old = outside
        .iter()
        .rfind(|served| served.first_ms < *cut.start())?;
    let new = outside
        .iter()
        .find(|served| served.first_ms >= *cut.start())?;
    let alone = inside
        .iter()
        .rfind(|served| served.node == old.node && served.first_ms < *cut.start())?;
    if new.node == old.node {
        return None;
    }
    let last = alone.last_ms;
    Some(((last - cut.start()).max(0), (last - new.first_ms).max(0)))
}

fn lost_within(report: &RedisWriterReport, time: &RangeInclusive<i64>) -> Result<()> {
    let lag = i64::try_from(LAG.as_millis()).context("the lag")?;
    ensure!(report.unread == 0, "keys cannot be read: {report:?}");
    for at in [report.lost_first_ms, report.lost_last_ms]
        .into_iter()
        .flatten()
    {
        ensure!(
            (time.start() - lag..=time.end() + lag).contains(&at),
            "a write that was acknowledged at {at} is lost; excused are {time:?}: {report:?}"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn served(node: &str, first_ms: i64, last_ms: i64) -> Served {
        Served {
            node: node.to_owned(),
            first_ms,
            last_ms,
            acked: 1,
        }
    }

    #[test]
    fn two_primaries_overlap_from_the_first_answer_of_the_new_to_the_last_of_the_old() {
        let inside = [served("a", 0, 12_000), served("b", 20_000, 30_000)];
        let outside = [served("a", 0, 10_010), served("b", 11_200, 30_000)];
        let cut = 10_000..=10_100;
        assert_eq!(doubled(&inside, &outside, &cut), Some((2_000, 800)));
        // Its primary was not cut off.
        let there = [served("c", 0, 30_000)];
        assert_eq!(doubled(&there, &there, &cut), None);
        // It stopped before the other began.
        let early = [served("a", 0, 10_900)];
        assert_eq!(doubled(&early, &outside, &cut), Some((900, 0)));
    }
}
