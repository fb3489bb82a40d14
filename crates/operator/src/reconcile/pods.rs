//! What pods say of themselves, in words for a status.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus, Pod, PodCondition};

/// Reasons to wait that every pod has at its start.
const ORDINARY: [&str; 2] = ["ContainerCreating", "PodInitializing"];
/// Waits between two attempts to run a container. The kubelet says only for how long, and something else each time.
const CRASHING: &str = "CrashLoopBackOff";
/// Longest sentence about one pod, in characters.
const LONGEST: usize = 200;

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

/// What keeps pods from running, a sentence of at most 200 characters each: not scheduled, no image, crashing.
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
        return Some(line(&format!("pod {name} cannot be scheduled: {why}")));
    }
    let status = pod.status.as_ref()?;
    let init = status.init_container_statuses.iter().flatten();
    init.chain(status.container_statuses.iter().flatten())
        .find_map(|container| Some((&container.name, failing(container)?)))
        .map(|(container, why)| line(&format!("pod {name}, container {container}: {why}")))
}

/// Why a container does not run, if that is more than being started or having done its work.
fn failing(container: &ContainerStatus) -> Option<String> {
    let state = container.state.as_ref()?;
    let last = container.last_state.as_ref();
    let last = last.and_then(|last| last.terminated.as_ref());
    if let Some(ended) = &state.terminated {
        return (ended.exit_code != 0).then(|| end(ended));
    }
    let waiting = state.waiting.as_ref()?;
    let reason = waiting.reason.as_deref()?;
    if ORDINARY.contains(&reason) {
        // Between two attempts of a pod's sandbox there is no other word of the former one.
        return last.filter(|ended| ended.exit_code != 0).map(end);
    }
    Some(match (last, waiting.message.as_deref()) {
        (Some(ended), _) if reason == CRASHING => format!("{reason}, {}", end(ended)),
        (_, Some(message)) if reason != CRASHING => format!("{reason}: {message}"),
        _ => reason.to_owned(),
    })
}

/// How a container ended, in its own words if it left any.
fn end(ended: &ContainerStateTerminated) -> String {
    let code = ended.exit_code;
    let mut text = format!("last exit code {code}");
    // That it was an error says the code.
    if let Some(reason) = ended.reason.as_deref().filter(|reason| *reason != "Error") {
        text = format!("{text} ({reason})");
    }
    // The log's end, as the pods have it: why it ended stands last.
    let mut lines = ended
        .message
        .iter()
        .flat_map(|message| message.lines().rev());
    if let Some(words) = lines.find(|line| !line.trim().is_empty()) {
        text = format!("{text}: {words}");
    }
    text
}

/// As one line of at most 200 characters.
#[must_use]
pub fn line(text: &str) -> String {
    bounded(text, LONGEST)
}

/// As one line of at most so many characters, from its beginning.
#[must_use]
pub fn bounded(text: &str, longest: usize) -> String {
    let text = words(text).join(" ");
    if text.chars().count() <= longest {
        return text;
    }
    let mut short: String = text.chars().take(longest.saturating_sub(1)).collect();
    short.push('…');
    short
}

fn words(text: &str) -> Vec<&str> {
    text.split(|c: char| c.is_whitespace() || c.is_control())
        .filter(|word| !word.is_empty())
        .collect()
}

fn condition<'a>(pod: &'a Pod, type_: &str) -> Option<&'a PodCondition> {
    pod.status
        .as_ref()?
        .conditions
        .as_ref()?
        .iter()
        .find(|condition| condition.type_ == type_)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn told(status: Value) -> Option<String> {
        let pod = json!({"metadata": {"name": "demo-shard-0-0"}, "status": status});
        trouble(&serde_json::from_value(pod).unwrap())
    }

    fn container(state: Value, last: Value) -> Option<String> {
        told(json!({"containerStatuses": [{
            "name": "redis", "image": "", "imageID": "", "ready": false, "restartCount": 3,
            "state": state, "lastState": last,
        }]}))
    }

    #[test]
    fn a_pod_that_runs_or_starts_is_in_no_trouble() {
        let begun = json!({"running": {}});
        assert_eq!(container(begun, json!({})), None);
        let begins = json!({"waiting": {"reason": "ContainerCreating"}});
        assert_eq!(container(begins, json!({})), None);
        let done = json!({"terminated": {"exitCode": 0, "reason": "Completed"}});
        assert_eq!(container(done, json!({})), None);
    }

    #[test]
    fn an_image_that_cannot_be_pulled_is_told_in_the_kubelets_words() {
        let waiting =
            json!({"waiting": {"reason": "ErrImagePull", "message": "redis:8.l:\n not found"}});
        assert_eq!(
            container(waiting, json!({})).as_deref(),
            Some("pod demo-shard-0-0, container redis: ErrImagePull: redis:8.l: not found")
        );
    }

    #[test]
    fn a_crash_is_told_in_the_containers_last_words() {
        let waiting = json!({"waiting": {
            "reason": "CrashLoopBackOff", "message": "back-off 40s restarting failed container=redis",
        }});
        let last = |message: Value, reason: &str| json!({"terminated": {"exitCode": 1, "reason": reason, "message": message}});
        let words = last(json!("starting\nno redis-server on PATH\n\n"), "Error");
        assert_eq!(
            container(waiting.clone(), words.clone()).as_deref(),
            Some(
                "pod demo-shard-0-0, container redis: CrashLoopBackOff, last exit code 1: no redis-server on PATH"
            )
        );
        let silent = last(Value::Null, "OOMKilled");
        let silent = container(waiting, silent).unwrap();
        assert!(silent.ends_with("CrashLoopBackOff, last exit code 1 (OOMKilled)"));
        // The moment before the kubelet waits, and the one after.
        for state in [words, json!({"waiting": {"reason": "PodInitializing"}})] {
            let last = last(json!("no redis-server on PATH"), "Error");
            let told = container(state, last).unwrap();
            assert!(told.ends_with("redis: last exit code 1: no redis-server on PATH"));
        }
    }

    #[test]
    fn a_pod_without_a_machine_says_why_in_one_bounded_line() {
        let why = "0/3 nodes are available: ".to_owned() + &"3 Insufficient memory.\n".repeat(50);
        let told = told(json!({"conditions": [{
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": why,
        }]}))
        .unwrap();
        let start =
            "pod demo-shard-0-0 cannot be scheduled: 0/3 nodes are available: 3 Insufficient";
        assert!(told.starts_with(start), "{told}");
        assert_eq!(told.chars().count(), LONGEST);
        assert!(told.ends_with('…') && !told.contains('\n'));
    }
}
