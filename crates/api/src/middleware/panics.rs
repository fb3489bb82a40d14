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
