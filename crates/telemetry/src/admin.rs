//! The admin port: `/livez`, `/readyz` and `/metrics`, apart from what users reach.

use std::sync::{Arc, PoisonError, RwLock};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Whether the process can do its work now, and if not, why. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Readiness(Arc<RwLock<Result<(), String>>>);

impl Readiness {
    /// Starts as not ready, with the reason that is shown until [`Readiness::set`].
    #[must_use]
    pub fn not_ready(reason: impl Into<String>) -> Self {
        Self(Arc::new(RwLock::new(Err(reason.into()))))
    }

    /// States the present readiness.
    pub fn set(&self, state: Result<(), String>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = state;
    }

    /// The present readiness.
    ///
    /// # Errors
    /// The reason, while not ready.
    pub fn get(&self) -> Result<(), String> {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// What the admin port serves.
#[derive(Clone)]
pub struct Admin {
    /// Everything that `/metrics` prints.
    pub registry: Arc<Registry>,
    /// What `/livez` answers: a process that is not alive is restarted by its kubelet.
    pub liveness: Readiness,
    /// What `/readyz` answers.
    pub readiness: Readiness,
}

impl Admin {
    /// The routes, to be merged with others or served alone.
    pub fn router(self) -> Router {
        Router::new()
            .route(
                "/livez",
                get(|State(admin): State<Self>| async move { answer(&admin.liveness) }),
            )
            .route(
                "/readyz",
                get(|State(admin): State<Self>| async move { answer(&admin.readiness) }),
            )
            .route("/metrics", get(metrics))
            .with_state(self)
    }

    /// Serves the routes until `shutdown`.
    ///
    /// # Errors
    /// When the listener fails for good.
    pub async fn serve(
        self,
        listener: TcpListener,
        shutdown: CancellationToken,
    ) -> std::io::Result<()> {
        self.serve_with(Router::new(), listener, shutdown).await
    }

    /// As [`Admin::serve`], with `more` routes beside its own.
    ///
    /// # Errors
    /// When the listener fails for good.
    pub async fn serve_with(
        self,
        more: Router,
        listener: TcpListener,
        shutdown: CancellationToken,
    ) -> std::io::Result<()> {
        axum::serve(listener, self.router().merge(more))
            .with_graceful_shutdown(shutdown.cancelled_owned())
            .await
    }
}

fn answer(state: &Readiness) -> Response {
    match state.get() {
        Ok(()) => (StatusCode::OK, "ok\n").into_response(),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
    }
}

async fn metrics(State(admin): State<Admin>) -> Response {
    let mut text = String::new();
    match encode(&mut text, &admin.registry) {
        Ok(()) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::metrics::counter::Counter;

    #[tokio::test]
    async fn the_admin_port_tells_readiness_and_metrics_and_stops_when_told() {
        let mut registry = Registry::default();
        let passes: Counter = Counter::default();
        registry.register("passes", "Passes made", passes.clone());
        passes.inc();
        let readiness = Readiness::not_ready("still starting");
        let alive = Readiness::not_ready("");
        alive.set(Ok(()));
        let admin = Admin {
            registry: Arc::new(registry),
            liveness: alive,
            readiness: readiness.clone(),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let stop = CancellationToken::new();
        let more = Router::new().route("/more", get(async || "more"));
        let server = tokio::spawn(admin.serve_with(more, listener, stop.clone()));

        let fetch = |path: &str| {
            let url = format!("{base}{path}");
            async move {
                let response = reqwest::get(url).await.unwrap();
                (response.status().as_u16(), response.text().await.unwrap())
            }
        };
        assert_eq!(fetch("/livez").await, (200, "ok\n".to_owned()));
        assert_eq!(fetch("/readyz").await, (503, "still starting\n".to_owned()));
        readiness.set(Ok(()));
        assert_eq!(fetch("/readyz").await.0, 200);
        assert!(fetch("/metrics").await.1.contains("passes_total 1"));
        assert_eq!(fetch("/more").await, (200, "more".to_owned()));
        stop.cancel();
        server.await.unwrap().unwrap();
    }
}
