//! The Docker engine: one that already answers, else one started here and stopped by `down`.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::command;
use crate::packages::{self, Need};

/// State of an engine that was started here.
const STATE: &str = "/run/cachecluster";
const PID: &str = "/run/cachecluster/dockerd.pid";
const LOG: &str = "/run/cachecluster/dockerd.log";
/// The packet filter as it was before.
const FILTER: &str = "/run/cachecluster/filter.before";

/// Makes sure that an engine answers.
///
/// # Errors
/// When none does and none can be started; packages that cannot be installed.
pub(crate) fn ensure() -> Result<()> {
    packages::ensure(&[Need::Engine])?;
    if answers() {
        return Ok(());
    }
    if !nix::unistd::geteuid().is_root() {
        bail!(
            "no Docker engine answers; start it (`sudo systemctl start docker`) or run this as root"
        );
    }
    // A client alone, as for an engine elsewhere, is not enough to start one.
    packages::ensure(&[Need::Daemon])?;
    let daemon = command::find("dockerd").context("there is no dockerd on the PATH")?;
    fs::create_dir_all(STATE)?;
    if let Ok(filter) = command::output(&mut Command::new("iptables-save")) {
        fs::write(FILTER, filter)?;
    }
    let log = File::create(LOG)?;
    Command::new(daemon)
        .args(["--pidfile", PID])
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        // It outlives this task, and an interrupt at the terminal is not for it.
        .process_group(0)
        .spawn()
        .context("start dockerd")?;
    let deadline = Instant::now() + Duration::from_secs(60);
    while !answers() {
        if Instant::now() > deadline {
            bail!("dockerd does not answer; see {LOG}");
        }
        thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}

/// Whether an engine answers.
pub(crate) fn answers() -> bool {
    command::succeeds(Command::new("docker").args(["version", "--format", "{{.Server.Version}}"]))
}

/// Stops the engine if it was started here, and takes back what it did to the machine's network.
///
/// # Errors
/// When it does not stop.
pub(crate) fn stop() -> Result<()> {
    let Some(pid) = own_pid() else {
        return Ok(());
    };
    kill(pid, Signal::SIGTERM).context("stop dockerd")?;
    let deadline = Instant::now() + Duration::from_secs(30);
    while own_pid().is_some() {
        if Instant::now() > deadline {
            bail!("dockerd (process {pid}) does not stop");
        }
        thread::sleep(Duration::from_millis(100));
    }
    command::succeeds(Command::new("ip").args(["link", "delete", "docker0"]));
    restore_filter()?;
    fs::remove_dir_all(STATE)?;
    Ok(())
}

/// Every line that speaks of Docker leaves the packet filter; chains' policies become what they were.
fn restore_filter() -> Result<()> {
    let Ok(before) = fs::read_to_string(FILTER) else {
        return Ok(());
    };
    let forwarded_before = !before.contains(":FORWARD DROP");
    let now = command::output(&mut Command::new("iptables-save"))?;
    let kept: String = now
        .lines()
        .filter(|line| !line.to_ascii_lowercase().contains("docker"))
        .map(|line| {
            if forwarded_before && line.starts_with(":FORWARD DROP") {
                line.replacen("DROP", "ACCEPT", 1) + "\n"
            } else {
                format!("{line}\n")
            }
        })
        .collect();
    fs::write(FILTER, kept)?;
    command::succeeds(Command::new("iptables-restore").arg(FILTER));
    Ok(())
}

/// The process of the engine that was started here, if it still runs.
fn own_pid() -> Option<Pid> {
    let pid: i32 = fs::read_to_string(PID).ok()?.trim().parse().ok()?;
    let name = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("comm")).ok()?;
    (name.trim() == "dockerd" && !is_zombie(pid)).then(|| Pid::from_raw(pid))
}

fn is_zombie(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z "))
}
