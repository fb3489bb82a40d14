//! The one error of the HTTP side: what went wrong, its status, and the JSON body that says so.

use std::borrow::Cow;
use std::time::Duration;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::store::StoreError;

/// Why a request was not answered as hoped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request cannot be meant: what is wrong with it and why.
    #[error("{0}")]
    BadRequest(Cow<'static, str>),
    /// The body broke off or is not framed as HTTP wants it, so that nothing behind it can be read: why.
    #[error("the request body broke off: {0}")]
    BrokenBody(String),
    /// No value under this key.
    #[error("Key not found")]
    KeyNotFound,
    /// No such route.
    #[error("Not found")]
    NotFound,
    /// The route exists, but not with this method; the `Allow` header names those it has.
    #[error("Method not allowed")]
    MethodNotAllowed,
    /// The body did not arrive in time.
    #[error("the request body did not arrive within {0:?}")]
    BodyTimeout(Duration),
    /// The body is longer than allowed.
    #[error("the request body is longer than the limit of {limit} bytes")]
    BodyTooLarge {
        /// The limit, in bytes.
        limit: usize,
    },
    /// As many requests as allowed are being worked on already.
    #[error("too many requests at a time; try again")]
    Overloaded,
    /// Others take all the room that there is for this: a request body, or a response.
    #[error("no room for the {0} now; try again")]
    NoRoom(&'static str),
    /// No answer within the request's deadline.
    #[error("no answer within {0:?}")]
    Deadline(Duration),
    /// The store could not do it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A defect of ours.
    #[error("internal error")]
    Internal,
}

impl Error {
    /// The HTTP status that tells this.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::BadRequest(_) | Self::BrokenBody(_) => StatusCode::BAD_REQUEST,
            Self::KeyNotFound | Self::NotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::BodyTimeout(_) => StatusCode::REQUEST_TIMEOUT,
            Self::BodyTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Overloaded | Self::NoRoom(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Deadline(_) | Self::Store(StoreError::Unanswered(_)) => {
                StatusCode::GATEWAY_TIMEOUT
            }
            Self::Store(StoreError::Unavailable(_)) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Store(StoreError::WrongType) => StatusCode::CONFLICT,
            Self::Store(StoreError::Refused(_)) => StatusCode::BAD_GATEWAY,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

/// Every error's body.
#[derive(Serialize)]
struct Body<'a> {
    error: &'a str,
}

/// A response with a JSON body.
pub(crate) fn json(status: StatusCode, body: impl Into<axum::body::Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    response
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let status = self.status();
        let error = self.to_string();
        let body = serde_json::to_vec(&Body { error: &error }).unwrap_or_default();
        let mut response = json(status, body);
        if matches!(
            status,
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT
        ) {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if matches!(self, Self::BrokenBody(_)) {
            response.extensions_mut().insert(NothingMore);
        }
        // The access log tells the reason beside the status, without reading the body again.
        response.extensions_mut().insert(Reason(error.into()));
        response
    }
}

/// Marks the last response on an HTTP/1 connection: where its next request would begin is not known.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NothingMore;

/// The reason of an error response, for the log.
#[derive(Clone, Debug)]
pub(crate) struct Reason(pub(crate) std::sync::Arc<str>);
