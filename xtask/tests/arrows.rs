//! Which of our crates may depend on which (ARCHITECTURE.md). Arrows go one way only.

#![allow(clippy::unwrap_used)] // a test, also in its own functions

use std::collections::{BTreeMap, BTreeSet};

use cargo_metadata::{DependencyKind, MetadataCommand};

/// Each crate with those of ours that it may depend on.
const ALLOWED: &[(&str, &[&str])] = &[
    ("cachecluster-topology", &[]),
    ("cachecluster-contract", &[]),
    ("cachecluster-telemetry", &[]),
    ("cachecluster-crd", &["cachecluster-contract"]),
    ("cachecluster-redis-admin", &["cachecluster-topology"]),
    (
        "cachecluster-agent",
        &[
            "cachecluster-contract",
            "cachecluster-redis-admin",
            "cachecluster-telemetry",
            "cachecluster-topology",
        ],
    ),
    (
        "cachecluster-api",
        &["cachecluster-contract", "cachecluster-telemetry"],
    ),
    (
        "cachecluster-operator",
        &[
            "cachecluster-contract",
            "cachecluster-crd",
            "cachecluster-redis-admin",
            "cachecluster-telemetry",
            "cachecluster-topology",
        ],
    ),
    (
        "cachecluster-e2e",
        &["cachecluster-contract", "cachecluster-crd"],
    ),
    ("xtask", &[]),
];

/// Each member of the workspace with the names of its direct dependencies, without those for tests.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let metadata = MetadataCommand::new().no_deps().exec().unwrap();
    let of = |package: &cargo_metadata::Package| {
        package
            .dependencies
            .iter()
            .filter(|dependency| dependency.kind != DependencyKind::Development)
            .map(|dependency| dependency.name.clone())
            .collect()
    };
    metadata
        .packages
        .iter()
        .map(|package| (package.name.to_string(), of(package)))
        .collect()
}

#[test]
fn crates_depend_on_ours_only_along_the_arrows() {
    let found = dependencies();
    let members: BTreeSet<_> = found.keys().cloned().collect();
    let allowed: BTreeMap<_, _> = ALLOWED.iter().copied().collect();
    assert_eq!(
        members,
        allowed.keys().map(ToString::to_string).collect(),
        "a member of the workspace has no line in this test, or the other way round"
    );
    for (name, dependencies) in &found {
        for dependency in dependencies.intersection(&members) {
            assert!(
                allowed[name.as_str()].contains(&dependency.as_str()),
                "{name} must not depend on {dependency}"
            );
        }
    }
}

#[test]
fn the_planner_is_pure_and_the_api_knows_no_kubernetes() {
    let found = dependencies();
    for banned in ["tokio", "redis", "futures", "kube", "serde"] {
        assert!(
            !found["cachecluster-topology"].contains(banned),
            "topology depends on {banned}"
        );
    }
    for banned in ["kube", "k8s-openapi"] {
        for name in ["cachecluster-api", "cachecluster-agent"] {
            assert!(!found[name].contains(banned), "{name} depends on {banned}");
        }
    }
}
