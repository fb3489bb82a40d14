//! `GET /health`: whether the store works, asked now.
//!
//! `healthy` (200): every shard answered and every slot has one. `degraded` (200): some do, e.g. while a failover is
//! under way; requests for the others wait. `unhealthy` (503): none.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Extension;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use serde::Serialize;

use crate::error::{Error, json};
use crate::middleware::admit::Deadline;
use crate::router::App;
use crate::store::{Health, Store};

/// Longest time that asking the shards may take.
const BOUND: Duration = Duration::from_secs(1);

#[derive(Serialize)]
struct Body {
    status: &'static str,
    shards: usize,
    shards_up: usize,
}

/// See the module's documentation.
///
/// # Errors
/// None but a defect of ours.
pub async fn health<S: Store>(
    State(app): State<Arc<App<S>>>,
    Extension(deadline): Extension<Deadline>,
) -> Result<Response, Error> {
    let health = app
        .store
        .health(deadline.at.min(Instant::now() + BOUND))
        .await;
    let (status, word) = match health {
        Health { up: 0, .. } => (StatusCode::SERVICE_UNAVAILABLE, "unhealthy"),
        Health {
            shards,
            up,
            covered: true,
        } if shards == up => (StatusCode::OK, "healthy"),
        Health { .. } => (StatusCode::OK, "degraded"),
    };
    let body = Body {
        status: word,
        shards: health.shards,
        shards_up: health.up,
    };
    let mut response = json(
        status,
        serde_json::to_vec(&body).map_err(|_| Error::Internal)?,
    );
    if status == StatusCode::SERVICE_UNAVAILABLE {
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    Ok(response)
}
