//! The last words to a client whose bytes were no HTTP/1, and an end of the connection that lets it read them.

use std::fmt::Write as _;
use std::time::Duration;

use axum::http::HeaderValue;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::middleware::observe;

/// How much a client that was refused may go on to send, in bytes, and for how long. To close on unread bytes is to
/// reset the connection, which takes the refusal from the client's hands.
const LINGER_MOST: u64 = 16 << 20;
/// See [`LINGER_MOST`].
const LINGER_TIMEOUT: Duration = Duration::from_secs(2);

/// The header of a response without a body.
const NO_BODY: &str = "content-length: 0\r\n";

/// A stream that the server is done with, though its client may not have heard everything.
pub struct Parting<I> {
    /// The stream, not shut down yet.
    pub stream: I,
    /// The head, if the server has only that to say, not sent yet.
    pub bare: Option<Vec<u8>>,
}

/// Whether a response's head refuses what was sent, so that the rest of it may never be read.
pub(crate) fn is_refusal(head: &[u8]) -> bool {
    let status = head.get("HTTP/1.1 ".len()..).and_then(|rest| rest.get(..3));
    matches!(
        status,
        Some(b"400" | b"408" | b"413" | b"414" | b"431" | b"503")
    )
}

/// Whether a head is the server's own, with nothing behind it. The API's responses all have bodies.
pub(crate) fn is_bare(head: &[u8]) -> bool {
    std::str::from_utf8(head).is_ok_and(|head| head.contains(NO_BODY))
}

impl<I> Parting<I> {
    /// The same with another face of the stream.
    pub fn map<J>(self, face: impl FnOnce(I) -> J) -> Parting<J> {
        Parting {
            stream: face(self.stream),
            bare: self.bare,
        }
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> Parting<I> {
    /// Says why, if that was not said yet, and closes the connection when the client has read it, or has had the time to.
    pub async fn conclude(mut self, why: Option<&hyper::Error>) {
        let conclusion = async {
            if let Some(head) = &self.bare {
                let answer = answer(&String::from_utf8_lossy(head), why);
                self.stream.write_all(answer.as_bytes()).await?;
            }
            self.stream.shutdown().await?;
            let mut rest = (&mut self.stream).take(LINGER_MOST);
            tokio::io::copy(&mut rest, &mut tokio::io::sink()).await
        };
        let _ = tokio::time::timeout(LINGER_TIMEOUT, conclusion).await;
    }
}

/// The whole response: the server's head, completed.
fn answer(head: &str, why: Option<&hyper::Error>) -> String {
    let why = match why {
        Some(error) if error.is_parse_too_large() => format!(
            "{error}: at most {} headers and {} bytes are taken",
            crate::accept::MAX_HEADERS,
            crate::accept::READ_AHEAD
        ),
        Some(error) => format!(
            "the request is not valid HTTP/1.1: {error}; \
             a head is a line `METHOD /path HTTP/1.1` with no other spaces, and lines `name: value`"
        ),
        None => "the request is not valid HTTP/1.1".to_owned(),
    };
    let body = json!({ "error": why }).to_string();
    let id: HeaderValue = observe::new_id();
    let mut headers = format!(
        "content-type: application/json\r\ncontent-length: {}\r\n",
        body.len()
    );
    if let Ok(id) = id.to_str() {
        let _ = write!(headers, "{}: {id}\r\n", observe::REQUEST_ID);
    }
    head.replacen(NO_BODY, &headers, 1) + &body
}
