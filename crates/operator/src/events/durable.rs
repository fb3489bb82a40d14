//! What is told of a durable cluster's shards.

use cachecluster_crd::CacheClusterStatus;
use cachecluster_crd::conditions::{self, reason};
use cachecluster_topology::ALLOW_UNSAFE_PROMOTION;

use super::Change;

/// Reason of the event that tells of a primary that may lack acknowledged writes.
const UNSAFE_PROMOTION: &str = "UnsafePromotion";

/// Primaries that were not in sync before, and refusals that begin while something else is missing already.
pub(super) fn changes(before: &CacheClusterStatus, after: &CacheClusterStatus) -> Vec<Change> {
    let mut changes = Vec::new();
    for shard in &after.shards {
        let mut shards = before.shards.iter();
        let Some(former) = shards.find(|former| former.name == shard.name) else {
            continue;
        };
        // The first of a set is the primary that was believed.
        let Some(primary) = shard.in_sync.first() else {
            continue;
        };
        if former.in_sync.is_empty() || former.in_sync.contains(primary) {
            continue;
        }
        let had = former.in_sync.join(", ");
        changes.push(Change {
            reason: UNSAFE_PROMOTION.to_owned(),
            note: format!(
                "{primary} is the primary of {} though it was not in sync: writes that only {had} had may be lost, unless it \
                 was handed over in order to a replica that had caught up and not joined yet; remove the annotation \
                 {ALLOW_UNSAFE_PROMOTION} if it is there",
                shard.name
            ),
            good: false,
        });
    }
    let refusal = |status: &CacheClusterStatus| {
        let mut conditions = status.conditions.iter();
        let ready = conditions.find(|condition| condition.type_ == conditions::READY)?;
        (ready.reason == reason::UNSAFE_PROMOTION_REFUSED).then(|| ready.clone())
    };
    let was_ready = before
        .conditions
        .iter()
        .any(|condition| condition.type_ == conditions::READY && condition.status == "True");
    // A cluster that was ready until now tells it as the change of that condition.
    if let (None, Some(ready), false) = (refusal(before), refusal(after), was_ready) {
        changes.push(Change {
            reason: reason::UNSAFE_PROMOTION_REFUSED.to_owned(),
            note: ready.message,
            good: false,
        });
    }
    changes
}

#[cfg(test)]
mod tests {
    use cachecluster_crd::ShardStatus;

    use super::*;

    fn status(in_sync: &[&str]) -> CacheClusterStatus {
        CacheClusterStatus {
            shards: vec![ShardStatus {
                name: "demo-shard-0".to_owned(),
                in_sync: in_sync.iter().map(|&name| name.to_owned()).collect(),
                ..ShardStatus::default()
            }],
            ..CacheClusterStatus::default()
        }
    }

    #[test]
    fn a_primary_that_was_not_in_sync_is_told_of_once() {
        let told = changes(&status(&["a"]), &status(&["b"]));
        assert_eq!(told.len(), 1);
        assert_eq!(
            (told[0].reason.as_str(), told[0].good),
            ("UnsafePromotion", false)
        );
        for words in [
            "writes that only a had may be lost, unless it was handed over in order",
            "remove the annotation cachecluster.io/allow-unsafe-promotion if",
        ] {
            assert!(told[0].note.contains(words), "{}", told[0].note);
        }
        for (before, after) in [
            (&["b"][..], &["b"][..]),
            (&["a", "b"], &["b", "a"]),
            (&["a", "b"], &["a"]),
            (&[], &["a"]),
        ] {
            assert_eq!(changes(&status(before), &status(after)), []);
        }
    }
}
