//! Room in memory: for request bodies that arrive, and for responses that are being written.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What is at most so long needs no room: the limits on requests and connections bound it well enough, and it must get
/// in while long ones wait. In bytes.
pub const SMALL: usize = 8 << 10;

/// How long to wait for room.
pub const ROOM_TIMEOUT: Duration = Duration::from_millis(500);

/// A bound on the memory that all bodies of a kind take together. One permit stands for 1 KiB.
pub struct Room {
    free: Arc<Semaphore>,
    all: u32,
    waiting: AtomicUsize,
}

/// There is no room, and there was none for [`ROOM_TIMEOUT`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// A part of a [`Room`], given back when it drops.
#[derive(Debug, Default)]
pub struct Held(Option<OwnedSemaphorePermit>);

impl Room {
    /// Room for so many bytes.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        let most = Semaphore::MAX_PERMITS.min(u32::MAX as usize);
        let all = bytes.div_ceil(1 << 10).min(most);
        Self {
            free: Arc::new(Semaphore::new(all)),
            all: all as u32,
            waiting: AtomicUsize::new(0),
        }
    }

    /// Takes room for `bytes`, and waits for it if need be.
    ///
    /// # Errors
    /// When there is none in time.
    pub async fn take(&self, bytes: usize) -> Result<Held, Full> {
        if let Some(held) = self.try_take(bytes) {
            return Ok(held);
        }
        let _waiting = Waiting::begin(&self.waiting);
        let permit = self.free.clone().acquire_many_owned(self.permits(bytes));
        match tokio::time::timeout(ROOM_TIMEOUT, permit).await {
            Ok(Ok(permit)) => Ok(Held(Some(permit))),
            _ => Err(Full),
        }
    }

    /// Takes room for `bytes` if there is some now.
    pub fn try_take(&self, bytes: usize) -> Option<Held> {
        if bytes <= SMALL {
            return Some(Held::default());
        }
        let permit = self.free.clone();
        let permit = permit.try_acquire_many_owned(self.permits(bytes)).ok()?;
        Some(Held(Some(permit)))
    }

    /// Whether somebody waits for room.
    pub fn is_wanted(&self) -> bool {
        self.waiting.load(Relaxed) > 0
    }

    fn permits(&self, bytes: usize) -> u32 {
        let wanted = u32::try_from(bytes.div_ceil(1 << 10)).unwrap_or(u32::MAX);
        wanted.min(self.all)
    }
}

/// Counts as waiting until it drops.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn begin(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Relaxed);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Held {
    /// Whether it is enough for `bytes`.
    #[must_use]
    pub fn covers(&self, bytes: usize) -> bool {
        let held = self.0.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        bytes <= SMALL.max(held << 10)
    }

    /// The bytes, which hold the room from now on: until the last of them is written or dropped.
    #[must_use]
    pub fn keep(self, bytes: Vec<u8>) -> Bytes {
        match self.0 {
            None => bytes.into(),
            Some(_room) => Bytes::from_owner(Kept { bytes, _room }),
        }
    }
}

struct Kept {
    bytes: Vec<u8>,
    _room: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Kept {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::Instant;

    #[tokio::test(start_paused = true)]
    async fn who_finds_no_room_waits_a_while_and_small_ones_do_not() {
        let room = Room::new(1 << 20);
        let most = room.take(1 << 20).await.unwrap();
        let began = Instant::now();
        assert_eq!(room.take(SMALL + 1).await.unwrap_err(), Full);
        assert!(began.elapsed() >= ROOM_TIMEOUT);
        assert!(!room.is_wanted());
        assert!(room.take(SMALL).await.is_ok());
        // What is written in parts is there until its last part is gone.
        let mut bytes = most.keep(vec![0; 1 << 20]);
        let last = bytes.split_off((1 << 20) - 1);
        drop(bytes);
        assert!(room.try_take(SMALL + 1).is_none());
        let (taken, ()) = tokio::join!(room.take(1 << 20), async {
            assert!(room.is_wanted());
            drop(last);
        });
        assert!(taken.is_ok());
    }
}
