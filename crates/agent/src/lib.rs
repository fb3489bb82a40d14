//! The agent: first process of every Redis pod.
//!
//! It renders the server's configuration, starts the server and looks after it, tells the kubelet and Prometheus how
//! the server does, and makes sure that the data outlives the process: before it stops, a primary hands its slots to
//! its best replica ([`handover`]); after it died, a replica takes over before it comes back ([`succession`]);
//! a user may have it stopped and kept so ([`mod@fence`]);
//! and when a primary dies together with its agent, the agents of its replicas notice ([`vigil`]).
//!
//! [`supervise`] is that story on one screen.

pub mod board;
pub mod config;
pub mod demotion;
pub mod fence;
pub mod handover;
pub mod http;
pub mod install;
pub mod metrics;
pub mod monitor;
pub mod news;
pub mod oom;
pub mod ready;
pub mod reap;
pub mod report;
pub mod sample;
pub mod server;
pub mod settings;
pub mod standstill;
pub mod succession;
pub mod supervise;
pub mod termination;
pub mod transcript;
pub mod vigil;
pub mod volume;

use anyhow::Context;
use cachecluster_telemetry::{logs, shutdown};
use tokio_util::sync::CancellationToken;

use crate::board::Board;
use crate::fence::Fence;
use crate::settings::RunArgs;

/// Runs the agent until it is told to stop by SIGTERM or SIGINT. An error is told in the termination message, too.
///
/// # Errors
/// When the settings are unusable, the admin port is taken, or the server does not start at all.
pub async fn run(args: RunArgs) -> anyhow::Result<()> {
    logs::install(&args.log, args.log_format);
    let path = args.termination_log.clone();
    let board = Board::new();
    let outcome = serve(args, board.clone()).await;
    if let Err(error) = &outcome {
        termination::tell(&path, &board.transcript().lines(), &format!("{error:#}"));
    }
    outcome
}

async fn serve(args: RunArgs, board: Board) -> anyhow::Result<()> {
    let told = shutdown::on_signal()?;
    let path = std::env::var_os("PATH").unwrap_or_default();
    let settings = args.resolve(&path)?;
    let fence = Fence::found(&settings.data_dir).context("cannot look for a fence")?;
    let listener = http::listen(settings.admin_port).await?;

    // What serves the probes outlives the supervisor, so that the last answers are true ones.
    let ended = CancellationToken::new();
    let admin = tokio::spawn(http::serve(
        listener,
        board.clone(),
        vigil::routes(&settings, &board)
            .merge(fence::routes(&settings, &board, &fence))
            .merge(report::routes(&board))
            .merge(news::routes(&board, &ended)),
        ended.clone(),
    ));
    let watching = tokio::spawn(monitor::run(settings.clone(), board.clone(), ended.clone()));
    let standing = tokio::spawn(standstill::run(board.clone(), ended.clone()));
    let keeping = tokio::spawn(vigil::run(settings.clone(), board.clone(), ended.clone()));
    let reaping = tokio::spawn(reap::run(board.clone(), ended.clone()));
    let reporting = tokio::spawn(report::run(settings.clone(), board.clone(), ended.clone()));
    let outcome = supervise::run(&settings, &board, &fence, told).await;
    ended.cancel();
    for task in [watching, standing, keeping, reaping, reporting] {
        task.await?;
    }
    admin.await??;
    Ok(outcome?)
}
