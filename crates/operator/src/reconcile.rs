//! One pass over one cluster: look at everything, decide, show Kubernetes what is wanted, take at most one step on the
//! live nodes, say what was seen.
//!
//! Passes are level-triggered: nothing of a plan is kept, and a pass that was cut short is simply made again.

pub mod apply;
pub mod build;
pub mod decide;
pub mod execute;
pub mod fence;
#[cfg(test)]
mod fixture;
pub mod handover;
pub mod observe;
pub mod pods;
pub mod relocate;
pub mod report;
pub mod status;
pub mod validate;
pub mod withdraw;

use std::sync::Arc;
use std::time::{Duration, Instant};

use cachecluster_crd::{CacheCluster, conditions};
use cachecluster_redis_admin::ExecuteError;
use jiff::Timestamp;
use kube::runtime::controller::Action;
use kube::runtime::reflector::ObjectRef;
use kube::{Client, ResourceExt};
use tokio::time::timeout;

use crate::events::Events;
use crate::memory::{ClusterMemory, Memory};
use crate::metrics::Metrics;
use crate::news::Newsroom;
use crate::settings::Workload;
use crate::stores::{Guarded, Stores};

use apply::ApplyError;
use status::Outcome;

/// After how many failures in a row the status says so.
const SHOWN: u32 = 3;
/// After how many failures in a row users are told by an event.
const TOLD: u32 = 5;
/// Longest time for telling of a failure: the next pass waits for it.
const TELLING: Duration = Duration::from_secs(5);

/// What every pass has at hand.
pub struct Context {
    /// For writes, and for the few reads that no watch covers.
    pub client: Client,
    /// What the watches know.
    pub stores: Stores,
    /// What earlier passes know.
    pub memory: Memory,
    /// What is told to Prometheus.
    pub metrics: Arc<Metrics>,
    /// What is told to users as it happens.
    pub events: Events,
    /// Where the news of agents arrive.
    pub newsroom: Newsroom,
    /// What pods look like.
    pub workload: Workload,
    /// Longest time for one pass.
    pub deadline: Duration,
}

/// Why a pass failed. One variant a step.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The resource itself cannot be read.
    #[error("the resource cannot be read: {0}")]
    Unreadable(String),
    /// Something that no watch covers could not be read.
    #[error("cannot observe: {}", apply::said(.0))]
    Observe(#[source] kube::Error),
    /// An object could not be brought into its wanted form.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// The action on the live nodes failed.
    #[error("cannot change the topology: {0}")]
    Execute(#[from] ExecuteError),
    /// The status could not be written.
    #[error("cannot write the status: {}", apply::said(.0))]
    Status(#[source] kube::Error),
    /// The pass took too long.
    #[error("the pass did not end within {} s", .0.as_secs())]
    Deadline(Duration),
    /// The watches have ended.
    #[error("the watches have ended")]
    Watches,
}

impl Error {
    /// The step that failed, for a metric's label.
    #[must_use]
    pub fn step(&self) -> &'static str {
        match self {
            Self::Unreadable(_) => "read",
            Self::Observe(_) => "observe",
            Self::Apply(_) => "apply",
            Self::Execute(_) => "execute",
            Self::Status(_) => "status",
            Self::Deadline(_) => "deadline",
            Self::Watches => "watches",
        }
    }
}

/// Makes one pass within the deadline.
///
/// # Errors
/// See [`Error`]; the status says it as well, as far as it can be written.
pub async fn reconcile(cluster: Arc<Guarded>, context: Arc<Context>) -> Result<Action, Error> {
    let started = Instant::now();
    let result = guarded(&cluster, &context).await;
    context.metrics.passed(started.elapsed());
    result
}

/// Counts failures in a row, whatever failed: pauses grow with them.
async fn guarded(cluster: &Guarded, context: &Context) -> Result<Action, Error> {
    let memory = context.memory.of(&cluster.uid().unwrap_or_default());
    // Only one pass is made over a cluster at a time, and each has deadlines: nobody holds this for long.
    let mut memory = memory.lock().await;
    let result = attempt(cluster, context, &mut memory).await;
    match &result {
        Ok(_) => memory.failures = 0,
        Err(error) => {
            memory.failures = memory.failures.saturating_add(1);
            if timeout(TELLING, tell(cluster, error, context, &mut memory))
                .await
                .is_err()
            {
                tracing::debug!("telling of a failure took too long");
            }
        }
    }
    result
}

/// Says that passes fail, where the pass itself could not. Single failures pass; one that lasts is told, once.
async fn tell(cluster: &Guarded, error: &Error, context: &Context, memory: &mut ClusterMemory) {
    let text = error.to_string();
    let failures = memory.failures;
    match (&cluster.0, error) {
        // No status can be written to what cannot be read.
        (Err(_), _) => {
            if failures == 1 {
                let reason = conditions::reason::INVALID_SPEC;
                context.events.warn(cluster, reason, &text).await;
            }
            return;
        }
        // The status says so already, or cannot be written.
        (Ok(_), Error::Execute(_) | Error::Status(_)) => {}
        (Ok(resource), _) if failures >= SHOWN => {
            let failed = |previous: &_, now| status::failed(previous, &text, now);
            if let Err(error) = status::write(resource, context, memory, failed).await {
                tracing::debug!(%error, "cannot tell of a failure");
            }
        }
        (Ok(_), _) => {}
    }
    if failures == TOLD {
        let reason = conditions::reason::RECONCILE_FAILED;
        context.events.warn(cluster, reason, &text).await;
    }
}

async fn attempt(
    cluster: &Guarded,
    context: &Context,
    memory: &mut ClusterMemory,
) -> Result<Action, Error> {
    let cluster = match &cluster.0 {
        Ok(cluster) => cluster,
        Err(invalid) => return Err(Error::Unreadable(invalid.error.clone())),
    };
    let deadline = context.deadline;
    match timeout(deadline, context.stores.ready()).await {
        Ok(true) => {}
        Ok(false) => return Err(Error::Watches),
        Err(_) => return Err(Error::Deadline(deadline)),
    }
    timeout(deadline, pass(cluster, context, memory))
        .await
        .unwrap_or(Err(Error::Deadline(deadline)))
}

async fn pass(
    cluster: &CacheCluster,
    context: &Context,
    memory: &mut ClusterMemory,
) -> Result<Action, Error> {
    if cluster.metadata.deletion_timestamp.is_some() {
        // Owner references remove everything; making things anew would only delay that.
        status::write(cluster, context, memory, status::deleting).await?;
        return Ok(Action::await_change());
    }

    // Ask everybody. (client)
    let mut observed = observe::observe(cluster, context, memory).await?;
    // What changes from here on is told.
    let this = ObjectRef::new(&cluster.name_any()).within(&cluster.namespace().unwrap_or_default());
    let agents = report::agents(&observed);
    memory.listeners.keep(agents, &this, &context.newsroom);
    // Turn the raw spec into what can be acted upon. (pure)
    let valid = match validate::validate(cluster, &observed, &build::secret::random()) {
        Ok(valid) => valid,
        Err(rejection) => {
            let refused = |previous: &_, now| status::rejected(previous, cluster, &rejection, now);
            status::write(cluster, context, memory, refused).await?;
            return Ok(Action::requeue(decide::REJECTED));
        }
    };
    // Take those for fenced that the user names, or that were. (pure)
    fence::believe(cluster, &valid, &mut observed, memory);
    // Choose what Kubernetes is shown this time, and at most one step. (pure)
    let mut plan = decide::decide(&valid, &observed);
    // What need not be can wait for a better time. (pure)
    memory
        .handovers
        .weigh(&mut plan, tokio::time::Instant::now());
    let relieve = memory
        .relocations
        .weigh(&mut plan, tokio::time::Instant::now());
    // Say how every object shall be. (pure)
    let prepared = build::resources(&valid, &plan, &context.workload);
    let (applied, marked, executed) = if valid.paused {
        // Look on. What is there is told, and nothing else done about it.
        (
            Ok(apply::found(prepared, &valid, context)),
            Ok(()),
            Ok(false),
        )
    } else {
        // Bring the objects into that form; those that have it are left alone. (client)
        let applied = apply::apply(prepared, &valid, context, memory).await;
        let marked = apply::mark_primary(&observed, &plan, &valid, context).await;
        // Take the one step on the live nodes. (Redis)
        let executing = execute::execute(cluster, &valid, &observed, &plan, context);
        // Meanwhile have no requests sent to machines that are gone. (client)
        let withdrawals = &mut memory.withdrawals;
        let withdrawing = withdraw::withdraw(cluster, &valid, &observed, context, withdrawals);
        let (executed, ()) = tokio::join!(executing, withdrawing);
        let success = match &executed {
            Ok(taken) => taken.then_some(true),
            Err(_) => Some(false),
        };
        let now = tokio::time::Instant::now();
        memory.handovers.tried(&plan, success, now);
        // Have a pod placed anew whose place does no good. (client)
        if relieve {
            let relocations = &mut memory.relocations;
            relocate::relocate(cluster, &valid, &plan, context, relocations).await;
        }
        (applied, marked, executed)
    };
    // Have the servers stopped, or not any more, that the user names. No step is held up by that. (agents)
    match fence::fence(cluster, &valid, &mut observed, context, memory).await {
        Ok(again) => {
            let soonest = |pause: Duration| again.map_or(pause, |again| again.min(pause));
            plan.requeue = soonest(plan.requeue);
            plan.otherwise = soonest(plan.otherwise);
        }
        Err(error) => {
            // What the step came to matters more, and is told with the status.
            executed?;
            return Err(error);
        }
    }
    // Ask for what only agents can see, which no step depends on. (agents)
    let now = Timestamp::now();
    let reports = memory.reports.ask(&observed, valid.storage.is_some(), now);
    observed.reports = reports.await;
    // Say what was seen and done. (client)
    let outcome = Outcome {
        applied: match (&applied, &marked) {
            (Ok(_), Err(error)) => Err(error),
            (applied, _) => applied.as_ref(),
        },
        executed: executed.as_ref(),
    };
    let told = |previous: &_, now| {
        status::compute(previous, cluster, &valid, &observed, &plan, &outcome, now)
    };
    status::write(cluster, context, memory, told).await?;

    // Nothing can be done until somebody changes something, and no watch tells of that.
    if applied
        .as_ref()
        .is_err_and(|error| error.rejection().is_some())
    {
        // Not so for the live nodes, whose repair does not depend on that.
        let pause = if plan.answered {
            plan.requeue.min(decide::REJECTED)
        } else {
            decide::REJECTED
        };
        return Ok(Action::requeue(pause));
    }
    applied?;
    marked?;
    executed?;
    Ok(Action::requeue(plan.requeue))
}
