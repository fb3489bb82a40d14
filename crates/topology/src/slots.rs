//! Hash slots, and sets of them.

use std::fmt;

/// Number of hash slots in every Redis Cluster.
pub const SLOT_COUNT: u16 = 16384;

/// Slots `start..=end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotRange {
    /// First slot.
    pub start: u16,
    /// Last slot, included.
    pub end: u16,
}

/// A set of slots as sorted, disjoint, non-adjacent ranges.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct SlotRanges(Vec<SlotRange>);

impl SlotRanges {
    /// Builds the set from ranges in any order, which may overlap.
    #[must_use]
    pub fn from_ranges(ranges: impl IntoIterator<Item = SlotRange>) -> Self {
        let mut sorted: Vec<SlotRange> = ranges.into_iter().filter(|r| r.start <= r.end).collect();
        sorted.sort_unstable();
        let mut merged: Vec<SlotRange> = Vec::with_capacity(sorted.len());
        for range in sorted {
            match merged.last_mut() {
                Some(last) if u32::from(range.start) <= u32::from(last.end) + 1 => {
                    last.end = last.end.max(range.end)
                }
                _ => merged.push(range),
            }
        }
        Self(merged)
    }

    /// Every slot there is.
    #[must_use]
    pub fn all() -> Self {
        Self(vec![SlotRange {
            start: 0,
            end: SLOT_COUNT - 1,
        }])
    }

    /// The part of shard `index` when all slots are split evenly and contiguously among `shards`: the same for the same
    /// numbers, whoever asks. Empty when there is no such shard.
    #[must_use]
    pub fn share(index: u32, shards: u32) -> Self {
        if index >= shards {
            return Self::default();
        }
        let bound = |i: u32| u64::from(SLOT_COUNT) * u64::from(i) / u64::from(shards);
        let (start, next) = (bound(index), bound(index + 1));
        // Both are at most SLOT_COUNT; more shards than slots leave some shards without a part.
        match (u16::try_from(start), u16::try_from(next)) {
            (Ok(start), Ok(next)) if start < next => Self(vec![SlotRange {
                start,
                end: next - 1,
            }]),
            _ => Self::default(),
        }
    }

    /// The slots in either set.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        Self::from_ranges(self.0.iter().chain(&other.0).copied())
    }

    /// The slots in both sets.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        Self::from_ranges(self.0.iter().flat_map(|a| {
            other.0.iter().map(|b| SlotRange {
                start: a.start.max(b.start),
                end: a.end.min(b.end),
            })
        }))
    }

    /// The slots of this set that are not in `other`.
    #[must_use]
    pub fn minus(&self, other: &Self) -> Self {
        let mut left = Vec::with_capacity(self.0.len());
        for range in &self.0 {
            let mut start = u32::from(range.start);
            for gone in &other.0 {
                if gone.end < range.start || gone.start > range.end {
                    continue;
                }
                if u32::from(gone.start) > start {
                    left.push((start, u32::from(gone.start) - 1));
                }
                start = u32::from(gone.end) + 1;
            }
            if start <= u32::from(range.end) {
                left.push((start, u32::from(range.end)));
            }
        }
        Self::from_ranges(left.into_iter().filter_map(|(start, end)| {
            Some(SlotRange {
                start: u16::try_from(start).ok()?,
                end: u16::try_from(end).ok()?,
            })
        }))
    }

    /// The ranges, sorted.
    #[must_use]
    pub fn ranges(&self) -> &[SlotRange] {
        &self.0
    }

    /// Number of slots.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0
            .iter()
            .map(|r| usize::from(r.end - r.start) + 1)
            .sum()
    }

    /// Whether no slot is in the set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `slot` is in the set.
    #[must_use]
    pub fn contains(&self, slot: u16) -> bool {
        self.0.iter().any(|r| (r.start..=r.end).contains(&slot))
    }
}

impl fmt::Display for SlotRanges {
    /// As in `CLUSTER NODES`: `0-5460 10923`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, r) in self.0.iter().enumerate() {
            let gap = if i == 0 { "" } else { " " };
            if r.start == r.end {
                write!(f, "{gap}{}", r.start)?
            } else {
                write!(f, "{gap}{}-{}", r.start, r.end)?
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(ranges: &[(u16, u16)]) -> SlotRanges {
        SlotRanges::from_ranges(ranges.iter().map(|&(start, end)| SlotRange { start, end }))
    }

    #[test]
    fn shares_cover_everything_once_and_evenly() {
        for shards in [1, 2, 3, 5, 7, 100, 16384] {
            let parts: Vec<_> = (0..shards).map(|i| SlotRanges::share(i, shards)).collect();
            let whole = parts
                .iter()
                .fold(SlotRanges::default(), |all, p| all.union(p));
            assert_eq!(whole, SlotRanges::all());
            let sizes = parts.iter().map(SlotRanges::len);
            assert_eq!(sizes.clone().sum::<usize>(), usize::from(SLOT_COUNT));
            assert!(sizes.clone().max().unwrap() - sizes.min().unwrap() <= 1);
        }
        assert!(SlotRanges::share(3, 3).is_empty());
    }

    #[test]
    fn arithmetic_of_sets() {
        let a = set(&[(0, 10), (20, 30), (16383, 16383)]);
        assert_eq!(
            a.minus(&set(&[(0, 0), (5, 22), (30, 40)])),
            set(&[(1, 4), (23, 29), (16383, 16383)])
        );
        assert_eq!(a.minus(&SlotRanges::all()), SlotRanges::default());
        assert_eq!(a.minus(&SlotRanges::default()), a);
        assert_eq!(a.intersection(&set(&[(8, 25)])), set(&[(8, 10), (20, 25)]));
        assert_eq!(a.union(&set(&[(11, 19)])), set(&[(0, 30), (16383, 16383)]));
        assert_eq!(a.to_string(), "0-10 20-30 16383");
    }
}
