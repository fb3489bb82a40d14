//! Stopping loses no request.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::api::{Api, until};

/// Clients that go to whichever of two pods is ready, as a Service lets them, while each pod is replaced in turn.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_update_under_load_loses_no_request() {
    let args = ["--drain-delay", "500ms"];
    let endpoint = Arc::new(tokio::sync::RwLock::new(Arc::new(Api::start(&args).await)));
    endpoint.read().await.until_ready().await;
    let over = Arc::new(AtomicBool::new(false));
    let answered = Arc::new(AtomicUsize::new(0));
    let clients: Vec<_> = (0..16)
        .map(|client| {
            let (endpoint, over, answered) = (endpoint.clone(), over.clone(), answered.clone());
            tokio::spawn(async move {
                // Idle connections are kept, which is what races with a server that closes them.
                let http = reqwest::Client::builder()
                    .retry(reqwest::retry::never())
                    .build()
                    .unwrap();
                while !over.load(Ordering::Relaxed) {
                    let base = endpoint.read().await.base.clone();
                    let body = serde_json::json!({"key": format!("k{client}"), "value": "v"});
                    let response = http.post(format!("{base}/cache")).json(&body).send().await;
                    assert_eq!(response.expect("an answer").status(), 200);
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for _ in 0..3 {
        let before = answered.load(Ordering::Relaxed);
        until("there is load", async || {
            answered.load(Ordering::Relaxed) > before + 100
        })
        .await;
        let next = Arc::new(Api::start(&args).await);
        next.until_ready().await;
        let old = endpoint.read().await.clone();
        old.stop();
        until("readiness goes off", async || !old.is_ready().await).await;
        *endpoint.write().await = next;
        let mut old = Some(old);
        until(
            "nobody asks the old one for its address",
            async || match Arc::try_unwrap(old.take().unwrap()) {
                Ok(api) => {
                    api.stopped().await;
                    true
                }
                Err(shared) => {
                    old = Some(shared);
                    false
                }
            },
        )
        .await;
    }
    over.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.unwrap();
    }
}

#[tokio::test]
async fn a_request_that_was_begun_is_answered_and_its_connection_closed() {
    let api = Api::start(&[]).await;
    let mut begun = TcpStream::connect(api.address).await.unwrap();
    let body = r#"{"key":"k","value":"v"}"#;
    let head = format!(
        "POST /cache HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    begun.write_all(head.as_bytes()).await.unwrap();
    let mut idle = TcpStream::connect(api.address).await.unwrap();
    idle.write_all(b"GET /cache/none HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    let mut buffer = [0; 1024];
    assert!(idle.read(&mut buffer).await.unwrap() > 0);
    until("the request is in a handler", async || {
        api.metrics().await.contains("requests_in_flight 1")
    })
    .await;

    api.stop();
    // The idle connection is closed at once, while the other one is waited for.
    let rest = tokio::time::timeout(Duration::from_secs(5), idle.read(&mut buffer)).await;
    assert_eq!(rest.expect("closed in time").unwrap(), 0);
    begun.write_all(body.as_bytes()).await.unwrap();
    let mut answer = String::new();
    begun.read_to_string(&mut answer).await.unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.contains("connection: close"),
        "{answer}"
    );
    api.stopped().await;
}

#[tokio::test]
async fn a_request_that_does_not_end_does_not_hold_up_the_end() {
    let api = Api::start(&["--drain-timeout", "300ms", "--request-deadline", "60s"]).await;
    let mut endless = TcpStream::connect(api.address).await.unwrap();
    endless
        .write_all(b"POST /cache HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n")
        .await
        .unwrap();
    until("the request is in a handler", async || {
        api.metrics().await.contains("requests_in_flight 1")
    })
    .await;
    let began = std::time::Instant::now();
    api.stopped().await;
    assert!(began.elapsed() < Duration::from_secs(5));
}
