//! Generated files: the chart's CRD is printed by the operator, `manifests/base` is rendered from the chart.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{command, install, testbed};

const CRD: &str = "charts/cachecluster/files/crd.yaml";
const BASE_CRD: &str = "manifests/base/crd.yaml";
const BASE_OPERATOR: &str = "manifests/base/operator.yaml";
const HEADER: &str = "# Written by cargo xtask generate from charts/cachecluster. Do not edit.\n";

/// Writes the files, or with `check` fails when they are not what would be written.
///
/// # Errors
/// Out of date; or cargo or Helm fails.
pub(crate) fn generate(check: bool) -> Result<()> {
    testbed::build_programs(&["helm"])?;
    let mut stale = Vec::new();
    let mut cargo = Command::new("cargo");
    cargo.args([
        "run",
        "--quiet",
        "--package",
        "cachecluster-operator",
        "--",
        "crd",
    ]);
    put(CRD, command::output(&mut cargo)? + "\n", check, &mut stale)?;
    // Rendered from the chart as it is on disk: with `check`, the CRD was compared just before.
    let crd = render(&["--show-only", "templates/crd.yaml"])?;
    put(BASE_CRD, crd, check, &mut stale)?;
    let operator = render(&["--set", "crds.enabled=false", "--skip-tests"])?;
    put(BASE_OPERATOR, operator, check, &mut stale)?;
    if !stale.is_empty() {
        bail!(
            "out of date: {}; run `cargo xtask generate`",
            stale.join(", ")
        );
    }
    Ok(())
}

fn put(path: &str, text: String, check: bool, stale: &mut Vec<String>) -> Result<()> {
    let is_current = fs::read_to_string(path).is_ok_and(|present| present == text);
    if is_current {
        return Ok(());
    }
    if check {
        stale.push(path.to_owned());
        return Ok(());
    }
    fs::write(path, text).with_context(|| format!("write {path}"))?;
    println!("wrote {path}");
    Ok(())
}

fn render(more: &[&str]) -> Result<String> {
    let mut helm = Command::new(testbed::program("helm")?);
    helm.args(["template", install::RELEASE, install::CHART])
        .args(["--namespace", install::NAMESPACE])
        .args(more);
    let rendered = command::output(&mut helm)?;
    Ok(format!("{HEADER}{rendered}\n"))
}
