//! Carries out the plan's one action on the live nodes.

use std::time::Duration;

use cachecluster_crd::CacheCluster;
use cachecluster_redis_admin::ExecuteError;
use cachecluster_topology::Action;

use super::Context;
use super::decide::Plan;
use super::observe::Observed;
use super::validate::ValidatedCluster;
use crate::events::describe;

/// Longest time for each command of an action.
const COMMAND: Duration = Duration::from_secs(3);
/// The oldest look at the nodes upon which one of them is promoted: meanwhile they may have elected another.
const FRESH: Duration = Duration::from_secs(2);

/// Takes the step, if the plan has one, and tells about it. Returns whether one was taken: nobody is promoted upon an
/// old look at the nodes, and the next pass, which has less to write, looks again.
///
/// # Errors
/// When a node refused or did not answer: the next pass looks again.
pub async fn execute(
    resource: &CacheCluster,
    cluster: &ValidatedCluster,
    observed: &Observed,
    plan: &Plan,
    context: &Context,
) -> Result<bool, ExecuteError> {
    let Some(action) = &plan.action else {
        return Ok(false);
    };
    let step = describe(action);
    let age = observed.at.elapsed();
    if is_too_old(action, age) {
        let (namespace, name) = (&cluster.namespace, &cluster.name);
        let age_ms = age.as_millis();
        tracing::info!(
            namespace,
            name,
            action = step.kind,
            age_ms,
            "not taken: seen too long ago"
        );
        return Ok(false);
    }
    let result = cachecluster_redis_admin::execute(action, &cluster.auth.password, COMMAND).await;
    context.metrics.acted(step.kind, result.is_ok());
    let (namespace, name) = (&cluster.namespace, &cluster.name);
    match result {
        Ok(()) => {
            tracing::info!(namespace, name, action = step.kind, "{}", step.note);
            context.events.acted(resource, &step).await;
            Ok(true)
        }
        Err(error) => {
            tracing::warn!(namespace, name, action = step.kind, %error, "{}", step.note);
            Err(error)
        }
    }
}

/// Whether the nodes may be other than they were when the action was chosen, and that matters for it.
fn is_too_old(action: &Action, age: Duration) -> bool {
    match action {
        Action::Failover { .. }
        | Action::ForceFailover { .. }
        | Action::Takeover { .. }
        | Action::RequireReplicas { .. } => age > FRESH,
        Action::Meet { .. }
        | Action::AssignSlots { .. }
        | Action::Replicate { .. }
        | Action::Forget { .. } => false,
    }
}

#[cfg(test)]
mod tests {
    use cachecluster_topology::{NodeId, NodeRef};

    use super::*;

    #[test]
    fn nobody_is_promoted_upon_an_old_look() {
        let replica = NodeRef {
            id: NodeId::parse(&"a".repeat(40)).unwrap(),
            name: "demo-shard-0-1".to_owned(),
            addr: ("10.0.0.1".parse().unwrap(), 6379),
        };
        let forced = Action::ForceFailover {
            replica: replica.clone(),
        };
        let taken = Action::Takeover {
            replica: replica.clone(),
        };
        for action in [forced, taken] {
            assert!(!is_too_old(&action, FRESH));
            assert!(is_too_old(&action, FRESH + Duration::from_millis(1)));
        }
        let meet = Action::Meet {
            via: replica,
            peers: Vec::new(),
        };
        assert!(!is_too_old(&meet, Duration::from_secs(30)));
    }
}
