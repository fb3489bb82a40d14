//! Who gets in, and for how long: the in-flight limit and the deadline.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::body;
use crate::error::Error;
use crate::router::App;
use crate::store::Store;

/// By when a handler must be done. A little before the request's own deadline, so that the handler's own account of
/// what kept it reaches the client.
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    /// The moment.
    pub at: Instant,
    /// The whole time that the request had, for messages.
    pub within: Duration,
}

/// Admits the request or says 503; answers 504 if its handler is not done in time.
pub async fn admit<S: Store>(
    State(app): State<Arc<App<S>>>,
    mut request: Request,
    next: Next,
) -> Response {
    let Ok(_permit) = app.in_flight.try_acquire() else {
        body::discard(request);
        return Error::Overloaded.into_response();
    };
    let within = app.limits.deadline;
    let now = Instant::now();
    let margin = (within / 10).min(Duration::from_millis(200));
    request.extensions_mut().insert(Deadline {
        at: now + (within - margin),
        within,
    });
    tokio::time::timeout(within, next.run(request))
        .await
        .unwrap_or_else(|_| Error::Deadline(within).into_response())
}
