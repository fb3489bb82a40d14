//! When passes are made: at a change of a cluster or of anything that belongs to it, and when a pass asked for another.
//!
//! What the operator asks of the API server, and so has to be allowed to do:
//!
//! | resources | verbs |
//! |---|---|
//! | `cacheclusters.cachecluster.io` | get, list, watch |
//! | `cacheclusters.cachecluster.io/status` | patch |
//! | `cacheclusters.cachecluster.io/finalizers` | update (owner references that block deletion) |
//! | `statefulsets.apps`, `deployments.apps`, `services`, `configmaps`, `serviceaccounts`, `poddisruptionbudgets.policy`, `networkpolicies.networking.k8s.io` | get, list, watch, create, patch |
//! | `secrets` | get, list, watch, create, patch |
//! | `pods` | list, watch, patch |
//! | `pods/status` | patch |
//! | `pods/eviction`, `nodes`, where all namespaces are watched | create, list |
//! | `events.events.k8s.io` | create, patch |
//! | `leases.coordination.k8s.io`, in its own namespace | get, create, patch |

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use cachecluster_crd::Phase;
use futures::future::ready;
use futures::stream::{self, StreamExt};
use kube::runtime::controller::Action;
use kube::runtime::reflector::ObjectRef;
use kube::runtime::{Config, applier};
use kube::{Client, ResourceExt};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::events::Events;
use crate::memory::Memory;
use crate::metrics::Metrics;
use crate::news::Newsroom;
use crate::reconcile::{Context, Error, reconcile};
use crate::settings::Settings;
use crate::stores::{Guarded, Stores, Triggers, key};

/// Changes that come together make one pass.
const DEBOUNCE: Duration = Duration::from_millis(20);
/// First pause after a failure; it doubles with each further one.
const BACKOFF: Duration = Duration::from_millis(250);
/// Longest pause after failures.
const LONGEST_BACKOFF: Duration = Duration::from_secs(30);
/// How often clusters are counted, and the memory of deleted ones is dropped.
const HOUSEKEEPING: Duration = Duration::from_secs(10);

/// Looks after all clusters in the namespaces of the settings until `term` ends.
///
/// # Errors
/// When the watches end by themselves.
pub async fn run(
    client: Client,
    settings: &Settings,
    metrics: Arc<Metrics>,
    term: CancellationToken,
) -> anyhow::Result<()> {
    let scopes: Vec<Option<&str>> = match settings.namespaces.as_slice() {
        [] => vec![None],
        namespaces => namespaces.iter().map(|name| Some(name.as_str())).collect(),
    };
    let (contexts, loops): (Vec<_>, Vec<_>) = scopes
        .into_iter()
        .map(|namespace| {
            let (stores, triggers) = Stores::watch(&client, namespace);
            let (newsroom, called) = Newsroom::open();
            let triggers = either(triggers, called);
            let context = Arc::new(Context {
                client: client.clone(),
                stores,
                memory: Memory::default(),
                metrics: metrics.clone(),
                events: Events::new(client.clone(), &settings.identity),
                newsroom,
                workload: settings.workload.clone(),
                deadline: settings.reconcile_timeout,
            });
            let passes = passes(context.clone(), triggers, settings.concurrency);
            (context, passes)
        })
        .unzip();
    let _leading = Leading::new(&metrics);
    tokio::select! {
        () = term.cancelled() => Ok(()),
        () = keep_house(&contexts, &metrics) => Ok(()),
        _ = futures::future::select_all(loops.into_iter().map(Box::pin)) => {
            Err(anyhow::anyhow!("the watches have ended"))
        }
    }
}

/// What the watches say and what agents do. Ends with the watches.
fn either(triggers: Triggers, mut called: mpsc::Receiver<ObjectRef<Guarded>>) -> Triggers {
    let watched = triggers.map(Some).chain(stream::once(ready(None)));
    let called = stream::poll_fn(move |task| called.poll_recv(task));
    stream::select(watched, called.map(|cluster| Some(Ok(cluster))))
        .take_while(|trigger| ready(trigger.is_some()))
        .filter_map(ready)
        .boxed()
}

/// Shows in the metrics that this replica leads, until it is dropped: a term may end in any way.
struct Leading<'a>(&'a Metrics);

impl<'a> Leading<'a> {
    fn new(metrics: &'a Metrics) -> Self {
        metrics.lead(true);
        Self(metrics)
    }
}

impl Drop for Leading<'_> {
    fn drop(&mut self) {
        self.0.lead(false);
        // The new leader counts them.
        self.0.count_phases([]);
    }
}

/// Makes passes for as long as there are triggers.
async fn passes(context: Arc<Context>, triggers: Triggers, concurrency: u16) {
    let config = Config::default()
        .debounce(DEBOUNCE)
        .concurrency(concurrency);
    let clusters = context.stores.clusters.clone();
    applier(
        |cluster, context| Box::pin(reconcile(cluster, context)),
        retry,
        context,
        clusters,
        triggers,
        config,
    )
    .for_each(|passed| async move {
        match passed {
            Ok((cluster, _)) => tracing::trace!(%cluster, "passed"),
            // Objects outlive their cluster for a moment.
            Err(kube::runtime::controller::Error::ObjectNotFound(cluster)) => {
                tracing::debug!(%cluster, "gone");
            }
            Err(kube::runtime::controller::Error::QueueError(error)) => {
                tracing::warn!(%error, "a watch failed and is made anew");
            }
            // Told where it was decided when to try again.
            Err(kube::runtime::controller::Error::ReconcilerFailed(..)) => {}
            Err(error) => tracing::error!(%error, "no passes are made"),
        }
    })
    .await;
}

/// When to try again.
fn retry(cluster: Arc<Guarded>, error: &Error, context: Arc<Context>) -> Action {
    let (namespace, name) = key(&cluster);
    context.metrics.failed(error.step());
    let memory = context.memory.of(&cluster.uid().unwrap_or_default());
    // A pass that was cut short may still hold it for a moment.
    let failures = memory.try_lock().map_or(1, |memory| memory.failures);
    let pause = backoff(failures, rand::random());
    tracing::warn!(namespace, name, %error, failures, pause_ms = pause.as_millis(), "pass failed");
    Action::requeue(pause)
}

/// The pause after so many failures in a row, spread by a fifth either way so that many clusters do not come together.
fn backoff(failures: u32, random: u8) -> Duration {
    let doubled = BACKOFF.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1).min(16)));
    let spread = 0.8 + 0.4 * f64::from(random) / 255.0;
    doubled.min(LONGEST_BACKOFF).mul_f64(spread)
}

/// Counts clusters and drops the memory of those that are gone.
async fn keep_house(contexts: &[Arc<Context>], metrics: &Metrics) {
    let mut ticks = tokio::time::interval(HOUSEKEEPING);
    loop {
        ticks.tick().await;
        let mut phases: Vec<Option<Phase>> = Vec::new();
        for context in contexts {
            let clusters = context.stores.clusters.state();
            phases.extend(clusters.iter().map(|cluster| {
                let status = cluster.0.as_ref().ok()?.status.as_ref()?;
                status.phase
            }));
            let alive: BTreeSet<String> = clusters.iter().filter_map(|one| one.uid()).collect();
            context.memory.retain(|uid| alive.contains(uid));
        }
        metrics.count_phases(phases);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn passes_are_called_for_by_watches_and_agents_and_end_with_the_watches() {
        let name = |name: &str| ObjectRef::<Guarded>::new(name);
        let (sender, receiver) = mpsc::channel(4);
        sender.send(name("told")).await.unwrap();
        let watched = stream::iter([Ok(name("seen"))]).boxed();
        let all: Vec<_> = either(watched, receiver)
            .map(|trigger| trigger.unwrap().name)
            .collect()
            .await;
        // There might be more to tell, but nobody would know of what.
        assert_eq!(all, ["seen", "told"]);
        assert!(sender.is_closed());
    }

    #[test]
    fn pauses_grow_to_a_bound_and_are_spread() {
        assert_eq!(backoff(1, 0), Duration::from_millis(200));
        assert_eq!(backoff(1, 255), Duration::from_millis(300));
        assert!(backoff(3, 0) > backoff(2, 255));
        assert!(backoff(u32::MAX, 255) <= LONGEST_BACKOFF.mul_f64(1.2));
    }
}
