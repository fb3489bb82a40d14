//! Commands that destroy data have no place in any code path.

#![allow(clippy::unwrap_used)] // a test, also in its own functions

use std::fs;
use std::path::{Path, PathBuf};

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// A source without its comments, in capitals, with everything between words made one space: `"CLUSTER").arg("RESET"`
/// reads `CLUSTER ARG RESET`.
fn words(source: &str) -> String {
    let code = source.lines().map(|line| {
        let code = line.trim_start();
        if code.starts_with("//") { "" } else { code }
    });
    let text: String = code.collect::<Vec<_>>().join(" ").to_uppercase();
    text.split(|letter: char| !letter.is_ascii_alphanumeric())
        .filter(|word| !word.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}

fn destroys(source: &str) -> Option<&'static str> {
    let words = format!(" {} ", words(source));
    ["FLUSHALL", "FLUSHDB", "CLUSTER RESET", "CLUSTER ARG RESET"]
        .into_iter()
        .find(|command| words.contains(&format!(" {command} ")))
}

#[test]
fn no_source_contains_a_command_that_destroys_data() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut found = Vec::new();
    for entry in fs::read_dir(root.join("crates")).unwrap() {
        sources(&entry.unwrap().path().join("src"), &mut found);
    }
    assert!(
        found.len() > 30,
        "only {} sources were looked at",
        found.len()
    );
    for path in found {
        let source = fs::read_to_string(&path).unwrap();
        assert_eq!(destroys(&source), None, "{}", path.display());
    }
}

#[test]
fn each_way_to_write_them_is_seen() {
    assert!(destroys(r#"cmd("FLUSHALL")"#).is_some());
    assert!(destroys(r#"cmd("flushdb").arg("ASYNC")"#).is_some());
    assert!(destroys(r#"cmd("CLUSTER").arg("RESET").arg("HARD")"#).is_some());
    assert!(destroys("let x = [\"CLUSTER\",\n   \"RESET\"];").is_some());
    assert_eq!(destroys("// never FLUSHALL\nlet reset = cluster;"), None);
}
