//! Notices when the primary that the own server follows dies together with its agent, as when a machine loses power.
//!
//! The agent of a primary deals with its server's end, and holds the fence. Who is left to notice the end of both are the
//! agents of the replicas. Each asks its primary and that one's agent several times a second ([`line`]). When neither is
//! heard ([`silence`]), it asks the other agents whether they hear them ([`inquiry`], [`testimony`]). When most do not,
//! and enough primaries live to vote, the agent of the freshest replica has it ask for their votes at once ([`decision`])
//! instead of after the node timeout. Where exactly half of the primaries live, as in a cluster of two that lost one, it
//! takes over without votes if most of all members agree. Gossip's own time-out stays behind all of this, for when no agent
//! can act, and the operator, for when there is nobody to vote.

mod decision;
mod inquiry;
mod line;
mod silence;
mod testimony;

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use cachecluster_contract::agent::{VIGIL_DEADLINE_MS, VIGIL_LIMIT_MS, VIGIL_PERIOD_MS};
use cachecluster_contract::ports::LIVEZ_PATH;
use cachecluster_redis_admin::execute;
use cachecluster_topology::{Action, NodeId, NodeRef, Role};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::decision::{Verdict, Way, Why, decide};
use self::inquiry::inquire;
use self::line::{AgentLine, ServerLine};
use self::silence::Silence;
use crate::board::{Board, Phase};
use crate::monitor::own_address;
use crate::settings::Settings;

/// Time between two questions.
const PERIOD: Duration = Duration::from_millis(VIGIL_PERIOD_MS);
/// How long one question may take.
const DEADLINE: Duration = Duration::from_millis(VIGIL_DEADLINE_MS);
/// How much silence is a suspicion.
const LIMIT: Duration = Duration::from_millis(VIGIL_LIMIT_MS);
/// How long a replica may take to win the votes: 0.1 s is usual.
const PROMOTION: Duration = Duration::from_secs(1);
/// Time after an inquiry that came to nothing.
const PAUSE: Duration = Duration::from_millis(500);
/// Least time after an attempt at a promotion.
const BACKOFF: Duration = Duration::from_secs(1);

/// The route by which other agents ask what this one hears.
pub fn routes(settings: &Settings, board: &Board) -> Router {
    testimony::routes(settings.clone(), board.clone())
}

/// Watches the primary that the own server follows, whichever that is, until `ended`.
pub async fn run(settings: Settings, board: Board, ended: CancellationToken) {
    loop {
        let watching = async {
            match Watched::now(&board) {
                Some(watched) => watch(&settings, &board, &watched).await,
                None => tokio::time::sleep(PERIOD).await,
            }
        };
        tokio::select! {
            () = watching => {}
            () = ended.cancelled() => return,
        }
    }
}

/// The primary that is watched, and for whom.
#[derive(Debug, PartialEq, Eq)]
struct Watched {
    own: NodeId,
    primary: NodeId,
    addr: (IpAddr, u16),
}

impl Watched {
    /// `None` while the own server does not run, or follows nobody.
    fn now(board: &Board) -> Option<Self> {
        let Phase::Running(_) = *board.phase().borrow() else {
            return None;
        };
        let sample = board.sample()?;
        let view = sample.view.as_ref().filter(|v| v.role == Role::Replica)?;
        let primary = view.known.get(view.primary.as_ref()?)?;
        Some(Self {
            own: view.id.clone(),
            primary: primary.id.clone(),
            addr: primary.addr?,
        })
    }
}

/// Watches one primary, for as long as it is the one to be watched.
async fn watch(settings: &Settings, board: &Board, watched: &Watched) {
    let answers = AtomicU64::new(0);
    let ask_server = async {
        let mut server = ServerLine::new(watched.addr);
        loop {
            let next = Instant::now() + PERIOD;
            if server.answers(&settings.password, DEADLINE).await {
                answers.fetch_add(1, Ordering::Relaxed);
            }
            tokio::time::sleep_until(next).await;
        }
    };
    let ask_agent = async {
        let (ip, port) = watched.addr;
        let mut agent = AgentLine::new((ip, settings.peer_admin_port(port)));
        loop {
            let next = Instant::now() + PERIOD;
            // Whatever it says: an agent that lives deals with its own server.
            if agent.get(LIVEZ_PATH, DEADLINE).await.is_some() {
                answers.fetch_add(1, Ordering::Relaxed);
            }
            tokio::time::sleep_until(next).await;
        }
    };
    tokio::select! {
        () = ask_server => {}
        () = ask_agent => {}
        () = judge(settings, board, watched, &answers) => {}
    }
    board.put_silence(Duration::ZERO);
}

/// Acts on silence. Returns when another primary, or none, is to be watched.
async fn judge(settings: &Settings, board: &Board, watched: &Watched, answers: &AtomicU64) {
    let mut silence = Silence::new(Instant::now());
    let mut waited = Duration::ZERO;
    let mut said = None;
    while Watched::now(board).as_ref() == Some(watched) {
        silence.note(answers.load(Ordering::Relaxed), Instant::now());
        board.put_silence(silence.length());
        if silence.certain() < LIMIT {
            if said.take().is_some() && silence.length().is_zero() {
                tracing::info!(primary = %watched.primary, "the primary is heard again");
            }
            waited = Duration::ZERO;
            tokio::time::sleep(silence::TICK).await;
            continue;
        }
        let millis = silence.length().as_millis();
        let Some(findings) = inquire(settings, &watched.primary).await else {
            // The own server does not answer: it cannot be promoted.
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        silence.note(answers.load(Ordering::Relaxed), Instant::now());
        if silence.length().is_zero() {
            continue;
        }
        match decide(&findings, waited) {
            Verdict::Promote(id, way) => {
                let addr = match findings.own.known.get(&id) {
                    Some(sibling) => sibling.addr,
                    None => Some(own_address(settings)),
                };
                let Some(addr) = addr else {
                    tokio::time::sleep(PAUSE).await;
                    continue;
                };
                let name = std::net::SocketAddr::from(addr).to_string();
                tracing::warn!(
                    replica = name,
                    primary = %watched.primary,
                    silent_millis = millis,
                    agents_asked = findings.asked,
                    agents_heard = findings.words.len(),
                    ?way,
                    "the primary and its agent are silent: having a replica take over"
                );
                promote(settings, board, NodeRef { id, name, addr }, way).await;
                tokio::time::sleep(BACKOFF + jitter(&watched.own)).await;
            }
            Verdict::Wait(length) => {
                tracing::info!(millis = length.as_millis(), "a fresher replica goes first");
                tokio::time::sleep(length).await;
                waited += length;
            }
            Verdict::Leave(why) => {
                if said.replace(why) != Some(why) {
                    tell(watched, why);
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn promote(settings: &Settings, board: &Board, replica: NodeRef, way: Way) {
    let started = Instant::now();
    let action = match way {
        Way::Votes => Action::ForceFailover { replica },
        Way::Decree => Action::Takeover { replica },
    };
    let outcome = execute(&action, &settings.password, PROMOTION).await;
    let millis = started.elapsed().as_millis();
    board.count_promotion(outcome.is_ok());
    match outcome {
        Ok(()) => tracing::warn!(millis, "the replica is the primary now"),
        Err(error) => tracing::warn!(%error, millis, "the replica has not become the primary"),
    }
}

fn tell(watched: &Watched, why: Why) {
    tracing::warn!(
        primary = %watched.primary,
        why = why.words(),
        "the primary and its agent are silent to this agent: left to gossip and the operator"
    );
}

/// Replicas of one shard that failed at the same moment do not try again at the same moment.
fn jitter(own: &NodeId) -> Duration {
    let digits = own.as_str().get(..2).unwrap_or_default();
    Duration::from_millis(u64::from_str_radix(digits, 16).unwrap_or(0) * 2)
}
