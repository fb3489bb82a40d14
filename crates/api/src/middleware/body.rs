//! Request bodies, never longer than allowed, and all together never more than there is room for.

use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, header};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Frame;
use tokio::time::Instant;

use super::admit::Deadline;
use crate::error::Error;
use crate::room::{Full, Held, Room, SMALL};
use crate::settings::Limits;

/// Most that is set aside for a body on the word of its `Content-Length` alone, in bytes.
const FIRST_RESERVE: usize = 64 << 10;

/// How long a body may hold room, at least, before it has to make way for one that waits; less than that one waits.
const HOLD: Duration = Duration::from_millis(300);

/// How often a body that keeps us waiting is asked to.
const LOOK: Duration = Duration::from_millis(50);

/// How much of a body that nobody wants is read off after the answer, in bytes, and for how long. Many clients read no
/// answer before they have sent everything; closing the connection on them would lose it.
const DISCARD_MOST: usize = 16 << 20;
/// See [`DISCARD_MOST`].
const DISCARD_TIMEOUT: Duration = Duration::from_secs(2);

/// A whole body.
pub struct Whole {
    /// What it says.
    pub bytes: Bytes,
    /// To be held for as long as the bytes are.
    _room: Held,
}

/// The whole body. One that says it is too long is refused before a byte of it is read, one that turns out to be at
/// the first byte too many. What is sent all the same of a body that is refused is read off behind the answer.
///
/// A long body takes room for all of itself when it has shown more than a short one's bytes: to announce it is not enough.
/// One that then arrives slowly loses it when another waits for room.
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
    let reserve = announced.map_or(0, |_| length.min(FIRST_RESERVE));
    let mut arriving = Arriving {
        body: request.into_body(),
        room,
        length,
        held: None,
    };
    let bytes = arriving.collect(limit, reserve);
    match tokio::time::timeout_at(deadline.at.into(), bytes).await {
        Ok(Ok(bytes)) => Ok(Whole {
            bytes,
            _room: arriving.held.map(|(room, _)| room).unwrap_or_default(),
        }),
        Ok(Err(error)) => {
            if matches!(error, Error::BodyTooLarge { .. } | Error::NoRoom(_)) {
                tokio::spawn(read_off(arriving.body));
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

/// A body on its way.
struct Arriving<'a> {
    body: Body,
    room: &'a Room,
    /// How long it will be, at most.
    length: usize,
    /// The room that it has, and since when.
    held: Option<(Held, Instant)>,
}

impl Arriving<'_> {
    async fn collect(&mut self, limit: usize, reserve: usize) -> Result<Bytes, Error> {
        let mut whole = Bytes::new();
        let mut parts = BytesMut::new();
        while let Some(frame) = self.frame().await? {
            let frame = frame.map_err(|error| broken(&error))?;
            let Ok(data) = frame.into_data() else {
                continue;
            };
            let arrived = whole.len() + parts.len() + data.len();
            if arrived > limit {
                return Err(Error::BodyTooLarge { limit });
            }
            if arrived > SMALL && self.held.is_none() {
                let held = self.room.take(self.length).await.map_err(no_room)?;
                self.held = Some((held, Instant::now()));
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

    /// The next frame, unless others wait for room that this body has held for long.
    async fn frame(&mut self) -> Result<Option<Result<Frame<Bytes>, axum::Error>>, Error> {
        let Some((_, since)) = &self.held else {
            return Ok(self.body.frame().await);
        };
        loop {
            let frame = tokio::time::timeout(LOOK, self.body.frame()).await;
            if matches!(frame, Ok(None)) {
                return Ok(None);
            }
            if since.elapsed() > HOLD && self.room.is_wanted() {
                return Err(no_room(Full));
            }
            if let Ok(frame) = frame {
                return Ok(frame);
            }
        }
    }
}

fn no_room(_: Full) -> Error {
    Error::NoRoom("request body")
}

/// What is wrong with a body, by the innermost account of it.
fn broken(error: &axum::Error) -> Error {
    let mut innermost: &dyn std::error::Error = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    Error::BrokenBody(innermost.to_string())
}
