//! Scenarios on a real cluster (`run`), and the prober that they start as a pod in it (`prober`).
//!
//! Every promise of CacheCluster that a user can see has a scenario here. They need nothing but a kubeconfig: clients
//! run as pods, so nothing depends on routes from the host into the cluster.

mod chaos;
mod cluster;
mod command;
mod diagnosis;
mod drive;
mod figure;
mod measure;
mod metrics;
mod namespace;
mod objects;
mod probe;
mod prober;
mod release;
mod scenarios;
mod trial;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Scenarios for CacheCluster on a real cluster, and the prober that they run inside it
#[derive(Debug, Parser)]
#[command(name = "cachecluster-e2e", version)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Ask a running cache as its users do, and print one JSON line on what was seen
    Prober(prober::Args),
    /// Run the scenarios on a cluster with the operator installed
    Run(Box<drive::Args>),
    /// Measure faults, each several times, and print a table
    Measure(measure::Args),
    /// List the scenarios and what each promises
    List,
    /// Random faults by a seed, on clusters under load, with the operator installed
    Chaos(Box<chaos::Args>),
}

#[tokio::main]
async fn main() -> ExitCode {
    // kube and redis may bring different providers; naming one is what keeps rustls from guessing.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let outcome = match Args::parse().command {
        Command::Prober(args) => prober::run(args).await,
        Command::Chaos(args) => chaos::run(*args).await,
        Command::Run(args) => drive::run(*args).await,
        Command::Measure(args) => measure::run(args).await,
        Command::List => {
            drive::list();
            Ok(true)
        }
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}
