//! `GET /stats`: what each shard counted.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;

use crate::error::{Error, json};
use crate::middleware::admit::Deadline;
use crate::router::App;
use crate::store::{ShardStats, Store};

#[derive(Serialize)]
struct Body {
    shards: Vec<ShardStats>,
}

/// See the module's documentation. A shard that does not answer is listed with the reason.
///
/// # Errors
/// 503 if no shard is known.
pub async fn stats<S: Store>(
    State(app): State<Arc<App<S>>>,
    Extension(deadline): Extension<Deadline>,
) -> Result<Response, Error> {
    let shards = app.store.stats(deadline.at).await?;
    let body = serde_json::to_vec(&Body { shards }).map_err(|_| Error::Internal)?;
    Ok(json(StatusCode::OK, body))
}
