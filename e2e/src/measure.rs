//! Measures faults: each several times, one after the other and alone on the cluster, under writers through Redis and
//! through HTTP at once. What comes of it is a table for docs/reliability.md.

mod table;

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use cachecluster_contract::labels;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::DeleteParams;
use serde_json::{Value, json};

use crate::chaos::fault::{Cut, Fault, Kind, Manner, Target};
use crate::chaos::inject::{Sight, mend};
use crate::cluster::{Ctx, READY, Settings, small};
use crate::command::Target as Client;
use crate::drive::{await_operator, connect, interruption, interruptions, mark};
use crate::objects::Kinds;
use crate::probe::Place;
use crate::trial::{
    Seen, Struck, inject, lasting, node_of_primary, now_ms, of, of_primary, steady, strike, watched,
};
use crate::{diagnosis, namespace};
use table::{Line, Run};

/// `measure`
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Measure only faults whose name contains one of these
    filter: Vec<String>,
    /// How often each
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    runs: u32,
    /// Put what is measured into the table of this page, between its two marks, after each fault; what is not measured stays
    #[arg(long)]
    write: Option<PathBuf>,
    /// The cluster's kubeconfig; absent: as kubectl finds it
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
    /// Context in the kubeconfig; absent: the current one
    #[arg(long)]
    context: Option<String>,
    /// Image of the prober, present on every node or to be pulled by them
    #[arg(long, default_value = "cachecluster/e2e:dev")]
    prober_image: String,
    /// Namespace of the operator's Helm release
    #[arg(long, default_value = "cachecluster-system")]
    operator_namespace: String,
    /// The testbed's command (`testbed/cluster`), if the cluster is the testbed: what strikes nodes is measured then, too
    #[arg(long)]
    testbed: Option<PathBuf>,
}

/// What happens to the cluster.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// Nothing: what the clients themselves take.
    Nothing,
    /// To the first shard's primary.
    Primary(Kind),
    /// To the node of the first shard's primary.
    Node(Kind),
    /// To every pod.
    All,
    /// The second to the first shard's primary, while the first goes on.
    During(Kind, Kind),
}

/// What keeps the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kept {
    /// Memory alone.
    InMemory,
    /// Volumes.
    Stored,
    /// Volumes, of a durable cluster that writes to them before it acknowledges.
    Always,
}

/// A fault to measure.
struct Row {
    name: &'static str,
    event: Event,
    shards: u32,
    kept: Kept,
    /// How long the fault lasts, in seconds, before it is undone.
    lasts: u64,
    /// How long writers write, in seconds.
    writes: u64,
    /// What the longest gap of a Redis client is to be at most, in milliseconds.
    gap: Option<u64>,
    /// After how many seconds the cluster is to be whole again, at most.
    whole: Option<u64>,
    /// How many HTTP requests may fail; none: any, since nobody is there to answer them.
    failed: Option<u64>,
}

const BASE: Row = Row {
    name: "",
    event: Event::Nothing,
    shards: 3,
    kept: Kept::InMemory,
    lasts: 0,
    writes: 30,
    gap: None,
    whole: None,
    failed: Some(0),
};

/// In the order of docs/reliability.md.
fn rows() -> Vec<Row> {
    let row = |name, event, gap| Row {
        name,
        event,
        gap,
        ..BASE
    };
    vec![
        Row {
            name: "no fault",
            writes: 20,
            ..BASE
        },
        row("pod deleted", Event::Primary(Kind::DeletePod), Some(120)),
        row(
            "pod deleted by force",
            Event::Primary(Kind::ForceDeletePod),
            Some(120),
        ),
        Row {
            writes: 60,
            ..row("node drained", Event::Node(Kind::Drain), Some(120))
        },
        row("server killed", Event::Primary(Kind::KillServer), Some(250)),
        Row {
            shards: 1,
            ..row(
                "server killed, one shard",
                Event::Primary(Kind::KillServer),
                Some(250),
            )
        },
        row(
            "agent and server killed",
            Event::Primary(Kind::KillContainer),
            Some(1500),
        ),
        Row {
            lasts: 5,
            ..row(
                "server hung (SIGSTOP)",
                Event::Primary(Kind::HangServer),
                Some(1500),
            )
        },
        Row {
            lasts: 25,
            writes: 70,
            failed: None,
            ..row("node powered off", Event::Node(Kind::PowerOff), Some(1500))
        },
        Row {
            lasts: 20,
            writes: 60,
            failed: None,
            ..row("node cut off", Event::Node(Kind::Partition), Some(1500))
        },
        Row {
            writes: 60,
            whole: Some(20),
            failed: None,
            ..row("every pod deleted", Event::All, None)
        },
        Row {
            writes: 60,
            whole: Some(20),
            kept: Kept::Stored,
            failed: None,
            ..row("every pod deleted, with storage", Event::All, None)
        },
        Row {
            writes: 60,
            whole: Some(20),
            kept: Kept::Always,
            failed: None,
            ..row("every pod deleted, durable, fsync Always", Event::All, None)
        },
        Row {
            writes: 45,
            ..row(
                "pod deleted, operator killed in a loop",
                Event::During(Kind::KillOperatorLoop, Kind::DeletePod),
                Some(120),
            )
        },
        Row {
            writes: 45,
            ..row(
                "server killed, operator killed in a loop",
                Event::During(Kind::KillOperatorLoop, Kind::KillServer),
                Some(250),
            )
        },
        Row {
            writes: 45,
            ..row(
                "server killed, API server away",
                Event::During(Kind::StopApiServer, Kind::KillServer),
                Some(250),
            )
        },
    ]
}

/// The cache cluster's name.
const NAME: &str = "measured";
/// How long what happens meanwhile goes on.
const MEANWHILE: Duration = Duration::from_secs(12);

/// How long a primary that is cut off may go on acknowledging, in milliseconds: see docs/reliability.md.
const ISOLATED: i64 = 3_200;
/// How long a server that is told to stop may go on acknowledging, in milliseconds.
const STOPPING: i64 = 10_000;

/// Measures what the filter lets through; true if each run could be made, and none broke a promise.
///
/// # Errors
/// When the cluster cannot be reached or made good, the operator is not there, the filter fits nothing, the page cannot be
/// written, or somebody interrupts.
pub(crate) async fn run(args: Args) -> Result<bool> {
    let target = Client {
        kubeconfig: args.kubeconfig.clone(),
        context: args.context.clone(),
    };
    let on_testbed = args.testbed.is_some();
    let rows: Vec<Row> = rows()
        .into_iter()
        .filter(|row| on_testbed || !row.needs_testbed())
        .filter(|row| {
            args.filter.is_empty() || args.filter.iter().any(|word| row.name.contains(word))
        })
        .collect();
    if rows.is_empty() {
        bail!(
            "there is nothing to measure whose name contains any of {:?}",
            args.filter
        );
    }
    let client = connect(&target).await?;
    await_operator(&client, &args.operator_namespace).await?;
    let kinds = Arc::new(Kinds::discover(&client).await?);
    let settings = Arc::new(Settings {
        target,
        prober_image: args.prober_image.clone(),
        engine_images: Vec::new(),
        operator_namespace: args.operator_namespace.clone(),
        release: String::new(),
        chart: PathBuf::new(),
        manifests: PathBuf::new(),
        idle: Duration::ZERO,
        testbed: args.testbed.clone(),
    });
    let mut interrupted = interruptions()?;
    let mut lines = Vec::new();
    for row in &rows {
        let ctx = Ctx {
            client: client.clone(),
            namespace: format!("cc-measure-{}", mark()),
            settings: settings.clone(),
            kinds: kinds.clone(),
            probes: Arc::default(),
        };
        let mut line = Line::new(row.name, row.gap, row.whole);
        // What a run has left that was itself killed would be measured as this fault's.
        mend(&ctx).await.context("making the nodes good again")?;
        let stopped = tokio::select! {
            () = row.measure(&ctx, args.runs, &mut line) => false,
            () = interruption(&mut interrupted) => true,
        };
        // Also after an interruption, which may have come between a fault and its end.
        let mended = mend(&ctx).await.context("making the nodes good again");
        namespace::remove(&ctx).await?;
        mended?;
        println!("{}", line.markdown());
        lines.push(line);
        if let Some(page) = &args.write {
            write(page, &lines)?;
        }
        if stopped {
            bail!("interrupted");
        }
    }
    let measured: Vec<String> = lines.iter().map(Line::markdown).collect();
    println!("\n{}", table::markdown(measured.iter().map(String::as_str)));
    Ok(lines.iter().all(Line::is_good))
}

/// Puts what was measured into a page.
fn write(page: &Path, lines: &[Line]) -> Result<()> {
    let old =
        std::fs::read_to_string(page).with_context(|| format!("reading {}", page.display()))?;
    let all = rows();
    let names: Vec<&str> = all.iter().map(|row| row.name).collect();
    let measured: Vec<(&str, String)> = lines.iter().map(|l| (l.name, l.markdown())).collect();
    let new = table::insert(&old, &names, &measured)
        .with_context(|| format!("{} has no marks for a table", page.display()))?;
    std::fs::write(page, new).with_context(|| format!("writing {}", page.display()))
}

impl Row {
    fn needs_testbed(&self) -> bool {
        match self.event {
            Event::Nothing | Event::All => false,
            Event::Primary(kind) => kind.needs_testbed(),
            Event::Node(_) | Event::During(..) => true,
        }
    }

    fn spec(&self) -> Value {
        let mut spec = small(self.shards, 1);
        if self.kept != Kept::InMemory {
            spec["storage"] = json!({"size": "128Mi", "onDelete": "Delete"});
        }
        if self.kept == Kept::Always {
            spec["profile"] = json!("Durable");
            spec["durability"] = json!({"fsync": "Always"});
            spec["engine"] = json!({"eviction": "noeviction"});
        }
        spec
    }

    /// Makes a cluster and all runs on it. One that cannot be made ends the row; why is told.
    async fn measure(&self, ctx: &Ctx, runs: u32, line: &mut Line) {
        let prepared = async {
            namespace::create(ctx).await?;
            ctx.create_ready(NAME, self.spec()).await?;
            anyhow::Ok(())
        };
        if let Err(error) = prepared.await {
            eprintln!("{}: {error:#}", self.name);
            line.failures += runs;
            return;
        }
        for number in 1..=runs {
            let began = std::time::Instant::now();
            match self.once(ctx).await {
                Ok(run) => {
                    println!("{} {number} of {runs}: {run}", self.name);
                    for wrong in &run.wrong {
                        eprintln!("{} {number} of {runs} BROKE A PROMISE: {wrong}", self.name);
                    }
                    line.runs.push(run);
                }
                Err(error) => {
                    eprintln!("{} {number} of {runs} FAILED: {error:#}", self.name);
                    diagnosis::keep(ctx, began.elapsed()).await;
                    line.failures += runs - number + 1;
                    return;
                }
            }
        }
    }

    async fn once(&self, ctx: &Ctx) -> Result<Run> {
        replace_restarted(ctx).await?;
        steady(ctx, NAME, 1, std::time::Instant::now(), 2 * READY).await?;
        let lasts = Duration::from_secs(self.writes);
        let (number, node) = match self.event {
            Event::Node(_) => node_of_primary(ctx, NAME).await?,
            _ => (0, String::new()),
        };
        let away = std::slice::from_ref(&node);
        let place = match self.event {
            Event::Node(_) => Place::AwayFrom(away),
            _ => Place::Anywhere,
        };
        let (seen, struck) = watched(ctx, NAME, lasts, place, self.happen(ctx, number)).await?;
        if !matches!(self.event, Event::Nothing | Event::All) {
            seen.primary_was_replaced()?;
        }
        Ok(self.sum(&seen, &struck))
    }

    async fn happen(&self, ctx: &Ctx, node: u32) -> Result<Struck> {
        let strike = async |fault: Fault| {
            let fault = lasting(fault, self.lasts);
            strike(ctx, NAME, &fault, 1, 2 * READY).await
        };
        match self.event {
            Event::Nothing => {
                let now = now_ms();
                Ok(Struck {
                    crash: now..=now,
                    whole: Duration::ZERO,
                })
            }
            Event::Primary(kind) => strike(of_primary(kind)).await,
            Event::Node(Kind::Partition) => {
                strike(of(Kind::Partition, Target::Link(node, Cut::All))).await
            }
            Event::Node(kind) => strike(of(kind, Target::Node(node))).await,
            Event::All => strike(of(Kind::DeleteAll, Target::TheOne)).await,
            Event::During(other, kind) => {
                let sight = Sight::of(ctx, NAME).await?;
                let going_on = inject(ctx, &sight, &of(other, Target::TheOne)).await?;
                let (start, began) = (std::time::Instant::now(), now_ms());
                let struck = inject(ctx, &sight, &of_primary(kind)).await;
                let crash = began..=now_ms();
                tokio::time::sleep(MEANWHILE).await;
                going_on.now().await?;
                struck?;
                // Nobody wrote a status before.
                let before = start.elapsed();
                let now = std::time::Instant::now();
                let whole = before + steady(ctx, NAME, 1, now, 2 * READY).await?;
                Ok(Struck { crash, whole })
            }
        }
    }

    /// When the writes were acknowledged that may be gone, if any may, in milliseconds since 1970.
    fn window(&self, crash: &RangeInclusive<i64>) -> Option<RangeInclusive<i64>> {
        let kind = match self.event {
            Event::Nothing => return None,
            Event::All => {
                // Without volumes, nothing is left of what memory held.
                return (self.kept == Kept::InMemory).then(|| 0..=crash.end() + STOPPING);
            }
            Event::Primary(kind) | Event::Node(kind) | Event::During(_, kind) => kind,
        };
        match kind.manner() {
            Manner::Crashed => Some(crash.clone()),
            Manner::Cut => Some(*crash.start()..=crash.end() + ISOLATED),
            Manner::Told | Manner::Guarded | Manner::Spared => None,
        }
    }

    /// What this fault is promised not to do, and did.
    fn wrong(&self, seen: &Seen, struck: &Struck) -> Vec<String> {
        let kept = seen.lost_only_within(self.window(&struck.crash));
        let lost = kept.err().map(|error| format!("{error:#}"));
        let failed = seen.http.failed;
        let above = self.failed.is_some_and(|most| failed > most);
        let refused =
            above.then(|| format!("{failed} HTTP requests failed: {:?}", seen.http.examples));
        lost.into_iter().chain(refused).collect()
    }

    fn sum(&self, seen: &Seen, struck: &Struck) -> Run {
        Run {
            wrong: self.wrong(seen, struck),
            redis_gap_ms: seen.redis.gap_ms,
            http_gap_ms: seen.http.gap_ms,
            http_slowest_ms: seen.http.max_ms,
            http_failed: seen.http.failed,
            lost: seen.lost(),
            stale: seen.redis.stale,
            whole: struck.whole.saturating_sub(Duration::from_secs(self.lasts)),
        }
    }
}

/// Replaces pods whose containers have ended before, one after the other: Kubernetes would wait longer and longer before it
/// starts them again, and that is no other fault's doing.
async fn replace_restarted(ctx: &Ctx) -> Result<()> {
    for pod in ctx.pods(NAME, labels::COMPONENT_REDIS).await? {
        let statuses = pod.status.iter().flat_map(|it| &it.container_statuses);
        if statuses.flatten().any(|status| status.restart_count > 0) {
            steady(ctx, NAME, 1, std::time::Instant::now(), 2 * READY).await?;
            let pods = ctx.api::<Pod>();
            pods.delete(&pod.name_any(), &DeleteParams::default())
                .await?;
            steady(ctx, NAME, 1, std::time::Instant::now(), 2 * READY).await?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prober::report::{RedisWriterReport, WriterReport};

    #[test]
    fn every_row_has_a_name_of_its_own_and_ends_before_its_writers() {
        let rows = rows();
        let names: std::collections::BTreeSet<_> = rows.iter().map(|row| row.name).collect();
        assert_eq!(names.len(), rows.len());
        assert!(rows.iter().all(|row| row.writes >= row.lasts + 20));
    }

    /// How many promises of a row a run breaks, with a crash from 50,000 on.
    fn broken(name: &str, change: impl FnOnce(&mut Seen)) -> usize {
        let mut seen = Seen {
            redis: RedisWriterReport::default(),
            http: WriterReport::default(),
        };
        change(&mut seen);
        let struck = Struck {
            crash: 50_000..=50_100,
            whole: Duration::ZERO,
        };
        let rows = rows();
        let row = rows.iter().find(|row| row.name == name).unwrap();
        let run = row.sum(&seen, &struck);
        let mut line = Line::new(row.name, None, None);
        line.runs.push(run.clone());
        assert_eq!(line.is_good(), run.wrong.is_empty());
        run.wrong.len()
    }

    #[test]
    fn a_run_that_loses_more_than_its_fault_takes_breaks_a_promise() {
        let lose = |at_ms| {
            move |seen: &mut Seen| {
                (seen.redis.lost_first_ms, seen.redis.lost_last_ms) = (Some(at_ms), Some(at_ms));
            }
        };
        assert_eq!(broken("server killed", |_| ()), 0);
        assert_eq!(broken("server killed", lose(50_000)), 0);
        assert_eq!(broken("server killed", lose(52_000)), 1);
        assert_eq!(broken("node cut off", lose(53_000)), 0);
        assert_eq!(broken("node cut off", lose(55_000)), 1);
        for none in ["no fault", "pod deleted", "node drained"] {
            assert_eq!(broken(none, lose(50_000)), 1, "{none}");
        }
        assert_eq!(broken("every pod deleted", lose(20_000)), 0);
        assert_eq!(broken("every pod deleted", lose(90_000)), 1);
        for kept in ["with storage", "durable, fsync Always"] {
            let name = format!("every pod deleted, {kept}");
            assert_eq!(broken(&name, lose(20_000)), 1);
        }
    }

    #[test]
    fn a_run_with_stale_reads_or_failed_requests_breaks_a_promise() {
        assert_eq!(broken("server killed", |seen| seen.redis.stale = 1), 1);
        assert_eq!(broken("server killed", |seen| seen.http.failed = 1), 1);
        assert_eq!(broken("node powered off", |seen| seen.http.failed = 1), 0);
        assert_eq!(broken("every pod deleted", |seen| seen.http.failed = 1), 0);
    }
}
