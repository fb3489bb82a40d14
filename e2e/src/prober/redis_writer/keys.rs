//! Keys that are all of one shard.

use std::collections::VecDeque;

use super::super::ledger::Written;
use super::super::slots::slot_of;

/// The keys of one shard, each in turn.
pub(super) struct Keys {
    prefix: String,
    ranges: Vec<(u16, u16)>,
    /// The number of the next new key.
    next: u64,
    /// Keys that are free; with more than `most` at a time, each is used once.
    free: VecDeque<Written>,
    most: u64,
    made: u64,
}

impl Keys {
    /// Keys with this prefix in these slots, so many of them; 0: without end.
    pub(super) fn of(prefix: &str, ranges: &[(u16, u16)], most: u64) -> Self {
        Self {
            prefix: prefix.to_owned(),
            ranges: ranges.to_vec(),
            next: 0,
            free: VecDeque::new(),
            most,
            made: 0,
        }
    }

    /// The key that was free longest, or a new one.
    pub(super) fn take(&mut self) -> Written {
        if self.most > 0
            && self.made >= self.most
            && let Some(free) = self.free.pop_front()
        {
            return free;
        }
        self.made += 1;
        loop {
            let key = format!("{}-{}", self.prefix, self.next);
            self.next += 1;
            let slot = slot_of(&key);
            if self.ranges.iter().any(|(a, b)| (*a..=*b).contains(&slot)) {
                return Written::new(key);
            }
        }
    }

    /// Gives a key back; what comes out is done with. So is a key with a write that may still come late: it would look
    /// like the loss of a newer one.
    pub(super) fn put(&mut self, written: Written, late: bool) -> Option<Written> {
        if self.most == 0 {
            return Some(written);
        }
        if late {
            self.made -= 1;
            return Some(written);
        }
        self.free.push_back(written);
        None
    }

    /// The keys that nobody writes to now.
    pub(super) fn drain(&mut self) -> Vec<Written> {
        self.free.drain(..).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_of_a_shard_is_in_its_slots_and_used_in_turn() {
        let ranges = [(0, 5460), (16383, 16383)];
        let mut keys = Keys::of("k", &ranges, 2);
        let (a, b) = (keys.take(), keys.take());
        for key in [&a, &b] {
            let slot = slot_of(&key.key);
            assert!(slot <= 5460 || slot == 16383, "{}", key.key);
        }
        let (first, second) = (a.key.clone(), b.key.clone());
        assert_ne!(first, second);
        assert!(keys.put(a, false).is_none() && keys.put(b, false).is_none());
        assert_eq!(keys.take().key, first);
        // One that may be written late is given up, and another made instead.
        let late = keys.take();
        assert_eq!(keys.put(late, true).unwrap().key, second);
        assert!(![first, second].contains(&keys.take().key));
    }

    #[test]
    fn without_a_number_of_keys_each_is_used_once() {
        let mut keys = Keys::of("k", &[(0, 16383)], 0);
        let one = keys.take();
        let key = one.key.clone();
        assert!(keys.put(one, false).is_some());
        assert_ne!(keys.take().key, key);
    }
}
