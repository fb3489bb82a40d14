//! Request bodies, never longer than allowed.

use axum::body::Body;
use axum::extract::Request;
use axum::http::header;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;

use super::admit::Deadline;
use crate::error::Error;

/// Most that is set aside for a body on the word of its `Content-Length` alone, in bytes.
const FIRST_RESERVE: usize = 64 << 10;

/// The whole body. One that says it is too long is refused before a byte of it is read, one that turns out to be at
/// the first byte too many.
///
/// # Errors
/// 413, 408 if it does not arrive in time, 400 if it breaks off.
pub async fn read(request: Request, limit: usize, deadline: Deadline) -> Result<Bytes, Error> {
    let announced = request
        .headers()
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.parse::<u64>().ok());
    if announced.is_some_and(|length| length > limit as u64) {
        return Err(Error::BodyTooLarge { limit });
    }
    let reserve = announced.map_or(0, |length| (length as usize).min(FIRST_RESERVE));
    tokio::time::timeout_at(
        deadline.at.into(),
        collect(request.into_body(), limit, reserve),
    )
    .await
    .map_err(|_| Error::BodyTimeout(deadline.within))?
}

async fn collect(mut body: Body, limit: usize, reserve: usize) -> Result<Bytes, Error> {
    let mut whole = Bytes::new();
    let mut parts = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Error::BadRequest("the request body broke off".into()))?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        if whole.len() + parts.len() + data.len() > limit {
            return Err(Error::BodyTooLarge { limit });
        }
        // Nearly every body is one frame, which then needs no copy.
        if whole.is_empty() && parts.is_empty() {
            whole = data;
            continue;
        }
        if parts.is_empty() {
            parts.reserve(reserve.max(whole.len() + data.len()));
            parts.extend_from_slice(&std::mem::take(&mut whole));
        }
        parts.extend_from_slice(&data);
    }
    Ok(if parts.is_empty() {
        whole
    } else {
        parts.freeze()
    })
}
