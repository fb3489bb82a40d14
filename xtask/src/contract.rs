//! The HTTP contract, as the prober of the scenarios states it.

use std::net::SocketAddr;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::images;

/// Lets the prober make every statement of the contract; the number of those that held.
///
/// # Errors
/// When one did not, with what was seen instead; when nothing answers within a minute, or the prober was not built.
pub(crate) fn check(api: SocketAddr) -> Result<usize> {
    let program = images::binary("e2e")?;
    let url = format!("http://{api}");
    let output = Command::new(&program)
        .args(["prober", "contract", "--patience", "60", "--url", &url])
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("start {}", program.display()))?;
    let said = String::from_utf8_lossy(&output.stdout);
    let complaint = String::from_utf8_lossy(&output.stderr);
    judge(&said).with_context(|| format!("the contract at {url}: {}", complaint.trim()))
}

/// Reads the report, the last line.
fn judge(said: &str) -> Result<usize> {
    let last = said.lines().last().context("the prober said nothing")?;
    let report: Value = serde_json::from_str(last).context("the prober made no report")?;
    let passed = report["passed"].as_u64().context("no number of checks")?;
    let failures = report["failures"].as_array().context("no failures")?;
    if !failures.is_empty() || passed == 0 {
        let failures: Vec<_> = failures.iter().map(ToString::to_string).collect();
        bail!("{passed} statements held; {}", failures.join("\n"));
    }
    Ok(usize::try_from(passed)?)
}

#[cfg(test)]
mod tests {
    use super::judge;

    #[test]
    fn only_a_report_without_failures_passes() {
        let started = "{\"event\":\"started\"}";
        let with = |report: &str| judge(&format!("{started}\n{report}\n"));
        assert_eq!(with(r#"{"passed":63,"failures":[]}"#).unwrap(), 63);
        assert!(with(r#"{"passed":62,"failures":["GET"]}"#).is_err());
        assert!(with(r#"{"passed":0,"failures":[]}"#).is_err());
        assert!(judge(started).is_err());
        assert!(judge("").is_err());
    }
}
