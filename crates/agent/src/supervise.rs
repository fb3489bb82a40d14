//! The life of the server, from the agent's start to its end.

use std::fs;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::{Duration, SystemTime};

use cachecluster_contract::Persistence;
use nix::sys::signal::Signal;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::board::{Board, Phase};
use crate::config::{self, ConfigError};
use crate::fence::Fence;
use crate::handover::{Outcome, await_copy, hand_over, quiesce};
use crate::sample::Sample;
use crate::server::Server;
use crate::settings::Settings;
use crate::succession::{self, Fallen, Release};

/// How long the server may take to stop once nothing depends on it any more.
const STOP: Duration = Duration::from_secs(10);
/// How long a replica may take to take over when the hand-over did not work and the server is stopped already.
const LAST_RESORT: Duration = Duration::from_secs(5);
/// A server that lived for so long, and answered, was worth its start.
const STEADY: Duration = Duration::from_secs(30);
/// After this many starts in a row that were not worth it the agent gives up, so that the pod's status shows it.
const FUTILE_STARTS: u32 = 5;
/// Pause after a futile start; doubles each time.
const BACKOFF: Duration = Duration::from_millis(200);
/// Where a replica keeps a copy that it receives until it has loaded it: the server's own default, which users may not
/// change.
const COPY: &str = "dump.rdb";
/// What is said of a server that the system killed for want of memory.
const STARVED: &str = "the system killed the server for want of memory";

/// Why the agent ends although nobody told it to.
#[derive(Debug, thiserror::Error)]
pub enum SuperviseError {
    /// No configuration can be rendered.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The server's process or its files cannot be dealt with.
    #[error("{0}: {1}")]
    Io(&'static str, #[source] io::Error),
    /// The server ends soon after each start, or before it answers once: how, and its last words.
    #[error("the server ended {FUTILE_STARTS} times soon after its start ({0}), giving up: {1}")]
    Futile(ExitStatus, String),
}

/// What ended a run of the server.
enum End {
    Exited(ExitStatus),
    Hung,
    Fenced,
    Told,
}

/// Starts the server, starts it again whenever it ends, keeps it stopped while the `fence` is up, and stops it in order
/// when `told`.
///
/// # Errors
/// See [`SuperviseError`].
pub async fn run(
    settings: &Settings,
    board: &Board,
    fence: &Fence,
    told: CancellationToken,
) -> Result<(), SuperviseError> {
    let mut futile = 0;
    // The first start finds what an earlier container of this pod left; later ones know how the server was.
    let mut last = None;
    loop {
        if stay_down_or_leave(board, fence, &told).await {
            return Ok(());
        }
        let config = config::render(settings)?;
        let before = async {
            // A successor comes first; only then is there time for a pause.
            let told_meanwhile = settle_or_leave(settings, board, last.as_deref(), &told).await?;
            Ok::<_, SuperviseError>(told_meanwhile || pause_or_leave(futile, &told).await)
        };
        let left = tokio::select! {
            left = before => left?,
            () = fence.raised() => continue,
        };
        if left {
            return Ok(());
        }
        let killed_before = board.oom().look(&settings.cgroup_dir, SystemTime::now());
        let mut server = Server::start(settings, &config, board)
            .map_err(|error| SuperviseError::Io("cannot start the server", error))?;
        let start = Instant::now();
        board.enter(Phase::Running(start));
        let end = tokio::select! {
            status = server.ended() => End::Exited(status.map_err(lost)?),
            () = board.hung(start) => End::Hung,
            () = fence.raised() => End::Fenced,
            () = told.cancelled() => End::Told,
        };
        if let End::Told | End::Fenced = end {
            // Until then it is at work like any other.
            await_copy(settings, board).await;
        }
        last = board.sample();
        let by_itself = matches!(end, End::Exited(_));
        let status = match end {
            End::Told => {
                board.enter(Phase::Stopping);
                return stop(settings, board, server).await;
            }
            End::Fenced => {
                board.enter(Phase::Fencing);
                stop(settings, board, server).await?;
                // As of its end, if it had to be quieted for that.
                last = board.sample();
                futile = 0;
                continue;
            }
            End::Hung => {
                tracing::error!("the server lives and does not answer: killed");
                board.count_kill();
                server.kill().await.map_err(lost)?
            }
            End::Exited(status) => status,
        };
        let killed = board.oom().look(&settings.cgroup_dir, SystemTime::now());
        // A child of the server may have been killed as well, but that does not end the server by a signal.
        let starved = killed > killed_before && status.signal() == Some(Signal::SIGKILL as i32);
        tracing::error!(%status, starved, restarts = board.restarts(), "the server ended");
        board.enter(Phase::Down(match starved {
            true => STARVED.to_owned(),
            false => format!("the server ended: {status}"),
        }));
        // Somebody's kill says nothing of the server.
        let struck = by_itself && !starved && status.signal() == Some(Signal::SIGKILL as i32);
        futile = futile_starts(futile, last.is_some(), struck, start.elapsed());
        if futile == FUTILE_STARTS {
            let words = match starved {
                true => STARVED.to_owned(),
                false => board.transcript().last_words(),
            };
            return Err(SuperviseError::Futile(status, words));
        }
    }
}

/// Waits while the fence is up. Whether it was `told` to stop meanwhile.
async fn stay_down_or_leave(board: &Board, fence: &Fence, told: &CancellationToken) -> bool {
    if !fence.is_up() {
        return false;
    }
    tracing::warn!("the pod is fenced: the server is kept stopped until the fence is lifted");
    board.enter(Phase::Fenced);
    tokio::select! {
        () = fence.lifted() => {}
        () = told.cancelled() => return true,
    }
    tracing::info!("the fence is lifted: the server may start");
    board.enter(Phase::Down("the fence was lifted".to_owned()));
    false
}

/// How many starts in a row were futile, after one more run.
fn futile_starts(before: u32, answered: bool, struck: bool, lived: Duration) -> u32 {
    match answered {
        true if lived >= STEADY => 0,
        true if struck => before,
        _ => before + 1,
    }
}

/// Waits before the next start, the longer the more were futile. Whether it was `told` to stop meanwhile.
async fn pause_or_leave(futile: u32, told: &CancellationToken) -> bool {
    if futile == 0 {
        return false;
    }
    tokio::select! {
        () = tokio::time::sleep(BACKOFF * 2_u32.pow(futile)) => false,
        () = told.cancelled() => true,
    }
}

fn lost(error: io::Error) -> SuperviseError {
    SuperviseError::Io("lost the server's process", error)
}

/// Settles, unless `told` to stop meanwhile: then the answer is true, after a last bounded attempt, since nobody is
/// better placed to see a successor in.
async fn settle_or_leave(
    settings: &Settings,
    board: &Board,
    last: Option<&Sample>,
    told: &CancellationToken,
) -> Result<bool, SuperviseError> {
    let mut settling = std::pin::pin!(settle(settings, board, last));
    tokio::select! {
        outcome = &mut settling => outcome.map(|()| false),
        () = told.cancelled() => {
            let _ = tokio::time::timeout(LAST_RESORT, settling).await;
            Ok(true)
        }
    }
}

/// Before the server starts: sees to it that it does not come back over replicas that know more.
async fn settle(
    settings: &Settings,
    board: &Board,
    last: Option<&Sample>,
) -> Result<(), SuperviseError> {
    let persistence = settings.cluster.persistence;
    let fallen = Fallen::read(&settings.data_dir, persistence, last)
        .map_err(|error| SuperviseError::Io("cannot read nodes.conf", error))?;
    let Some(fallen) = fallen else {
        return Ok(());
    };
    board.enter(Phase::Holding);
    let started = Instant::now();
    let tell = |words: &str| {
        tracing::info!(until = words, "the server is held back");
        board.hold_until(words);
    };
    let release = succession::settle(settings, &fallen, settings.hold, false, tell).await;
    let millis = started.elapsed().as_millis();
    match release {
        Release::TimeOut => tracing::warn!(
            millis,
            slots = fallen.slots.len(),
            "no replica with data could be reached: starting empty"
        ),
        _ => tracing::info!(millis, ?release, "the server may start"),
    }
    if persistence == Persistence::Ephemeral {
        // A copy that it received, and that it was killed over before it could remove it, is no data of a primary.
        let copy = settings.data_dir.join(COPY);
        match fs::remove_file(copy) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(SuperviseError::Io("cannot remove an old copy", error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Hands over, then stops the server.
async fn stop(
    settings: &Settings,
    board: &Board,
    mut server: Server,
) -> Result<(), SuperviseError> {
    let outcome = hand_over(settings, board).await;
    if let Outcome::Done { took } = outcome {
        tracing::info!(millis = took.as_millis(), "a replica is the primary now");
    } else {
        tracing::info!(?outcome, "nothing was handed over");
    }
    if matches!(outcome, Outcome::NoReplica | Outcome::Failed) {
        quiesce(settings, board).await;
    }
    let status = server
        .stop(STOP)
        .await
        .map_err(|error| SuperviseError::Io("cannot stop the server", error))?;
    tracing::info!(%status, "the server stopped");
    if let Outcome::Done { .. } = outcome {
        return Ok(());
    }
    // Now that the server is down, a replica may be promoted without its consent, and without votes. One that had nothing
    // to hand over may have become the primary since: its file tells.
    let persistence = settings.cluster.persistence;
    let fallen = Fallen::read(&settings.data_dir, persistence, board.sample().as_deref());
    let fallen = fallen.unwrap_or_else(|error| {
        tracing::error!(%error, "cannot read nodes.conf");
        None
    });
    if let Some(fallen) = fallen {
        let in_vain = outcome == Outcome::Failed;
        let tell = |words: &str| tracing::info!(until = words, "this pod stays for a moment");
        let settling = succession::settle(settings, &fallen, LAST_RESORT, in_vain, tell);
        let release = tokio::time::timeout(LAST_RESORT, settling).await.ok();
        tracing::info!(?release, "looked for a successor");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_server_that_lived_for_a_while_starts_the_count_anew() {
        let short = Duration::from_secs(1);
        assert_eq!(futile_starts(3, true, false, STEADY), 0);
        assert_eq!(futile_starts(3, true, false, short), 4);
        assert_eq!(futile_starts(3, false, false, STEADY), 4);
        assert_eq!(futile_starts(3, true, true, short), 3);
        assert_eq!(futile_starts(3, false, true, short), 4);
    }
}
