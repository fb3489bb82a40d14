//! The operator's binary: reads what it is told and runs what the library has.

use std::process::ExitCode;

use cachecluster_operator::settings::{Args, Command};
use clap::Parser;

fn main() -> ExitCode {
    // Before anything else: with two providers among the dependencies rustls would refuse to choose.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let outcome = match Args::parse().command {
        Command::Crd => cachecluster_operator::print_crd(),
        Command::Check(args) => cachecluster_operator::prove(&args),
        Command::Run(args) => cachecluster_operator::run(args.into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cachecluster-operator: {error:#}");
            ExitCode::FAILURE
        }
    }
}
