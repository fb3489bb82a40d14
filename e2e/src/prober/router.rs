//! A Redis Cluster client that finds a new primary as early as a client can.
//!
//! What libraries do between an error and the next attempt would be measured as the cluster's failover. So this one asks
//! every node by itself who serves what, as long as anything is wrong, believes the highest epoch, leaves a node that
//! does not answer as soon as another is known, and tries again every [`RETRY`]. It counts all that went wrong.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{Cmd, ConnectionAddr, ConnectionInfo, Value};
use tokio::sync::{Notify, watch};

use super::slots::{Map, View};

/// From an error to the next attempt.
const RETRY: Duration = Duration::from_millis(10);
/// From one round of questions to the nodes to the next, while there is a reason for one.
const LOOK: Duration = Duration::from_millis(20);
/// Without an answer for so long, the nodes are asked whether another serves the slot by now.
const DOUBT: Duration = Duration::from_millis(50);
/// Longest time for a connection, or for a node's answer who serves what.
const BOUND: Duration = Duration::from_millis(250);
/// An attempt without an answer for so long is given up.
const PATIENCE: Duration = Duration::from_secs(1);

/// The connection to an address, and how many there were before it.
#[derive(Default)]
struct Link {
    connection: Option<MultiplexedConnection>,
    number: u64,
}

/// The client. Clones are the same client.
#[derive(Clone)]
pub(super) struct Router {
    shared: Arc<Shared>,
}

struct Shared {
    seed: ConnectionInfo,
    seed_name: String,
    map: watch::Sender<Arc<Map>>,
    wanted: Notify,
    views: Mutex<BTreeMap<String, View>>,
    asked: Mutex<HashSet<String>>,
    connections: Mutex<HashMap<String, Arc<tokio::sync::Mutex<Link>>>>,
    troubles: Mutex<BTreeMap<String, u64>>,
}

/// What came of a command.
#[derive(Debug)]
pub(super) struct Sent {
    /// The answer and who gave it; nothing if there was none in time.
    pub(super) answer: Option<(Value, Arc<str>)>,
    /// An attempt was left without an answer: a server that wakes up may still carry it out.
    pub(super) late: bool,
    /// What was wrong at last.
    pub(super) trouble: String,
}

/// Why an attempt failed.
enum Failure {
    /// Another node serves the slot, for good or (`ASK`) for this key.
    Elsewhere { address: String, ask: bool },
    /// Anything else, by kind; `late`: no answer came, but one may still.
    Other { kind: String, late: bool },
}

impl Router {
    /// A client that starts from this Service, e.g. `redis://demo-redis:6379`. Ends when each slot is served.
    ///
    /// # Errors
    /// When the password file cannot be read, the URL is none, or not every slot is served within `patience`.
    pub(super) async fn open(url: &str, password_file: &Path, patience: Duration) -> Result<Self> {
        let password = std::fs::read_to_string(password_file)
            .with_context(|| format!("reading {}", password_file.display()))?;
        let info: ConnectionInfo = url
            .parse()
            .with_context(|| format!("{url} is no Redis URL"))?;
        let settings = info
            .redis_settings()
            .clone()
            .set_password(password.trim_end_matches(['\r', '\n']));
        let seed = info
            .set_redis_settings(settings)
            .set_tcp_settings(TcpSettings::default().set_nodelay(true));
        let router = Self {
            shared: Arc::new(Shared {
                seed_name: seed.addr().to_string(),
                seed,
                map: watch::Sender::new(Arc::new(Map::merge([]))),
                wanted: Notify::new(),
                views: Mutex::default(),
                asked: Mutex::default(),
                connections: Mutex::default(),
                troubles: Mutex::default(),
            }),
        };
        tokio::spawn(look(Arc::downgrade(&router.shared)));
        let until = Instant::now() + patience;
        while !router.map().is_complete() {
            ensure!(
                Instant::now() < until,
                "{url}: after {patience:?} not every slot is served: {:?}",
                router.troubles()
            );
            router.shared.wanted.notify_one();
            tokio::time::sleep(LOOK).await;
        }
        // What failed before the cluster was there is no trouble of it.
        lock(&router.shared.troubles).clear();
        Ok(router)
    }

    /// Who serves what, as far as is known.
    pub(super) fn map(&self) -> Arc<Map> {
        self.shared.map.borrow().clone()
    }

    /// What went wrong so far, by kind.
    pub(super) fn troubles(&self) -> BTreeMap<String, u64> {
        lock(&self.shared.troubles).clone()
    }

    /// Sends a command to the primary of its slot, and again until there is an answer or the time is over.
    pub(super) async fn send(&self, slot: u16, command: &Cmd, until: Instant) -> Sent {
        let mut sent = Sent {
            answer: None,
            late: false,
            trouble: "not sent".to_owned(),
        };
        let mut redirect: Option<(Arc<str>, bool)> = None;
        while Instant::now() < until {
            let known = self.map().owner(slot);
            let (target, ask) = match redirect.take() {
                Some((address, ask)) => (Some(address), ask),
                None => (known.clone(), false),
            };
            let failure = match target {
                Some(target) => {
                    let attempt = self.attempt(&target, command, ask);
                    tokio::select! {
                        outcome = attempt => match outcome {
                            Ok(value) => {
                                sent.answer = Some((value, target));
                                return sent;
                            }
                            Err(failure) => failure,
                        },
                        () = self.replaced(slot, known) => Failure::Other {
                            kind: "left for a new primary".to_owned(),
                            late: true,
                        },
                        () = tokio::time::sleep_until(until.into()) => Failure::Other {
                            kind: "no time left".to_owned(),
                            late: true,
                        },
                    }
                }
                None => Failure::Other {
                    kind: "nobody serves the slot".to_owned(),
                    late: false,
                },
            };
            self.shared.wanted.notify_one();
            match failure {
                Failure::Elsewhere { address, ask } => {
                    self.note(if ask { "ASK" } else { "MOVED" });
                    sent.trouble = format!("sent on to {address}");
                    redirect = Some((address.into(), ask));
                    // Two that send on to each other are not asked more often than others.
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                Failure::Other { kind, late } => {
                    self.note(&kind);
                    sent.late |= late;
                    let replaced = kind.starts_with("left");
                    sent.trouble = kind;
                    if !replaced {
                        tokio::time::sleep(RETRY).await;
                    }
                }
            }
        }
        sent
    }

    /// Ends when another node than the one named serves the slot; asks for a look while it waits.
    async fn replaced(&self, slot: u16, known: Option<Arc<str>>) {
        let mut maps = self.shared.map.subscribe();
        loop {
            if maps.borrow_and_update().owner(slot) != known {
                return;
            }
            if let Ok(Err(_)) = tokio::time::timeout(DOUBT, maps.changed()).await {
                std::future::pending::<()>().await;
            }
            self.shared.wanted.notify_one();
        }
    }

    async fn attempt(&self, address: &str, command: &Cmd, ask: bool) -> Result<Value, Failure> {
        let made = self.shared.connection(address).await;
        let (mut connection, number) = made.map_err(|kind| Failure::Other {
            kind: format!("connecting: {kind}"),
            late: false,
        })?;
        let exchange = async {
            if ask {
                let mut both = redis::pipe();
                both.cmd("ASKING").ignore().add_command(command.clone());
                let answers: Vec<Value> = both.query_async(&mut connection).await?;
                return Ok(answers.into_iter().next().unwrap_or(Value::Nil));
            }
            command.query_async::<Value>(&mut connection).await
        };
        match tokio::time::timeout(PATIENCE, exchange).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => {
                if let Some((address, _)) = error.redirect_node() {
                    return Err(Failure::Elsewhere {
                        address: address.to_owned(),
                        ask: error.code() == Some("ASK"),
                    });
                }
                // An answer, if only an error, leaves the connection usable.
                if error.code().is_none() {
                    self.shared.forget(address, number);
                }
                let kind = describe(&error);
                Err(Failure::Other { kind, late: false })
            }
            Err(_) => {
                self.shared.forget(address, number);
                let kind = format!("no answer for {PATIENCE:?}");
                Err(Failure::Other { kind, late: true })
            }
        }
    }

    fn note(&self, kind: &str) {
        let mut troubles = lock(&self.shared.troubles);
        *troubles.entry(kind.to_owned()).or_default() += 1;
    }
}

impl Shared {
    /// The one connection to an address, made if there is none.
    async fn connection(&self, address: &str) -> Result<(MultiplexedConnection, u64), String> {
        let link = lock(&self.connections)
            .entry(address.to_owned())
            .or_default()
            .clone();
        let connecting = async {
            let mut link = link.lock().await;
            if let Some(connection) = &link.connection {
                return Ok((connection.clone(), link.number));
            }
            let made = self.connect(address).await?;
            link.connection = Some(made.clone());
            link.number += 1;
            Ok((made, link.number))
        };
        tokio::time::timeout(BOUND, connecting)
            .await
            .unwrap_or_else(|_| Err(format!("none within {BOUND:?}")))
    }

    async fn connect(&self, address: &str) -> Result<MultiplexedConnection, String> {
        let info = if address == self.seed_name {
            self.seed.clone()
        } else {
            let (host, port) = address
                .rsplit_once(':')
                .and_then(|(host, port)| Some((host.to_owned(), port.parse().ok()?)))
                .ok_or_else(|| format!("{address} is no address"))?;
            self.seed.clone().set_addr(ConnectionAddr::Tcp(host, port))
        };
        let config = redis::AsyncConnectionConfig::new()
            .set_connection_timeout(Some(BOUND))
            .set_response_timeout(None);
        let client = redis::Client::open(info).map_err(|error| describe(&error))?;
        client
            .get_multiplexed_async_connection_with_config(&config)
            .await
            .map_err(|error| describe(&error))
    }

    /// Drops the connection to an address, unless another has been made since, or is being made.
    fn forget(&self, address: &str, number: u64) {
        let link = lock(&self.connections).get(address).cloned();
        if let Some(link) = link
            && let Ok(mut link) = link.try_lock()
            && link.number == number
        {
            link.connection = None;
        }
    }

    /// Asks one node who serves what.
    async fn ask(&self, address: &str) -> Result<View, String> {
        let (mut connection, number) = self.connection(address).await?;
        let mut nodes = redis::cmd("CLUSTER");
        let asking = nodes.arg("NODES").query_async::<String>(&mut connection);
        let said = match tokio::time::timeout(BOUND, asking).await {
            Ok(said) => said.map_err(|error| describe(&error)),
            Err(_) => Err(format!("no answer within {BOUND:?}")),
        };
        if said.is_err() {
            self.forget(address, number);
        }
        Ok(View::parse(&said?, address))
    }

    /// Takes a node's view, or that it has none, and publishes what follows.
    fn hear(&self, address: &str, view: Option<View>) {
        let mut views = lock(&self.views);
        match view {
            Some(view) => drop(views.insert(address.to_owned(), view)),
            // What it said once may be of a cluster that is no more.
            None => drop(views.remove(address)),
        }
        if views.is_empty() {
            return;
        }
        let map = Map::merge(views.values());
        self.map.send_if_modified(|now| {
            let changed = **now != map;
            if changed {
                *now = Arc::new(map);
            }
            changed
        });
    }
}

/// Asks every node, each by itself so that a dead one delays nobody, whenever somebody wants to know.
async fn look(shared: std::sync::Weak<Shared>) {
    loop {
        let Some(shared) = shared.upgrade() else {
            return;
        };
        // Ends also without a reason, to see whether the client is gone.
        let _ = tokio::time::timeout(PATIENCE, shared.wanted.notified()).await;
        let mut addresses: BTreeSet<String> = shared.map.borrow().nodes.clone();
        addresses.insert(shared.seed_name.clone());
        for address in addresses {
            if !lock(&shared.asked).insert(address.clone()) {
                continue;
            }
            let shared = shared.clone();
            tokio::spawn(async move {
                let view = shared.ask(&address).await;
                shared.hear(&address, view.ok());
                lock(&shared.asked).remove(&address);
            });
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// The error without what differs from one to the next, so that they can be counted.
fn describe(error: &redis::RedisError) -> String {
    match error.code() {
        Some(code) => code.to_owned(),
        None if error.is_connection_refusal() => "connection refused".to_owned(),
        None if error.is_connection_dropped() => "connection closed".to_owned(),
        None if error.is_timeout() => "timed out".to_owned(),
        None => error.to_string(),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
