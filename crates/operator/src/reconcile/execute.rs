//! Carries out the plan's one action on the live nodes.

use std::time::Duration;

use cachecluster_crd::CacheCluster;
use cachecluster_redis_admin::ExecuteError;

use super::Context;
use super::decide::Plan;
use super::validate::ValidatedCluster;
use crate::events::describe;

/// Longest time for each command of an action.
const COMMAND: Duration = Duration::from_secs(3);

/// Takes the step, if the plan has one, and tells about it. Returns whether there was one.
///
/// # Errors
/// When a node refused or did not answer: the next pass looks again.
pub async fn execute(
    resource: &CacheCluster,
    cluster: &ValidatedCluster,
    plan: &Plan,
    context: &Context,
) -> Result<bool, ExecuteError> {
    let Some(action) = &plan.action else {
        return Ok(false);
    };
    let step = describe(action);
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
