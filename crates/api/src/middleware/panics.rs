//! A panic in a handler costs its own request only.

use std::any::Any;

use axum::response::{IntoResponse, Response};

use crate::error::Error;

/// The answer to a request whose handler panicked.
pub fn respond(panic: Box<dyn Any + Send + 'static>) -> Response {
    let said = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_default();
    tracing::error!(panic = said, "a handler panicked");
    Error::Internal.into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::Router;
    use axum::body::Body;
    use axum::extract::Request;
    use axum::routing::get;
    use http_body_util::BodyExt;
    use tower::ServiceExt;
    use tower_http::catch_panic::CatchPanicLayer;

    #[tokio::test]
    async fn a_panic_is_answered_in_json_and_tells_nothing_of_itself() {
        let broken = async || -> &'static str { panic!("a secret of ours") };
        let router = Router::new()
            .route("/", get(broken))
            .layer(CatchPanicLayer::custom(respond));
        let response = router.oneshot(Request::new(Body::empty())).await.unwrap();
        assert_eq!(response.status(), 500);
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, r#"{"error":"internal error"}"#);
    }
}
