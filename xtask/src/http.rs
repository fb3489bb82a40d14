//! The little HTTP that the tasks need: one request a connection, to this machine.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result};

/// An answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// Status code.
    pub(crate) status: u16,
    /// Body, as text.
    pub(crate) body: String,
}

/// Sends one request and reads its answer to the end; the peer has ten seconds for each read.
///
/// # Errors
/// No connection, no answer in time, or one that is not HTTP.
pub(crate) fn request(
    to: SocketAddr,
    method: &str,
    path: &str,
    body: Option<&str>,
) -> Result<Answer> {
    let limit = Duration::from_secs(10);
    let mut stream = TcpStream::connect_timeout(&to, limit)?;
    stream.set_read_timeout(Some(limit))?;
    stream.set_write_timeout(Some(limit))?;
    let body = body.unwrap_or_default();
    let length = body.len();
    // HTTP/1.0: the answer comes in one piece and ends with the connection.
    write!(
        stream,
        "{method} {path} HTTP/1.0\r\nHost: {to}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    )?;
    let mut answer = Vec::new();
    stream.take(1 << 20).read_to_end(&mut answer)?;
    parse(&String::from_utf8_lossy(&answer))
}

fn parse(answer: &str) -> Result<Answer> {
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
    let status = head.split(' ').nth(1).context("no status line")?;
    Ok(Answer {
        status: status.parse().context("no status code")?,
        body: body.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::{Answer, parse};

    #[test]
    fn an_answer_is_its_status_and_its_body() {
        let answer =
            parse("HTTP/1.0 404 Not Found\r\na: b\r\n\r\n{\"error\":\"x\"}\r\n\r\n").unwrap();
        let body = "{\"error\":\"x\"}\r\n\r\n".to_owned();
        assert_eq!(answer, Answer { status: 404, body });
    }

    #[test]
    fn silence_is_no_answer() {
        assert!(parse("").is_err());
        assert!(parse("HTTP/1.0\r\n\r\n").is_err());
    }
}
