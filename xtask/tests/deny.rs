//! What may become part of the binaries: the licenses, bans and sources of `deny.toml`, held against what cargo resolves.
//! `cargo deny check` reads the same file and looks at advisories as well.

#![allow(clippy::unwrap_used)] // a test, also in its own functions

use std::collections::{BTreeMap, BTreeSet};

use cargo_metadata::{MetadataCommand, Package};

const RULES: &str = include_str!("../../deny.toml");

/// The words between quotes from the line that starts with `key` to the end of its list.
fn list(key: &str) -> Vec<&'static str> {
    let start = RULES.find(&format!("\n{key} = [")).unwrap();
    let text = &RULES[start..];
    let lines = text[..text.find("\n]").unwrap()]
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'));
    lines
        .filter_map(|line| line.split('"').nth(1))
        .filter(|word| !word.is_empty())
        .collect()
}

/// Every package that cargo resolves for this platform.
fn packages() -> Vec<Package> {
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let metadata = MetadataCommand::new()
        .other_options([
            "--locked".to_owned(),
            "--filter-platform".to_owned(),
            platform,
        ])
        .exec()
        .unwrap();
    let used = metadata.resolve.unwrap().nodes;
    let used: BTreeSet<_> = used.into_iter().map(|node| node.id).collect();
    let mut packages = metadata.packages;
    packages.retain(|package| used.contains(&package.id));
    assert!(packages.len() > 100, "only {} packages", packages.len());
    packages
}

/// Whether a license expression can be kept with the allowed licenses alone.
fn is_allowed(expression: &str, allowed: &[&str]) -> bool {
    // A slash is how `OR` was written before expressions were.
    let spaced = expression
        .replace('/', " OR ")
        .replace('(', " ( ")
        .replace(')', " ) ")
        .replace(" WITH ", "\u{0}");
    let words: Vec<String> = spaced
        .split(' ')
        .filter(|word| !word.is_empty())
        .map(|word| word.replace('\u{0}', " WITH "))
        .collect();
    let mut rest = words.as_slice();
    any_of(&mut rest, allowed) && rest.is_empty()
}

fn any_of(rest: &mut &[String], allowed: &[&str]) -> bool {
    let mut holds = all_of(rest, allowed);
    while rest.first().is_some_and(|word| word == "OR") {
        *rest = &rest[1..];
        holds |= all_of(rest, allowed);
    }
    holds
}

fn all_of(rest: &mut &[String], allowed: &[&str]) -> bool {
    let mut holds = one(rest, allowed);
    while rest.first().is_some_and(|word| word == "AND") {
        *rest = &rest[1..];
        holds &= one(rest, allowed);
    }
    holds
}

fn one(rest: &mut &[String], allowed: &[&str]) -> bool {
    let Some((first, others)) = rest.split_first() else {
        return false;
    };
    *rest = others;
    if first != "(" {
        return allowed.contains(&first.as_str());
    }
    let holds = any_of(rest, allowed);
    let closed = rest.first().is_some_and(|word| word == ")");
    *rest = rest.get(1..).unwrap_or_default();
    holds && closed
}

#[test]
fn every_license_is_allowed() {
    let allowed = list("allow");
    assert!(allowed.contains(&"MIT"), "{allowed:?}");
    let refused: Vec<_> = packages()
        .iter()
        .filter(|package| !is_allowed(package.license.as_deref().unwrap_or_default(), &allowed))
        .map(|package| format!("{}: {:?}", package.name, package.license))
        .collect();
    assert!(refused.is_empty(), "{refused:?}");
}

#[test]
fn banned_crates_are_absent_and_single_ones_are_one() {
    let single: BTreeSet<_> = RULES
        .lines()
        .filter(|line| line.contains("deny-multiple-versions = true"))
        .filter_map(|line| line.split('"').nth(1))
        .collect();
    let named = list("deny");
    assert!(named.contains(&"openssl") && single.contains("kube"));
    let mut found = BTreeMap::<_, BTreeSet<_>>::new();
    for package in packages() {
        let versions = found.entry(package.name.to_string()).or_default();
        versions.insert(package.version);
    }
    for name in named {
        let versions = found.get(name).map_or(0, BTreeSet::len);
        let wanted = usize::from(single.contains(name));
        assert_eq!(versions, wanted, "{name}: {:?}", found.get(name));
    }
}

#[test]
fn every_crate_is_ours_or_from_the_registry() {
    for package in packages() {
        let source = package.source.map(|source| source.repr);
        assert!(
            source
                .as_deref()
                .is_none_or(|from| from == "registry+https://github.com/rust-lang/crates.io-index"),
            "{} is from {source:?}",
            package.name
        );
    }
}

#[test]
fn a_license_expression_is_read_as_it_is_meant() {
    let allowed = ["MIT", "Apache-2.0", "Apache-2.0 WITH LLVM-exception"];
    for good in [
        "MIT",
        "GPL-3.0 OR MIT",
        "MIT/GPL-3.0",
        "(MIT OR GPL-3.0) AND Apache-2.0",
        "Apache-2.0 WITH LLVM-exception",
    ] {
        assert!(is_allowed(good, &allowed), "{good}");
    }
    for bad in [
        "",
        "GPL-3.0",
        "MIT AND GPL-3.0",
        "(MIT OR Apache-2.0) AND GPL-3.0",
        "MIT WITH LLVM-exception",
        "(MIT",
    ] {
        assert!(!is_allowed(bad, &allowed), "{bad}");
    }
}
