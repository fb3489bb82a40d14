//! The legacy HTTP contract, as a client sees it.

use std::net::SocketAddr;

use anyhow::{Result, bail};
use serde_json::{Value, json};

use crate::http::request;

/// Goes through every answer that the contract promises; the number of checks made.
///
/// # Errors
/// At the first answer that differs, with what was sent, expected and received.
pub(crate) fn check(api: SocketAddr) -> Result<usize> {
    let not_found = json!({"error": "Key not found"});
    let exact = [
        (
            "POST",
            "/cache",
            Some(r#"{"key":"test","value":"123"}"#),
            200,
            json!({"message": "Cache set successfully!"}),
        ),
        (
            "GET",
            "/cache/test",
            None,
            200,
            json!({"key": "test", "value": "123"}),
        ),
        (
            "POST",
            "/cache",
            Some(r#"{"key":"test","value":"456","ttl_seconds":60}"#),
            200,
            json!({"message": "Cache set successfully!"}),
        ),
        (
            "GET",
            "/cache/test",
            None,
            200,
            json!({"key": "test", "value": "456"}),
        ),
        (
            "DELETE",
            "/cache/test",
            None,
            200,
            json!({"message": "Key deleted"}),
        ),
        ("DELETE", "/cache/test", None, 404, not_found.clone()),
        ("GET", "/cache/test", None, 404, not_found),
    ];
    for (method, path, body, status, expected) in &exact {
        let answer = request(api, method, path, *body)?;
        let said: Value = serde_json::from_str(&answer.body).unwrap_or_default();
        if answer.status != *status || said != *expected {
            bail!(
                "{method} {path} {} must answer {status} {expected}, but answered {} {}",
                body.unwrap_or_default(),
                answer.status,
                answer.body
            );
        }
    }
    let refused = [
        "no json",
        "{}",
        r#"{"value":"1"}"#,
        r#"{"key":"","value":"1"}"#,
        r#"{"key":"k","value":{"a":1}}"#,
        r#"{"key":"k","value":"1","ttl_seconds":0}"#,
        r#"{"key":"k","value":"1","ttl_seconds":-5}"#,
    ];
    for body in refused {
        let answer = request(api, "POST", "/cache", Some(body))?;
        let said: Value = serde_json::from_str(&answer.body).unwrap_or_default();
        if answer.status != 400 || said["error"].as_str().is_none_or(str::is_empty) {
            bail!(
                "POST /cache {body} must answer 400 with an error, but answered {} {}",
                answer.status,
                answer.body
            );
        }
    }
    for path in ["/health", "/stats"] {
        let answer = request(api, "GET", path, None)?;
        if answer.status != 200 || serde_json::from_str::<Value>(&answer.body).is_err() {
            bail!(
                "GET {path} must answer 200 with JSON, but answered {} {}",
                answer.status,
                answer.body
            );
        }
    }
    Ok(exact.len() + refused.len() + 2)
}
