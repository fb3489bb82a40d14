//! `test` and `e2e`: everything in order, and a table of what it took.

use std::process::{Command, ExitCode};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

use crate::cluster::Cluster;
use crate::packages::{self, Need};
use crate::progress::Step;
use crate::{chaos, cluster, command, compose, contract, engine, generate, images, install, place};
use crate::{quickstart, testbed, up};

/// `test`
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Leave the cluster running at the end, also after a failure
    #[arg(long)]
    keep: bool,
}

/// `cargo xtask test`: its last line is the sum; the exit status is 1 if a step failed.
pub(crate) fn test(args: &Args) -> ExitCode {
    let was_up = testbed::is_up();
    let engine_ran = engine::answers();
    let mut run = Run::default();
    let mut outcome = steps(&mut run);
    if !args.keep {
        let cleaned = run.step("down", || clean(was_up, engine_ran).map(|()| 0));
        outcome = outcome.and(cleaned);
    }
    run.finish(&outcome);
    if outcome.is_ok() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// What was not there before goes away again.
fn clean(was_up: bool, engine_ran: bool) -> Result<()> {
    if !was_up {
        testbed::down()?;
    }
    if !engine_ran {
        images::remove()?;
        engine::stop()?;
    }
    Ok(())
}

fn steps(run: &mut Run) -> Result<()> {
    run.step("packages", || {
        packages::ensure(&[Need::Engine, Need::Testbed, Need::Tests, Need::Compose])?;
        engine::ensure().map(|()| 0)
    })?;
    // The programs of the testbed take long the first time: they are built while cargo works.
    let programs = thread::spawn(|| {
        testbed::build_programs(&["helm"])?;
        testbed::build_programs(&["kubernetes", "coredns", "support", "kubectl"])
    });
    run.step("formatting", || {
        cargo("fmt", &["fmt", "--all", "--check"]).map(|()| 1)
    })?;
    run.step("clippy", || {
        let words = [
            "clippy",
            "--workspace",
            "--all-targets",
            "--locked",
            "--",
            "-D",
            "warnings",
        ];
        cargo("clippy", &words).map(|()| 1)
    })?;
    run.step("cargo test", || {
        // All failures at once: one run takes minutes.
        cargo(
            "tests",
            &["test", "--workspace", "--locked", "--no-fail-fast"],
        )?;
        passed_tests("tests")
    })?;
    run.step("generated files", || generate::generate(true).map(|()| 1))?;
    run.step("chart lint", || {
        let mut helm = Command::new(testbed::program("helm")?);
        command::run("helm-lint", helm.args(["lint", "--strict", install::CHART]))?;
        Ok(1)
    })?;
    run.step("images", || {
        images::build()?;
        images::check_sizes()
    })?;
    run.step("public images", || {
        images::ensure_public(images::ENGINES).map(|()| 0)
    })?;
    run.step("the testbed's programs", || {
        programs
            .join()
            .map_err(|_| anyhow!("the build was cut short"))?
            .map(|()| 0)
    })?;
    let cluster = Cluster::Testbed;
    run.step("testbed", || {
        up::start(&cluster, 3, images::ENGINES).map(|()| 1)
    })?;
    run.step("quickstart", || up::deploy(&cluster, &[]).map(|()| 1))?;
    run.step("schemas", || schemas(&cluster))?;
    run.step("contract on the cluster", || {
        contract::check(quickstart::reach(&cluster)?.address)
    })?;
    run.step("scenarios", || scenarios(&cluster, &[]))?;
    run.step("chaos", || chaos::check(&cluster))?;
    run.step("docker-compose", compose::check)
}

/// The API server's own opinion of everything that the chart and the manifests contain. The CRD is installed by now.
fn schemas(cluster: &Cluster) -> Result<usize> {
    let mut helm = Command::new(testbed::program("helm")?);
    helm.args(["template", install::RELEASE, install::CHART])
        .args([
            "--namespace",
            install::NAMESPACE,
            "--set",
            "crds.enabled=false",
            // A test's pod is refused before its account exists; `helm test` itself is one of the scenarios.
            "--skip-tests",
        ]);
    let rendered = command::output(&mut helm)?;
    let checked = [
        cluster::feed(dry_run(cluster)?.args(["-f", "-"]), &rendered).context("the chart")?,
        cluster::feed(dry_run(cluster)?.args(["-k", "manifests/base"]), "").context("the base")?,
        cluster::feed(dry_run(cluster)?.args(["-f", "manifests/examples"]), "")
            .context("the examples")?,
    ];
    Ok(checked.iter().map(|said| said.lines().count()).sum())
}

fn dry_run(cluster: &Cluster) -> Result<Command> {
    let mut kubectl = cluster.kubectl()?;
    kubectl.args([
        "apply",
        "--server-side",
        "--dry-run=server",
        "--force-conflicts",
    ]);
    kubectl.args(["--validate=strict"]);
    Ok(kubectl)
}

/// `e2e`
#[derive(Debug, clap::Args)]
pub(crate) struct E2eArgs {
    /// Words
    filter: Vec<String>,
    /// The context that was given to `up`
    #[arg(long)]
    context: Option<String>,
}

/// `cargo xtask e2e`: on the testbed and kind with what the checkout is now, on a context with what is installed there.
pub(crate) fn e2e(args: &E2eArgs) -> Result<()> {
    let cluster = Cluster::choose(args.context.as_deref());
    packages::ensure(&[Need::Tests])?;
    if cluster.takes_images() {
        up::start(&cluster, testbed::nodes().unwrap_or(3), images::ENGINES)?;
        install::install(&cluster, &[])?;
    } else {
        images::build()?;
    }
    let mut e2e = scenario_command(&cluster, &args.filter)?;
    if !e2e.status()?.success() {
        bail!("some scenario failed");
    }
    Ok(())
}

fn scenarios(cluster: &Cluster, filter: &[String]) -> Result<usize> {
    command::run("scenarios", &mut scenario_command(cluster, filter)?)?;
    passed_of_table("scenarios", "scenario ")
}

/// Prints the table in a step's log, from the line on that begins so, and tells the sum below it.
///
/// # Errors
/// When there is none.
pub(crate) fn passed_of_table(step: &str, head: &str) -> Result<usize> {
    let log = std::fs::read_to_string(place::log(step)?)?;
    let passed = log
        .lines()
        .rev()
        .find_map(|line| line.strip_suffix(" passed, 0 failed"))
        .with_context(|| format!("{step} printed no sum"))?;
    let table = log.lines().skip_while(|line| !line.starts_with(head));
    table.for_each(|line| eprintln!("  {line}"));
    Ok(passed.trim().parse()?)
}

fn scenario_command(cluster: &Cluster, filter: &[String]) -> Result<Command> {
    let mut e2e = e2e_command(cluster, "run")?;
    e2e.args(filter);
    Ok(e2e)
}

/// The program of the scenarios, doing something on this cluster.
///
/// # Errors
/// When a program that it needs cannot be found.
pub(crate) fn e2e_command(cluster: &Cluster, what: &str) -> Result<Command> {
    let mut e2e = Command::new(images::binary("e2e")?);
    e2e.arg(what).env("PATH", cluster::path_with_clients()?);
    if let Some(kubeconfig) = cluster.kubeconfig()? {
        e2e.arg("--kubeconfig").arg(kubeconfig);
    }
    match cluster {
        Cluster::Testbed => drop(e2e.arg("--testbed").arg(testbed::SCRIPT)),
        Cluster::Context(context) => drop(e2e.args(["--context", context])),
        Cluster::Kind => {}
    }
    Ok(e2e)
}

fn cargo(step: &str, words: &[&str]) -> Result<()> {
    command::run(step, Command::new("cargo").args(words))
}

/// The sum over cargo's "test result" lines.
fn passed_tests(step: &str) -> Result<usize> {
    let log = std::fs::read_to_string(place::log(step)?)?;
    Ok(sum_of_passed(&log))
}

fn sum_of_passed(log: &str) -> usize {
    log.lines()
        .filter_map(|line| line.strip_prefix("test result: ok. "))
        .filter_map(|line| line.split_once(" passed")?.0.parse::<usize>().ok())
        .sum()
}

/// The steps so far.
#[derive(Default)]
struct Run {
    steps: Vec<(String, Duration, Option<usize>)>,
}

impl Run {
    /// Does a step, which tells how many checks it made.
    fn step(&mut self, name: &str, work: impl FnOnce() -> Result<usize>) -> Result<()> {
        let start = Instant::now();
        let shown = Step::start(name);
        let outcome = work().with_context(|| format!("step `{name}`"));
        let count = outcome.as_ref().ok().copied();
        self.steps.push((name.to_owned(), start.elapsed(), count));
        outcome?;
        shown.done();
        Ok(())
    }

    fn finish(&self, outcome: &Result<()>) {
        println!("\n{:<28} {:>8} {:>7}", "step", "seconds", "checks");
        for (name, taken, count) in &self.steps {
            let count = count.map_or_else(|| "FAILED".to_owned(), |count| count.to_string());
            println!("{name:<28} {:>8.1} {count:>7}", taken.as_secs_f64());
        }
        let total: Duration = self.steps.iter().map(|(_, taken, _)| *taken).sum();
        println!("{:<28} {:>8.1}", "all", total.as_secs_f64());
        if let Err(error) = outcome {
            println!("\n{error:#}\n");
        }
        let passed: usize = self.steps.iter().filter_map(|(_, _, count)| *count).sum();
        let failed = self
            .steps
            .iter()
            .filter(|(_, _, count)| count.is_none())
            .count();
        println!("{passed} passed, {failed} failed");
    }
}

#[cfg(test)]
mod tests {
    use super::sum_of_passed;

    #[test]
    fn passed_tests_are_added_over_all_binaries() {
        let log = "test result: ok. 12 passed; 0 failed; 0 ignored\nother\ntest result: ok. 3 passed; 0 failed\n";
        assert_eq!(sum_of_passed(log), 15);
    }

    #[test]
    fn failed_binaries_do_not_count() {
        assert_eq!(sum_of_passed("test result: FAILED. 12 passed; 1 failed"), 0);
    }
}
