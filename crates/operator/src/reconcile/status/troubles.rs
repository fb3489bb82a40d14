//! Troubles that leave the cluster serving, or soon will not: disks that fail, and memory that does not suffice. Pure.
//!
//! Neither changes what Ready says, which is computed from who serves.

use cachecluster_crd::CacheClusterStatus;
use cachecluster_crd::conditions::{self, reason};
use cachecluster_topology::{Member, Presence};
use jiff::Timestamp;

use super::verdicts::Verdict;
use crate::reconcile::observe::Observed;
use crate::reconcile::pods::{self, OOM_MEMORY};

/// A volume that is as full as that, in percent, has no room to work in.
const FULL: u64 = 99;
/// Until it is less full than that.
const ROOMY: u64 = 96;
/// A volume that is fuller than that is warned of.
const NEARLY_FULL: u64 = 90;
/// Until it is less full than that: rewrites of the append-only file come and go.
const RELIEVED: u64 = 85;
/// So many pods are named.
const MOST: usize = 3;
/// What the others are called.
const MORE: &str = "more";

/// Whether some server cannot, or soon will not, write to its disk.
pub(super) fn persistence(previous: &CacheClusterStatus, observed: &Observed) -> Verdict {
    let former = previous
        .conditions
        .iter()
        .find(|it| it.type_ == conditions::PERSISTENCE_FAILING && it.status == "True");
    let was_told = |member: &Member| {
        former.is_some_and(|former| {
            let mut words = former.message.split([' ', ',', ':']);
            // One of those that were merely counted may be meant as well.
            words.any(|word| word == member.name || word == MORE)
        })
    };
    let (mut full, mut failing, mut nearly) = (Vec::new(), Vec::new(), Vec::new());
    let mut unheard = false;
    for member in &observed.members {
        let name = member.name.as_str();
        let fails = member.view().is_some_and(|view| view.failed_saves.any());
        let report = observed.reports.get(name);
        let volume = report.and_then(|report| report.volume);
        let percent = volume.map_or(0, |volume| volume.percent());
        let no_room = volume.is_some_and(|volume| fails && volume.refused);
        let (limit, brim) = match former.filter(|_| was_told(member)) {
            Some(former) if former.reason == reason::DISK_FULL => (RELIEVED, ROOMY),
            Some(_) => (RELIEVED, FULL),
            None => (NEARLY_FULL, FULL),
        };
        if no_room || percent >= brim {
            full.push(name);
        } else if fails {
            failing.push(name);
        } else if percent > limit {
            nearly.push(name);
        } else if member.view().is_none() && member.presence != Presence::Absent {
            unheard |= was_told(member);
        }
    }
    let mut told = Vec::new();
    let mut tell = |pods: &[&str], what: &str| {
        if !pods.is_empty() {
            told.push(format!("{}: {what}", some(pods)));
        }
    };
    tell(
        &full,
        "the volume is full; writes are refused until there is room again: delete or expire keys, or make the volume larger",
    );
    tell(
        &failing,
        "the server cannot save its data; its log says why",
    );
    tell(
        &nearly,
        "the volume is over nine tenths full, and a rewrite of the append-only file needs room: make it larger",
    );
    let reason = match (full.is_empty(), failing.is_empty(), nearly.is_empty()) {
        (false, _, _) => reason::DISK_FULL,
        (true, false, _) => reason::SAVE_FAILING,
        (true, true, false) => reason::DISK_NEARLY_FULL,
        (true, true, true) => {
            // Who is silent has not said that it is well again.
            let former = former.filter(|_| unheard);
            let kept = former.and_then(|it| Some((known(&it.reason)?, it.message.clone())));
            return match kept {
                Some((reason, message)) => (true, reason, message),
                None => (false, reason::STABLE, "No save fails".to_owned()),
            };
        }
    };
    (true, reason, told.join("; "))
}

fn known(reason: &str) -> Option<&'static str> {
    let all = [
        reason::DISK_FULL,
        reason::SAVE_FAILING,
        reason::DISK_NEARLY_FULL,
    ];
    all.into_iter().find(|known| *known == reason)
}

/// Whether processes were killed for want of memory lately: the message tells when, and so stays the same until one is
/// killed again or enough time has passed.
pub(super) fn out_of_memory(observed: &Observed, now: Timestamp) -> Verdict {
    let mut redis = pods::oom_kills(&observed.redis_pods);
    for (pod, report) in &observed.reports {
        let last = report
            .last_oom_kill
            .and_then(|it| Timestamp::from_second(it).ok());
        if let Some(last) = last {
            let known = redis.entry(pod.clone()).or_insert(last);
            *known = last.max(*known);
        }
    }
    let api = pods::oom_kills(&observed.api_pods);
    let mut told = Vec::new();
    for (kills, advice) in [
        (
            redis,
            "the container's memory did not suffice beside the data: keep clients' buffers small and writes even, or give a new cluster more spec.memory",
        ),
        (api, "raise the memory limit in spec.api.resources"),
    ] {
        let lately = kills
            .iter()
            .filter(|(_, at)| now.duration_since(**at) < OOM_MEMORY);
        let lately: Vec<_> = lately.map(|(pod, at)| format!("{pod} at {at}")).collect();
        if !lately.is_empty() {
            let lately: Vec<_> = lately.iter().map(String::as_str).collect();
            told.push(format!(
                "killed for want of memory: {}: {advice}",
                some(&lately)
            ));
        }
    }
    if told.is_empty() {
        let message = "Nothing was killed for want of memory lately".to_owned();
        return (false, reason::STABLE, message);
    }
    (true, reason::OOM_KILLED, told.join("; "))
}

/// The first few of them.
fn some(all: &[&str]) -> String {
    let mut text = all
        .iter()
        .take(MOST)
        .copied()
        .collect::<Vec<_>>()
        .join(", ");
    if all.len() > MOST {
        text.push_str(&format!(" and {} {MORE}", all.len() - MOST));
    }
    text
}

#[cfg(test)]
mod tests {
    use cachecluster_contract::report::{Report, Volume};
    use cachecluster_topology::{Probe, World};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
    use serde_json::json;
    use std::sync::Arc;

    use super::*;
    use crate::reconcile::fixture;

    const FIRST: &str = "quickstart-shard-0-0";
    const SECOND: &str = "quickstart-shard-0-1";

    fn observed() -> Observed {
        fixture::world(fixture::formed(1, 1).world())
    }

    /// The disk of a pod is so full, in percent.
    fn fill(observed: &mut Observed, pod: &str, percent: u64, refused: bool) {
        let volume = Volume {
            size: 100,
            free: 100 - percent,
            refused,
        };
        let report = Report {
            volume: Some(volume),
            ..Report::default()
        };
        observed.reports.insert(pod.to_owned(), report);
    }

    fn failing(observed: &mut Observed, at: usize) {
        let Probe::Answered(view) = &mut observed.members[at].probe else {
            panic!("it answers");
        };
        view.failed_saves.append = true;
    }

    fn told(verdict: &Verdict) -> CacheClusterStatus {
        let condition: Condition = serde_json::from_value(json!({
            "type": conditions::PERSISTENCE_FAILING, "status": if verdict.0 { "True" } else { "False" },
            "reason": verdict.1, "message": verdict.2, "lastTransitionTime": "2026-01-01T00:00:00Z",
        }))
        .unwrap();
        CacheClusterStatus {
            conditions: vec![condition],
            ..CacheClusterStatus::default()
        }
    }

    fn first(observed: &Observed) -> Verdict {
        persistence(&CacheClusterStatus::default(), observed)
    }

    #[test]
    fn a_failing_save_names_its_pod() {
        let mut observed = observed();
        assert_eq!(first(&observed).1, reason::STABLE);
        failing(&mut observed, 1);
        let (state, why, message) = first(&observed);
        assert!(
            state && message.contains(SECOND) && !message.contains(FIRST),
            "{message}"
        );
        assert_eq!(why, reason::SAVE_FAILING);
        // With room on the volume it has another cause.
        fill(&mut observed, SECOND, 50, false);
        assert_eq!(first(&observed).1, reason::SAVE_FAILING);
        fill(&mut observed, SECOND, 50, true);
        assert_eq!(first(&observed).1, reason::DISK_FULL);
    }

    #[test]
    fn a_volume_is_warned_of_before_it_is_full_and_until_there_is_room() {
        let mut observed = observed();
        fill(&mut observed, FIRST, 90, true);
        assert!(!first(&observed).0, "what the server said once is over");
        fill(&mut observed, FIRST, 91, false);
        let nearly = first(&observed);
        assert_eq!((nearly.0, nearly.1), (true, reason::DISK_NEARLY_FULL));
        fill(&mut observed, FIRST, 86, false);
        assert_eq!(persistence(&told(&nearly), &observed), nearly);
        assert!(!first(&observed).0);
        fill(&mut observed, FIRST, 85, false);
        assert!(!persistence(&told(&nearly), &observed).0);
        fill(&mut observed, FIRST, 99, false);
        let full = first(&observed);
        assert_eq!(full.1, reason::DISK_FULL);
        fill(&mut observed, FIRST, 96, false);
        assert_eq!(persistence(&told(&full), &observed), full);
        fill(&mut observed, FIRST, 95, false);
        assert_eq!(
            persistence(&told(&full), &observed).1,
            reason::DISK_NEARLY_FULL
        );
    }

    #[test]
    fn also_those_that_were_merely_counted_are_warned_of_until_there_is_room() {
        let mut observed = fixture::world(fixture::formed(3, 1).world());
        let pods: Vec<String> = observed.members.iter().map(|m| m.name.clone()).collect();
        for pod in &pods {
            fill(&mut observed, pod, 91, false);
        }
        let all = first(&observed);
        assert!(all.2.contains("and 3 more"), "{}", all.2);
        for pod in &pods {
            fill(&mut observed, pod, 89, false);
        }
        assert_eq!(persistence(&told(&all), &observed), all);
    }

    #[test]
    fn who_is_silent_is_not_well_again() {
        let mut observed = observed();
        failing(&mut observed, 1);
        let failing = first(&observed);
        observed.members[1].probe = Probe::Silent("no answer".to_owned());
        assert_eq!(persistence(&told(&failing), &observed), failing);
        // Another's silence says nothing, nor does that of a pod that is gone.
        let World { members, .. } = fixture::formed(1, 1).world();
        observed.members = members;
        observed.members[0].probe = Probe::Silent("no answer".to_owned());
        assert!(!persistence(&told(&failing), &observed).0);
        observed.members[1].probe = Probe::Silent("no such pod".to_owned());
        observed.members[1].presence = Presence::Absent;
        assert!(!persistence(&told(&failing), &observed).0);
    }

    #[test]
    fn a_kill_is_told_for_a_while_with_its_time() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let mut observed = observed();
        let ended = json!({"terminated": {
            "exitCode": 137, "reason": "OOMKilled", "finishedAt": "2026-01-01T00:00:00Z",
        }});
        let pod = json!({
            "metadata": {"name": "quickstart-api-x"},
            "status": {"containerStatuses": [{
                "name": "api", "image": "", "imageID": "", "ready": true, "restartCount": 1,
                "state": {"running": {}}, "lastState": ended,
            }]},
        });
        observed.api_pods = vec![Arc::new(serde_json::from_value(pod).unwrap())];
        let (state, why, message) = out_of_memory(&observed, at("2026-01-01T00:14:59Z"));
        assert_eq!((state, why), (true, reason::OOM_KILLED));
        assert!(
            message.contains("quickstart-api-x at 2026-01-01T00:00:00Z"),
            "{message}"
        );
        assert!(message.contains("spec.api.resources"), "{message}");
        let again = out_of_memory(&observed, at("2026-01-01T00:00:01Z"));
        assert_eq!(again.2, message, "nothing changes while time passes");
        let now = at("2026-01-01T00:15:00Z");
        assert!(!out_of_memory(&observed, now).0);

        // The agent outlived its server.
        let report = Report {
            last_oom_kill: Some(at("2026-01-01T00:14:00Z").as_second()),
            oom_kills: 1,
            ..Report::default()
        };
        observed.reports.insert(FIRST.to_owned(), report);
        let (state, _, message) = out_of_memory(&observed, now);
        assert!(
            state && message.contains("quickstart-shard-0-0 at 2026-01-01T00:14:00Z"),
            "{message}"
        );
        assert!(!message.contains("api"), "{message}");
    }
}
