//! The route table.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use axum::Router;
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post};
use tokio::sync::Semaphore;
use tower_http::catch_panic::CatchPanicLayer;

use crate::error::Error;
use crate::metrics::Metrics;
use crate::middleware::{admit, observe, panics};
use crate::room::Room;
use crate::routes::{cache, health, stats};
use crate::settings::Limits;
use crate::store::Store;

/// What every handler can reach.
pub struct App<S> {
    /// Where the values are.
    pub store: S,
    /// What one request may cost.
    pub limits: Limits,
    /// Counters of requests.
    pub metrics: Arc<Metrics>,
    /// One permit for each request that may be worked on at a time.
    pub in_flight: Semaphore,
    /// Room for the request bodies that are in memory.
    pub bodies: Room,
    /// Room for the responses that are being written.
    pub responses: Room,
    /// Whether the process is about to stop, and clients should go elsewhere.
    pub draining: AtomicBool,
}

impl<S: Store> App<S> {
    /// An application over `store`.
    pub fn new(store: S, limits: Limits, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            store,
            limits,
            metrics,
            in_flight: Semaphore::new(limits.in_flight.min(Semaphore::MAX_PERMITS)),
            bodies: Room::new(limits.buffered),
            responses: Room::new(limits.buffered),
            draining: AtomicBool::new(false),
        })
    }
}

/// Every public route.
pub fn router<S: Store>(app: Arc<App<S>>) -> Router {
    let legacy = Router::new()
        .route("/cache", post(cache::set::<S>))
        .route("/cache/", get(cache::no_key).delete(cache::no_key))
        .route(
            "/cache/{*key}",
            get(cache::get::<S>).delete(cache::delete::<S>),
        );

    let about = Router::new()
        .route("/health", get(health::health::<S>))
        .route("/stats", get(stats::stats::<S>));

    Router::new()
        .merge(legacy)
        .merge(about)
        .method_not_allowed_fallback(async || Error::MethodNotAllowed)
        .fallback(async || Error::NotFound)
        .layer(from_fn_with_state(app.clone(), admit::admit::<S>))
        .layer(CatchPanicLayer::custom(panics::respond))
        .layer(from_fn_with_state(app.clone(), observe::observe::<S>))
        .with_state(app)
}
