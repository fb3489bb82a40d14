//! What users read in `kubectl describe`: steps on the topology, and changes of conditions. Never the same thing at
//! each pass.

use cachecluster_contract::fence;
mod durable;

use cachecluster_crd::{CacheCluster, CacheClusterStatus, conditions};
use cachecluster_topology::{Action, NodeRef};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Resource};

/// Longest note that the API server takes, in bytes, with some room.
const LONGEST_NOTE: usize = 1000;

/// Publishes events. A failure to do so is logged and stops nothing.
#[derive(Clone)]
pub struct Events(Recorder);

/// A step on the topology in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Its kind: the event's reason, and a metric's label.
    pub kind: &'static str,
    /// What happened to whom.
    pub note: String,
    /// Whether it is worth a warning.
    pub warning: bool,
}

impl Events {
    /// Events in the name of `identity`, one of the operator's replicas.
    #[must_use]
    pub fn new(client: Client, identity: &str) -> Self {
        Self(Recorder::new(
            client,
            Reporter {
                controller: "cachecluster-operator".to_owned(),
                instance: Some(identity.to_owned()),
            },
        ))
    }

    /// A step was taken.
    pub async fn acted(&self, cluster: &CacheCluster, step: &Step) {
        let type_ = if step.warning {
            EventType::Warning
        } else {
            EventType::Normal
        };
        self.publish(cluster, type_, step.kind, "ChangeTopology", &step.note)
            .await;
    }

    /// Something went wrong that is told once.
    pub async fn warn(&self, cluster: &impl Resource<DynamicType = ()>, reason: &str, note: &str) {
        self.publish(cluster, EventType::Warning, reason, "Reconcile", note)
            .await;
    }

    /// The status was written: tells what changed between the two.
    pub async fn transitions(
        &self,
        cluster: &CacheCluster,
        before: &CacheClusterStatus,
        after: &CacheClusterStatus,
    ) {
        let unsafe_ones = durable::changes(before, after);
        for change in changes(before, after).into_iter().chain(unsafe_ones) {
            let type_ = if change.good {
                EventType::Normal
            } else {
                EventType::Warning
            };
            self.publish(cluster, type_, &change.reason, "Observe", &change.note)
                .await;
        }
    }

    async fn publish(
        &self,
        cluster: &impl Resource<DynamicType = ()>,
        type_: EventType,
        reason: &str,
        action: &str,
        note: &str,
    ) {
        let event = Event {
            type_,
            reason: reason.to_owned(),
            note: Some(shorten(note)),
            action: action.to_owned(),
            secondary: None,
        };
        if let Err(error) = self.0.publish(&event, &cluster.object_ref(&())).await {
            tracing::warn!(%error, reason, "cannot publish an event");
        }
    }
}

fn shorten(note: &str) -> String {
    let mut end = LONGEST_NOTE.min(note.len());
    while !note.is_char_boundary(end) {
        end -= 1;
    }
    note[..end].to_owned()
}

#[derive(Debug, PartialEq, Eq)]
struct Change {
    reason: String,
    note: String,
    good: bool,
}

/// Conditions whose status changed. A cluster that is new has not lost anything yet.
fn changes(before: &CacheClusterStatus, after: &CacheClusterStatus) -> Vec<Change> {
    let mut changes = Vec::new();
    for condition in &after.conditions {
        let former = before
            .conditions
            .iter()
            .find(|former| former.type_ == condition.type_);
        let (kind, now) = (condition.type_.as_str(), condition.status.as_str());
        // A disk that was nearly full and is full now is news.
        let worse = kind == conditions::PERSISTENCE_FAILING
            && now == "True"
            && former.is_some_and(|former| former.reason != condition.reason);
        if former.is_some_and(|former| former.status == now) && !worse {
            continue;
        }
        let was = former.map(|former| former.status.as_str());
        let good = match (kind, was, now) {
            (conditions::PERSISTENCE_FAILING | conditions::OUT_OF_MEMORY, _, "True") => false,
            (conditions::PERSISTENCE_FAILING | conditions::OUT_OF_MEMORY, Some(_), "False") => true,
            (conditions::READY, _, "True") | (conditions::ACCEPTED, Some(_), "True") => true,
            (conditions::DEGRADED, Some(_), "False") => true,
            (conditions::PAUSED, _, "True") | (conditions::PAUSED, Some(_), "False") => true,
            (conditions::READY, Some(_), "False")
            | (conditions::ACCEPTED, _, "False")
            | (conditions::DEGRADED, _, "True") => false,
            _ => continue,
        };
        // That it was requested says little where the condition's name is not seen.
        let paused = kind == conditions::PAUSED && now == "True";
        let reason = if paused { kind } else { &condition.reason };
        changes.push(Change {
            reason: reason.to_owned(),
            note: format!("{kind} is {now}: {}", condition.message),
            good,
        });
    }
    changes.extend(fences(before, after));
    changes
}

/// Pods that are fenced, or are not any more.
fn fences(before: &CacheClusterStatus, after: &CacheClusterStatus) -> Vec<Change> {
    let only = |these: &[String], others: &[String]| -> Vec<String> {
        let mut only = these.to_vec();
        only.retain(|pod| !others.contains(pod));
        only
    };
    let raised = only(&after.fenced, &before.fenced).into_iter();
    let lifted = only(&before.fenced, &after.fenced).into_iter();
    let change = |reason: &str, note| Change {
        reason: reason.to_owned(),
        note,
        good: true,
    };
    let raised = raised.map(|pod| {
        change(
            "Fenced",
            format!("{pod} is fenced by the annotation {}", fence::ANNOTATION),
        )
    });
    let lifted = lifted.map(|pod| change("FenceLifted", format!("{pod} is not fenced any more")));
    raised.chain(lifted).collect()
}

fn forgotten(gone: usize, others: usize) -> String {
    let gone = match gone {
        1 => "1 node that is gone for good was".to_owned(),
        many => format!("{many} nodes that are gone for good were"),
    };
    let others = match others {
        1 => "1 other".to_owned(),
        many => format!("{many} others"),
    };
    format!("{gone} forgotten by {others}")
}

/// An action in words.
#[must_use]
pub fn describe(action: &Action) -> Step {
    let names = |nodes: &mut dyn Iterator<Item = &NodeRef>| {
        nodes
            .map(|node| node.name.as_str())
            .collect::<Vec<_>>()
            .join(", ")
    };
    let (kind, note, warning) = match action {
        Action::Meet { via, peers } => (
            "NodesIntroduced",
            format!("introduced {} to {}", names(&mut peers.iter()), via.name),
            false,
        ),
        Action::AssignSlots { assignments } => {
            let parts: Vec<_> = assignments
                .iter()
                .map(|(node, slots, _)| format!("{slots} to {}", node.name))
                .collect();
            (
                "SlotsAssigned",
                format!("gave slots {}", parts.join(", ")),
                false,
            )
        }
        Action::Replicate { pairs } => (
            "ReplicasAttached",
            format!(
                "made replicas of {}",
                names(&mut pairs.iter().map(|(node, _)| node))
            ),
            false,
        ),
        Action::Failover { replica } => (
            "HandedOver",
            format!("{} took over from its live primary", replica.name),
            false,
        ),
        Action::ForceFailover { replica } => (
            "FailedOver",
            format!(
                "{} was elected in place of a primary that is gone",
                replica.name
            ),
            true,
        ),
        Action::Takeover { replica } => (
            "TakenOver",
            format!(
                "{} took over without votes: its primary is gone, and nobody could vote",
                replica.name
            ),
            true,
        ),
        Action::RequireReplicas { nodes, least: 0 } => (
            "WritesRelaxed",
            format!(
                "{} takes writes that no replica reads: none is in step with it",
                names(&mut nodes.iter())
            ),
            true,
        ),
        Action::RequireReplicas { nodes, .. } => (
            "WritesTightened",
            format!(
                "{} acknowledges writes only while a replica is in step",
                names(&mut nodes.iter())
            ),
            false,
        ),
        Action::Forget { gone, everyone } => (
            "NodesForgotten",
            forgotten(gone.len(), everyone.len()),
            false,
        ),
    };
    Step {
        kind,
        note,
        warning,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trouble_is_told_when_it_comes_when_it_is_another_and_when_it_goes() {
        let with = |status: &str, reason: &str| {
            let condition = serde_json::json!({
                "type": "PersistenceFailing", "status": status, "reason": reason, "message": "why",
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            });
            CacheClusterStatus {
                conditions: vec![serde_json::from_value(condition).unwrap()],
                ..CacheClusterStatus::default()
            }
        };
        let told = |before: &CacheClusterStatus, after: &CacheClusterStatus| {
            let all = changes(before, after).into_iter();
            all.map(|change| (change.reason, change.good))
                .collect::<Vec<_>>()
        };
        let (well, nearly) = (with("False", "Stable"), with("True", "DiskNearlyFull"));
        let full = with("True", "DiskFull");
        assert_eq!(told(&CacheClusterStatus::default(), &well), []);
        assert_eq!(told(&well, &nearly), [("DiskNearlyFull".to_owned(), false)]);
        assert_eq!(told(&nearly, &nearly), []);
        assert_eq!(told(&nearly, &full), [("DiskFull".to_owned(), false)]);
        assert_eq!(told(&full, &well), [("Stable".to_owned(), true)]);
    }

    #[test]
    fn one_is_not_spoken_of_as_many() {
        assert_eq!(
            forgotten(1, 1),
            "1 node that is gone for good was forgotten by 1 other"
        );
        assert_eq!(
            forgotten(2, 5),
            "2 nodes that are gone for good were forgotten by 5 others"
        );
    }
}
