//! The operator's pods, after they were killed again and again.

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::{ContainerState, Pod};
use kube::api::{Api, DeleteParams};

use crate::cluster::Ctx;

/// Removes the operator's pods that the kubelet holds back because they were killed so often, so that others take their
/// place. One that ended by itself is left for whoever looks.
///
/// # Errors
/// When the API server refuses.
pub(crate) async fn release(ctx: &Ctx, operator: &[Pod]) -> Result<()> {
    let pods: Api<Pod> = Api::namespaced(ctx.client.clone(), &ctx.settings.operator_namespace);
    for pod in operator.iter().filter(|pod| is_held_back(pod)) {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let now = DeleteParams::default().grace_period(0);
        match pods.delete(name, &now).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.is_not_found() => {}
            Err(error) => return Err(error).context("replacing a pod of the operator"),
        }
    }
    Ok(())
}

/// Whether a container of a pod waits for its turn after it was killed.
fn is_held_back(pod: &Pod) -> bool {
    /// 128 and the number of SIGKILL.
    const KILLED: i32 = 137;
    let containers = pod.status.iter().flat_map(|it| &it.container_statuses);
    containers.flatten().any(|container| {
        let state = |state: &Option<ContainerState>| state.clone().unwrap_or_default();
        let waiting = state(&container.state).waiting.and_then(|it| it.reason);
        let ended = state(&container.last_state).terminated;
        waiting.as_deref() == Some("CrashLoopBackOff")
            && ended.is_some_and(|it| {
                it.exit_code == KILLED && it.reason.as_deref() != Some("OOMKilled")
            })
    })
}
