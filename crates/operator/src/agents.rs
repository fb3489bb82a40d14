//! How agents are asked: for a bounded time, and for no more than they ever have to say.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use serde::de::DeserializeOwned;

/// Longest answer, in bytes.
const LONGEST: usize = 4096;

/// A client of agents.
pub type Asking = Client<HttpConnector, Empty<Bytes>>;

/// What the agent there answers to a GET, as JSON. `None` when it does not in time, or answers something else.
pub async fn get<T: DeserializeOwned>(
    client: &Asking,
    agent: SocketAddr,
    path_and_query: &str,
    patience: Duration,
) -> Option<T> {
    let asking = async {
        let uri = format!("http://{agent}{path_and_query}").parse().ok()?;
        let answer = client.get(uri).await.ok()?;
        if !answer.status().is_success() {
            return None;
        }
        let body = Limited::new(answer.into_body(), LONGEST).collect().await;
        serde_json::from_slice(&body.ok()?.to_bytes()).ok()
    };
    tokio::time::timeout(patience, asking).await.ok()?
}
