//! The legacy contract: `POST /cache`, `GET /cache/{key}`, `DELETE /cache/{key}`.
//!
//! Bodies are exact to the byte. A value is a JSON scalar: a string is stored as its text; a number or a boolean as its
//! JSON text, just as it was written (`1.50` stays `1.50`, `true` stays `true`), and comes back as a string, as the
//! original's did. `ttl_seconds: null` means no TTL. Members that the contract does not know are ignored, and the
//! content type is not looked at. A key is any non-empty UTF-8 text up to the limit, percent-encoded in the path, where
//! it may contain slashes. A value that another client stored and that is not UTF-8 is shown with U+FFFD in place of
//! what cannot be.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::error::{Error, json};
use crate::middleware::admit::Deadline;
use crate::middleware::body;
use crate::room::Held;
use crate::router::App;
use crate::store::Store;

/// Longest TTL: ten years, in seconds. Beyond that it is a mistake in units more likely than a wish.
pub const MAX_TTL_SECONDS: u64 = 10 * 366 * 24 * 60 * 60;

/// `POST /cache`.
///
/// # Errors
/// 400 for a body that cannot be meant, 413, or what the store says.
pub async fn set<S: Store>(
    State(app): State<Arc<App<S>>>,
    Extension(deadline): Extension<Deadline>,
    request: Request,
) -> Result<Response, Error> {
    let body = body::read(request, &app.limits, &app.bodies, deadline).await?;
    let entry = parse(&body.bytes, app.limits.key)?;
    // A value without escapes is a part of the body as it stands.
    let value = match entry.value {
        Cow::Borrowed(text) => body.bytes.slice_ref(text.as_bytes()),
        Cow::Owned(text) => text.into(),
    };
    app.store
        .set(entry.key.as_bytes(), value, entry.ttl, deadline.at)
        .await?;
    Ok(json(
        StatusCode::OK,
        r#"{"message":"Cache set successfully!"}"#,
    ))
}

/// `GET /cache/{key}`.
///
/// # Errors
/// 404 without a value, 400 for a key that cannot be, 503 if there is no room for the response, or what the store says.
pub async fn get<S: Store>(
    State(app): State<Arc<App<S>>>,
    Extension(deadline): Extension<Deadline>,
    key: Result<Path<String>, PathRejection>,
) -> Result<Response, Error> {
    let key = path_key(key, app.limits.key)?;
    let mut held = Held::default();
    loop {
        let value = app.store.get(key.as_bytes(), deadline.at).await?;
        let body = found(&key, &value.ok_or(Error::KeyNotFound)?)?;
        let length = body.len();
        if !held.covers(length) {
            held = match app.responses.try_take(length) {
                Some(held) => held,
                None => {
                    // What waits for room takes none: the value is asked for again.
                    drop((body, held));
                    let room = app.responses.take(length).await;
                    held = room.map_err(|_| Error::NoRoom("response"))?;
                    continue;
                }
            };
        }
        return Ok(json(StatusCode::OK, held.keep(body)));
    }
}

fn found(key: &str, value: &[u8]) -> Result<Vec<u8>, Error> {
    let found = Found {
        key,
        value: String::from_utf8_lossy(value),
    };
    let mut body = Vec::with_capacity(key.len() + value.len() + 32);
    serde_json::to_writer(&mut body, &found).map_err(|_| Error::Internal)?;
    Ok(body)
}

/// `DELETE /cache/{key}`.
///
/// # Errors
/// 404 without a value, 400 for a key that cannot be, or what the store says.
pub async fn delete<S: Store>(
    State(app): State<Arc<App<S>>>,
    Extension(deadline): Extension<Deadline>,
    key: Result<Path<String>, PathRejection>,
) -> Result<Response, Error> {
    let key = path_key(key, app.limits.key)?;
    if app.store.delete(key.as_bytes(), deadline.at).await? {
        Ok(json(StatusCode::OK, r#"{"message":"Key deleted"}"#))
    } else {
        Err(Error::KeyNotFound)
    }
}

/// `/cache/` with nothing behind the slash.
pub async fn no_key() -> Error {
    Error::BadRequest(Cow::Borrowed("the key in the path is empty"))
}

/// The answer to a `GET` that found something.
#[derive(Serialize)]
struct Found<'a> {
    key: &'a str,
    value: Cow<'a, str>,
}

/// The members of a `POST` body, each still as it was written, so that a complaint can name the one that is wrong.
#[derive(Deserialize)]
struct Members<'a> {
    #[serde(borrow)]
    key: Option<&'a RawValue>,
    #[serde(borrow)]
    value: Option<&'a RawValue>,
    #[serde(borrow)]
    ttl_seconds: Option<&'a RawValue>,
}

#[derive(Debug)]
struct Entry<'a> {
    key: Cow<'a, str>,
    value: Cow<'a, str>,
    ttl: Option<Duration>,
}

fn parse(body: &[u8], key_limit: usize) -> Result<Entry<'_>, Error> {
    let bad = |why: &'static str| Error::BadRequest(Cow::Borrowed(why));
    // Serde would take an array for a struct, member by member.
    match body.iter().find(|byte| !byte.is_ascii_whitespace()) {
        None => return Err(bad("the body is empty; it must be a JSON object")),
        Some(b'[' | b'"' | b'0'..=b'9' | b'-' | b't' | b'f' | b'n')
            if serde_json::from_slice::<serde::de::IgnoredAny>(body).is_ok() =>
        {
            return Err(bad("the body must be a JSON object with key and value"));
        }
        Some(_) => {}
    }
    let members: Members<'_> = serde_json::from_slice(body).map_err(|error| {
        Error::BadRequest(format!("the body is not valid JSON: {error}").into())
    })?;

    let key = members.key.ok_or_else(|| bad("key is missing"))?;
    let key = text(key)?.ok_or_else(|| bad("key must be a string"))?;
    check_key(&key, key_limit)?;

    let value = members.value.ok_or_else(|| bad("value is missing"))?;
    let value = match value.get().as_bytes().first() {
        Some(b'"') => text(value)?.unwrap_or_default(),
        Some(b'{') => {
            return Err(bad(
                "value must be a string, a number or a boolean, not an object",
            ));
        }
        Some(b'[') => {
            return Err(bad(
                "value must be a string, a number or a boolean, not an array",
            ));
        }
        Some(b'n') => {
            return Err(bad(
                "value must be a string, a number or a boolean, not null",
            ));
        }
        _ => Cow::Borrowed(value.get()),
    };
    let ttl = members.ttl_seconds.map(parse_ttl).transpose()?.flatten();
    Ok(Entry { key, value, ttl })
}

/// The text of a JSON string; `None` for another type.
fn text(raw: &RawValue) -> Result<Option<Cow<'_, str>>, Error> {
    #[derive(Deserialize)]
    struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

    if !raw.get().starts_with('"') {
        return Ok(None);
    }
    // A lone surrogate is well-formed JSON, and yet no text.
    serde_json::from_str::<Text<'_>>(raw.get())
        .map(|text| Some(text.0))
        .map_err(|error| Error::BadRequest(format!("a string is not valid text: {error}").into()))
}

fn parse_ttl(raw: &RawValue) -> Result<Option<Duration>, Error> {
    if raw.get() == "null" {
        return Ok(None);
    }
    match raw.get().parse::<u64>() {
        Ok(seconds @ 1..=MAX_TTL_SECONDS) => Ok(Some(Duration::from_secs(seconds))),
        Ok(0) => Err(Error::BadRequest(Cow::Borrowed(
            "ttl_seconds must be positive; leave it out to keep the value for ever",
        ))),
        Ok(_) => Err(too_long()),
        Err(error) if *error.kind() == std::num::IntErrorKind::PosOverflow => Err(too_long()),
        Err(_) => Err(Error::BadRequest(Cow::Borrowed(
            "ttl_seconds must be a positive whole number of seconds",
        ))),
    }
}

fn too_long() -> Error {
    Error::BadRequest(format!("ttl_seconds must be at most {MAX_TTL_SECONDS}").into())
}

fn path_key(key: Result<Path<String>, PathRejection>, limit: usize) -> Result<String, Error> {
    let Path(key) = key.map_err(|_| {
        Error::BadRequest(Cow::Borrowed(
            "the key in the path is not valid percent-encoded UTF-8",
        ))
    })?;
    check_key(&key, limit)?;
    Ok(key)
}

fn check_key(key: &str, limit: usize) -> Result<(), Error> {
    if key.is_empty() {
        return Err(Error::BadRequest(Cow::Borrowed("key must not be empty")));
    }
    if key.len() > limit {
        let why = format!(
            "key is {} bytes long; at most {limit} are allowed",
            key.len()
        );
        return Err(Error::BadRequest(why.into()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn complaint(body: &str) -> String {
        parse(body.as_bytes(), 16).unwrap_err().to_string()
    }

    #[test]
    fn scalars_are_kept_as_they_were_written() {
        for (written, kept) in [
            (r#""123""#, "123"),
            ("123", "123"),
            ("1.50", "1.50"),
            ("-1e400", "-1e400"),
            (
                "123456789012345678901234567890",
                "123456789012345678901234567890",
            ),
            ("true", "true"),
            ("false", "false"),
            (r#""""#, ""),
            (r#""\u00e9\n""#, "é\n"),
        ] {
            let body = format!(r#"{{"key":"k", "value": {written} }}"#);
            assert_eq!(parse(body.as_bytes(), 16).unwrap().value, kept);
        }
    }

    #[test]
    fn a_complaint_names_the_member_that_is_wrong() {
        for (body, words) in [
            ("", "empty"),
            ("{", "not valid JSON"),
            (r#"["k","v"]"#, "must be a JSON object"),
            ("7", "must be a JSON object"),
            ("{}", "key is missing"),
            (r#"{"key":null,"value":1}"#, "key is missing"),
            (r#"{"key":7,"value":1}"#, "key must be a string"),
            (r#"{"key":"","value":1}"#, "key must not be empty"),
            (r#"{"key":"12345678901234567","value":1}"#, "at most 16"),
            (r#"{"key":"k"}"#, "value is missing"),
            (r#"{"key":"k","value":{}}"#, "not an object"),
            (r#"{"key":"k","value":[1]}"#, "not an array"),
            (r#"{"key":"k","value":"\ud800"}"#, "not valid"),
            (
                r#"{"key":"k","value":1,"ttl_seconds":0}"#,
                "must be positive",
            ),
            (
                r#"{"key":"k","value":1,"ttl_seconds":-1}"#,
                "positive whole number",
            ),
            (
                r#"{"key":"k","value":1,"ttl_seconds":1.5}"#,
                "positive whole number",
            ),
            (
                r#"{"key":"k","value":1,"ttl_seconds":"60"}"#,
                "positive whole number",
            ),
            (
                r#"{"key":"k","value":1,"ttl_seconds":true}"#,
                "positive whole number",
            ),
            (
                r#"{"key":"k","value":1,"ttl_seconds":99999999999}"#,
                "at most",
            ),
            (
                r#"{"key":"k","value":1,"ttl_seconds":99999999999999999999999}"#,
                "at most",
            ),
        ] {
            assert!(
                complaint(body).contains(words),
                "{body}: {}",
                complaint(body)
            );
        }
    }

    #[test]
    fn unknown_members_and_a_null_ttl_are_ignored() {
        let body = br#"{"other":{"key":1},"ttl_seconds":null,"value":"v","key":"k"}"#;
        let entry = parse(body, 16).unwrap();
        assert_eq!((&*entry.key, &*entry.value, entry.ttl), ("k", "v", None));
    }

    proptest! {
        #[test]
        fn whatever_arrives_is_parsed_or_complained_of(body in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Err(error) = parse(&body, 16) {
                prop_assert_eq!(error.status(), StatusCode::BAD_REQUEST);
            }
        }

        #[test]
        fn every_text_survives(key in "\\PC{1,8}", value in any::<String>()) {
            let body = serde_json::to_vec(&serde_json::json!({"key": key, "value": value})).unwrap();
            let entry = parse(&body, 64).unwrap();
            prop_assert_eq!(&*entry.key, key.as_str());
            prop_assert_eq!(&*entry.value, value.as_str());
        }
    }
}
