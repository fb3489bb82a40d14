//! The project's tasks. `cargo xtask help` lists them; the justfile has thin names for them.

mod chaos;
mod cluster;
mod command;
mod compose;
mod contract;
mod engine;
mod generate;
mod http;
mod images;
mod install;
mod measure;
mod packages;
mod place;
mod progress;
mod quickstart;
mod suite;
mod testbed;
mod up;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The tasks of CacheCluster
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// A cluster, the images, the chart and a cache of 3 shards x 1 replica on it, reachable from here
    Up(up::UpArgs),
    /// Remove what `up` made: the cluster and the images; the cache folder of built programs stays
    Down(up::DownArgs),
    /// Print the path of the test cluster's kubeconfig
    Kubeconfig,
    /// Print what a shell needs for kubectl and helm on the test cluster: eval "$(cargo xtask env)"
    Env,
    /// Power a node of the testbed off or on, cut it off from another, or stop the API server
    Node {
        #[command(subcommand)]
        action: testbed::NodeAction,
    },
    /// Copy images from the local Docker engine into the test cluster's nodes
    Load {
        /// Names as the engine knows them
        #[arg(required = true)]
        images: Vec<String>,
    },
    /// Build the images of this checkout, and get the public ones that they and caches are made of
    Images,
    /// Write the generated files: the chart's CRD and manifests/base
    Generate {
        /// Change nothing; fail if they are out of date
        #[arg(long)]
        check: bool,
    },
    /// The scenarios, or those whose name contains a word, on the cluster that `up` made
    E2e(suite::E2eArgs),
    /// Random faults by a seed, on clusters under load: what is lost, how long nothing goes, what fails
    Chaos(chaos::Args),
    /// Measure faults under load, several times each: the table of docs/reliability.md
    Measure(measure::Args),
    /// The API with Redis by docker-compose, and the HTTP contract against it
    Compose,
    /// Everything that CI runs
    Test(suite::Args),
}

fn main() -> ExitCode {
    let outcome = place::enter_checkout().and_then(|()| match Args::parse().task {
        Task::Up(args) => up::up(&args).map(done),
        Task::Down(args) => up::down(&args).map(done),
        Task::Kubeconfig => cluster::print_kubeconfig().map(done),
        Task::Env => cluster::print_environment().map(done),
        Task::Node { action } => testbed::node(&action).map(done),
        Task::Load { images } => cluster::load(&images).map(done),
        Task::Images => images::task().map(done),
        Task::Generate { check } => generate::generate(check).map(done),
        Task::E2e(args) => suite::e2e(&args).map(done),
        Task::Chaos(args) => chaos::task(&args).map(done),
        Task::Measure(args) => measure::task(&args).map(done),
        Task::Compose => compose::task().map(done),
        Task::Test(args) => Ok(suite::test(&args)),
    });
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn done((): ()) -> ExitCode {
    ExitCode::SUCCESS
}
