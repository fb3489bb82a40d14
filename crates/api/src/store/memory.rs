//! The embedded store: values in this process, bounded by bytes, the least recently used ones going first.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use moka::Expiry;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;

use super::{Health, ShardStats, Store, StoreError};

/// What holding one entry costs besides its key and value, in bytes: the table's slot, the recency and timer nodes,
/// and the two allocations. Measured roughly; it keeps the bound honest when values are tiny.
const ENTRY_OVERHEAD: usize = 256;

type Key = Box<[u8]>;

/// See the module's documentation.
pub struct MemoryStore {
    entries: Cache<Key, Entry>,
    hits: AtomicU64,
    misses: AtomicU64,
}

#[derive(Clone)]
struct Entry {
    value: Bytes,
    expires: Option<Instant>,
}

impl Entry {
    fn is_live(&self, now: Instant) -> bool {
        self.expires.is_none_or(|expires| now < expires)
    }
}

/// Lets the cache drop an entry when its own time is over.
struct OwnTime;

impl OwnTime {
    fn left(entry: &Entry, now: Instant) -> Option<Duration> {
        entry.expires.map(|at| at.saturating_duration_since(now))
    }
}

impl Expiry<Key, Entry> for OwnTime {
    fn expire_after_create(&self, _: &Key, entry: &Entry, now: Instant) -> Option<Duration> {
        Self::left(entry, now)
    }

    fn expire_after_update(
        &self,
        _: &Key,
        entry: &Entry,
        now: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        Self::left(entry, now)
    }
}

impl MemoryStore {
    /// An empty store of at most `limit` bytes.
    #[must_use]
    pub fn new(limit: u64) -> Self {
        let entries = Cache::builder()
            .max_capacity(limit)
            .weigher(|key: &Key, entry: &Entry| {
                u32::try_from(key.len() + entry.value.len() + ENTRY_OVERHEAD).unwrap_or(u32::MAX)
            })
            // Recency, not frequency: what was just set must be there to be got, even in a full store.
            .eviction_policy(EvictionPolicy::lru())
            .expire_after(OwnTime)
            .build();
        Self {
            entries,
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        }
    }
}

impl Store for MemoryStore {
    async fn get(&self, key: &[u8], _: Instant) -> Result<Option<Bytes>, StoreError> {
        let found = self
            .entries
            .get(key)
            .filter(|entry| entry.is_live(Instant::now()));
        let counter = if found.is_some() {
            &self.hits
        } else {
            &self.misses
        };
        counter.fetch_add(1, Ordering::Relaxed);
        Ok(found.map(|entry| entry.value))
    }

    async fn set(
        &self,
        key: &[u8],
        value: Bytes,
        ttl: Option<Duration>,
        _: Instant,
    ) -> Result<(), StoreError> {
        // The body that the value came in may be much longer than the value: do not keep it alive.
        let value = Bytes::copy_from_slice(&value);
        let expires = ttl.and_then(|ttl| Instant::now().checked_add(ttl));
        self.entries.insert(key.into(), Entry { value, expires });
        Ok(())
    }

    async fn delete(&self, key: &[u8], _: Instant) -> Result<bool, StoreError> {
        let removed = self.entries.remove(key);
        Ok(removed.is_some_and(|entry| entry.is_live(Instant::now())))
    }

    async fn stats(&self, _: Instant) -> Result<Vec<ShardStats>, StoreError> {
        self.entries.run_pending_tasks();
        let counted = [
            ("keyspace_hits", self.hits.load(Ordering::Relaxed)),
            ("keyspace_misses", self.misses.load(Ordering::Relaxed)),
            ("keys", self.entries.entry_count()),
            ("used_memory", self.entries.weighted_size()),
            (
                "maxmemory",
                self.entries.policy().max_capacity().unwrap_or(0),
            ),
        ];
        Ok(vec![ShardStats {
            name: "memory".to_owned(),
            counted: counted.into(),
            error: None,
        }])
    }

    async fn health(&self, _: Instant) -> Health {
        Health {
            shards: 1,
            up: 1,
            covered: true,
        }
    }

    fn ready(&self) -> Result<(), String> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(1)
    }

    #[tokio::test]
    async fn a_full_store_stays_within_its_bound_and_keeps_what_was_set_last() {
        let limit = 1 << 20;
        let store = MemoryStore::new(limit);
        for index in 0..4_000 {
            let key = format!("key-{index}");
            let value = Bytes::from(vec![b'x'; 1_000]);
            store
                .set(key.as_bytes(), value, None, soon())
                .await
                .unwrap();
        }
        let stats = store.stats(soon()).await.unwrap();
        assert!(stats[0].counted["used_memory"] <= limit);
        assert!(stats[0].counted["keys"] > 500);
        assert!(store.get(b"key-3999", soon()).await.unwrap().is_some());
        assert!(store.get(b"key-0", soon()).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn an_expired_value_is_neither_got_nor_deleted() {
        let store = MemoryStore::new(1 << 20);
        let ttl = Some(Duration::from_millis(5));
        // The one that is waited for is the last one to expire.
        for key in [&b"b"[..], b"a"] {
            store
                .set(key, Bytes::from_static(b"1"), ttl, soon())
                .await
                .unwrap();
        }
        let set = Instant::now();
        while store.get(b"a", soon()).await.unwrap().is_some() {
            assert!(set.elapsed() < Duration::from_secs(5), "never expires");
            tokio::task::yield_now().await;
        }
        assert!(!store.delete(b"b", soon()).await.unwrap());
    }
}
