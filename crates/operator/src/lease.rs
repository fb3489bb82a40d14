//! Leader election: of the operator's replicas, one works.
//!
//! The lease is renewed well before it runs out, and a leader that can no longer show that it holds it stops before
//! another may take it.

use std::time::Duration;

use cachecluster_telemetry::Readiness;
use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, Client, Config};
use kube_lease_manager::{LeaseManager, LeaseManagerBuilder};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::settings::Settings;

/// Name of the Lease.
pub const LEASE: &str = "cachecluster-operator";
/// How long a leader that vanished is waited for.
const DURATION: Duration = Duration::from_secs(15);
/// How long before it runs out the lease is renewed.
const GRACE: Duration = Duration::from_secs(6);
/// Longest time for one request about the lease.
const REQUEST: Duration = Duration::from_secs(2);
/// How long renewals may fail before the leader stops: with [`REQUEST`] for the first and for the last, less than [`GRACE`].
const PATIENCE: Duration = Duration::from_millis(1500);
/// How often a standby looks whether the leader has let go.
const STANDBY: Duration = Duration::from_secs(3);
/// Between attempts that failed.
const RETRY: Duration = Duration::from_millis(500);

/// Runs `work` while this process is the leader, again each time that it becomes it, until `stop`. `work` is handed
/// a token that is cancelled when its term ends, and is dropped shortly after.
///
/// A standby is ready as well: it could work at any time.
///
/// # Errors
/// When no client can be made, or when `work` fails.
pub async fn lead<W, F>(
    mut config: Config,
    settings: &Settings,
    stop: CancellationToken,
    readiness: &Readiness,
    mut work: W,
) -> anyhow::Result<()>
where
    W: FnMut(CancellationToken) -> F,
    F: Future<Output = anyhow::Result<()>>,
{
    // A client of its own: the usual one retries for longer than a lease lasts.
    config.default_retry = false;
    config.connect_timeout = Some(REQUEST);
    config.read_timeout = Some(REQUEST);
    config.write_timeout = Some(REQUEST);
    let client = Client::try_from(config)?;
    let leases: Api<Lease> = Api::namespaced(client.clone(), &settings.workload.operator_namespace);

    loop {
        tracing::info!(identity = settings.identity, "waiting to lead");
        let elected = elected(&client, &leases, settings, readiness);
        let Some(manager) = stop.run_until_cancelled(elected).await else {
            return Ok(());
        };
        tracing::info!(identity = settings.identity, "leading");
        let term = stop.child_token();
        tokio::select! {
            outcome = work(term.clone()) => {
                // The next leader need not wait for the lease to run out.
                let _ = timeout(REQUEST, manager.release()).await;
                outcome?;
                if stop.is_cancelled() {
                    return Ok(());
                }
            }
            () = lost(&manager, &leases, &settings.identity) => {
                tracing::warn!("lost the lease");
            }
        }
        term.cancel();
    }
}

/// Waits until this process is the leader. It is not ready until the API server has answered once.
async fn elected(
    client: &Client,
    leases: &Api<Lease>,
    settings: &Settings,
    readiness: &Readiness,
) -> LeaseManager {
    let identity = &settings.identity;
    'made: loop {
        // Made anew after an error: somebody may have deleted the Lease.
        let built = LeaseManagerBuilder::new(client.clone(), LEASE)
            .with_namespace(&settings.workload.operator_namespace)
            .with_identity(identity)
            .with_field_manager(format!("{LEASE}-{identity}"))
            .with_duration(DURATION.as_secs())
            .with_grace(GRACE.as_secs())
            .build()
            .await;
        let error = match built {
            Ok(manager) => {
                readiness.set(Ok(()));
                loop {
                    let changed = tokio::select! {
                        changed = manager.changed() => changed,
                        // A new manager asks at once, this one when the lease would have run out.
                        () = released(leases) => continue 'made,
                    };
                    match changed {
                        Ok(true) => return manager,
                        Ok(false) => {}
                        Err(error) => break error,
                    }
                }
            }
            Err(error) => {
                readiness.set(Err(format!("no lease: {error}")));
                error
            }
        };
        tracing::warn!(%error, "cannot ask for the lease");
        sleep(RETRY).await;
    }
}

/// Returns when the leader has let go of the lease, as it does when it stops in good order.
async fn released(leases: &Api<Lease>) {
    loop {
        sleep(STANDBY).await;
        let Ok(Ok(lease)) = timeout(REQUEST, leases.get(LEASE)).await else {
            continue;
        };
        if lease.spec.is_none_or(|spec| spec.holder_identity.is_none()) {
            return;
        }
    }
}

/// Keeps the lease, and returns when it is lost, or when nobody can say any more that it is held.
async fn lost(manager: &LeaseManager, leases: &Api<Lease>, identity: &str) {
    let mut give_up: Option<Instant> = None;
    loop {
        let changed = match give_up {
            None => manager.changed().await,
            Some(at) => match tokio::time::timeout_at(at, manager.changed()).await {
                Ok(changed) => changed,
                // Silence: either the renewal went through meanwhile, or it hangs.
                Err(_) if is_held(leases, identity).await => {
                    give_up = None;
                    continue;
                }
                Err(_) => return,
            },
        };
        match changed {
            Ok(true) => give_up = None,
            Ok(false) => return,
            Err(error) => {
                tracing::warn!(%error, "cannot renew the lease");
                give_up.get_or_insert_with(|| Instant::now() + PATIENCE);
                sleep(RETRY).await;
            }
        }
    }
}

/// Whether the Lease names this process and has been renewed.
async fn is_held(leases: &Api<Lease>, identity: &str) -> bool {
    let Ok(Ok(lease)) = timeout(REQUEST, leases.get(LEASE)).await else {
        return false;
    };
    let Some(spec) = lease.spec else { return false };
    let fresh = spec.renew_time.is_some_and(|renewed| {
        let age = jiff::Timestamp::now().duration_since(renewed.0);
        age < jiff::SignedDuration::try_from(DURATION - GRACE).unwrap_or(jiff::SignedDuration::ZERO)
    });
    fresh && spec.holder_identity.as_deref() == Some(identity)
}
