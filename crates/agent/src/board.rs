//! What the parts of the agent tell each other.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::time::Duration;

use cachecluster_contract::report::Volume;
use cachecluster_redis_admin::Connection;
use cachecluster_telemetry::Readiness;
use cachecluster_topology::Role;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::oom::OomKills;
use crate::sample::Sample;
use crate::transcript::Transcript;

/// What the supervisor is doing.
#[derive(Clone, Debug, PartialEq)]
pub enum Phase {
    /// The server is not running, for the reason given.
    Down(String),
    /// The server is held back until a replica has taken over.
    Holding,
    /// The server runs since then.
    Running(Instant),
    /// The agent was told to stop.
    Stopping,
    /// The fence is up, and the server is about to stop.
    Fencing,
    /// The server is kept stopped while the fence is up.
    Fenced,
}

/// The board on which each part writes what it knows. Clones are one.
#[derive(Clone)]
pub struct Board(Arc<Notes>);

struct Notes {
    phase: watch::Sender<Phase>,
    sample: watch::Sender<Option<Arc<Sample>>>,
    line: watch::Sender<Option<Connection>>,
    readiness: Readiness,
    liveness: Readiness,
    hung: watch::Sender<Option<Instant>>,
    starts: AtomicU64,
    kills: AtomicU64,
    asleep_millis: AtomicU64,
    silence_millis: AtomicU64,
    promotions: [AtomicU64; 2],
    room: watch::Sender<Option<Volume>>,
    oom: OomKills,
    transcript: Transcript,
    child: AtomicI32,
    news: watch::Sender<u64>,
}

impl fmt::Debug for Board {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Board")
            .field("phase", &*self.0.phase.borrow())
            .finish_non_exhaustive()
    }
}

impl Default for Board {
    fn default() -> Self {
        Self::new()
    }
}

impl Board {
    /// A board of an agent that has not started its server yet: alive, not ready.
    #[must_use]
    pub fn new() -> Self {
        let liveness = Readiness::not_ready("");
        liveness.set(Ok(()));
        Self(Arc::new(Notes {
            phase: watch::Sender::new(Phase::Down("the server is not started yet".to_owned())),
            sample: watch::Sender::new(None),
            line: watch::Sender::new(None),
            readiness: Readiness::not_ready("the server is not started yet"),
            liveness,
            hung: watch::Sender::new(None),
            starts: AtomicU64::new(0),
            kills: AtomicU64::new(0),
            asleep_millis: AtomicU64::new(0),
            silence_millis: AtomicU64::new(0),
            promotions: [AtomicU64::new(0), AtomicU64::new(0)],
            room: watch::Sender::new(None),
            oom: OomKills::default(),
            transcript: Transcript::default(),
            child: AtomicI32::new(0),
            news: watch::Sender::new(0),
        }))
    }

    /// States what the supervisor does now. Probes see it at once.
    pub fn enter(&self, phase: Phase) {
        match &phase {
            Phase::Running(_) => {
                self.0.starts.fetch_add(1, Ordering::Relaxed);
                self.0.sample.send_replace(None);
            }
            Phase::Down(reason) => self.0.readiness.set(Err(reason.clone())),
            Phase::Holding => self.hold_until("a replica has taken over"),
            Phase::Stopping => self.0.readiness.set(Err("stopping".to_owned())),
            Phase::Fencing => self
                .0
                .readiness
                .set(Err("fenced: the server is being stopped".to_owned())),
            Phase::Fenced => self.0.readiness.set(Err(
                "fenced: the server is kept stopped until the fence is lifted".to_owned(),
            )),
        }
        let kind = std::mem::discriminant(&phase);
        if std::mem::discriminant(&self.0.phase.send_replace(phase)) != kind {
            self.tell();
        }
    }

    fn tell(&self) {
        self.0.news.send_modify(|number| *number += 1);
    }

    /// How many times something has changed that others want to know: what the supervisor does, or the server's part in the
    /// cluster.
    #[must_use]
    pub fn news(&self) -> watch::Receiver<u64> {
        self.0.news.subscribe()
    }

    /// Has `/readyz` say what the server is held back for, in words that complete "held back until".
    pub fn hold_until(&self, words: &str) {
        self.0
            .readiness
            .set(Err(format!("held back until {words}")));
    }

    /// The present phase, and a way to await the next.
    #[must_use]
    pub fn phase(&self) -> watch::Receiver<Phase> {
        self.0.phase.subscribe()
    }

    /// States what the server said last.
    pub fn put_sample(&self, sample: Sample) {
        let part = part(&sample);
        let last = self.0.sample.send_replace(Some(Arc::new(sample)));
        if last.is_none_or(|last| self::part(&last) != part) {
            self.tell();
        }
    }

    /// What the server said last, if it answered since it was started; kept after it ended.
    #[must_use]
    pub fn sample(&self) -> Option<Arc<Sample>> {
        self.0.sample.borrow().clone()
    }

    /// Gives to all the connection over which the server answered last.
    pub fn put_line(&self, line: Connection) {
        self.0.line.send_replace(Some(line));
    }

    /// A connection over which the server answered: for when it takes no further one.
    #[must_use]
    pub fn line(&self) -> Option<Connection> {
        self.0.line.borrow().clone()
    }

    /// What `/readyz` answers.
    #[must_use]
    pub fn readiness(&self) -> &Readiness {
        &self.0.readiness
    }

    /// What `/livez` answers.
    #[must_use]
    pub fn liveness(&self) -> &Readiness {
        &self.0.liveness
    }

    /// Wakes the supervisor because the server that runs since `start` does not answer any more. Whether that is news.
    pub fn report_hung(&self, start: Instant) -> bool {
        self.0.hung.send_if_modified(|report| {
            let news = *report != Some(start);
            *report = Some(start);
            news
        })
    }

    /// Returns when the server that runs since `start` does not answer any more.
    pub async fn hung(&self, start: Instant) {
        let mut reports = self.0.hung.subscribe();
        // The board keeps the sender, so that the channel does not close.
        let _ = reports.wait_for(|report| *report == Some(start)).await;
    }

    /// How often the server was started again.
    #[must_use]
    pub fn restarts(&self) -> u64 {
        self.0.starts.load(Ordering::Relaxed).saturating_sub(1)
    }

    /// Counts a server that was killed because it did not answer.
    pub fn count_kill(&self) {
        self.0.kills.fetch_add(1, Ordering::Relaxed);
    }

    /// How often a server was killed because it did not answer.
    #[must_use]
    pub fn kills(&self) -> u64 {
        self.0.kills.load(Ordering::Relaxed)
    }

    /// States for how long the server's process has been asleep whenever it was looked at.
    pub fn put_asleep(&self, length: Duration) {
        store(&self.0.asleep_millis, length);
    }

    /// For how long the server's process has been asleep whenever it was looked at.
    #[must_use]
    pub fn asleep(&self) -> Duration {
        load(&self.0.asleep_millis)
    }

    /// States for how long neither the primary that this server follows nor its agent has been heard.
    pub fn put_silence(&self, length: Duration) {
        store(&self.0.silence_millis, length);
    }

    /// For how long neither the primary that this server follows nor its agent has been heard.
    #[must_use]
    pub fn silence(&self) -> Duration {
        load(&self.0.silence_millis)
    }

    /// Counts an attempt to promote a replica of the shard because its primary died in silence.
    pub fn count_promotion(&self, won: bool) {
        self.0.promotions[usize::from(won)].fetch_add(1, Ordering::Relaxed);
    }

    /// How often that was tried with the outcome `won`.
    #[must_use]
    pub fn promotions(&self, won: bool) -> u64 {
        self.0.promotions[usize::from(won)].load(Ordering::Relaxed)
    }

    /// States how much room the volume has.
    pub fn put_room(&self, room: Option<Volume>) {
        self.0.room.send_replace(room);
    }

    /// How much room the volume has, if there is one and it says.
    #[must_use]
    pub fn room(&self) -> Option<Volume> {
        *self.0.room.borrow()
    }

    /// Processes that the system killed for want of memory.
    #[must_use]
    pub fn oom(&self) -> &OomKills {
        &self.0.oom
    }

    /// What the server printed last.
    #[must_use]
    pub fn transcript(&self) -> &Transcript {
        &self.0.transcript
    }

    /// States the server's process id; `None` when its end has been noticed.
    pub fn put_child(&self, pid: Option<i32>) {
        self.0.child.store(pid.unwrap_or(0), Ordering::Relaxed);
    }

    /// The server's process id, while it runs.
    #[must_use]
    pub fn child(&self) -> Option<i32> {
        Some(self.0.child.load(Ordering::Relaxed)).filter(|pid| *pid != 0)
    }

    /// Whether `pid` is the server: whoever supervises it takes its exit status.
    #[must_use]
    pub fn is_child(&self, pid: i32) -> bool {
        self.0.child.load(Ordering::Relaxed) == pid
    }
}

/// A server's part in its cluster: its role, whether it owns slots, hears its primary and serves, if it says.
fn part(sample: &Sample) -> Option<(Role, bool, bool, bool)> {
    let view = sample.view.as_ref()?;
    Some((
        view.role,
        view.slots.is_empty(),
        view.link_up,
        view.cluster_ok,
    ))
}

fn store(millis: &AtomicU64, length: Duration) {
    let length = u64::try_from(length.as_millis()).unwrap_or(u64::MAX);
    millis.store(length, Ordering::Relaxed);
}

fn load(millis: &AtomicU64) -> Duration {
    Duration::from_millis(millis.load(Ordering::Relaxed))
}
