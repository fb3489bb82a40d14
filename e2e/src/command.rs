//! `kubectl` and `helm`, for what users do with them.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// Which cluster the binaries speak to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Target {
    /// `--kubeconfig`; absent: as the binaries choose.
    pub(crate) kubeconfig: Option<PathBuf>,
    /// `--context`; absent: the current one.
    pub(crate) context: Option<String>,
}

impl Target {
    /// `kubectl` with these arguments: what it printed.
    ///
    /// # Errors
    /// When it cannot be started, fails, or takes longer than `limit`.
    pub(crate) async fn kubectl(&self, args: &[&str], limit: Duration) -> Result<String> {
        self.kubectl_with(args, None, limit).await
    }

    /// The same, with a text on its standard input.
    ///
    /// # Errors
    /// As [`Target::kubectl`].
    pub(crate) async fn kubectl_with(
        &self,
        args: &[&str],
        input: Option<&str>,
        limit: Duration,
    ) -> Result<String> {
        run(Command::new("kubectl").args(self.words(args)), input, limit).await
    }

    /// The arguments with which `kubectl` does this on the cluster.
    pub(crate) fn words(&self, args: &[&str]) -> Vec<OsString> {
        let mut words: Vec<OsString> = Vec::new();
        if let Some(path) = &self.kubeconfig {
            words.extend(["--kubeconfig".into(), path.into()]);
        }
        if let Some(context) = &self.context {
            words.extend(["--context".into(), context.into()]);
        }
        words.extend(args.iter().map(OsString::from));
        words
    }

    /// `helm` with these arguments: what it printed.
    ///
    /// # Errors
    /// As [`Target::kubectl`].
    pub(crate) async fn helm(&self, args: &[&str], limit: Duration) -> Result<String> {
        let mut command = Command::new("helm");
        if let Some(path) = &self.kubeconfig {
            command.arg("--kubeconfig").arg(path);
        }
        if let Some(context) = &self.context {
            command.args(["--kube-context", context]);
        }
        run(command.args(args), None, limit).await
    }
}

/// Any program with these arguments: what it printed.
///
/// # Errors
/// When it cannot be started, fails, or takes longer than `limit`.
pub(crate) async fn program(path: &Path, args: &[&str], limit: Duration) -> Result<String> {
    run(Command::new(path).args(args), None, limit).await
}

async fn run(command: &mut Command, input: Option<&str>, limit: Duration) -> Result<String> {
    let said = format!("{:?}", command.as_std());
    let mut child = command
        .stdin(if input.is_some() {
            Stdio::piped()
        } else {
            Stdio::null()
        })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("starting {said}"))?;
    if let (Some(input), Some(mut stdin)) = (input, child.stdin.take()) {
        stdin
            .write_all(input.as_bytes())
            .await
            .with_context(|| format!("writing to {said}"))?;
    }
    let output = tokio::time::timeout(limit, child.wait_with_output())
        .await
        .with_context(|| format!("{said} did not end within {limit:?}"))??;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(text);
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    bail!("{said}: {}\n{text}{complaint}", output.status)
}
