//! Whether a live object is still what was applied. Pure.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::APPLIED;
use crate::memory::Mark;

/// Whether `live` is a later version than the marked one: a watch may lag behind our own writes.
pub(super) fn is_newer(live: Option<&str>, mark: &Mark) -> bool {
    let number = |version: &str| version.parse::<u64>().ok();
    match (
        live.and_then(number),
        mark.version.as_deref().and_then(number),
    ) {
        (Some(live), Some(marked)) => live > marked,
        _ => live != mark.version.as_deref(),
    }
}

/// Members that say which objects another one is about. A key that somebody adds changes that as much as one that is
/// taken away; the API server replaces them as a whole.
const WHOLE: [&str; 3] = ["selector", "podSelector", "matchLabels"];

/// The part of `live` that `wanted` speaks of.
pub(super) fn project(live: &Value, wanted: &Value) -> Value {
    match (live, wanted) {
        (Value::Object(live), Value::Object(wanted)) => Value::Object(
            wanted
                .iter()
                .filter_map(|(key, wanted)| {
                    let live = live.get(key)?;
                    if WHOLE.contains(&key.as_str()) {
                        return Some((key.clone(), live.clone()));
                    }
                    Some((key.clone(), project(live, wanted)))
                })
                .collect::<Map<_, _>>(),
        ),
        (Value::Array(live), Value::Array(wanted)) if live.len() == wanted.len() => Value::Array(
            live.iter()
                .zip(wanted)
                .map(|(live, wanted)| project(live, wanted))
                .collect(),
        ),
        _ => live.clone(),
    }
}

/// Whether a projection says all that was wanted. Empty values may have been left out on the way.
pub(super) fn covers(seen: &Value, wanted: &Value) -> bool {
    match (seen, wanted) {
        (Value::Object(seen), Value::Object(wanted)) => {
            wanted.iter().all(|(key, wanted)| match seen.get(key) {
                Some(seen) if WHOLE.contains(&key.as_str()) => seen == wanted,
                Some(seen) => covers(seen, wanted),
                None => is_empty(wanted),
            })
        }
        (Value::Array(seen), Value::Array(wanted)) => {
            seen.len() == wanted.len()
                && seen
                    .iter()
                    .zip(wanted)
                    .all(|(seen, wanted)| covers(seen, wanted))
        }
        _ => seen == wanted,
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(map) => map.values().all(is_empty),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

/// Writes the digest of its form upon an object.
pub(super) fn annotate(body: &mut Value, digest: u64) {
    if let Some(metadata) = body.get_mut("metadata").and_then(Value::as_object_mut) {
        let annotations = metadata
            .entry("annotations")
            .or_insert_with(|| Value::Object(Map::new()));
        if let Some(annotations) = annotations.as_object_mut() {
            annotations.insert(APPLIED.to_owned(), Value::String(text(digest)));
        }
    }
}

/// A digest as an annotation has it.
pub(super) fn text(digest: u64) -> String {
    format!("{digest:016x}")
}

/// FNV-1a over the value with sorted keys: the same for equal values in every version of the operator.
/// Source: <http://www.isthe.com/chongo/tech/comp/fnv/>
pub(super) fn digest(value: &Value) -> u64 {
    fn sorted(value: &Value) -> Value {
        match value {
            Value::Object(map) => {
                let ordered: BTreeMap<_, _> = map
                    .iter()
                    .map(|(key, value)| (key, sorted(value)))
                    .collect();
                json!(ordered)
            }
            Value::Array(items) => items.iter().map(sorted).collect(),
            other => other.clone(),
        }
    }
    let text = sorted(value).to_string();
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_projection_leaves_out_what_the_server_added() {
        let live = json!({"a": {"b": 1, "added": 2}, "list": [{"x": 1, "y": 2}], "status": {}});
        let wanted = json!({"a": {"b": 1}, "list": [{"x": 1}]});
        assert_eq!(project(&live, &wanted), wanted);
        assert!(covers(&project(&live, &wanted), &wanted));
    }

    #[test]
    fn what_somebody_changed_or_removed_is_not_covered() {
        let wanted = json!({"a": {"b": 1}, "list": [{"x": 1}]});
        for live in [
            json!({"a": {"b": 2}, "list": [{"x": 1}]}),
            json!({"a": {}, "list": [{"x": 1}]}),
            json!({"a": {"b": 1}, "list": [{"x": 1}, {"x": 2}]}),
        ] {
            assert!(!covers(&project(&live, &wanted), &wanted), "{live}");
        }
    }

    #[test]
    fn a_key_that_somebody_added_to_a_selector_is_seen() {
        let wanted = json!({"spec": {"selector": {"matchLabels": {"a": "b"}}}});
        let live = json!({"spec": {"selector": {"matchLabels": {"a": "b", "x": "y"}}}});
        assert_eq!(project(&live, &wanted), live);
        assert!(!covers(&project(&live, &wanted), &wanted));
        assert!(covers(&project(&wanted, &wanted), &wanted));
    }

    #[test]
    fn the_digest_does_not_depend_on_the_order_of_keys() {
        let one: Value = serde_json::from_str(r#"{"a":1,"b":{"c":2,"d":3}}"#).unwrap();
        let other: Value = serde_json::from_str(r#"{"b":{"d":3,"c":2},"a":1}"#).unwrap();
        assert_eq!(digest(&one), digest(&other));
        assert_ne!(digest(&one), digest(&json!({"a": 1})));
    }
}
