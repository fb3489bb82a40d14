//! What users read in `kubectl describe`: steps on the topology, and changes of conditions. Never the same thing at
//! each pass.

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
        for change in changes(before, after) {
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
            .find(|former| former.type_ == condition.type_)
            .map(|former| former.status.as_str());
        let (kind, now) = (condition.type_.as_str(), condition.status.as_str());
        if former == Some(now) {
            continue;
        }
        let good = match (kind, former, now) {
            (conditions::READY, _, "True") | (conditions::ACCEPTED, Some(_), "True") => true,
            (conditions::DEGRADED, Some(_), "False") => true,
            (conditions::READY, Some(_), "False")
            | (conditions::ACCEPTED, _, "False")
            | (conditions::DEGRADED, _, "True") => false,
            _ => continue,
        };
        changes.push(Change {
            reason: condition.reason.clone(),
            note: format!("{kind} is {now}: {}", condition.message),
            good,
        });
    }
    changes
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
