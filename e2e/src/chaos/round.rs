//! One round: a cluster under two writers, its faults, and what was seen.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use cachecluster_contract::{labels, names, paths};
use cachecluster_crd::{CacheCluster, CacheClusterStatus};
use futures::future::join_all;
use k8s_openapi::api::core::v1::Node;
use kube::Client;
use kube::api::{Api, ListParams};

use super::excuse::{Loss, RATE, Strike, excuse};
use super::fault::{Fault, Kind};
use super::inject::{Sight, inject};
use super::judge::{Seen, Verdict, judge};
use super::schedule::{Round, Shape, Start};
use crate::cluster::{Ctx, Settings, is_pod_ready, is_whole};
use crate::diagnosis;
use crate::drive::mark;
use crate::namespace;
use crate::objects::Kinds;
use crate::probe::Place;
use crate::prober::report::{RedisWriterReport, WriterReport};
use crate::release::release;
use crate::trial::AGAIN;

/// The cache cluster's name, in a namespace of its own.
const NAME: &str = "chaos";
/// How long it may take to be whole: when it is made, and after the last fault was undone. Containers that crash again and
/// again are held back by Kubernetes for up to 40 s of that.
const WHOLE: Duration = Duration::from_secs(180);
/// How long it stays whole before that is believed.
const STEADY: Duration = Duration::from_secs(2);
/// How long writers write before the first fault, and after the last one was undone.
const BEFORE: Duration = Duration::from_secs(3);
/// See [`BEFORE`].
const AFTER: Duration = Duration::from_secs(15);
/// How long they write where nothing happens any more.
const CALM: Duration = Duration::from_secs(8);
/// How long nodes may be known that are gone.
const FORGOTTEN: Duration = Duration::from_secs(60);
/// Longest time for one round, whatever hangs.
const LIMIT: Duration = Duration::from_secs(900);
/// How long a boot may take until there is somebody to strike.
const PEOPLED: Duration = Duration::from_secs(30);
/// Keys that are written when a cluster is made, and looked for after each of its rounds.
const OLD_KEYS: u64 = 300;

/// What all rounds share.
pub(super) struct Ground {
    /// A client of the API server.
    pub(super) client: Client,
    /// What holds for the whole run.
    pub(super) settings: Arc<Settings>,
    /// The kinds of objects that there are.
    pub(super) kinds: Arc<Kinds>,
}

/// A cache cluster that lives for some rounds.
pub(super) struct Life {
    number: u32,
    ctx: Ctx,
    shape: Shape,
}

/// What came of a round.
#[derive(Debug)]
pub(super) struct Outcome {
    /// Which.
    pub(super) round: Round,
    /// What was seen, or why it could not be.
    pub(super) verdict: Result<Verdict>,
    /// From the undoing of the last fault until the cluster was whole.
    pub(super) whole: Duration,
    /// The whole round.
    pub(super) taken: Duration,
    /// What struck whom and what the writers reported; if it failed, everything else that may tell why.
    pub(super) record: String,
}

impl Outcome {
    /// Whether nothing was wrong.
    pub(super) fn is_good(&self) -> bool {
        matches!(&self.verdict, Ok(verdict) if verdict.complaints.is_empty())
    }
}

impl Ground {
    /// A namespace's worth of it.
    pub(super) fn ctx(&self, seed: u64, life: u32) -> Ctx {
        Ctx {
            client: self.client.clone(),
            namespace: format!("cc-chaos-{seed}-{life}-{}", mark()),
            settings: self.settings.clone(),
            kinds: self.kinds.clone(),
            probes: Arc::default(),
        }
    }

    /// Plays a round, on the cluster of the last one if it is the same life's.
    pub(super) async fn play(&self, seed: u64, round: Round, life: &mut Option<Life>) -> Outcome {
        let start = Instant::now();
        let mut whole = Duration::ZERO;
        let mut record = String::new();
        let attempt = self.attempt(seed, &round, life, &mut whole, &mut record);
        let verdict = match tokio::time::timeout(LIMIT, attempt).await {
            Ok(verdict) => verdict,
            Err(_) => Err(anyhow!("not over after {LIMIT:?}")),
        };
        let mut outcome = Outcome {
            round,
            verdict,
            whole,
            taken: start.elapsed(),
            record,
        };
        if !outcome.is_good()
            && let Some(life) = life
        {
            let diagnosis = diagnosis::in_full(&life.ctx, outcome.taken).await;
            outcome.record.push_str(&diagnosis);
        }
        outcome
    }

    async fn attempt(
        &self,
        seed: u64,
        round: &Round,
        life: &mut Option<Life>,
        whole: &mut Duration,
        record: &mut String,
    ) -> Result<Verdict> {
        if life.as_ref().is_some_and(|life| life.number != round.life)
            && let Some(ended) = life.take()
        {
            ended.end().await?;
        }
        let born = Instant::now();
        let new = life.is_none();
        if new {
            let ctx = self.ctx(seed, round.life);
            namespace::create(&ctx).await?;
            ctx.create(NAME, round.shape.spec()).await?;
            *life = Some(Life {
                number: round.life,
                ctx,
                shape: round.shape.clone(),
            });
        }
        let life = life.as_ref().context("no cluster was made")?;
        match round.start {
            Start::Boot(after) => {
                tokio::time::sleep(after.saturating_sub(born.elapsed())).await;
            }
            Start::Whole => {
                life.whole().await?;
                if new {
                    life.ctx.write_keys(NAME, OLD_KEYS).await?;
                }
            }
        }
        let away = round.struck_nodes();
        if round.start == Start::Whole && round.can_be_watched() {
            let lasts = BEFORE + round.lasts() + AFTER;
            let acts = async {
                tokio::time::sleep(BEFORE).await;
                life.suffer(round, whole, record).await
            };
            let (seen, strikes) = life.watched(lasts, &away, acts).await?;
            let excuse = excuse(&round.shape, &strikes);
            let _ = writeln!(record, "{excuse:#?}\n{seen:#?}");
            let losses: Vec<Loss> = excuse.loss.values().copied().collect();
            let mut verdict = judge(&excuse, &seen);
            verdict.notes.extend(uneven(&round.shape, &strikes));
            return life.finish(verdict, &losses).await;
        }
        let mut losses = Vec::new();
        if round.start == Start::Whole {
            // What has just been written may not be on disk yet.
            tokio::time::sleep(BEFORE).await;
            let strikes = life.suffer(round, whole, record).await?;
            losses.extend(excuse(&round.shape, &strikes).loss.into_values());
        } else {
            life.suffer(round, whole, record).await?;
            // What a node that has just come back knows of Services may be old for a while, whoever serves behind them.
            let place = nodes(&away);
            let place = Place::AwayFrom(&place);
            life.ctx.write_keys_from(place, NAME, OLD_KEYS).await?;
        }
        let (seen, ()) = life.watched(CALM, &away, async { Ok(()) }).await?;
        let _ = writeln!(record, "{seen:#?}");
        let verdict = judge(&excuse(&round.shape, &[]), &seen);
        life.finish(verdict, &losses).await
    }
}

impl Life {
    /// Removes everything of it.
    ///
    /// # Errors
    /// When something stays.
    pub(super) async fn end(self) -> Result<()> {
        namespace::remove(&self.ctx).await
    }

    /// The namespace, for whoever wants to look.
    pub(super) fn namespace(&self) -> &str {
        &self.ctx.namespace
    }

    /// Does a round's faults, undoes them, and waits until the cluster is whole, and how long that takes: what was struck.
    async fn suffer(
        &self,
        round: &Round,
        whole: &mut Duration,
        record: &mut String,
    ) -> Result<Vec<Strike>> {
        let strikes = self.strike(round).await?;
        let _ = writeln!(record, "{strikes:#?}");
        let undone = Instant::now();
        self.whole().await?;
        *whole = undone.elapsed();
        Ok(strikes)
    }

    /// Does a round's faults, each at its time, and undoes each at its time: what was struck.
    async fn strike(&self, round: &Round) -> Result<Vec<Strike>> {
        let blind = round.faults.iter().any(|f| f.kind == Kind::StopApiServer);
        // Nobody tells where anything is while the API server is away.
        let early = match blind {
            true => Some(self.sight(&round.faults).await?),
            false => None,
        };
        let start = Instant::now();
        let strikes = round.faults.iter().map(async |fault| {
            tokio::time::sleep_until((start + fault.after).into()).await;
            let sight = match &early {
                Some(sight) => sight.clone(),
                None => self.sight(std::slice::from_ref(fault)).await?,
            };
            let began_ms = now_ms();
            let began = Instant::now();
            let undo = inject(&self.ctx, &sight, fault)
                .await
                .with_context(|| format!("{fault} could not be done"))?;
            // Of two faults, one may have been there first.
            let struck = undo.is_some() || round.faults.len() > 1;
            ensure!(struck, "{fault} struck nobody");
            let ended_ms = now_ms();
            tokio::time::sleep_until((began + fault.lasts).into()).await;
            undo.unwrap_or_default().now().await?;
            Ok(Strike {
                fault: *fault,
                placement: sight.placement,
                began_ms,
                ended_ms,
            })
        });
        join_all(strikes).await.into_iter().collect()
    }

    /// Looks until everybody is there whom these faults are meant for: while a cluster boots, some come later.
    async fn sight(&self, faults: &[Fault]) -> Result<Sight> {
        let looked = self
            .ctx
            .eventually("somebody to strike", PEOPLED, async || {
                let sight = Sight::of(&self.ctx, NAME).await?;
                faults.iter().try_for_each(|fault| sight.has(fault))?;
                Ok(sight)
            });
        looked.await
    }

    /// Has both writers write for so long, away from these nodes, while something is done.
    async fn watched<T>(
        &self,
        lasts: Duration,
        away: &[u32],
        act: impl Future<Output = Result<T>>,
    ) -> Result<(Seen, T)> {
        let (ctx, away) = (&self.ctx, nodes(away));
        let mark = now_ms();
        let (seconds, rate) = (lasts.as_secs().to_string(), RATE.to_string());
        let keys = (RATE * (lasts.as_secs() + 1)).to_string();
        let url = ctx.url(NAME);
        let redis = format!("redis://{}.{}.svc:6379", names::redis(NAME), ctx.namespace);
        let slots = self.status().await?.shards;
        let shared = [
            "--seconds",
            &seconds,
            "--rate",
            &rate,
            "--settle",
            "60",
            "--again",
            AGAIN,
        ];
        // What an earlier round wrote must not pass for what this one lost.
        let (by_http, by_redis) = (format!("http-{mark}"), format!("redis-{mark}"));
        let http = [
            "writer", "--url", &url, "--keys", &keys, "--prefix", &by_http,
        ];
        let http = [&http[..], &shared].concat();
        let file = paths::PASSWORD_FILE;
        let redis = [
            "redis-writer",
            "--url",
            &redis,
            "--password-file",
            file,
            "--prefix",
            &by_redis,
        ];
        let redis = [&redis[..], &shared].concat();
        let place = Place::AwayFrom(&away);
        let http = ctx.probe_as(&http, None, place).await?;
        let redis = ctx.probe_as(&redis, Some(NAME), place).await?;
        http.started().await?;
        redis.started().await?;
        let done = act.await;
        let limit = lasts + Duration::from_secs(120);
        let http: WriterReport = http.report(limit).await?;
        let redis: RedisWriterReport = redis.report(limit).await?;
        let slots = slots.into_iter().map(|shard| shard.slots).collect();
        // What the writers saw tells most where the rest went wrong.
        let done = done.map_err(|error| anyhow!("{error:#}\nseen: {http:?}\n{redis:?}"))?;
        Ok((Seen { http, redis, slots }, done))
    }

    /// Looks at what the writers do not see.
    async fn finish(&self, mut verdict: Verdict, losses: &[Loss]) -> Result<Verdict> {
        let (ctx, wanted) = (&self.ctx, self.shape.pods());
        let known = ctx.eventually("only living nodes are known", FORGOTTEN, async || {
            let report = ctx.redis_check(NAME, false).await?;
            let (nodes, primaries) = (report.nodes.len(), report.primaries);
            ensure!(nodes == wanted, "{nodes} of {wanted} nodes are known");
            ensure!(
                primaries == self.shape.shards as usize,
                "{primaries} primaries serve slots"
            );
            Ok(())
        });
        if let Err(error) = known.await {
            verdict.complain(format!("{error:#}"));
        }
        let keys = ctx.read_keys(NAME, OLD_KEYS).await?;
        let gone = losses.iter().any(|loss| matches!(loss, Loss::Until(_)));
        if keys.absent > 0 {
            if gone {
                verdict.excused += keys.absent;
                ctx.write_keys(NAME, OLD_KEYS).await?;
            } else {
                verdict.lost += keys.absent;
                verdict.complain(format!("{} keys of before are gone", keys.absent));
            }
        }
        Ok(verdict)
    }

    async fn status(&self) -> Result<CacheClusterStatus> {
        let cluster = self.ctx.api::<CacheCluster>().get(NAME).await?;
        Ok(cluster.status.unwrap_or_default())
    }

    /// Waits until the resource, its pods, the nodes and the operator are as if nothing had happened, and stay so.
    async fn whole(&self) -> Result<()> {
        let mut since: Option<Instant> = None;
        let looked = self
            .ctx
            .eventually("the cluster is whole", WHOLE, async || {
                if let Err(error) = self.is_whole().await {
                    since = None;
                    return Err(error);
                }
                let steady = since.get_or_insert_with(Instant::now).elapsed();
                ensure!(steady >= STEADY, "for {steady:?} only");
                Ok(())
            });
        looked.await
    }

    async fn is_whole(&self) -> Result<()> {
        let ctx = &self.ctx;
        let cluster = ctx.api::<CacheCluster>().get(NAME).await?;
        let status = || serde_json::to_string(&cluster.status).unwrap_or_default();
        let shards = cluster.status.iter().flat_map(|status| &status.shards);
        ensure!(
            is_whole(&cluster, self.shape.replicas as usize)
                && shards.count() == self.shape.shards as usize,
            "status {}",
            status()
        );
        // Who is not in sync yet would not be promoted.
        let mut shards = cluster.status.iter().flat_map(|status| &status.shards);
        let members = self.shape.members();
        ensure!(
            !self.shape.durable || shards.all(|shard| shard.in_sync.len() == members),
            "some are not in sync: {}",
            status()
        );
        for (component, wanted) in [
            (labels::COMPONENT_REDIS, Some(self.shape.pods())),
            (labels::COMPONENT_API, None),
        ] {
            let pods = ctx.pods(NAME, component).await?;
            let ready = pods.iter().filter(|pod| is_pod_ready(pod)).count();
            let wanted = wanted.unwrap_or(pods.len()).max(1);
            ensure!(
                ready == wanted && pods.len() == wanted,
                "{component}: {ready} of {} pods are ready, {wanted} are wanted",
                pods.len()
            );
        }
        let operator = ctx.operator_pods().await?;
        if !operator.iter().all(is_pod_ready) {
            release(ctx, &operator).await?;
            bail!("the operator is not ready");
        }
        let nodes = Api::<Node>::all(ctx.client.clone());
        for node in nodes.list(&ListParams::default()).await? {
            let conditions = node.status.iter().flat_map(|status| &status.conditions);
            let ready = conditions
                .flatten()
                .any(|condition| condition.type_ == "Ready" && condition.status == "True");
            ensure!(ready, "{:?} is not ready", node.metadata.name);
        }
        Ok(())
    }
}

/// Says so if a node held a majority of three or more primaries when the first fault struck: what that costs is excused,
/// and it should not have been so.
fn uneven(shape: &Shape, strikes: &[Strike]) -> Option<String> {
    let shards = shape.shards;
    let (node, held) = strikes.first()?.placement.majority(shards)?;
    (shards > 2).then(|| format!("before, node{node} held {held} of {shards} primaries"))
}

fn nodes(numbers: &[u32]) -> Vec<String> {
    numbers.iter().map(|node| format!("node{node}")).collect()
}

fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}
