//! One HTTP client of the cache.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::ValueEnum;
use reqwest::{Method, header};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::names::Remembered;

/// How connections are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Connections {
    /// Kept open and used again, as most libraries do.
    KeepAlive,
    /// One for each request, as command-line tools do.
    PerRequest,
    /// Half of the workers each way.
    Mixed,
}

impl Connections {
    /// Whether this worker keeps its connections.
    pub(crate) fn keeps(self, worker: u64) -> bool {
        match self {
            Self::KeepAlive => true,
            Self::PerRequest => false,
            Self::Mixed => worker.is_multiple_of(2),
        }
    }
}

/// An answer, read to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// HTTP status.
    pub(crate) status: u16,
    /// `Content-Type`, or nothing.
    pub(crate) media_type: String,
    /// `Allow`, or nothing.
    pub(crate) allow: String,
    /// The body as text.
    pub(crate) body: String,
}

impl Answer {
    /// The body as JSON; null if it is none.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or(Value::Null)
    }
}

/// A client of the cache at one base URL. Every request is bounded in time.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    base: String,
    http: reqwest::Client,
    keep: bool,
}

impl Client {
    /// A client of `http://host:port` that gives up on a request after `timeout`.
    ///
    /// # Errors
    /// When the URL is none, or the client cannot be made.
    pub(crate) fn new(base: &str, timeout: Duration, keep: bool) -> Result<Self> {
        let parsed = reqwest::Url::parse(base).with_context(|| format!("--url {base}"))?;
        anyhow::ensure!(parsed.scheme() == "http", "--url {base}: http:// is wanted");
        let http = reqwest::Client::builder()
            .timeout(timeout)
            .no_proxy()
            .dns_resolver(Remembered::shared())
            .tcp_nodelay(true)
            .pool_max_idle_per_host(if keep { usize::MAX } else { 0 })
            .build()
            .context("making an HTTP client")?;
        Ok(Self {
            base: base.trim_end_matches('/').to_owned(),
            http,
            keep,
        })
    }

    /// Waits until something answers. A Service that was made a moment ago is known to every node a moment later.
    ///
    /// # Errors
    /// When nothing does within `patience`.
    pub(crate) async fn await_answer(&self, patience: Duration) -> Result<()> {
        let until = Instant::now() + patience;
        loop {
            match self.send(Method::GET, "/health", None).await {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() >= until => {
                    return Err(error.context("nothing answers"));
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
            }
        }
    }

    /// `POST /cache` of one key.
    ///
    /// # Errors
    /// When no whole answer arrived in time.
    pub(crate) async fn set(&self, key: &str, value: &str) -> Result<Answer> {
        let body = json!({"key": key, "value": value}).to_string();
        self.send(Method::POST, "/cache", Some(body)).await
    }

    /// `GET /cache/{key}`.
    ///
    /// # Errors
    /// As [`Client::set`].
    pub(crate) async fn get(&self, key: &str) -> Result<Answer> {
        self.send(Method::GET, &format!("/cache/{key}"), None).await
    }

    /// `DELETE /cache/{key}`.
    ///
    /// # Errors
    /// As [`Client::set`].
    pub(crate) async fn delete(&self, key: &str) -> Result<Answer> {
        self.send(Method::DELETE, &format!("/cache/{key}"), None)
            .await
    }

    /// `POST /cache` with a body of `length` bytes that is announced and never sent. A server that refuses it by its
    /// length answers at once.
    ///
    /// # Errors
    /// When no whole answer arrives in time.
    pub(crate) async fn announce_body(&self, length: usize) -> Result<Answer> {
        let url = reqwest::Url::parse(&self.base)?;
        let host = url.host_str().unwrap_or_default().to_owned();
        let port = url.port_or_known_default().unwrap_or(80);
        let head = format!(
            "POST /cache HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\nConnection: close\r\n\r\n"
        );
        let exchange = async {
            let mut stream = TcpStream::connect((host.as_str(), port)).await?;
            stream.write_all(head.as_bytes()).await?;
            let mut said = Vec::new();
            // An answer is small; more than this is none.
            stream.take(64 * 1024).read_to_end(&mut said).await?;
            anyhow::Ok(String::from_utf8_lossy(&said).into_owned())
        };
        let said = tokio::time::timeout(Duration::from_secs(10), exchange)
            .await
            .context("no answer before the body is sent")??;
        let (head, body) = said
            .split_once("\r\n\r\n")
            .with_context(|| format!("{said:?} is no answer"))?;
        let header = |name: &str| {
            head.lines()
                .filter_map(|line| line.split_once(':'))
                .find(|(header, _)| header.eq_ignore_ascii_case(name))
                .map_or_else(String::new, |(_, value)| value.trim().to_owned())
        };
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
        Ok(Answer {
            status: status.with_context(|| format!("{head:?} has no status"))?,
            media_type: header("content-type"),
            allow: header("allow"),
            body: body.to_owned(),
        })
    }

    /// Any request; `path` is sent as it is.
    ///
    /// # Errors
    /// As [`Client::set`].
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<String>,
    ) -> Result<Answer> {
        let mut request = self.http.request(method, format!("{}{path}", self.base));
        if !self.keep {
            request = request.header(header::CONNECTION, "close");
        }
        if let Some(body) = body {
            request = request
                .header(header::CONTENT_TYPE, "application/json")
                .body(body);
        }
        let response = request.send().await?;
        let text = |name: header::HeaderName| {
            response
                .headers()
                .get(name)
                .and_then(|value| value.to_str().ok())
                .unwrap_or_default()
                .to_owned()
        };
        let (status, media_type, allow) = (
            response.status().as_u16(),
            text(header::CONTENT_TYPE),
            text(header::ALLOW),
        );
        let body = response.text().await?;
        Ok(Answer {
            status,
            media_type,
            allow,
            body,
        })
    }
}
