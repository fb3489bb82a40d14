//! What is told of each shard.

use cachecluster_contract::names;
use cachecluster_crd::{CacheClusterStatus, ShardStatus};

use crate::reconcile::decide::Plan;
use crate::reconcile::validate::ValidatedCluster;

/// One entry a shard, as the plan saw it.
pub(super) fn shards(cluster: &ValidatedCluster, plan: &Plan) -> Vec<ShardStatus> {
    plan.health
        .shards
        .iter()
        .map(|shard| ShardStatus {
            name: names::shard(&cluster.name, shard.index),
            primary: shard.primary.as_ref().map(|node| node.name.clone()),
            replicas: shard.in_sync.iter().map(|node| node.name.clone()).collect(),
            in_sync: plan.in_sync.get(&shard.index).cloned().unwrap_or_default(),
            slots: shard.slots.to_string(),
            keys: rounded(shard.keys),
        })
        .collect()
}

/// To two significant digits.
fn rounded(keys: u64) -> u64 {
    let mut unit = 1;
    while keys / unit >= 100 {
        unit *= 10;
    }
    keys / unit * unit
}

/// Keeps the former numbers of keys if nothing else changed and none of them moved by more than a fifth.
pub(super) fn with_steady_keys(
    previous: &CacheClusterStatus,
    status: CacheClusterStatus,
) -> CacheClusterStatus {
    let mut steady = status.clone();
    for (shard, former) in steady.shards.iter_mut().zip(&previous.shards) {
        if shard.keys.abs_diff(former.keys) > former.keys / 5 {
            return status;
        }
        shard.keys = former.keys;
    }
    if steady == *previous { steady } else { status }
}

#[cfg(test)]
mod tests {
    use cachecluster_crd::Phase;

    use super::*;

    #[test]
    fn keys_that_move_a_little_are_no_reason_to_write() {
        let shard = ShardStatus {
            keys: 1000,
            ..ShardStatus::default()
        };
        let before = CacheClusterStatus {
            shards: vec![shard],
            ..CacheClusterStatus::default()
        };
        let mut now = before.clone();
        now.shards[0].keys = 1200;
        assert_eq!(with_steady_keys(&before, now.clone()), before);
        now.shards[0].keys = 1300;
        assert_eq!(with_steady_keys(&before, now.clone()), now);
        now.shards[0].keys = 1100;
        now.phase = Some(Phase::Degraded);
        assert_eq!(with_steady_keys(&before, now.clone()), now);
    }

    #[test]
    fn keys_are_rounded_to_two_significant_digits() {
        for (keys, shown) in [(0, 0), (7, 7), (99, 99), (100, 100), (12_345, 12_000)] {
            assert_eq!(rounded(keys), shown);
        }
        assert!(rounded(u64::MAX) > 0);
    }
}
