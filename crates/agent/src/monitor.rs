//! Looks at the server, so that probes and scrapes are answered without asking it.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use cachecluster_contract::agent::ASLEEP_LIMIT_MS;
use cachecluster_redis_admin::{Connection, connect};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::board::{Board, Phase};
use crate::demotion::{Demotion, SEND_AWAY};
use crate::ready::ready;
use crate::sample::{self, Sample, Unheard};
use crate::settings::Settings;

/// Time between two looks at a server that is ready.
const CALM: Duration = Duration::from_millis(500);
/// Time between two looks at one that is not: the cluster's start waits for readiness.
const EAGER: Duration = Duration::from_millis(100);
/// How long one look may take.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long a server may be silent and asleep.
const ASLEEP: Duration = Duration::from_millis(ASLEEP_LIMIT_MS);

/// Where the server is reached from within the pod.
#[must_use]
pub fn own_address(settings: &Settings) -> (IpAddr, u16) {
    (IpAddr::V4(Ipv4Addr::LOCALHOST), settings.redis_port)
}

/// Looks at the server over one lasting connection, until `ended`. One that stays silent for the hang limit is reported.
pub async fn run(settings: Settings, board: Board, ended: CancellationToken) {
    let mut phases = board.phase();
    let mut connection = None;
    let mut silence = Silence::default();
    let mut demotion = Demotion::default();
    loop {
        let phase = phases.borrow_and_update().clone();
        let mut pause = CALM;
        if let Phase::Running(since) = phase {
            let asked = Instant::now();
            let outcome = look(&settings, &mut connection).await;
            let silent = outcome.as_ref().is_err_and(|unheard| unheard.silent);
            silence.note(since, silent, asked.elapsed());
            let state = match outcome {
                Ok(sample) => {
                    let state = ready(&sample, board.silence());
                    if demotion.note(since, sample.view.as_ref(), Instant::now()) {
                        send_away(&mut connection).await;
                    }
                    board.put_sample(sample);
                    if let Some(open) = &connection {
                        board.put_line(open.clone());
                    }
                    state
                }
                Err(unheard) => {
                    connection = None;
                    Err(unheard.reason)
                }
            };
            // A phase that ended meanwhile has said already why the server is not ready.
            if !phases.has_changed().unwrap_or(true) {
                if state.is_err() {
                    pause = EAGER;
                }
                board.readiness().set(state);
                let limit = limit(settings.hang_limit, silence.length, board.asleep());
                board.liveness().set(if silence.length < limit {
                    Ok(())
                } else {
                    let secs = silence.length.as_secs();
                    if board.report_hung(since) {
                        let asleep_millis = board.asleep().as_millis();
                        tracing::error!(secs, asleep_millis, "the server has been silent");
                    }
                    Err(format!("the server has been silent for {secs} s"))
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

/// How long a server may be silent that has been `asleep` for so long. One that slept all through its silence, but for
/// how exactly that can be told, does not compute, nor wait for a disk.
fn limit(hang: Duration, silence: Duration, asleep: Duration) -> Duration {
    if asleep + PATIENCE / 2 >= silence {
        hang.min(ASLEEP)
    } else {
        hang
    }
}

/// For how long a server has been asked in vain.
#[derive(Debug, Default)]
struct Silence {
    of: Option<Instant>,
    length: Duration,
}

impl Silence {
    /// Adds a look at the server that runs since `start`, which took `took`.
    fn note(&mut self, start: Instant, silent: bool, took: Duration) {
        if self.of != Some(start) || !silent {
            self.length = Duration::ZERO;
        }
        self.of = Some(start);
        if silent {
            // A look that took longer was not the server's fault: the agent, or the whole machine, stood still.
            self.length += took.min(PATIENCE) + EAGER;
        }
    }
}

async fn look(settings: &Settings, connection: &mut Option<Connection>) -> Result<Sample, Unheard> {
    let open = match connection {
        Some(open) => open,
        None => {
            let opened = connect(own_address(settings), &settings.password, PATIENCE).await;
            connection.insert(opened.map_err(|error| Unheard {
                reason: format!("the server does not answer: {error}"),
                silent: error.is_timeout() || error.is_connection_refusal(),
            })?)
        }
    };
    sample::take(open).await
}

/// Closes the connections of clients, all but this one.
async fn send_away(connection: &mut Option<Connection>) {
    let Some(open) = connection else {
        return;
    };
    match open.text(&SEND_AWAY).await {
        Ok(closed) => tracing::info!(closed, "no primary any more: clients are sent away"),
        Err(error) => tracing::warn!(%error, "clients cannot be sent away"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_looks_in_vain_make_silence_and_none_counts_for_more_than_it_may_take() {
        let start = Instant::now();
        let mut silence = Silence::default();
        silence.note(start, true, PATIENCE);
        // The machine was asleep.
        silence.note(start, true, PATIENCE * 1000);
        assert_eq!(silence.length, (PATIENCE + EAGER) * 2);
        silence.note(start, false, PATIENCE);
        assert_eq!(silence.length, Duration::ZERO);
        silence.note(start, true, PATIENCE);
        silence.note(start + PATIENCE, true, Duration::ZERO);
        assert_eq!(silence.length, EAGER, "the next server starts anew");
    }

    #[test]
    fn one_that_sleeps_through_its_silence_has_less_time_than_one_that_works() {
        let hang = Duration::from_secs(5);
        let silence = Duration::from_secs(3);
        assert_eq!(limit(hang, silence, silence), ASLEEP);
        assert_eq!(limit(hang, silence, silence / 2), hang);
        assert_eq!(limit(PATIENCE, silence, silence), PATIENCE);
    }
}
