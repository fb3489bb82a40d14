//! How much memory a Redis container needs for an amount of data.

const MIB: u64 = 1 << 20;

/// The container's limit, in bytes, for `maxmemory` bytes of data: 30 % more for fragmentation, replication buffers
/// and pages that are copied while a child writes the data set out, and 64 MiB for the server and the agent
/// themselves; rounded up to whole MiB.
#[must_use]
pub(super) fn limit(maxmemory: u64) -> u64 {
    let wanted = maxmemory
        .saturating_add(maxmemory / 10 * 3)
        .saturating_add(64 * MIB);
    wanted.div_ceil(MIB).saturating_mul(MIB)
}

/// [`limit`] as Kubernetes writes it.
#[must_use]
pub(super) fn limit_quantity(maxmemory: u64) -> String {
    format!("{}Mi", limit(maxmemory) / MIB)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_leaves_headroom_over_the_data() {
        assert_eq!(limit_quantity(512 * MIB), "730Mi");
        assert_eq!(limit_quantity(32 * MIB), "106Mi");
        assert!(limit(u64::MAX) >= u64::MAX - MIB);
    }
}
