//! Getting a command to the node that serves its key, whatever happens on the way, within a deadline.
//!
//! See the parent module for what trying again means.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use redis::{Cmd, Value};
use tokio::sync::{Notify, watch};
use tokio_util::task::AbortOnDropHandle;

use super::map::{Primary, SlotMap};
use super::names::{self, Names};
use super::node::{Connector, Node, Sent};
use super::refresh;
use super::seeds::Seed;
use super::setback::{Setback, classify, gave_up};
use super::slots::slot_of;
use super::view::{Address, View};
use crate::metrics::{Dropped, Metrics, Redirect, Retry};
use crate::settings::RedisSettings;
use crate::store::StoreError;

/// How long an answer is awaited without looking around; nearly all come sooner.
const PATIENCE: Duration = Duration::from_millis(25);

/// After how much silence a connection is given up, and how often that is looked at.
pub(super) const SILENCE: Duration = Duration::from_millis(500);
/// See [`SILENCE`].
const LOOK: Duration = Duration::from_millis(100);

/// The same when there is more against it than silence: its node lost the slot, or the request that waits for it is given
/// up. A write that was not answered must not be carried out long afterwards.
const SUSPECT_SILENCE: Duration = Duration::from_millis(100);

/// Shortest and longest pause between attempts.
const SHORTEST_PAUSE: Duration = Duration::from_millis(10);
/// See [`SHORTEST_PAUSE`].
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

/// How many requests that wait, and how many setbacks of one, make its pause longer by another [`SHORTEST_PAUSE`]. A few
/// that wait notice at once when it goes on; thousands together do not try more than about 2,000 times a second.
const WAITING_A_STEP: usize = 16;
/// See [`WAITING_A_STEP`].
const SETBACKS_A_STEP: u32 = 32;

/// How many redirections in a row are followed at once. Further ones mean that nodes disagree, which takes time.
const QUICK_REDIRECTS: u32 = 4;

/// A Redis Cluster, or a standalone server, as a client sees it. Never fails to open: what cannot be reached yet is
/// tried in the background and by each request.
pub struct Cluster {
    shared: Arc<Shared>,
    _background: [AbortOnDropHandle<()>; 2],
}

/// What the router and the refresher share.
pub(super) struct Shared {
    map: watch::Sender<Arc<SlotMap>>,
    nodes: Mutex<HashMap<Address, Arc<Node>>>,
    connector: Arc<Connector>,
    heard: Mutex<Option<Instant>>,
    /// How many requests wait, for an answer that is late or for another attempt.
    waiting: AtomicUsize,
    /// Whether the last refresh went well.
    settled: AtomicBool,
    /// Told when a refresh went badly after one that went well.
    pub(super) lost: Notify,
    pub(super) seeds: Vec<Seed>,
    pub(super) names: Names,
    /// Told when the map should be refreshed.
    pub(super) news: Notify,
    pub(super) metrics: Arc<Metrics>,
}

impl Shared {
    /// The present map.
    pub(super) fn map(&self) -> Arc<SlotMap> {
        self.map.borrow().clone()
    }

    /// The node at an address: one for each, however many speak of it.
    pub(super) fn node_at(&self, address: &Address) -> Arc<Node> {
        let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        match nodes.get(address) {
            Some(node) => node.clone(),
            None => {
                let node = Node::new(address.clone(), self.connector.clone());
                nodes.insert(address.clone(), node.clone());
                node
            }
        }
    }

    /// Lets go of nodes that are neither in the map nor among `asked`. Commands on their way keep theirs.
    pub(super) fn forget_unused(&self, asked: &[Arc<Node>]) {
        let map = self.map();
        let used = |node: &Arc<Node>| {
            let is = |other: &Arc<Node>| Arc::ptr_eq(node, other);
            map.peers.iter().any(is) || asked.iter().any(is)
        };
        self.nodes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|_, node| used(node));
    }

    /// Puts a new map in place and wakes whoever waits for one.
    pub(super) fn replace(&self, map: SlotMap) {
        self.map.send_replace(Arc::new(map));
    }

    /// Takes from one view what is newer in it than in the map.
    pub(super) fn advance(&self, view: &View) {
        self.map.send_if_modified(|map| {
            let next = map.advanced(view, |address| self.node_at(address));
            let is_news = next.is_some();
            if let Some(next) = next {
                tracing::info!("slot map changed: a primary was replaced");
                *map = Arc::new(next);
            }
            is_news
        });
    }

    /// Whether requests wait.
    pub(super) fn is_waiting(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// Counts a request as waiting until the guard drops, and has the map refreshed.
    fn wait(&self) -> Waiting<'_> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        self.news.notify_one();
        Waiting(&self.waiting)
    }

    /// Notes whether a refresh went well.
    pub(super) fn settle(&self, settled: bool) {
        if self.settled.swap(settled, Ordering::Relaxed) && !settled {
            self.lost.notify_one();
        }
    }

    /// Whether the last refresh went well.
    pub(super) fn is_settled(&self) -> bool {
        self.settled.load(Ordering::Relaxed)
    }

    /// Notes that a node told a map just now.
    pub(super) fn heard(&self) {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    fn patch(&self, slot: u16, node: &Arc<Node>) {
        self.map.send_if_modified(|map| {
            let is_news = !map
                .owner(slot)
                .is_some_and(|owner| Arc::ptr_eq(owner, node));
            is_news && Arc::make_mut(map).patch(slot, node)
        });
    }
}

/// A request that waits.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a command came to.
#[derive(Debug)]
pub struct Outcome {
    /// The answer.
    pub value: Value,
    /// Whether an earlier attempt was sent that was never answered: it may have been carried out.
    pub uncertain: bool,
}

impl Cluster {
    /// Starts to find out about the cluster behind the seeds.
    #[must_use]
    pub fn open(settings: RedisSettings, metrics: Arc<Metrics>) -> Self {
        let with_credentials = settings.seeds.iter().find(|seed| seed.password.is_some());
        let with_user = settings.seeds.iter().find(|seed| seed.username.is_some());
        let connector = Connector {
            username: with_user.and_then(|seed| seed.username.clone()),
            password: with_credentials.and_then(|seed| seed.password.clone()),
            password_file: settings.password_file,
            connections: settings.connections,
            metrics: metrics.clone(),
        };
        let shared = Arc::new(Shared {
            map: watch::Sender::new(Arc::new(SlotMap::empty())),
            nodes: Mutex::default(),
            connector: Arc::new(connector),
            heard: Mutex::default(),
            waiting: AtomicUsize::new(0),
            settled: AtomicBool::new(false),
            lost: Notify::new(),
            names: Names::default(),
            seeds: settings.seeds,
            news: Notify::new(),
            metrics,
        });
        let background = [
            tokio::spawn(names::keep_resolved(shared.clone())),
            tokio::spawn(refresh::keep_fresh(shared.clone())),
        ];
        Self {
            shared,
            _background: background.map(AbortOnDropHandle::new),
        }
    }

    /// The primaries of the present map, and whether they serve every slot.
    #[must_use]
    pub fn primaries(&self) -> (Vec<Primary>, bool) {
        let map = self.shared.map();
        let primaries = map.primaries().into_iter().cloned().collect();
        (primaries, map.covered() == super::slots::SLOTS)
    }

    /// When a node last told a map, if ever, and how many slots the present one covers.
    #[must_use]
    pub fn last_heard(&self) -> (Option<Instant>, usize) {
        let heard = *self
            .shared
            .heard
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        (heard, self.shared.map().covered())
    }

    /// Carries out a command on the node that serves `key`. `command` makes it anew for each attempt.
    ///
    /// # Errors
    /// At the deadline, with what stood in the way last, [`StoreError::Unanswered`] if an attempt may have been carried out
    /// and [`StoreError::Unavailable`] otherwise; others at once.
    pub async fn run(
        &self,
        key: &[u8],
        command: impl Fn() -> Cmd,
        deadline: Instant,
    ) -> Result<Outcome, StoreError> {
        let slot = slot_of(key);
        let mut uncertain = false;
        let mut setbacks = 0;
        let mut redirects = 0;
        let mut ask = None;
        let mut last = None;
        loop {
            let asking = ask.is_some();
            let node = ask
                .take()
                .or_else(|| self.shared.map.borrow().owner(slot).cloned());
            let attempt = match &node {
                Some(node) => {
                    let command = command();
                    self.attempt(slot, node, asking, &command, deadline).await
                }
                None => Err(Setback::Again {
                    reason: Retry::Uncovered,
                    sent: false,
                }),
            };
            let setback = match attempt {
                Ok(value) => return Ok(Outcome { value, uncertain }),
                Err(setback) => setback,
            };
            match setback {
                // An earlier attempt may have been carried out all the same.
                Setback::Fatal(StoreError::Unavailable(why)) if uncertain => {
                    return Err(StoreError::Unanswered(why));
                }
                Setback::Fatal(error) => return Err(error),
                Setback::Late { sent } => {
                    let last = last.unwrap_or(Retry::Timeout);
                    return Err(gave_up(last, uncertain || sent));
                }
                Setback::Moved(address) => {
                    self.shared.metrics.redirect(Redirect::Moved);
                    let node = self.shared.node_at(&address);
                    self.shared.patch(slot, &node);
                    self.shared.news.notify_one();
                    redirects += 1;
                    last = Some(Retry::Moving);
                }
                Setback::Ask(address) => {
                    self.shared.metrics.redirect(Redirect::Ask);
                    ask = Some(self.shared.node_at(&address));
                    redirects += 1;
                    last = Some(Retry::Moving);
                }
                Setback::Again { reason, sent } => {
                    self.shared.metrics.retry(reason);
                    uncertain |= sent;
                    redirects = QUICK_REDIRECTS;
                    last = Some(reason);
                    if matches!(reason, Retry::Rerouted) {
                        continue;
                    }
                }
            }
            if redirects < QUICK_REDIRECTS {
                continue;
            }
            setbacks += 1;
            // Whoever was asked to ask elsewhere comes back to the owner after a pause.
            ask = None;
            self.pause(slot, node.as_ref(), setbacks, deadline).await;
            redirects = 0;
            if Instant::now() >= deadline {
                return Err(gave_up(last.unwrap_or(Retry::Timeout), uncertain));
            }
        }
    }

    /// One attempt on one node, given up as soon as the slot turns out to belong to another or the connection to be dead, and
    /// at the deadline.
    async fn attempt(
        &self,
        slot: u16,
        node: &Arc<Node>,
        asking: bool,
        command: &Cmd,
        deadline: Instant,
    ) -> Result<Value, Setback> {
        let sent = Sent::default();
        let mut answer = pin!(node.send(command, asking, &sent));
        let soon = deadline.min(Instant::now() + PATIENCE);
        let answer = match tokio::time::timeout_at(soon.into(), answer.as_mut()).await {
            Ok(answer) => answer,
            Err(_) => {
                let _waiting = self.shared.wait();
                let mut maps = self.shared.map.subscribe();
                maps.mark_changed();
                let mut look = Instant::now() + LOOK;
                loop {
                    tokio::select! {
                        biased;
                        answer = answer.as_mut() => break answer,
                        // The sender lives as long as this client.
                        _ = maps.changed() => {
                            let moved = maps.borrow_and_update().owner(slot).is_some_and(|owner| !Arc::ptr_eq(owner, node));
                            if moved && !asking {
                                node.drop_if_silent(&sent, SUSPECT_SILENCE, Dropped::Deposed);
                                return Err(Setback::Again { reason: Retry::Rerouted, sent: sent.is_sent() });
                            }
                        }
                        () = tokio::time::sleep_until(look.min(deadline).into()) => {
                            look += LOOK;
                            let sent_down = sent.is_sent();
                            if Instant::now() >= deadline {
                                node.drop_if_silent(&sent, SUSPECT_SILENCE, Dropped::Silent);
                                return Err(Setback::Late { sent: sent_down });
                            }
                            if node.drop_if_silent(&sent, SILENCE, Dropped::Silent) {
                                return Err(Setback::Again { reason: Retry::Timeout, sent: true });
                            }
                        }
                    }
                }
            }
        };
        answer.map_err(|fault| {
            let setback = classify(fault, node.address(), sent.is_sent());
            if let Setback::Again { reason, .. } = &setback {
                tracing::debug!(node = %node.address(), slot, reason = reason.as_str(), "trying again");
            }
            setback
        })
    }

    /// Waits for a pause, or until the map has another owner for the slot than `tried`, or until the deadline.
    async fn pause(&self, slot: u16, tried: Option<&Arc<Node>>, setbacks: u32, deadline: Instant) {
        let _waiting = self.shared.wait();
        let waiting = self.shared.waiting.load(Ordering::Relaxed);
        let until = deadline.min(Instant::now() + pause_after(setbacks, waiting));
        let mut maps = self.shared.map.subscribe();
        let other = maps.wait_for(|map| match (map.owner(slot), tried) {
            (Some(owner), Some(tried)) => !Arc::ptr_eq(owner, tried),
            (owner, _) => owner.is_some(),
        });
        let _ = tokio::time::timeout_at(until.into(), other).await;
    }
}

/// The pause after so many setbacks while so many requests wait: bounded, and half of it left to chance.
fn pause_after(setbacks: u32, waiting: usize) -> Duration {
    let steps = 1.0
        + f64::from(setbacks) / f64::from(SETBACKS_A_STEP)
        + waiting as f64 / WAITING_A_STEP as f64;
    SHORTEST_PAUSE
        .mul_f64(steps)
        .min(LONGEST_PAUSE)
        .mul_f64(0.5 + rand::random::<f64>() / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_differ() {
        for (setbacks, waiting) in [(1, 1), (10, 1), (1, 4096), (100_000, 1), (u32::MAX, 0)] {
            let pause = pause_after(setbacks, waiting);
            assert!(pause >= SHORTEST_PAUSE / 2 && pause <= LONGEST_PAUSE);
        }
        assert!(pause_after(1, 1) <= SHORTEST_PAUSE * 2);
        assert!(pause_after(1, 4096) >= LONGEST_PAUSE / 2);
        let pauses: std::collections::BTreeSet<_> = (0..20).map(|_| pause_after(5, 5)).collect();
        assert!(pauses.len() > 1);
    }
}
