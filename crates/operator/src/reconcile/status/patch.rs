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
/// # Errors
/// When the API server refuses or does not answer: [`Error::Status`].
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
    let patch = Patch::Merge(json!({ "status": difference(&previous, &status) }));
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
        Err(error) => Err(Error::Status(error)),
    }
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
fn previous(resource: &CacheCluster, memory: &ClusterMemory) -> CacheClusterStatus {
    match &memory.status {
        Some((status, written)) if version(resource) < *written => status.clone(),
        _ => resource.status.clone().unwrap_or_default(),
    }
}

fn version(resource: &CacheCluster) -> Option<u64> {
    resource.resource_version()?.parse().ok()
}
