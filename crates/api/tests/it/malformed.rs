//! What is no HTTP/1 is told so, in JSON, in time to be read.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::api::{Api, within};

/// All that the server says until it closes the connection, which must not be a reset.
async fn said_to(api: &Api, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(api.address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = String::new();
    within(
        "the connection is closed",
        stream.read_to_string(&mut answer),
    )
    .await
    .expect("no reset");
    answer
}

fn assert_refused(answer: &str, status: u16, about: &str, name: &str) {
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .unwrap_or_else(|| panic!("{name}: {answer:?}"));
    assert!(
        head.starts_with(&format!("HTTP/1.1 {status} ")),
        "{name}: {head}"
    );
    let length = format!("content-length: {}", body.len());
    for header in [
        "content-type: application/json",
        "connection: close",
        "x-request-id: ",
        "date: ",
        &length,
    ] {
        assert!(head.contains(header), "{name}: {header}: {head}");
    }
    let body: serde_json::Value = serde_json::from_str(body).unwrap();
    let error = body["error"].as_str().unwrap();
    assert!(error.contains(about), "{name}: {error}");
}

fn with(head: &str) -> Vec<u8> {
    format!("{head}\r\n\r\n").into_bytes()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_only_stops_to_send_gets_its_answer() {
    let api = Api::start(&[]).await;
    let mut stream = TcpStream::connect(api.address).await.unwrap();
    let request = with("GET /cache/none HTTP/1.1\r\nhost: x");
    stream.write_all(&request).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    let end = stream.read_to_string(&mut answer);
    within("the connection is closed", end).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
    assert!(answer.ends_with(r#"{"error":"Key not found"}"#), "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_http_is_refused_in_json() {
    let api = Api::start(&[]).await;
    let host = "GET /cache/k HTTP/1.1\r\nhost: x";
    let many: String = (0..101).map(|index| format!("\r\nx-{index}: y")).collect();
    let long = "y".repeat(70_000);
    let chunked = "POST /cache HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked";
    let rest = vec![b'z'; 12 << 20];
    let cases = [
        ("garbage", with("\x01\x02 garbage"), 400, "METHOD /path"),
        ("one word", with("garbage"), 400, "METHOD /path"),
        (
            "TLS",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
            400,
            "not valid HTTP",
        ),
        (
            "no colon",
            with(&format!("{host}\r\nnonsense")),
            400,
            "header",
        ),
        (
            "many headers",
            with(&format!("{host}{many}")),
            431,
            "100 headers",
        ),
        (
            "two lengths",
            with("POST /cache HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2"),
            400,
            "content-length",
        ),
        (
            "a length that is none",
            with("POST /cache HTTP/1.1\r\nhost: x\r\ncontent-length: -1"),
            400,
            "content-length",
        ),
        (
            "a space in the path",
            with("GET /cache/a b HTTP/1.1\r\nhost: x"),
            400,
            "no other spaces",
        ),
        (
            "a version",
            with("GET / HTTP/7.0\r\nhost: x"),
            400,
            "version",
        ),
        (
            "half an HTTP/2 preface",
            b"PRI * HTTP/2.0\r\n\r\nnot so".to_vec(),
            400,
            "version",
        ),
        (
            "a long path",
            with(&format!("GET /{long} HTTP/1.1\r\nhost: x")),
            431,
            "65536 bytes",
        ),
        (
            "a long head",
            with(&format!("{host}\r\nx: {long}")),
            431,
            "65536 bytes",
        ),
        (
            "a bad chunk",
            [&with(chunked)[..], b"xyz\r\n{}\r\n"].concat(),
            400,
            "Invalid chunk size",
        ),
        (
            "a bad chunk with much behind it",
            [&with(chunked)[..], b"2\r\n{}\r\nxyz\r\n", &rest].concat(),
            400,
            "Invalid chunk size",
        ),
        (
            "garbage with much behind it",
            [&with("garbage")[..], &rest].concat(),
            400,
            "METHOD /path",
        ),
    ];
    for (name, bytes, status, about) in cases {
        assert_refused(&said_to(&api, &bytes).await, status, about, name);
    }
    assert_eq!(api.set("k", "v").await.0, 200);
}

#[tokio::test]
async fn requests_before_the_malformed_one_are_answered() {
    let api = Api::start(&[]).await;
    api.set("k", "v").await;
    let good = with("GET /cache/k HTTP/1.1\r\nhost: x");
    let answer = said_to(&api, &[&good[..], &good, &with("garbage")].concat()).await;
    let refusal = answer.find("HTTP/1.1 400").expect("a refusal");
    let (answers, refusal) = answer.split_at(refusal);
    assert_eq!(
        answers.matches(r#"{"key":"k","value":"v"}"#).count(),
        2,
        "{answers}"
    );
    assert_refused(refusal, 400, "METHOD /path", "after two");
}

#[tokio::test]
async fn a_value_that_looks_like_a_refusal_comes_back_whole() {
    let api = Api::start(&[]).await;
    let value = "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n".repeat(15_000);
    assert_eq!(api.set("k", &value).await.0, 200);
    let (status, body) = api.get("k").await;
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, body["value"].as_str()), (200, Some(&*value)));
}
