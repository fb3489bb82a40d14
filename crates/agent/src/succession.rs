//! Who serves this node's slots while its server is down.
//!
//! A primary without its memory must not come back over replicas that still have the data: it would come back empty,
//! and they would copy that. And a primary that just died need not be found out by time-outs: its agent knows. So
//! before the agent starts a server that was a primary, it sees to it that a replica has taken over. The server that it
//! holds down is the fence that makes this safe.
//!
//! The wait is bounded while no replica with data can be reached, and there is none when no replica is left to take
//! over. A replica with data that can be reached is never given up for an empty start.
//!
//! With a volume that has a data set the server has its data, and waits for a moment only: a replica goes before the disk when it has what
//! the disk has.

mod awaited;
mod decision;
#[cfg(test)]
mod example;
mod fallen;
mod peer;

use std::time::Duration;

use cachecluster_redis_admin::execute;
use cachecluster_topology::Action;
use tokio::time::Instant;

use self::awaited::awaited;
pub use self::decision::Release;
use self::decision::{Step, Tried, Way, decide};
pub use self::fallen::Fallen;
use self::peer::{look, resolve};
use crate::settings::Settings;

/// How long the first question may take: replicas on machines that live answer in a few milliseconds.
const FIRST_LOOK: Duration = Duration::from_millis(200);
/// How long later questions may take.
const LOOK: Duration = Duration::from_millis(500);
/// Time between two looks while nobody can be asked to take over.
const PAUSE: Duration = Duration::from_millis(50);
/// Time between two looks while the replicas read on.
const DRAIN_PAUSE: Duration = Duration::from_millis(5);
/// Longest time between two attempts at a replica that does not take over; it doubles up to here.
const LONG_PAUSE: Duration = Duration::from_secs(2);
/// How long a replica may take to become the primary, with votes and without: 0.1 s is usual.
const PROMOTION: Duration = Duration::from_secs(1);

/// Returns when the server of `fallen` may start again: when a successor is there, or when no replica with data could be
/// reached for `hold`. While one can be reached that does not take over, this does not return.
///
/// `votes_in_vain`: a replica has asked for votes already and did not get them, so none are asked for. `tell` is told what is
/// awaited, whenever that changes, in words that complete "held back until".
pub async fn settle(
    settings: &Settings,
    fallen: &Fallen,
    hold: Duration,
    votes_in_vain: bool,
    mut tell: impl FnMut(&str),
) -> Release {
    let mut told = String::new();
    let started = Instant::now();
    let mut seen = started;
    let mut tried = Tried {
        elapsed: Duration::ZERO,
        unseen: Duration::ZERO,
        votes_in_vain,
        everywhere: false,
    };
    let mut addrs = fallen.replicas.clone();
    let mut patience = FIRST_LOOK;
    let mut pause = PAUSE;
    loop {
        let sight = look(settings, fallen, &addrs, patience).await;
        if sight.has_data_of(fallen) {
            seen = Instant::now();
        }
        tried.elapsed = started.elapsed();
        tried.unseen = seen.elapsed();
        let step = decide(fallen, &sight, tried, hold);
        if let Some(words) = awaited(fallen, &sight, &step)
            && words != told
        {
            tell(&words);
            told = words;
        }
        match step {
            Step::Start(release) => return release,
            Step::Promote(replica, way) => {
                tracing::info!(
                    replica = replica.name,
                    ?way,
                    "asking a replica to take over"
                );
                let action = match way {
                    Way::Votes => Action::ForceFailover { replica },
                    Way::Alone => Action::Takeover { replica },
                };
                match execute(&action, &settings.password, PROMOTION).await {
                    // Only the shard's own nodes have something new to say.
                    Ok(()) => continue,
                    Err(error) => {
                        tracing::warn!(
                            %error,
                            held_seconds = started.elapsed().as_secs(),
                            "the replica has not taken over: held back until one has"
                        );
                        if tried.votes_in_vain {
                            pause = LONG_PAUSE.min(pause * 2);
                        }
                        tried.votes_in_vain = true;
                    }
                }
            }
            Step::Drain => {
                tokio::time::sleep(DRAIN_PAUSE).await;
                continue;
            }
            Step::Look => {}
        }
        addrs.extend(&fallen.others);
        addrs.extend(resolve(settings).await);
        addrs.sort_unstable();
        addrs.dedup();
        tried.everywhere = true;
        patience = LOOK;
        tokio::time::sleep(pause).await;
    }
}
