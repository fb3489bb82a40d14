//! Measures faults: each several times, one after the other and alone on the cluster, under writers through Redis and
//! through HTTP at once. What comes of it is a table for docs/reliability.md.

mod row;
mod table;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use cachecluster_contract::labels;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::DeleteParams;

use crate::chaos::fault::{Cut, Fault, Kind, Role, Target};
use crate::chaos::inject::{Sight, mend};
use crate::cluster::{Ctx, READY, Settings};
use crate::command::Target as Client;
use crate::drive::{await_operator, connect, interruption, interruptions, mark};
use crate::objects::Kinds;
use crate::probe::Place;
use crate::release::release;
use crate::trial::{
    Struck, inject, lasting, node_of_primary, now_ms, of, of_primary, steady, strike, watched,
};
use crate::{diagnosis, namespace};
use row::{Event, Row, rows};
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

/// The cache cluster's name.
const NAME: &str = "measured";
/// How long what happens meanwhile goes on.
const MEANWHILE: Duration = Duration::from_secs(12);

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
        // Of a row that was interrupted before its first run's end, there is nothing to say.
        if !(stopped && line.runs.is_empty()) {
            println!("{}", line.markdown());
            lines.push(line);
        }
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
        knows(ctx).await?;
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
                knows(ctx).await?;
                let before = start.elapsed();
                let now = std::time::Instant::now();
                let whole = before + steady(ctx, NAME, 1, now, 2 * READY).await?;
                Ok(Struck { crash, whole })
            }
        }
    }
}

/// Waits until the status tells who the first shard's primary is. While the operator is away, it tells who was.
async fn knows(ctx: &Ctx) -> Result<()> {
    let told = ctx.eventually("the status is of now", 3 * READY, async || {
        release(ctx, &ctx.operator_pods().await?).await?;
        let sight = Sight::of(ctx, NAME).await?;
        let member = sight.placement.member(0, Role::Primary);
        let member = member.context("the first shard has no pods")?;
        let role = ctx.in_server(&member.pod, "$cli ROLE").await?;
        ensure!(
            member.primary && role.starts_with("master"),
            "{} is {role}",
            member.pod
        );
        Ok(())
    });
    told.await
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
