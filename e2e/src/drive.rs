//! Runs scenarios: which, in which order, each in a namespace of its own, and what came of them.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use futures::{StreamExt, stream};
use kube::api::{Api, ListParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::cluster::{Ctx, OPERATOR, Settings, is_pod_ready};
use crate::command::Target;
use crate::diagnosis;
use crate::figure::Figure;
use crate::namespace;
use crate::objects::Kinds;
use crate::scenarios::{self, Place, Scenario, Turn};

/// `run`
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Run only scenarios whose name contains one of these
    filter: Vec<String>,
    /// The cluster's kubeconfig; absent: as kubectl finds it
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
    /// Context in the kubeconfig; absent: the current one
    #[arg(long)]
    context: Option<String>,
    /// Image of the prober, present on every node or to be pulled by them
    #[arg(long, default_value = "cachecluster/e2e:dev")]
    prober_image: String,
    /// Engines to try, the default one first
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "redis:8.2,valkey/valkey:9.1"
    )]
    engine_images: Vec<String>,
    /// Namespace of the operator's Helm release
    #[arg(long, default_value = "cachecluster-system")]
    operator_namespace: String,
    /// Name of the operator's Helm release
    #[arg(long, default_value = "cachecluster")]
    release: String,
    /// The chart
    #[arg(long, default_value = "charts/cachecluster")]
    chart: PathBuf,
    /// The kustomizations and examples
    #[arg(long, default_value = "manifests")]
    manifests: PathBuf,
    /// The testbed's command (`testbed/cluster`), if the cluster is the testbed: nodes lose their power then
    #[arg(long)]
    testbed: Option<PathBuf>,
    /// Scenarios at a time, where they do not disturb each other
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=32))]
    parallel: u16,
    /// How long to watch an idle cluster, in seconds
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(10..=3600))]
    idle_seconds: u64,
    /// Longest time for one scenario, in seconds
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u64).range(10..=7200))]
    limit: u64,
    /// Leave the namespaces of failed scenarios for a look at them
    #[arg(long)]
    keep_failed: bool,
}

/// What came of a scenario.
struct Outcome {
    scenario: Scenario,
    result: Result<Vec<Figure>>,
    taken: Duration,
    /// Its namespace on the way out, while others run already.
    cleaning: Option<JoinHandle<Result<()>>>,
}

impl Outcome {
    /// Waits until nothing is left of the scenario; if something stays, it failed.
    async fn clean(&mut self) {
        let Some(cleaning) = self.cleaning.take() else {
            return;
        };
        let cleaned = cleaning.await.unwrap_or_else(|error| Err(error.into()));
        if let Err(error) = cleaned {
            let error = error.context("cleaning up");
            println!("{:>9} {}: {error:#}", "FAILED", self.scenario.name);
            if self.result.is_ok() {
                self.result = Err(error);
            }
        }
    }
}

/// Everything the runs share.
struct Run {
    client: Client,
    settings: Arc<Settings>,
    kinds: Arc<Kinds>,
    limit: Duration,
    keep_failed: bool,
    interrupted: watch::Receiver<bool>,
}

/// Prints each scenario and its promise.
pub(crate) fn list() {
    for scenario in scenarios::all() {
        println!("{:<28} {}", scenario.name, scenario.promise);
    }
}

/// Runs the scenarios that the filter lets through; true if all passed.
///
/// # Errors
/// When the cluster cannot be reached, the operator is not there, or the filter fits nothing.
pub(crate) async fn run(args: Args) -> Result<bool> {
    let (chosen, elsewhere): (Vec<Scenario>, Vec<Scenario>) = scenarios::all()
        .into_iter()
        .filter(|scenario| is_chosen(scenario, &args.filter))
        .partition(|scenario| scenario.place == Place::Anywhere || args.testbed.is_some());
    if chosen.is_empty() && elsewhere.is_empty() {
        bail!("no scenario's name contains any of {:?}", args.filter);
    }
    if chosen.is_empty() {
        bail!("what was chosen runs only on the testbed");
    }
    let target = Target {
        kubeconfig: args.kubeconfig,
        context: args.context,
    };
    let client = connect(&target).await?;
    let settings = Settings {
        target,
        prober_image: args.prober_image,
        engine_images: args.engine_images,
        operator_namespace: args.operator_namespace,
        release: args.release,
        chart: args.chart,
        manifests: args.manifests,
        idle: Duration::from_secs(args.idle_seconds),
        testbed: args.testbed,
    };
    await_operator(&client, &settings.operator_namespace).await?;
    let interrupted = interruptions()?;
    let run = Run {
        kinds: Arc::new(Kinds::discover(&client).await?),
        client,
        settings: Arc::new(settings),
        limit: Duration::from_secs(args.limit.max(args.idle_seconds + 240)),
        keep_failed: args.keep_failed,
        interrupted,
    };

    let start = Instant::now();
    let mut outcomes = Vec::new();
    for (turn, at_a_time) in [
        (Turn::First, 1),
        (Turn::Together, usize::from(args.parallel)),
        (Turn::Last, 1),
    ] {
        let now: Vec<Scenario> = chosen.iter().filter(|s| s.turn == turn).cloned().collect();
        let mut running = stream::iter(now)
            .map(|scenario| one(&run, scenario))
            .buffer_unordered(at_a_time);
        while let Some(mut outcome) = running.next().await {
            announce(&outcome);
            // What measures must have the cluster for itself, and what disturbs it disturbs cleaning up as well.
            if turn != Turn::Together {
                outcome.clean().await;
            }
            outcomes.push(outcome);
        }
        futures::future::join_all(outcomes.iter_mut().map(Outcome::clean)).await;
    }
    Ok(summarize(&outcomes, &elsewhere, start.elapsed()))
}

fn is_chosen(scenario: &Scenario, filter: &[String]) -> bool {
    let named = || {
        filter
            .iter()
            .any(|part| scenario.name.contains(part.as_str()))
    };
    filter.is_empty() && !scenario.on_request || named()
}

/// A client of the API server, which answers.
///
/// # Errors
/// When there is no such configuration, or no answer.
pub(crate) async fn connect(target: &Target) -> Result<Client> {
    let options = KubeConfigOptions {
        context: target.context.clone(),
        ..KubeConfigOptions::default()
    };
    let config = match &target.kubeconfig {
        Some(path) => {
            let file = Kubeconfig::read_from(path)
                .with_context(|| format!("reading {}", path.display()))?;
            Config::from_custom_kubeconfig(file, &options).await?
        }
        None if target.context.is_some() => Config::from_kubeconfig(&options).await?,
        None => Config::infer().await?,
    };
    let address = config.cluster_url.clone();
    let client = Client::try_from(config)?;
    tokio::time::timeout(Duration::from_secs(15), client.apiserver_version())
        .await
        .map_err(|_| anyhow!("no answer within 15 s"))
        .and_then(|answer| Ok(answer?))
        .with_context(|| format!("the API server at {address}"))?;
    Ok(client)
}

/// Waits for the operator as it was installed; nothing here installs one.
///
/// # Errors
/// When none is ready within a minute.
pub(crate) async fn await_operator(client: &Client, namespace: &str) -> Result<()> {
    let api = Api::namespaced(client.clone(), namespace);
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        let pods = api.list(&ListParams::default().labels(OPERATOR)).await?;
        if pods.items.iter().any(is_pod_ready) {
            return Ok(());
        }
        if Instant::now() >= until {
            bail!(
                "no ready operator pod in {namespace} ({OPERATOR}): install the chart first, e.g. by `cargo xtask up`"
            );
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

async fn one(run: &Run, scenario: Scenario) -> Outcome {
    let start = Instant::now();
    let mut interrupted = run.interrupted.clone();
    if *interrupted.borrow() {
        return Outcome {
            scenario,
            result: Err(anyhow!("interrupted before it began")),
            taken: Duration::ZERO,
            cleaning: None,
        };
    }
    let ctx = Ctx {
        client: run.client.clone(),
        namespace: format!("cc-e2e-{}-{}", scenario.name, mark()),
        settings: run.settings.clone(),
        kinds: run.kinds.clone(),
        probes: Arc::default(),
    };
    println!("{:>9} {}: {}", "start", scenario.name, scenario.promise);
    let result = tokio::select! {
        result = tokio::time::timeout(run.limit, attempt(&ctx, &scenario)) => {
            result.unwrap_or_else(|_| Err(anyhow!("not done within {:?}", run.limit)))
        }
        () = interruption(&mut interrupted) => {
            Err(anyhow!("interrupted"))
        }
    };
    let taken = start.elapsed();
    if result.is_err() && !*run.interrupted.borrow() {
        diagnosis::keep(&ctx, taken).await;
    }
    let cleaning = if result.is_err() && run.keep_failed {
        eprintln!("the namespace {} stays", ctx.namespace);
        None
    } else {
        Some(tokio::spawn(async move { namespace::remove(&ctx).await }))
    };
    Outcome {
        scenario,
        result,
        taken,
        cleaning,
    }
}

/// True from the moment on at which somebody wants this to end, by SIGINT or SIGTERM.
///
/// # Errors
/// When signals cannot be heard.
pub(crate) fn interruptions() -> Result<watch::Receiver<bool>> {
    let (interrupt, interrupted) = watch::channel(false);
    let mut stopped = signal(SignalKind::interrupt())?;
    let mut ended = signal(SignalKind::terminate())?;
    tokio::spawn(async move {
        tokio::select! {
            _ = stopped.recv() => {}
            _ = ended.recv() => {}
        }
        eprintln!("interrupted: undoing and cleaning up");
        let _ = interrupt.send(true);
    });
    Ok(interrupted)
}

/// Ends when somebody interrupts, and never otherwise.
pub(crate) async fn interruption(interrupted: &mut watch::Receiver<bool>) {
    if interrupted.wait_for(|yes| *yes).await.is_err() {
        std::future::pending::<()>().await;
    }
}

async fn attempt(ctx: &Ctx, scenario: &Scenario) -> Result<Vec<Figure>> {
    namespace::create(ctx).await?;
    let figures = (scenario.run)(ctx).await?;
    let broken: Vec<_> = figures.iter().filter(|f| f.is_broken()).collect();
    ensure!(broken.is_empty(), "{}", join(broken));
    Ok(figures)
}

/// Tells runs apart that follow each other closely.
pub(crate) fn mark() -> String {
    let millis = jiff::Timestamp::now().as_millisecond();
    format!("{:05x}", millis.rem_euclid(1 << 20))
}

fn announce(outcome: &Outcome) {
    let Outcome {
        scenario,
        result,
        taken,
        ..
    } = outcome;
    let seconds = taken.as_secs_f64();
    match result {
        Ok(figures) => {
            println!(
                "{:>9} {}: {seconds:.1} s {}",
                "ok",
                scenario.name,
                join(figures)
            );
        }
        Err(error) => println!(
            "{:>9} {}: {seconds:.1} s\n{error:#}",
            "FAILED", scenario.name
        ),
    }
}

/// Prints the table; true if nothing failed. What cannot run here is told and counts as nothing.
fn summarize(outcomes: &[Outcome], elsewhere: &[Scenario], taken: Duration) -> bool {
    println!("\n{:<28} {:<7} {:>7}  figures", "scenario", "", "seconds");
    let mut failed = 0;
    for outcome in outcomes {
        let name = outcome.scenario.name;
        let seconds = outcome.taken.as_secs_f64();
        match &outcome.result {
            Ok(figures) => println!("{name:<28} {:<7} {seconds:>7.1}  {}", "ok", join(figures)),
            Err(error) => {
                failed += 1;
                let why = format!("{error:#}");
                let why: String = why
                    .lines()
                    .next()
                    .unwrap_or_default()
                    .chars()
                    .take(160)
                    .collect();
                println!("{name:<28} {:<7} {seconds:>7.1}  {why}", "FAILED");
            }
        }
    }
    for scenario in elsewhere {
        println!("{:<28} not on this cluster", scenario.name);
    }
    println!("{:<28} {:<7} {:>7.1}", "all", "", taken.as_secs_f64());
    println!("{} passed, {failed} failed", outcomes.len() - failed);
    failed == 0
}

fn join<'a>(figures: impl IntoIterator<Item = &'a Figure>) -> String {
    let words: Vec<String> = figures.into_iter().map(ToString::to_string).collect();
    words.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_part_of_a_name_and_none_lets_all_through_but_the_longest() {
        let all = scenarios::all();
        let is_chosen = |name: &str, words: &[&str]| {
            let scenario = all.iter().find(|scenario| scenario.name == name).unwrap();
            let filter: Vec<_> = words.iter().map(|word| (*word).to_owned()).collect();
            super::is_chosen(scenario, &filter)
        };
        assert!(is_chosen("storage-retain", &[]));
        assert!(is_chosen("storage-retain", &["idle", "storage"]));
        assert!(!is_chosen("storage-retain", &["idle"]));
        assert!(!is_chosen("every-node-off", &[]));
        assert!(is_chosen("every-node-off", &["node-off"]));
    }

    #[test]
    fn every_scenario_has_a_name_of_its_own_that_fits_a_namespace() {
        let mut names: Vec<&str> = scenarios::all().iter().map(|s| s.name).collect();
        assert!(names.iter().all(|name| {
            name.len() <= 40
                && name
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        }));
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
    }

    #[tokio::test]
    async fn whoever_is_told_to_end_hears_it_and_is_not_ended() {
        let mut interrupted = interruptions().unwrap();
        assert!(!*interrupted.borrow());
        nix::sys::signal::kill(nix::unistd::getpid(), nix::sys::signal::Signal::SIGTERM).unwrap();
        let heard = tokio::time::timeout(Duration::from_secs(10), interruption(&mut interrupted));
        heard.await.unwrap();
    }
}
