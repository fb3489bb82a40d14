//! The life of the server, from the agent's start to its end.

use std::io;
use std::process::ExitStatus;
use std::time::Duration;

use cachecluster_contract::Persistence;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::board::{Board, Phase};
use crate::config::{self, ConfigError};
use crate::handover::{Outcome, hand_over};
use crate::server::Server;
use crate::settings::Settings;
use crate::succession::{self, Fallen, Release};

/// How long the server may take to stop once nothing depends on it any more.
const STOP: Duration = Duration::from_secs(10);
/// How long a replica may take to take over when the hand-over did not work and the server is stopped already.
const LAST_RESORT: Duration = Duration::from_secs(5);
/// After this many starts in a row without one answer the agent gives up, so that the pod's status shows it.
const FUTILE_STARTS: u32 = 5;
/// Pause after a futile start; doubles each time.
const BACKOFF: Duration = Duration::from_millis(200);

/// Why the agent ends although nobody told it to.
#[derive(Debug, thiserror::Error)]
pub enum SuperviseError {
    /// No configuration can be rendered.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The server's process or its files cannot be dealt with.
    #[error("{0}: {1}")]
    Io(&'static str, #[source] io::Error),
    /// The server ends each time before it answers once: see its log above.
    #[error("the server ended {FUTILE_STARTS} times before it answered ({0}): giving up")]
    Futile(ExitStatus),
}

/// What ended a run of the server.
enum End {
    Exited(ExitStatus),
    Hung,
    Told,
}

/// Starts the server, starts it again whenever it ends, and stops it in order when `told`.
///
/// # Errors
/// See [`SuperviseError`].
pub async fn run(
    settings: &Settings,
    board: &Board,
    told: CancellationToken,
) -> Result<(), SuperviseError> {
    let mut futile = 0;
    // The first start finds what an earlier container of this pod left; later ones know how far the server was.
    let mut seen = None;
    let mut crashed = false;
    loop {
        let config = config::render(settings)?;
        tokio::select! {
            outcome = settle(settings, board, crashed, seen) => outcome?,
            () = told.cancelled() => return Ok(()),
        }
        let mut server = Server::start(settings, &config, board)
            .map_err(|error| SuperviseError::Io("cannot start the server", error))?;
        board.enter(Phase::Running(Instant::now()));
        let end = tokio::select! {
            status = server.ended() => End::Exited(status.map_err(lost)?),
            () = board.hung() => End::Hung,
            () = told.cancelled() => End::Told,
        };
        crashed = true;
        seen = offset(board);
        let status = match end {
            End::Told => {
                board.enter(Phase::Stopping);
                return stop(settings, board, server).await;
            }
            End::Hung => {
                tracing::error!("the server does not answer any more: killed");
                server.kill().await.map_err(lost)?
            }
            End::Exited(status) => status,
        };
        tracing::error!(%status, restarts = board.restarts(), "the server ended");
        board.enter(Phase::Down(format!("the server ended: {status}")));
        if board.sample().is_some() {
            futile = 0;
            continue;
        }
        futile += 1;
        if futile == FUTILE_STARTS {
            return Err(SuperviseError::Futile(status));
        }
        tokio::select! {
            () = tokio::time::sleep(BACKOFF * 2_u32.pow(futile)) => {}
            () = told.cancelled() => return Ok(()),
        }
    }
}

fn lost(error: io::Error) -> SuperviseError {
    SuperviseError::Io("lost the server's process", error)
}

/// The replication offset at which the server was seen last.
fn offset(board: &Board) -> Option<u64> {
    Some(board.sample()?.view.as_ref()?.offset)
}

/// Before the server starts: sees to it that it does not come back over replicas that know more.
async fn settle(
    settings: &Settings,
    board: &Board,
    crashed: bool,
    seen: Option<u64>,
) -> Result<(), SuperviseError> {
    let persistence = settings.cluster.persistence;
    if !crashed && persistence == Persistence::Volume {
        // It has its data. If a replica was promoted meanwhile, the server finds out and follows it.
        return Ok(());
    }
    let fallen = Fallen::read(&settings.data_dir, persistence, seen)
        .map_err(|error| SuperviseError::Io("cannot read nodes.conf", error))?;
    let Some(fallen) = fallen else {
        return Ok(());
    };
    board.enter(Phase::Holding);
    let started = Instant::now();
    let release = succession::settle(settings, &fallen, settings.hold).await;
    let millis = started.elapsed().as_millis();
    match (release, persistence) {
        (Release::TimeOut, Persistence::Ephemeral) => tracing::warn!(
            millis,
            slots = fallen.slots.len(),
            "no replica with data was found: starting empty"
        ),
        _ => tracing::info!(millis, ?release, "the server may start"),
    }
    Ok(())
}

/// Hands over, then stops the server.
async fn stop(
    settings: &Settings,
    board: &Board,
    mut server: Server,
) -> Result<(), SuperviseError> {
    let outcome = hand_over(settings).await;
    match outcome {
        Outcome::Done { took } => {
            tracing::info!(millis = took.as_millis(), "a replica is the primary now");
        }
        Outcome::Nothing | Outcome::NoReplica | Outcome::Failed => {
            tracing::info!(?outcome, "nothing was handed over");
        }
    }
    let status = server
        .stop(STOP)
        .await
        .map_err(|error| SuperviseError::Io("cannot stop the server", error))?;
    tracing::info!(%status, "the server stopped");
    if outcome == Outcome::Failed {
        // The server is down: now a replica may be promoted without votes.
        let fallen = Fallen::read(
            &settings.data_dir,
            settings.cluster.persistence,
            offset(board),
        );
        if let Ok(Some(fallen)) = fallen {
            let release = succession::settle(settings, &fallen, LAST_RESORT).await;
            tracing::info!(?release, "after a hand-over that did not work");
        }
    }
    Ok(())
}
