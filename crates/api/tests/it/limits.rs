//! What is too much is refused, quickly and in JSON; what is malformed is never our fault.

use std::time::{Duration, Instant};

use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::api::{Api, answer, until, within};
use crate::servers::Server;

async fn raw(api: &Api, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(api.address).await.unwrap();
    // A server that has heard enough may close before all is written.
    let _ = stream.write_all(bytes).await;
    let mut answer = vec![0; 4096];
    let read = tokio::time::timeout(Duration::from_secs(5), stream.read(&mut answer));
    let length = read.await.expect("an answer in time").unwrap_or(0);
    String::from_utf8_lossy(&answer[..length]).into_owned()
}

#[tokio::test]
async fn a_body_that_says_it_is_too_long_is_refused_before_it_is_sent() {
    let api = Api::start(&[]).await;
    let head = "POST /cache HTTP/1.1\r\nhost: x\r\ncontent-length: 999999999999\r\n\r\n";
    let answer = raw(&api, head.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    assert!(
        answer
            .contains(r#"{"error":"the request body is longer than the limit of 1048576 bytes"}"#)
    );
}

#[tokio::test]
async fn a_body_that_turns_out_too_long_is_refused() {
    let api = Api::start(&["--max-body", "1000"]).await;
    let mut request =
        b"POST /cache HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
    for _ in 0..11 {
        request.extend_from_slice(b"64\r\n");
        request.extend_from_slice(&[b' '; 100]);
        request.extend_from_slice(b"\r\n");
    }
    let answer = raw(&api, &request).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
}

#[tokio::test]
async fn a_body_that_does_not_come_costs_no_more_than_the_deadline() {
    let api = Api::start(&["--request-deadline", "200ms"]).await;
    let answer = raw(
        &api,
        b"POST /cache HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n{",
    )
    .await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
}

#[tokio::test]
async fn requests_beyond_the_in_flight_limit_are_told_to_come_back() {
    let api = Api::start(&["--max-in-flight", "1", "--request-deadline", "5s"]).await;
    // One that never ends its body holds the only place.
    let mut stream = TcpStream::connect(api.address).await.unwrap();
    stream
        .write_all(b"POST /cache HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n{")
        .await
        .unwrap();
    until("the place is taken", async || api.get("k").await.0 == 503).await;
    let response = api.http.get(api.url("/cache/k")).send().await.unwrap();
    assert_eq!(response.headers()["retry-after"], "1");
    assert!(response.text().await.unwrap().starts_with(r#"{"error":"#));
    drop(stream);
    until("the place is free again", async || {
        api.get("k").await.0 == 404
    })
    .await;
}

/// Sends a whole request before it reads a byte of the answer, as simple clients do.
async fn send_then_read(api: &Api, length: usize) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(api.address).await?;
    let head = format!(
        "POST /cache HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    for _ in 0..length / 1024 {
        stream.write_all(&[b' '; 1024]).await?;
    }
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_sends_far_too_much_gets_to_read_why_it_was_refused() {
    let api = Api::start(&[]).await;
    for mebibytes in [2, 8] {
        let answer = send_then_read(&api, mebibytes << 20).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    }
}

#[tokio::test]
async fn who_announces_much_and_sends_little_takes_no_room_from_others() {
    let api = Api::start(&["--max-buffered", "2Mi", "--request-deadline", "60s"]).await;
    let head = "POST /cache HTTP/1.1\r\nhost: x\r\ncontent-length: 1048576\r\n\r\n";
    let little = [head.as_bytes(), &[b' '; 9 << 10]].concat();
    let mut silent = Vec::new();
    let mut slow = Vec::new();
    for _ in 0..8 {
        let mut stream = TcpStream::connect(api.address).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        silent.push(stream);
    }
    for _ in 0..2 {
        let mut stream = TcpStream::connect(api.address).await.unwrap();
        stream.write_all(&little).await.unwrap();
        slow.push(stream);
    }
    until("all are in a handler", async || {
        let metrics = api.metrics().await;
        metrics.contains("requests_in_flight 10")
    })
    .await;
    // Small ones need no room. By the time that some were served, the slow ones have been read and have theirs.
    for _ in 0..20 {
        assert_eq!(api.set("k", "v").await.0, 200);
    }
    // Large ones get what the slow ones have.
    let value = "x".repeat(1_000_000);
    assert_eq!(api.set("k", &value).await.0, 200);
    // Who had to make way, at least one, may still send everything first, and reads why it was for nothing. Who was not
    // in the way goes on.
    let mut made_way = 0;
    for mut stream in slow {
        let rest = vec![b' '; (1 << 20) - (9 << 10)];
        stream.write_all(&rest).await.unwrap();
        let mut answer = [0; 1024];
        let length = within("an answer", stream.read(&mut answer)).await.unwrap();
        let answer = String::from_utf8_lossy(&answer[..length]);
        if answer.starts_with("HTTP/1.1 503") {
            let told = answer.contains("retry-after: 1")
                && answer.contains("no room for the request body");
            assert!(told, "{answer}");
            made_way += 1;
        } else {
            assert!(answer.contains("the body is empty"), "{answer}");
        }
    }
    assert!(made_way > 0);
    drop(silent);
}

#[tokio::test]
async fn many_large_bodies_at_a_time_take_turns() {
    let api = Api::start(&["--max-buffered", "2Mi"]).await;
    let value = "x".repeat(1_000_000);
    let all = (0..8).map(|index| {
        let (api, value) = (&api, &value);
        async move { api.set(&format!("k{index}"), value).await.0 }
    });
    assert_eq!(futures::future::join_all(all).await, [200; 8]);
}

#[tokio::test]
async fn responses_that_nobody_reads_leave_no_room_and_are_not_added_to() {
    let api = Api::start(&["--max-buffered", "2Mi"]).await;
    assert_eq!(api.set("small", "v").await.0, 200);
    assert_eq!(api.set("large", &"x".repeat(1_000_000)).await.0, 200);
    let get = "GET /cache/large HTTP/1.1\r\nhost: x\r\n\r\n";
    let mut readers = Vec::new();
    for _ in 0..2 {
        // The first of them fit into the sockets' buffers.
        let mut stream = TcpStream::connect(api.address).await.unwrap();
        stream.write_all(get.repeat(64).as_bytes()).await.unwrap();
        readers.push(stream);
    }
    until("there is no room", async || api.get("large").await.0 == 503).await;
    let response = api.http.get(api.url("/cache/large")).send().await.unwrap();
    assert_eq!(response.status(), 503);
    assert_eq!(response.headers()["retry-after"], "1");
    assert_eq!(
        response.text().await.unwrap(),
        r#"{"error":"no room for the response now; try again"}"#
    );
    assert_eq!(api.get("small").await.0, 200);
    drop(readers);
    until("there is room again", async || {
        api.get("large").await.0 == 200
    })
    .await;
}

#[tokio::test]
async fn a_redis_that_is_gone_costs_no_more_than_the_deadline() {
    let mut server = Server::start(&[]).await;
    let api = Api::over(&server.url(), &["--request-deadline", "1s"]).await;
    assert_eq!(api.set("k", "v").await.0, 200);
    server.kill();
    for request in [
        api.http.get(api.url("/cache/k")),
        api.http.delete(api.url("/cache/k")),
    ] {
        let began = Instant::now();
        let response = request.send().await.unwrap();
        assert!(
            began.elapsed() < Duration::from_millis(1500),
            "{:?}",
            began.elapsed()
        );
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers()["retry-after"], "1");
        assert!(
            response
                .text()
                .await
                .unwrap()
                .contains("the store is unavailable")
        );
    }
    let (status, health) = answer(api.http.get(api.url("/health"))).await;
    assert!(
        status == 503 && health.contains("unhealthy"),
        "{status} {health}"
    );
    // And when it comes back, so do we.
    let again = Server::start_on(server.port, 0, &[]).await.unwrap();
    assert_eq!(api.set("k", "v").await.0, 200);
    drop(again);
}

#[tokio::test]
async fn a_redis_that_was_never_there_is_no_reason_to_hang() {
    let api = Api::start(&[
        "--redis-url",
        "redis://127.0.0.1:1",
        "--request-deadline",
        "500ms",
    ])
    .await;
    assert_eq!(api.get("k").await.0, 503);
    assert!(!api.is_ready().await);
    let (status, _) = answer(api.http.get(api.url("/stats"))).await;
    assert_eq!(status, 503);
}

#[tokio::test]
async fn a_pod_that_knew_the_cluster_stays_ready_to_say_503() {
    let mut server = Server::start(&[]).await;
    let api = Api::over(&server.url(), &["--request-deadline", "300ms"]).await;
    server.kill();
    let response = api.http.get(api.url("/cache/k")).send().await.unwrap();
    assert_eq!(response.status(), 503);
    assert_eq!(response.headers()["retry-after"], "1");
    assert!(api.is_ready().await);
    // One that never knew the cluster is of no use to anybody.
    let new = Api::start(&["--redis-url", &server.url()]).await;
    until("the new one has asked", async || {
        new.metrics().await.contains("map_refreshes_total")
    })
    .await;
    assert!(!new.is_ready().await);
}

#[tokio::test]
async fn errors_of_the_store_are_told_apart() {
    let server = Server::start(&["--maxmemory", "2mb", "--maxmemory-policy", "noeviction"]).await;
    let api = Api::over(&server.url(), &[]).await;
    let () = server.run("RPUSH list a").await;
    assert_eq!(api.get("list").await.0, 409);
    let large = "x".repeat(900_000);
    let mut last = (200, String::new());
    for index in 0..5 {
        last = api.set(&format!("k{index}"), &large).await;
    }
    assert!(
        last.0 == 503 && last.1.contains("memory is full"),
        "{last:?}"
    );
}

#[test]
fn malformed_requests_are_never_our_fault() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let api = runtime.block_on(Api::start(&[]));
    let method = prop_oneof!["GET", "POST", "DELETE", "HEAD", "PUT", "[A-Z]{1,9}"];
    let path = prop_oneof![
        "/cache",
        "/cache/[!-~]{0,20}",
        "/[!-~]{0,20}",
        "/cache/(%[0-9a-g]{2}){1,4}"
    ];
    let header = "[a-zA-Z-]{1,12}: [ -~]{0,20}";
    let strategy = (method, path, header, any::<Vec<u8>>());
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 200,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    runner
        .run(&strategy, |(method, path, header, body)| {
            let mut request = format!(
                "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{header}\r\ncontent-length: {}\r\n\r\n",
                body.len()
            )
            .into_bytes();
            request.extend_from_slice(&body);
            let answer = runtime.block_on(raw(&api, &request));
            prop_assert!(
                answer.starts_with("HTTP/1.1 ") && !answer.starts_with("HTTP/1.1 5"),
                "{}",
                answer
            );
            Ok(())
        })
        .unwrap();
    assert_eq!(runtime.block_on(api.set("k", "v")).0, 200);
}
