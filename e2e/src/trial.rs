//! A cluster under writers, through Redis and through HTTP, while something happens to it.

use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use cachecluster_crd::CacheCluster;

use crate::chaos::fault::{Fault, Kind, Role, Target};
use crate::chaos::inject::{self, Sight, Undo};
use crate::cluster::{Ctx, is_whole};
use crate::probe::Place;
use crate::prober::report::{RedisWriterReport, WriterReport};

/// Writes a second of each writer: 300 of both.
pub(crate) const RATE: u64 = 150;
/// Each so-many-th write of both goes to a key that is written again and again; every other one to a key of its own.
pub(crate) const AGAIN: &str = "4";
/// How long writers write before anything happens.
const BEFORE: Duration = Duration::from_secs(3);
/// How long a cluster stays whole before that is believed.
const STEADY: Duration = Duration::from_secs(4);
/// How long around a crash a write may have been acknowledged and not have reached a replica. Clocks of the writers' nodes
/// and of this machine may differ by part of that.
pub(crate) const LAG: Duration = Duration::from_secs(1);

/// What both writers saw.
#[derive(Debug)]
pub(crate) struct Seen {
    /// Through Redis Cluster.
    pub(crate) redis: RedisWriterReport,
    /// Through the HTTP API.
    pub(crate) http: WriterReport,
}

/// A fault that happened.
#[derive(Clone, Debug)]
pub(crate) struct Struck {
    /// From when to when it was done, in milliseconds since 1970.
    pub(crate) crash: RangeInclusive<i64>,
    /// From its beginning until the cluster was whole for good, as its status tells.
    pub(crate) whole: Duration,
}

impl Seen {
    /// Acknowledged writes that are gone.
    pub(crate) fn lost(&self) -> u64 {
        self.redis.lost + self.http.lost
    }

    /// That one of the shards got another primary.
    ///
    /// # Errors
    /// When none did: then nothing was struck.
    pub(crate) fn primary_was_replaced(&self) -> Result<()> {
        let shards = &self.redis.shards;
        let replaced = shards.iter().any(|shard| shard.served.len() > 1);
        ensure!(replaced, "no primary was replaced: {shards:?}");
        Ok(())
    }

    /// That none is gone but those acknowledged within a time, with [`LAG`] around it; without one, none at all.
    ///
    /// # Errors
    /// When others are, or keys cannot be read, or reads were stale.
    pub(crate) fn lost_only_within(&self, time: Option<RangeInclusive<i64>>) -> Result<()> {
        let (redis, http) = (&self.redis, &self.http);
        ensure!(
            redis.unread == 0 && http.unread == 0,
            "keys cannot be read: {redis:?} {http:?}"
        );
        ensure!(redis.stale == 0, "reads were stale: {redis:?}");
        let lost = [
            redis.lost_first_ms,
            redis.lost_last_ms,
            http.lost_first_ms,
            http.lost_last_ms,
        ];
        let lag = i64::try_from(LAG.as_millis())?;
        for at in lost.into_iter().flatten() {
            let excused = time
                .as_ref()
                .is_some_and(|time| (time.start() - lag..=time.end() + lag).contains(&at));
            ensure!(
                excused,
                "a write that was acknowledged at {at} is lost; excused are {time:?}: {redis:?} {http:?}"
            );
        }
        Ok(())
    }
}

/// Has both writers write for so long, while something is done that ends before they do.
///
/// # Errors
/// Those of `act`; when a writer cannot work, wrote too little to say anything, or had ended before.
pub(crate) async fn watched<T>(
    ctx: &Ctx,
    cluster: &str,
    lasts: Duration,
    place: Place<'_>,
    act: impl Future<Output = Result<T>>,
) -> Result<(Seen, T)> {
    let (seconds, rate) = (lasts.as_secs().to_string(), RATE.to_string());
    let (url, keys) = (ctx.url(cluster), (RATE * (lasts.as_secs() + 1)).to_string());
    // What an earlier trial wrote must not pass for what this one lost.
    let prefix = format!("w{}", now_ms());
    let shared = [
        "--seconds",
        &seconds,
        "--rate",
        &rate,
        "--prefix",
        &prefix,
        "--settle",
        "60",
        "--again",
        AGAIN,
    ];
    let by_http = ["writer", "--url", &url, "--keys", &keys];
    let http = ctx
        .probe_as(&[&by_http[..], &shared].concat(), None, place)
        .await?;
    let redis_prefix = format!("r{prefix}");
    let by_redis = shared.map(|word| if word == prefix { &redis_prefix } else { word });
    let redis = ctx.redis_writer(cluster, &by_redis, place).await?;
    http.started().await?;
    redis.started().await?;
    let start = Instant::now();
    tokio::time::sleep(BEFORE).await;
    let done = act.await?;
    let taken = start.elapsed();
    let limit = lasts + Duration::from_secs(120);
    let seen = Seen {
        redis: redis.report(limit).await?,
        http: http.report(limit).await?,
    };
    ensure!(
        taken < lasts,
        "it took {taken:?}, and the writers had ended: {seen:?}"
    );
    ensure!(
        seen.redis.acked > 500 && seen.http.acked > 500,
        "too few writes to say anything: {seen:?}"
    );
    Ok((seen, done))
}

/// Does a fault to what was seen, and tells how it is undone.
///
/// # Errors
/// When it cannot be done, or there is nobody to strike any more.
pub(crate) async fn inject(ctx: &Ctx, sight: &Sight, fault: &Fault) -> Result<Undo> {
    let done = inject::inject(ctx, sight, fault).await?;
    done.with_context(|| format!("{fault}: there is nobody to strike"))
}

/// Does a fault, undoes it after the time it lasts, and waits until the cluster is whole.
///
/// # Errors
/// When it cannot be done or undone, or the cluster is not whole within `limit`.
pub(crate) async fn strike(
    ctx: &Ctx,
    cluster: &str,
    fault: &Fault,
    replicas: usize,
    limit: Duration,
) -> Result<Struck> {
    let sight = Sight::of(ctx, cluster).await?;
    sight.has(fault)?;
    let (start, began) = (Instant::now(), now_ms());
    let undo = inject(ctx, &sight, fault).await?;
    let crash = began..=now_ms();
    let ends = start + fault.lasts;
    let undoing = async {
        tokio::time::sleep_until(ends.into()).await;
        undo.now().await
    };
    let watching = steady_from(ctx, cluster, replicas, (start, ends), limit);
    let ((), whole) = tokio::try_join!(undoing, watching)?;
    Ok(Struck { crash, whole })
}

/// Waits until a cluster is whole and stays so: when it became so, from `start`. A status that nobody has written yet
/// since something happened is not taken for an answer.
///
/// # Errors
/// When it is not within `limit`.
pub(crate) async fn steady(
    ctx: &Ctx,
    cluster: &str,
    replicas: usize,
    start: Instant,
    limit: Duration,
) -> Result<Duration> {
    steady_from(ctx, cluster, replicas, (start, start), limit).await
}

/// The same, which is not believed before the second time.
async fn steady_from(
    ctx: &Ctx,
    cluster: &str,
    replicas: usize,
    (start, earliest): (Instant, Instant),
    limit: Duration,
) -> Result<Duration> {
    let api = ctx.api::<CacheCluster>();
    let until = earliest.max(Instant::now()) + limit;
    let mut since: Option<Instant> = None;
    let mut became = start;
    let mut roles = None;
    let mut turned = false;
    loop {
        let found = api.get_opt(cluster).await;
        let whole = matches!(&found, Ok(Some(found)) if is_whole(found, replicas));
        if let Ok(Some(found)) = &found {
            let now = roles_in(found);
            // A replica that took over between two looks at a whole cluster was not there before this one.
            if !turned && *roles.get_or_insert_with(|| now.clone()) != now {
                turned = true;
                became = Instant::now();
            }
        }
        match since {
            Some(since) if whole && since.max(earliest).elapsed() >= STEADY => {
                return Ok(became.saturating_duration_since(start));
            }
            _ if whole => since = since.or_else(|| Some(Instant::now())),
            _ => {
                since = None;
                became = Instant::now();
                if became >= until {
                    let status = found?.and_then(|found| found.status);
                    let status = serde_json::to_string(&status).unwrap_or_default();
                    bail!("{cluster} is not whole within {limit:?}: {status}");
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Each shard's primary and replicas, as the status tells them.
fn roles_in(cluster: &CacheCluster) -> Vec<(Option<String>, Vec<String>)> {
    let shards = cluster.status.iter().flat_map(|status| &status.shards);
    shards
        .map(|shard| (shard.primary.clone(), shard.replicas.clone()))
        .collect()
}

/// A fault of the primary of the first shard.
pub(crate) fn of_primary(kind: Kind) -> Fault {
    of(kind, Target::Member(0, Role::Primary))
}

/// A fault that is done at once.
pub(crate) fn of(kind: Kind, target: Target) -> Fault {
    Fault {
        kind,
        target,
        after: Duration::ZERO,
        lasts: Duration::ZERO,
    }
}

/// The same, which lasts.
pub(crate) fn lasting(fault: Fault, seconds: u64) -> Fault {
    Fault {
        lasts: Duration::from_secs(seconds),
        ..fault
    }
}

/// The node of the first shard's primary: its number and its name.
///
/// # Errors
/// When there is none, or it is no node of the testbed.
pub(crate) async fn node_of_primary(ctx: &Ctx, cluster: &str) -> Result<(u32, String)> {
    let sight = Sight::of(ctx, cluster).await?;
    let primary = sight
        .placement
        .members
        .iter()
        .find(|m| m.shard == 0 && m.primary);
    let node = primary
        .and_then(|member| member.node)
        .context("nobody tells on which node the first shard's primary is")?;
    Ok((node, format!("node{node}")))
}

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(lost: Option<(i64, i64)>) -> Seen {
        Seen {
            redis: RedisWriterReport {
                lost_first_ms: lost.map(|(first, _)| first),
                lost_last_ms: lost.map(|(_, last)| last),
                ..RedisWriterReport::default()
            },
            http: WriterReport::default(),
        }
    }

    #[test]
    fn only_what_was_written_at_the_crash_may_be_lost() {
        let crash = Some(10_000..=10_200);
        assert!(seen(None).lost_only_within(None).is_ok());
        assert!(
            seen(Some((9_500, 10_900)))
                .lost_only_within(crash.clone())
                .is_ok()
        );
        assert!(seen(Some((9_500, 10_900))).lost_only_within(None).is_err());
        assert!(
            seen(Some((8_500, 10_900)))
                .lost_only_within(crash.clone())
                .is_err()
        );
        assert!(seen(Some((9_500, 11_900))).lost_only_within(crash).is_err());
    }

    #[test]
    fn stale_and_unreadable_are_no_excuse() {
        let mut stale = seen(None);
        stale.redis.stale = 1;
        assert!(stale.lost_only_within(Some(0..=1)).is_err());
        let mut unread = seen(None);
        unread.http.unread = 1;
        assert!(unread.lost_only_within(Some(0..=1)).is_err());
    }
}
