//! What pods say of themselves, in words for a status.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodCondition};

/// Reasons to wait that every pod has at its start.
const ORDINARY: [&str; 2] = ["ContainerCreating", "PodInitializing"];

/// How many are ready and stay.
#[must_use]
pub fn ready(pods: &[Arc<Pod>]) -> usize {
    pods.iter()
        .filter(|pod| {
            pod.metadata.deletion_timestamp.is_none()
                && condition(pod, "Ready").is_some_and(|ready| ready.status == "True")
        })
        .count()
}

/// What keeps pods from running, one sentence each: not scheduled, no image, crashing.
#[must_use]
pub fn troubles(pods: &[Arc<Pod>]) -> Vec<String> {
    pods.iter().filter_map(|pod| trouble(pod)).collect()
}

fn trouble(pod: &Pod) -> Option<String> {
    let name = pod.metadata.name.as_deref()?;
    if let Some(scheduled) = condition(pod, "PodScheduled")
        && scheduled.status == "False"
    {
        let why = scheduled
            .message
            .as_deref()
            .or(scheduled.reason.as_deref())
            .unwrap_or("no reason given");
        return Some(format!("pod {name} cannot be scheduled: {why}"));
    }
    let status = pod.status.as_ref()?;
    let init = status.init_container_statuses.iter().flatten();
    init.chain(status.container_statuses.iter().flatten())
        .find_map(|container| Some((container, waiting(container)?)))
        .map(|(container, why)| {
            let container = &container.name;
            format!("pod {name}, container {container}: {why}")
        })
}

/// Why a container does not run, if that is more than being started.
fn waiting(container: &ContainerStatus) -> Option<String> {
    let state = container.state.as_ref()?;
    let waiting = state.waiting.as_ref()?;
    let reason = waiting.reason.as_deref()?;
    if ORDINARY.contains(&reason) {
        return None;
    }
    let ended = container
        .last_state
        .as_ref()
        .and_then(|last| last.terminated.as_ref());
    Some(match ended {
        Some(ended) => format!("{reason}, last exit code {}", ended.exit_code),
        None => reason.to_owned(),
    })
}

fn condition<'a>(pod: &'a Pod, type_: &str) -> Option<&'a PodCondition> {
    pod.status
        .as_ref()?
        .conditions
        .as_ref()?
        .iter()
        .find(|condition| condition.type_ == type_)
}
