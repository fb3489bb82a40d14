//! What pods say of themselves, in words for a status.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus, Pod, PodCondition};

/// Reasons to wait that every pod has at its start.
const ORDINARY: [&str; 2] = ["ContainerCreating", "PodInitializing"];
/// Waits between two attempts to run a container. The kubelet says only for how long, and something else each time.
const CRASHING: &str = "CrashLoopBackOff";
/// Longest sentence about one pod, in characters.
const LONGEST: usize = 200;

/// For how long a kill for want of memory is told of.
pub const OOM_MEMORY: SignedDuration = SignedDuration::from_mins(15);

/// When a container of each pod was last killed for want of memory, by the pod's name.
#[must_use]
pub fn oom_kills(pods: &[Arc<Pod>]) -> BTreeMap<String, Timestamp> {
    let last = |pod: &Pod| {
        let statuses = pod.status.as_ref()?.container_statuses.iter().flatten();
        let states = statuses.flat_map(|it| [it.state.as_ref(), it.last_state.as_ref()]);
        let ends = states
            .flatten()
            .filter_map(|state| state.terminated.as_ref());
        ends.filter(|end| end.reason.as_deref() == Some("OOMKilled"))
            .filter_map(|end| Some(end.finished_at.as_ref()?.0))
            .max()
    };
    pods.iter()
        .filter_map(|pod| Some((pod.metadata.name.clone()?, last(pod)?)))
        .collect()
}

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
        .map(|(container, why)| {
            let who = format!("pod {name}, container {container}: ");
            let words = why.words.map(|words| {
                let room = LONGEST.saturating_sub(who.chars().count() + why.what.chars().count());
                format!(": {}", tail(&words, room.saturating_sub(2)))
            });
            line(&(who + &why.what + &words.unwrap_or_default()))
        })
}

/// Why a container does not run.
struct Trouble {
    /// What Kubernetes says.
    what: String,
    /// The container's own last words.
    words: Option<String>,
}

/// Why a container does not run, if that is more than being started or having done its work.
fn failing(container: &ContainerStatus) -> Option<Trouble> {
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
        (Some(ended), _) if reason == CRASHING => {
            let Trouble { what, words } = end(ended);
            let what = format!("{reason}, {what}");
            Trouble { what, words }
        }
        (_, Some(message)) if reason != CRASHING => Trouble {
            what: format!("{reason}: {message}"),
            words: None,
        },
        _ => Trouble {
            what: reason.to_owned(),
            words: None,
        },
    })
}

/// How a container ended, in its own words if it left any.
fn end(ended: &ContainerStateTerminated) -> Trouble {
    let code = ended.exit_code;
    let mut what = format!("last exit code {code}");
    // That it was an error says the code.
    if let Some(reason) = ended.reason.as_deref().filter(|reason| *reason != "Error") {
        what = format!("{what} ({reason})");
    }
    let words = ended.message.as_deref().and_then(telling);
    Trouble { what, words }
}

/// What tells most of a log's end, without the time and place that Redis puts before each line: a directive that the
/// server does not take, or its fatal error, with the line after it; else the last line, where the agent says why.
fn telling(log: &str) -> Option<String> {
    let lines: Vec<&str> = log.lines().filter(|it| !it.trim().is_empty()).collect();
    let last = lines.len().checked_sub(1)?;
    let of = |mark: &str| lines.iter().rposition(|line| line.contains(mark));
    let told = match of(">>> '").or_else(|| of("FATAL")) {
        Some(at) if at < last => lines[at..=at + 1].iter().map(|it| plain(it)).collect(),
        _ => vec![plain(lines[last])],
    };
    Some(told.join(" "))
}

/// A line without Redis's prefixes, such as `16:M 23 Nov 2026 03:39:19.506 # `.
fn plain(line: &str) -> String {
    let mut words = words(line);
    let prefix = |it: &[&str]| {
        let pid = it[0].strip_suffix([':', 'M', 'S', 'C', 'X']);
        let pid = pid.and_then(|pid| pid.strip_suffix(':'));
        let is_number = |it: &str| !it.is_empty() && it.bytes().all(|b| b.is_ascii_digit());
        pid.is_some_and(is_number)
            && is_number(it[1])
            && is_number(it[3])
            && it[4].contains(':')
            && [".", "-", "*", "#"].contains(&it[5])
    };
    if let Some(at) = words.windows(6).position(prefix) {
        words.drain(at..at + 6);
    }
    words.join(" ")
}

/// The end of a text, in at most so many characters.
fn tail(text: &str, longest: usize) -> String {
    let length = text.chars().count();
    if length <= longest {
        return text.to_owned();
    }
    let end = text.chars().skip(length + 1 - longest.max(1));
    std::iter::once('…').chain(end).collect()
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

/// The pod's condition of a type.
#[must_use]
pub fn condition<'a>(pod: &'a Pod, type_: &str) -> Option<&'a PodCondition> {
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
    fn of_a_log_the_telling_line_is_told_without_its_prefix() {
        let log = "*** FATAL CONFIG FILE ERROR (Redis 8.2) ***\nReading the file, at line 3\n>>> 'maxclients many'\n\
                   argument must be a number\nthe server ended, giving up: argument";
        assert_eq!(
            telling(log).as_deref(),
            Some(">>> 'maxclients many' argument must be a number")
        );
        let ended =
            "the server ended, giving up: 16:M 23 Nov 2026 03:39:19.506 # Can't open the file";
        assert_eq!(
            telling(ended).as_deref(),
            Some("the server ended, giving up: Can't open the file")
        );
        assert_eq!(telling("\n \n"), None);
    }

    #[test]
    fn of_long_last_words_the_end_is_kept() {
        let words = "the server ended ".to_owned() + &"again ".repeat(60) + "for want of memory";
        let state = json!({"terminated": {"exitCode": 1, "reason": "Error", "message": words}});
        let told = container(state, json!({})).unwrap();
        assert!(told.starts_with("pod demo-shard-0-0, container redis: last exit code 1: …"));
        assert!(told.ends_with("for want of memory"), "{told}");
        assert_eq!(told.chars().count(), LONGEST);
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
