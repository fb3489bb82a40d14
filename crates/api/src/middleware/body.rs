//! Request bodies, never longer than allowed, and all together never more than there is room for.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, header};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::admit::Deadline;
use crate::error::Error;
use crate::settings::Limits;

/// Most that is set aside for a body on the word of its `Content-Length` alone, in bytes.
const FIRST_RESERVE: usize = 64 << 10;

/// Bodies up to this length need no room: the in-flight limit bounds them well enough, and they must get in while long
/// ones wait. In bytes.
const SMALL: usize = 8 << 10;

/// How long a body may wait for room.
const ROOM_TIMEOUT: Duration = Duration::from_millis(500);

/// How much of a body that nobody wants is read off after the answer, in bytes, and for how long. Many clients read no
/// answer before they have sent everything; closing the connection on them would lose it.
const DISCARD_MOST: usize = 16 << 20;
/// See [`DISCARD_MOST`].
const DISCARD_TIMEOUT: Duration = Duration::from_secs(2);

/// Room for the bodies that are in memory. One permit stands for 1 KiB.
pub struct Room {
    free: Arc<Semaphore>,
    all: u32,
}

impl Room {
    /// Room for so many bytes.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        let most = Semaphore::MAX_PERMITS.min(u32::MAX as usize);
        let all = bytes.div_ceil(1 << 10).min(most);
        Self {
            free: Arc::new(Semaphore::new(all)),
            all: all as u32,
        }
    }

    /// Takes room for a body of at most `bytes`, and gives it back when the permit drops.
    async fn take(&self, bytes: usize) -> Result<Option<OwnedSemaphorePermit>, Error> {
        if bytes <= SMALL {
            return Ok(None);
        }
        let wanted = u32::try_from(bytes.div_ceil(1 << 10)).unwrap_or(u32::MAX);
        let permit = self.free.clone().acquire_many_owned(wanted.min(self.all));
        match tokio::time::timeout(ROOM_TIMEOUT, permit).await {
            Ok(Ok(permit)) => Ok(Some(permit)),
            _ => Err(Error::NoRoom),
        }
    }
}

/// A whole body.
pub struct Whole {
    /// What it says.
    pub bytes: Bytes,
    /// To be held for as long as the bytes are.
    _room: Option<OwnedSemaphorePermit>,
}

/// The whole body. One that says it is too long is refused before a byte of it is read, one that turns out to be at
/// the first byte too many. What is sent all the same of a body that is refused is read off behind the answer.
///
/// # Errors
/// 413, 408 if it does not arrive in time, 400 if it breaks off, 503 if there is no room.
pub async fn read(
    request: Request,
    limits: &Limits,
    room: &Room,
    deadline: Deadline,
) -> Result<Whole, Error> {
    let limit = limits.body;
    let announced = announced(request.headers());
    if announced.is_some_and(|length| length > limit as u64) {
        discard(request);
        return Err(Error::BodyTooLarge { limit });
    }
    let length = announced.map_or(limit, |length| length as usize);
    let _room = match room.take(length).await {
        Ok(room) => room,
        Err(error) => {
            discard(request);
            return Err(error);
        }
    };
    let reserve = announced.map_or(0, |_| length.min(FIRST_RESERVE));
    let mut body = request.into_body();
    let bytes =
        tokio::time::timeout_at(deadline.at.into(), collect(&mut body, limit, reserve)).await;
    match bytes {
        Ok(Ok(bytes)) => Ok(Whole { bytes, _room }),
        Ok(Err(error)) => {
            if matches!(error, Error::BodyTooLarge { .. }) {
                tokio::spawn(read_off(body));
            }
            Err(error)
        }
        Err(_) => Err(Error::BodyTimeout(deadline.within)),
    }
}

/// Reads off the body of a request that is refused, in the background and within bounds, so that the client gets to
/// read why.
pub fn discard(request: Request) {
    let headers = request.headers();
    // Who waits for leave to send does not send; and one frame would be that leave.
    let waits = headers.contains_key(header::EXPECT);
    let has_none = axum::body::HttpBody::is_end_stream(request.body());
    if !waits && !has_none {
        tokio::spawn(read_off(request.into_body()));
    }
}

async fn read_off(mut body: Body) {
    let all = async {
        let mut read = 0;
        while let Some(Ok(frame)) = body.frame().await {
            read += frame.data_ref().map_or(0, Bytes::len);
            if read > DISCARD_MOST {
                return;
            }
        }
    };
    // Whoever is not done by then is cut off.
    let _ = tokio::time::timeout(DISCARD_TIMEOUT, all).await;
}

fn announced(headers: &HeaderMap) -> Option<u64> {
    headers
        .get(header::CONTENT_LENGTH)?
        .to_str()
        .ok()?
        .parse()
        .ok()
}

async fn collect(body: &mut Body, limit: usize, reserve: usize) -> Result<Bytes, Error> {
    let mut whole = Bytes::new();
    let mut parts = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| broken(&error))?;
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

/// What is wrong with a body, by the innermost account of it.
fn broken(error: &axum::Error) -> Error {
    let mut innermost: &dyn std::error::Error = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    Error::BrokenBody(innermost.to_string())
}
