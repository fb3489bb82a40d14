//! What this agent tells others that ask whether it hears a node.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use cachecluster_contract::ports::{HEARD_PATH, LIVEZ_PATH};
use cachecluster_topology::NodeId;
use futures::future::{Either, select};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use super::DEADLINE;
use super::line::{AgentLine, ServerLine};
use crate::board::{Board, Phase};
use crate::settings::Settings;

/// How many questions are looked into at the same time. More are refused, so that nobody has this agent knock on a
/// node's door without end.
const SIDE_BY_SIDE: usize = 16;

/// The answer of an agent that is nobody to be asked: its server is kept stopped.
pub(super) const NO_WITNESS: StatusCode = StatusCode::LOCKED;

struct Witness {
    settings: Settings,
    board: Board,
    places: Semaphore,
}

#[derive(Deserialize)]
struct Question {
    node: String,
}

/// The answer.
#[derive(Serialize, Deserialize)]
pub(super) struct Heard {
    pub(super) heard: bool,
}

pub(super) fn routes(settings: Settings, board: Board) -> Router {
    let witness = Witness {
        settings,
        board,
        places: Semaphore::new(SIDE_BY_SIDE),
    };
    Router::new()
        .route(HEARD_PATH, get(heard))
        .with_state(Arc::new(witness))
}

async fn heard(
    State(witness): State<Arc<Witness>>,
    Query(question): Query<Question>,
) -> Result<Json<Heard>, StatusCode> {
    let node = NodeId::parse(&question.node).ok_or(StatusCode::BAD_REQUEST)?;
    // What a server knew that is kept stopped gets old, and it has no vote.
    if matches!(*witness.board.phase().borrow(), Phase::Fenced) {
        return Err(NO_WITNESS);
    }
    let sample = witness.board.sample();
    let view = sample.as_ref().and_then(|sample| sample.view.as_ref());
    let view = view.ok_or(StatusCode::SERVICE_UNAVAILABLE)?;
    if view.id == node {
        return Ok(Json(Heard { heard: true }));
    }
    // Where it is, the own server knows; whoever asks is not believed.
    let known = view.known.get(&node).ok_or(StatusCode::NOT_FOUND)?;
    let addr = known.addr.ok_or(StatusCode::NOT_FOUND)?;
    let _place = witness
        .places
        .try_acquire()
        .map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?;
    let heard = hear(&witness.settings, addr).await;
    Ok(Json(Heard { heard }))
}

/// Whether the server at the address, or its agent, answers now.
async fn hear(settings: &Settings, addr: (IpAddr, u16)) -> bool {
    let server = async {
        let mut line = ServerLine::new(addr);
        line.answers(&settings.password, DEADLINE).await
    };
    let agent = async {
        let mut line = AgentLine::new((addr.0, settings.peer_admin_port(addr.1)));
        line.get(LIVEZ_PATH, DEADLINE).await.is_some()
    };
    match select(std::pin::pin!(server), std::pin::pin!(agent)).await {
        Either::Left((true, _)) | Either::Right((true, _)) => true,
        Either::Left((false, other)) => other.await,
        Either::Right((false, other)) => other.await,
    }
}
