//! What is told about every request: its id, its metrics, its log line.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, Version, header};
use axum::middleware::Next;
use axum::response::Response;

use crate::error::{NothingMore, Reason};
use crate::metrics::{Method, Route};
use crate::router::App;
use crate::store::Store;

/// The header with the request's id: taken from the client, or made here, and always sent back.
pub static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Longest id that is taken from a client, in bytes.
const MAX_ID: usize = 128;

/// Counts, times and logs the request. Server errors are logged at `error` with what caused them, the rest at `debug`, so that a busy
/// service does not spend its time on writing logs.
pub async fn observe<S: Store>(
    State(app): State<Arc<App<S>>>,
    request: Request,
    next: Next,
) -> Response {
    let started = Instant::now();
    let route = Route::of(request.extensions().get::<MatchedPath>());
    let method = Method::of(request.method());
    let version = request.version();
    let id = request
        .headers()
        .get(&REQUEST_ID)
        .filter(|id| id.len() <= MAX_ID && id.to_str().is_ok())
        .cloned()
        .unwrap_or_else(new_id);

    // A client that goes away mid-request drops this future: the gauge must go down all the same.
    let in_flight = app.metrics.enter();
    let mut response = next.run(request).await;
    drop(in_flight);

    let status = response.status();
    let took = started.elapsed();
    app.metrics.answered(route, method, status, took);
    if status.is_server_error() {
        let reason = response.extensions().get::<Reason>();
        tracing::error!(
            id = ?id,
            method = method.as_str(),
            route = route.as_str(),
            status = status.as_u16(),
            took_us = took.as_micros() as u64,
            reason = reason.map_or("", |reason| &*reason.0),
            "failed"
        );
    } else {
        tracing::debug!(
            id = ?id,
            method = method.as_str(),
            route = route.as_str(),
            status = status.as_u16(),
            took_us = took.as_micros() as u64,
            "answered"
        );
    }

    // While draining: the client's next request goes to another pod then, instead of racing with the end of this
    // connection.
    let last = app.draining.load(Ordering::Relaxed)
        || (status == StatusCode::BAD_REQUEST
            && response.extensions().get::<NothingMore>().is_some());
    let headers = response.headers_mut();
    headers.insert(REQUEST_ID.clone(), id);
    if last && version <= Version::HTTP_11 {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// An id for a request that came without.
pub(crate) fn new_id() -> HeaderValue {
    let id = format!("{:016x}", rand::random::<u64>());
    HeaderValue::try_from(id).unwrap_or_else(|_| HeaderValue::from_static("-"))
}
