//! Looks at the server, so that probes and scrapes are answered without asking it.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use cachecluster_redis_admin::{Connection, connect};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::board::{Board, Phase};
use crate::ready::ready;
use crate::sample::{self, Sample};
use crate::settings::Settings;

/// Time between two looks at a server that is ready.
const CALM: Duration = Duration::from_millis(500);
/// Time between two looks at one that is not: the cluster's start waits for readiness.
const EAGER: Duration = Duration::from_millis(100);
/// How long one look may take.
const PATIENCE: Duration = Duration::from_secs(1);
/// After this long without an answer a running server counts as hung, and is replaced. Loading is an answer; a script
/// or command that blocks the server for so long has long made the other nodes choose another primary.
const HUNG: Duration = Duration::from_secs(10);

/// Where the server is reached from within the pod.
#[must_use]
pub fn own_address(settings: &Settings) -> (IpAddr, u16) {
    (IpAddr::V4(Ipv4Addr::LOCALHOST), settings.redis_port)
}

/// Looks at the server over one lasting connection, until `ended`.
pub async fn run(settings: Settings, board: Board, ended: CancellationToken) {
    let mut phases = board.phase();
    let mut connection = None;
    let mut heard = Instant::now();
    loop {
        let phase = phases.borrow_and_update().clone();
        let mut pause = CALM;
        if let Phase::Running(since) = phase {
            heard = heard.max(since);
            let state = match look(&settings, &mut connection).await {
                Ok(sample) => {
                    heard = Instant::now();
                    let state = ready(&sample);
                    board.put_sample(sample);
                    state
                }
                Err(reason) => {
                    connection = None;
                    Err(reason)
                }
            };
            let silent = heard.elapsed();
            // A phase that ended meanwhile has said already why the server is not ready.
            if !phases.has_changed().unwrap_or(true) {
                if state.is_err() {
                    pause = EAGER;
                }
                board.readiness().set(state);
                board.liveness().set(if silent < HUNG {
                    Ok(())
                } else {
                    board.report_hung(since);
                    Err(format!(
                        "the server has been silent for {} s",
                        silent.as_secs()
                    ))
                });
            }
        } else {
            connection = None;
            board.liveness().set(Ok(()));
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            changed = phases.changed() => if changed.is_err() { return },
            () = ended.cancelled() => return,
        }
    }
}

async fn look(settings: &Settings, connection: &mut Option<Connection>) -> Result<Sample, String> {
    let open = match connection {
        Some(open) => open,
        None => {
            let opened = connect(own_address(settings), &settings.password, PATIENCE).await;
            connection
                .insert(opened.map_err(|error| format!("the server does not answer: {error}"))?)
        }
    };
    sample::take(open).await
}
