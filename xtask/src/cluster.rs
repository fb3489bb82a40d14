//! The cluster that tasks work on: a context that the user names, else kind, else the testbed.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::{command, place, testbed};

/// Name of the kind cluster, and so of its context `kind-cachecluster`.
const KIND: &str = "cachecluster";

/// A cluster, and how to talk to it.
pub(crate) enum Cluster {
    /// One that the user has; images must be pullable there.
    Context(String),
    /// kind, in containers of the local engine.
    Kind,
    /// Our own.
    Testbed,
}

impl Cluster {
    /// Chooses: the context, else kind if it is installed, else the testbed. One that runs comes before one that could.
    pub(crate) fn choose(context: Option<&str>) -> Self {
        match context {
            Some(context) => Self::Context(context.to_owned()),
            None if testbed::is_up() => Self::Testbed,
            None if command::find("kind").is_some() => Self::Kind,
            None => Self::Testbed,
        }
    }

    /// What it is, for people.
    pub(crate) fn description(&self) -> String {
        match self {
            Self::Context(context) => format!("the cluster of the context {context}"),
            Self::Kind => format!("the kind cluster {KIND}"),
            Self::Testbed => "the testbed".into(),
        }
    }

    /// Whether the images of this checkout are copied into its nodes.
    pub(crate) fn takes_images(&self) -> bool {
        !matches!(self, Self::Context(_))
    }

    /// Starts it if it does not run.
    pub(crate) fn up(&self, nodes: u32) -> Result<()> {
        match self {
            Self::Context(_) => {
                let version = self.kubectl()?.args(["version", "-o", "json"]).output()?;
                if !version.status.success() {
                    let said = String::from_utf8_lossy(&version.stderr);
                    bail!("{} does not answer: {}", self.description(), said.trim());
                }
                Ok(())
            }
            Self::Kind => kind_up(nodes),
            Self::Testbed => testbed::up(nodes),
        }
    }

    /// Removes it, if it is one that `up` made.
    pub(crate) fn down(&self) -> Result<()> {
        match self {
            Self::Context(_) => Ok(()),
            Self::Kind => {
                command::run(
                    "kind-down",
                    &mut kind(["delete", "cluster", "--name", KIND]),
                )?;
                match std::fs::remove_file(kind_kubeconfig_path()?) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
                    _ => Ok(()),
                }
            }
            Self::Testbed => testbed::down(),
        }
    }

    /// Copies images from the local engine into its nodes.
    pub(crate) fn load(&self, images: &[String]) -> Result<()> {
        match self {
            Self::Context(_) => Ok(()),
            Self::Kind => command::run(
                "load",
                kind(["load", "docker-image", "--name", KIND]).args(images),
            ),
            Self::Testbed => testbed::load(images),
        }
    }

    /// Its kubeconfig; none for the user's own.
    pub(crate) fn kubeconfig(&self) -> Result<Option<PathBuf>> {
        match self {
            Self::Context(_) => Ok(None),
            Self::Kind => kind_kubeconfig().map(Some),
            Self::Testbed => testbed::kubeconfig().map(Some),
        }
    }

    /// `kubectl` on this cluster.
    pub(crate) fn kubectl(&self) -> Result<Command> {
        self.client("kubectl", "--context")
    }

    /// `helm` on this cluster.
    pub(crate) fn helm(&self) -> Result<Command> {
        self.client("helm", "--kube-context")
    }

    fn client(&self, program: &str, context_flag: &str) -> Result<Command> {
        let mut client = Command::new(testbed::program(program)?);
        if let Self::Context(context) = self {
            client.args([context_flag, context]);
        }
        if let Some(kubeconfig) = self.kubeconfig()? {
            client.env("KUBECONFIG", kubeconfig);
        }
        Ok(client)
    }
}

/// `cargo xtask kubeconfig`
pub(crate) fn print_kubeconfig() -> Result<()> {
    let path = Cluster::choose(None)
        .kubeconfig()?
        .context("there is none")?;
    println!("{}", path.display());
    Ok(())
}

/// `cargo xtask env`
pub(crate) fn print_environment() -> Result<()> {
    let kubeconfig = Cluster::choose(None)
        .kubeconfig()?
        .context("there is no cluster: cargo xtask up")?;
    for line in environment(&kubeconfig)? {
        println!("{line}");
    }
    Ok(())
}

/// Lines for a shell: the kubeconfig, and the directories of clients that were built here because the PATH has none.
///
/// # Errors
/// When the clients cannot be looked up.
pub(crate) fn environment(kubeconfig: &Path) -> Result<Vec<String>> {
    let mut lines = vec![format!("export KUBECONFIG={}", kubeconfig.display())];
    let mut directories = Vec::new();
    for client in ["kubectl", "helm"] {
        if command::find(client).is_none() {
            directories.extend(testbed::program(client)?.parent().map(PathBuf::from));
        }
    }
    directories.dedup();
    let added: String = directories
        .iter()
        .map(|directory| format!(":{}", directory.display()))
        .collect();
    if !added.is_empty() {
        lines.push(format!("export PATH=$PATH{added}"));
    }
    Ok(lines)
}

/// `cargo xtask load`
pub(crate) fn load(images: &[String]) -> Result<()> {
    Cluster::choose(None).load(images)
}

fn kind<const N: usize>(words: [&str; N]) -> Command {
    let mut command = Command::new("kind");
    command.args(words);
    command
}

/// Whether the kind cluster exists.
///
/// # Errors
/// When kind fails.
pub(crate) fn has_kind() -> Result<bool> {
    let existing = command::output(&mut kind(["get", "clusters"]))?;
    Ok(existing.lines().any(|name| name == KIND))
}

fn kind_up(nodes: u32) -> Result<()> {
    if !has_kind()? {
        let path = place::log("kind")?.with_extension("yaml");
        let port = "  extraPortMappings:\n  - {containerPort: 30500, hostPort: 30500, listenAddress: 127.0.0.1}\n";
        let workers = "- role: worker\n".repeat(nodes as usize);
        std::fs::write(
            &path,
            format!(
                "kind: Cluster\napiVersion: kind.x-k8s.io/v1alpha4\nnodes:\n- role: control-plane\n{port}{workers}"
            ),
        )?;
        let mut create = kind([
            "create", "cluster", "--name", KIND, "--wait", "120s", "--config",
        ]);
        command::run("kind-up", create.arg(&path))?;
    }
    Ok(())
}

fn kind_kubeconfig_path() -> Result<PathBuf> {
    Ok(place::cache()?.join("kind.kubeconfig"))
}

fn kind_kubeconfig() -> Result<PathBuf> {
    let path = kind_kubeconfig_path()?;
    let text = command::output(&mut kind(["get", "kubeconfig", "--name", KIND]))?;
    std::fs::create_dir_all(place::cache()?)?;
    std::fs::write(&path, text)?;
    Ok(path)
}

/// The PATH with the clients' directories at its end, for programs that call them.
pub(crate) fn path_with_clients() -> Result<std::ffi::OsString> {
    let own = std::env::var_os("PATH").unwrap_or_default();
    let mut directories: Vec<_> = std::env::split_paths(&own).collect();
    for client in ["kubectl", "helm"] {
        directories.extend(testbed::program(client)?.parent().map(PathBuf::from));
    }
    Ok(std::env::join_paths(
        directories.iter().map(AsRef::<OsStr>::as_ref),
    )?)
}

/// Gives `text` to the command on its standard input.
///
/// # Errors
/// When it cannot be started or fails; the error has what it said.
pub(crate) fn feed(command: &mut Command, text: &str) -> Result<String> {
    use std::io::Write;
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut stdin = child.stdin.take().context("no standard input")?;
    let text = text.to_owned();
    let writer = std::thread::spawn(move || stdin.write_all(text.as_bytes()));
    let output = child.wait_with_output()?;
    let _ = writer.join();
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
