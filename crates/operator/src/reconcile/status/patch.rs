//! The status on its way to the API server: only if anything is new.

use cachecluster_crd::{CacheCluster, CacheClusterStatus};
use jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use crate::memory::ClusterMemory;
use crate::reconcile::apply::FIELD_MANAGER;
use crate::reconcile::{Context, Error};

/// Writes what `compute` makes of the previous status, if that is anything new, and tells what changed.
///
/// Who is in sync is written only over the very status that it was computed from: another operator, which believes to be
/// the leader as well, may have written another set meanwhile.
///
/// # Errors
/// When the API server refuses or does not answer: [`Error::Status`]. When there is a newer status, the next pass starts
/// from that; it comes as soon as after a first failure, however often that happens.
pub async fn write(
    resource: &CacheCluster,
    context: &Context,
    memory: &mut ClusterMemory,
    compute: impl FnOnce(&CacheClusterStatus, Timestamp) -> CacheClusterStatus,
) -> Result<(), Error> {
    let previous = previous(resource, memory);
    let status = compute(&previous, Timestamp::now());
    if status == previous {
        return Ok(());
    }
    let namespace = resource.namespace().unwrap_or_default();
    let api: Api<CacheCluster> = Api::namespaced(context.client.clone(), &namespace);
    let params = PatchParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PatchParams::default()
    };
    let mut patch = json!({ "status": difference(&previous, &status) });
    // A merge replaces lists as a whole: whatever is new, the sets are written with it.
    if keeps_sets(&previous) || keeps_sets(&status) {
        let version = previous_version(resource, memory);
        patch["metadata"] = json!({ "resourceVersion": version });
    }
    let patch = Patch::Merge(patch);
    match api
        .patch_status(&resource.name_any(), &params, &patch)
        .await
    {
        Ok(written) => {
            context.metrics.wrote("CacheCluster");
            memory.status = Some((status.clone(), version(&written)));
            context
                .events
                .transitions(resource, &previous, &status)
                .await;
            Ok(())
        }
        // Deleted meanwhile.
        Err(kube::Error::Api(answer)) if answer.is_not_found() => Ok(()),
        Err(error) => {
            // Nothing is wrong, so pauses do not grow and users are not told: the count is one more in a moment.
            if matches!(&error, kube::Error::Api(answer) if answer.is_conflict()) {
                memory.failures = memory.failures.saturating_sub(1);
            }
            Err(Error::Status(error))
        }
    }
}

/// Whether it says who is in sync.
fn keeps_sets(status: &CacheClusterStatus) -> bool {
    status.shards.iter().any(|shard| !shard.in_sync.is_empty())
}

/// The whole status for a merge, which leaves alone what it does not name: what is not there any more is named, too.
fn difference(previous: &CacheClusterStatus, status: &CacheClusterStatus) -> Value {
    let (previous, mut status) = (json!(previous), json!(status));
    for field in previous.as_object().into_iter().flat_map(|it| it.keys()) {
        if status.get(field).is_none() {
            status[field] = Value::Null;
        }
    }
    status
}

/// The status as it was written last: the watch's, unless it lags behind our own writes.
#[must_use]
pub fn previous(resource: &CacheCluster, memory: &ClusterMemory) -> CacheClusterStatus {
    match ahead(resource, memory) {
        Some((status, _)) => status.clone(),
        None => resource.status.clone().unwrap_or_default(),
    }
}

/// The resource version of [`previous`].
fn previous_version(resource: &CacheCluster, memory: &ClusterMemory) -> Option<String> {
    match ahead(resource, memory) {
        Some((_, written)) => Some(written.to_string()),
        None => resource.resource_version(),
    }
}

/// What was written last, with the version that it gave, if the watch does not know it yet.
fn ahead<'m>(
    resource: &CacheCluster,
    memory: &'m ClusterMemory,
) -> Option<(&'m CacheClusterStatus, u64)> {
    let (status, written) = memory.status.as_ref()?;
    let written = (*written)?;
    (version(resource) < Some(written)).then_some((status, written))
}

fn version(resource: &CacheCluster) -> Option<u64> {
    resource.resource_version()?.parse().ok()
}
