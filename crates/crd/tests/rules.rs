//! The admission rules, evaluated locally as the API server evaluates them, and the defaults.

#![allow(clippy::unwrap_used)]

use cachecluster_crd::{CacheCluster, MAX_NAME, MAX_SHARDS, definition};
use serde_json::{Value, json};

fn cluster(name: &str, spec: Value) -> CacheCluster {
    let object = json!({
        "apiVersion": "cachecluster.io/v1alpha1", "kind": "CacheCluster", "metadata": {"name": name}, "spec": spec,
    });
    serde_json::from_value(object).unwrap()
}

/// What the rules say of a new resource; empty when it is accepted.
fn refusal(name: &str, spec: Value) -> String {
    cluster(name, spec)
        .validate_cel()
        .map_or_else(|errors| errors.to_string(), |()| String::new())
}

/// What the rules say of an edit.
fn edit_refusal(old: Value, new: Value) -> String {
    cluster("demo", new)
        .validate_cel_update(&cluster("demo", old))
        .map_or_else(|errors| errors.to_string(), |()| String::new())
}

#[test]
fn an_empty_spec_is_a_working_cluster() {
    let spec = cluster("demo", json!({})).spec;
    assert_eq!((spec.shards, spec.replicas), (3, 1));
    assert_eq!(spec.engine.image, "redis:8.2");
    assert_eq!(spec.memory.bytes(), Some(512 << 20));
    assert_eq!(spec.api.replicas, 2);
    assert!(spec.storage.is_none());
    assert_eq!(refusal("demo", json!({})), "");
}

#[test]
fn everything_that_can_be_asked_for_is_accepted_together() {
    let spec = json!({
        "profile": "Durable", "durability": {"fsync": "Always"}, "shards": 1, "replicas": 5, "memory": "2G",
        "engine": {"image": "valkey/valkey:9.1", "eviction": "volatile-ttl", "config": {"slowlog-log-slower-than": "5000"}},
        "storage": {"size": "4Gi", "storageClassName": "fast", "onDelete": "Delete"},
        "auth": {"secretName": "team-a.mine"},
        "api": {
            "replicas": 3, "resources": {"requests": {"cpu": 1, "memory": "0.5Gi"}, "limits": {"cpu": "1500m", "memory": "1e9"}},
            "service": {"type": "NodePort", "nodePort": 30500, "annotations": {"a": "b"}},
        },
    });
    assert_eq!(refusal("demo", spec), "");
}

#[test]
fn what_cannot_work_is_refused_with_a_way_out() {
    let cases: [(&str, Value, &str); 23] = [
        ("demo", json!({"profile": "Durable"}), "add spec.storage"),
        (
            "demo",
            json!({"durability": {"fsync": "Always"}, "storage": {"size": "1Gi"}}),
            "set spec.profile to Durable",
        ),
        (
            "demo",
            json!({"profile": "Durable", "storage": {"size": "1Gi"}, "engine": {"config": {"appendfsync": "no"}}}),
            "see spec.durability.fsync",
        ),
        (
            "a-name-of-forty-three-characters-is-too-long",
            json!({}),
            "choose a shorter name",
        ),
        ("with.dots", json!({}), "lower-case letters"),
        ("7up", json!({}), "starting with a letter"),
        ("demo", json!({"memory": "lots"}), "write it like 512Mi"),
        ("demo", json!({"memory": "1.5Gi"}), "write it like 512Mi"),
        ("demo", json!({"memory": "16Mi"}), "at least 32Mi"),
        ("demo", json!({"memory": "99999999999Ti"}), "at most 1Ti"),
        ("demo", json!({"memory": "1025Gi"}), "at most 1Ti"),
        ("demo", json!({"storage": {"size": "1"}}), "at least 64Mi"),
        (
            "demo",
            json!({"storage": {"size": "99999999999Ti"}}),
            "at most 64Ti",
        ),
        (
            "demo",
            json!({"storage": {"size": "1Gi", "storageClassName": "Fast Disks"}}),
            "kubectl get storageclass",
        ),
        (
            "demo",
            json!({"auth": {"secretName": "UPPER_case"}}),
            "kubectl get secrets",
        ),
        (
            "demo",
            json!({"auth": {"secretName": "ends-with-"}}),
            "kubectl get secrets",
        ),
        (
            "demo",
            json!({"engine": {"image": "redis 8"}}),
            "without spaces",
        ),
        (
            "demo",
            json!({"engine": {"config": {"Maxclients": "1"}}}),
            "lower case",
        ),
        (
            "demo",
            json!({"engine": {"config": {"maxclients": "1\nport 1"}}}),
            "one line",
        ),
        (
            "demo",
            json!({"engine": {"config": {"requirepass": "x"}}}),
            "spec.auth for passwords",
        ),
        (
            "demo",
            json!({"engine": {"config": {"port": "1", "maxclients": "1", "requirepass": "x"}}}),
            "set by the operator: port requirepass. Use",
        ),
        (
            "demo",
            json!({"storage": {"size": "big"}}),
            "write it like 10Gi",
        ),
        (
            "demo",
            json!({"api": {"service": {"nodePort": 30500}}}),
            "set spec.api.service.type",
        ),
    ];
    for (name, spec, words) in cases {
        let said = refusal(name, spec.clone());
        assert!(
            said.contains(words),
            "{name} {spec}: wanted {words:?}, got {said:?}"
        );
    }
}

#[test]
fn edits_that_would_need_data_to_move_are_refused_and_the_others_are_not() {
    for (old, new, words) in [
        (json!({}), json!({"shards": 5}), "spec.shards"),
        (
            json!({}),
            json!({"engine": {"image": "redis:8.4"}}),
            "spec.engine",
        ),
        (json!({}), json!({"memory": "1Gi"}), "spec.memory"),
        (
            json!({}),
            json!({"storage": {"size": "1Gi"}}),
            "spec.storage",
        ),
        (
            json!({"storage": {"size": "1Gi"}}),
            json!({"storage": {"size": "2Gi"}}),
            "spec.storage",
        ),
        (
            json!({"storage": {"size": "1Gi"}}),
            json!({}),
            "spec.storage",
        ),
        (
            json!({}),
            json!({"auth": {"secretName": "other"}}),
            "spec.auth",
        ),
        (
            json!({"storage": {"size": "1Gi"}}),
            json!({"profile": "Durable", "storage": {"size": "1Gi"}}),
            "spec.profile",
        ),
        (
            json!({"profile": "Durable", "storage": {"size": "1Gi"}}),
            json!({"profile": "Durable", "durability": {"fsync": "Always"}, "storage": {"size": "1Gi"}}),
            "spec.durability",
        ),
    ] {
        let said = edit_refusal(old, new.clone());
        assert!(
            said.contains(words) && said.contains("create a CacheCluster"),
            "{new}: {said:?}"
        );
    }
    for (old, new) in [
        (json!({}), json!({"replicas": 2})),
        (
            json!({"profile": "Durable", "storage": {"size": "1Gi"}}),
            json!({"profile": "Durable", "durability": {}, "storage": {"size": "1Gi"}, "replicas": 2}),
        ),
        (json!({}), json!({"api": {"replicas": 5}})),
        (
            json!({"storage": {"size": "1Gi"}}),
            json!({"storage": {"size": "1Gi", "onDelete": "Delete"}}),
        ),
    ] {
        assert_eq!(edit_refusal(old, new.clone()), "", "{new}");
    }
}

#[test]
fn amounts_of_the_api_are_held_against_a_pattern() {
    let text = serde_json::to_value(definition()).unwrap();
    let resources = text.pointer(
        "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/api/properties/resources/properties",
    );
    for part in ["requests", "limits"] {
        let amount = &resources.unwrap()[part]["additionalProperties"];
        let pattern = amount["pattern"].as_str().unwrap();
        // CEL and the schema read patterns alike.
        assert!(pattern.starts_with("^[0-9]+") && pattern.ends_with('$'));
        assert_eq!(amount["x-kubernetes-int-or-string"], true, "{amount}");
    }
}

#[test]
fn a_field_that_does_nothing_is_not_accepted() {
    let object = json!({
        "apiVersion": "cachecluster.io/v1alpha1", "kind": "CacheCluster", "metadata": {"name": "demo"},
        "spec": {"profil": "Durable"},
    });
    assert!(serde_json::from_value::<CacheCluster>(object).is_err());
}

#[test]
fn a_cluster_is_paused_and_resumed_at_any_time() {
    let (off, on) = (json!({}), json!({"maintenance": {"paused": true}}));
    assert!(!cluster("demo", off.clone()).spec.maintenance.paused);
    assert!(cluster("demo", on.clone()).spec.maintenance.paused);
    assert_eq!(refusal("demo", on.clone()), "");
    assert_eq!(edit_refusal(off.clone(), on.clone()), "");
    assert_eq!(edit_refusal(on.clone(), off), "");
    // It opens no back door.
    let grown = json!({"shards": 5, "maintenance": {"paused": true}});
    assert!(edit_refusal(on, grown).contains("spec.shards cannot be changed"));
}

#[test]
fn the_limits_in_the_schema_are_those_in_the_code() {
    let text = serde_json::to_string(&definition()).unwrap();
    assert!(
        text.contains(&format!("\"maximum\":{MAX_SHARDS}"))
            || text.contains(&format!("\"maximum\":{MAX_SHARDS}.0"))
    );
    assert!(text.contains(&format!("self.metadata.name.size() <= {MAX_NAME}")));
}

#[test]
fn the_definition_is_the_one_that_was_reviewed() {
    insta::assert_yaml_snapshot!(definition());
}
