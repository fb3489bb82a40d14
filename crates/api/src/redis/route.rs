//! Getting a command to the node that serves its key, whatever happens on the way, within a deadline.
//!
//! See the parent module for what trying again means.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use redis::{Cmd, Value};
use tokio::sync::{Notify, watch};
use tokio_util::task::AbortOnDropHandle;

use super::map::{Primary, SlotMap};
use super::node::{Connector, Node, Sent};
use super::refresh;
use super::seeds::Seed;
use super::setback::{Setback, classify, gave_up};
use super::slots::slot_of;
use super::view::Address;
use crate::metrics::{Metrics, Redirect, Retry};
use crate::settings::RedisSettings;
use crate::store::StoreError;

/// How long an answer is awaited without looking around; nearly all come sooner.
const PATIENCE: Duration = Duration::from_millis(50);

/// After how much silence a connection is given up, and how often that is looked at.
const SILENCE: Duration = Duration::from_millis(500);
/// See [`SILENCE`].
const LOOK: Duration = Duration::from_millis(100);

/// First and longest pause between attempts.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
/// See [`FIRST_PAUSE`].
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

/// How many redirections in a row are followed at once. Further ones mean that nodes disagree, which takes time.
const QUICK_REDIRECTS: u32 = 4;

/// A Redis Cluster, or a standalone server, as a client sees it. Never fails to open: what cannot be reached yet is
/// tried in the background and by each request.
pub struct Cluster {
    shared: Arc<Shared>,
    _refresher: AbortOnDropHandle<()>,
}

/// What the router and the refresher share.
pub(super) struct Shared {
    map: watch::Sender<Arc<SlotMap>>,
    nodes: Mutex<HashMap<Address, Arc<Node>>>,
    connector: Arc<Connector>,
    heard: Mutex<Option<Instant>>,
    pub(super) seeds: Vec<Seed>,
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
            started: Instant::now(),
        };
        let shared = Arc::new(Shared {
            map: watch::Sender::new(Arc::new(SlotMap::empty())),
            nodes: Mutex::default(),
            connector: Arc::new(connector),
            heard: Mutex::default(),
            seeds: settings.seeds,
            news: Notify::new(),
            metrics,
        });
        let refresher = tokio::spawn(refresh::keep_fresh(shared.clone()));
        Self {
            shared,
            _refresher: AbortOnDropHandle::new(refresher),
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
    /// [`StoreError::Unavailable`] at the deadline, with what stood in the way last; others at once.
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
            let attempt = async {
                match &node {
                    Some(node) => self.attempt(slot, node, asking, &command()).await,
                    None => Err(Setback::Again {
                        reason: Retry::Uncovered,
                        sent: false,
                    }),
                }
            };
            let setback = match tokio::time::timeout_at(deadline.into(), attempt).await {
                Ok(Ok(value)) => return Ok(Outcome { value, uncertain }),
                Ok(Err(setback)) => setback,
                Err(_) => return Err(gave_up(last.unwrap_or(Retry::Timeout))),
            };
            match setback {
                Setback::Fatal(error) => return Err(error),
                Setback::Moved(address) => {
                    self.shared.metrics.redirect(Redirect::Moved);
                    let node = self.shared.node_at(&address);
                    self.shared.patch(slot, &node);
                    self.shared.news.notify_one();
                    redirects += 1;
                    last = Some(Retry::NotNow);
                }
                Setback::Ask(address) => {
                    self.shared.metrics.redirect(Redirect::Ask);
                    ask = Some(self.shared.node_at(&address));
                    redirects += 1;
                    last = Some(Retry::NotNow);
                }
                Setback::Again { reason, sent } => {
                    self.shared.metrics.retry(reason);
                    self.shared.news.notify_one();
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
            let pause =
                pause_after(setbacks).min(deadline.saturating_duration_since(Instant::now()));
            setbacks += 1;
            // Whoever was asked to ask elsewhere comes back to the owner after a pause.
            ask = None;
            self.pause(slot, node.as_ref(), pause).await;
            redirects = 0;
            if Instant::now() >= deadline {
                return Err(gave_up(last.unwrap_or(Retry::Timeout)));
            }
        }
    }

    /// One attempt on one node, given up as soon as the slot turns out to belong to another or the connection to be dead.
    async fn attempt(
        &self,
        slot: u16,
        node: &Arc<Node>,
        asking: bool,
        command: &Cmd,
    ) -> Result<Value, Setback> {
        let sent = Sent::default();
        let mut answer = pin!(node.send(command, asking, &sent));
        let answer = match tokio::time::timeout(PATIENCE, answer.as_mut()).await {
            Ok(answer) => answer,
            Err(_) => {
                let mut maps = self.shared.map.subscribe();
                maps.mark_changed();
                loop {
                    tokio::select! {
                        biased;
                        answer = answer.as_mut() => break answer,
                        // The sender lives as long as this client.
                        _ = maps.changed() => {
                            let moved = maps.borrow_and_update().owner(slot).is_some_and(|owner| !Arc::ptr_eq(owner, node));
                            if moved && !asking {
                                return Err(Setback::Again { reason: Retry::Rerouted, sent: sent.is_sent() });
                            }
                        }
                        () = tokio::time::sleep(LOOK) => {
                            self.shared.news.notify_one();
                            if node.condemn_if_silent(&sent, SILENCE) {
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

    /// Waits for `pause`, or until the map has another owner for the slot than `tried`.
    async fn pause(&self, slot: u16, tried: Option<&Arc<Node>>, pause: Duration) {
        let mut maps = self.shared.map.subscribe();
        let other = maps.wait_for(|map| match (map.owner(slot), tried) {
            (Some(owner), Some(tried)) => !Arc::ptr_eq(owner, tried),
            (owner, _) => owner.is_some(),
        });
        let _ = tokio::time::timeout(pause, other).await;
    }
}

/// The pause after so many setbacks: doubling, bounded, and half of it left to chance.
fn pause_after(setbacks: u32) -> Duration {
    let whole = FIRST_PAUSE
        .saturating_mul(1 << setbacks.min(10))
        .min(LONGEST_PAUSE);
    whole.mul_f64(0.5 + rand::random::<f64>() / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_differ() {
        for setbacks in 0..40 {
            let pause = pause_after(setbacks);
            assert!(pause >= FIRST_PAUSE / 2 && pause <= LONGEST_PAUSE);
        }
        assert!(pause_after(10) >= LONGEST_PAUSE / 2);
        let pauses: std::collections::BTreeSet<_> = (0..20).map(|_| pause_after(5)).collect();
        assert!(pauses.len() > 1);
    }
}
