//! The server's process.

use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use tokio::task::JoinSet;

use crate::board::Board;
use crate::settings::Settings;

/// How long its last lines may take to arrive after its end; a child of its own may hold its output open.
const LAST_LINES: Duration = Duration::from_millis(500);

/// A running server.
pub struct Server {
    child: Child,
    board: Board,
    listening: JoinSet<()>,
}

impl Server {
    /// Writes the configuration, readable by this user alone, and starts the server with it.
    ///
    /// # Errors
    /// When the file cannot be written or the process not be started.
    pub fn start(settings: &Settings, config: &str, board: &Board) -> io::Result<Self> {
        let path = write_config(settings, config)?;
        let mut child = Command::new(&settings.server)
            .arg(path)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Signals of a terminal are the agent's to pass on.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
        board.put_child(pid);
        tracing::info!(pid, server = %settings.server.display(), "server started");
        let mut listening = JoinSet::new();
        let transcript = board.transcript();
        if let Some(out) = child.stdout.take() {
            let (to, password) = (tokio::io::stdout(), settings.password.clone());
            listening.spawn(transcript.clone().pass_on(out, to, password));
        }
        if let Some(err) = child.stderr.take() {
            let (to, password) = (tokio::io::stderr(), settings.password.clone());
            listening.spawn(transcript.clone().pass_on(err, to, password));
        }
        Ok(Self {
            child,
            board: board.clone(),
            listening,
        })
    }

    /// Waits for the process to end by itself.
    ///
    /// # Errors
    /// When its status cannot be had.
    pub async fn ended(&mut self) -> io::Result<ExitStatus> {
        let status = self.child.wait().await;
        self.board.put_child(None);
        let listened = async { while self.listening.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(LAST_LINES, listened).await;
        status
    }

    /// Asks the process to end, and ends it when it has not after `patience`.
    ///
    /// # Errors
    /// When it can be neither signalled nor waited for.
    pub async fn stop(&mut self, patience: Duration) -> io::Result<ExitStatus> {
        if let Some(pid) = self.child.id().and_then(|pid| i32::try_from(pid).ok()) {
            kill(Pid::from_raw(pid), Signal::SIGTERM)?;
        }
        match tokio::time::timeout(patience, self.ended()).await {
            Ok(status) => status,
            Err(_) => {
                tracing::warn!("the server did not stop in time: killed");
                self.kill().await
            }
        }
    }

    /// Ends the process at once.
    ///
    /// # Errors
    /// When it can be neither signalled nor waited for.
    pub async fn kill(&mut self) -> io::Result<ExitStatus> {
        self.child.start_kill()?;
        self.ended().await
    }
}

fn write_config(settings: &Settings, config: &str) -> io::Result<PathBuf> {
    std::fs::create_dir_all(&settings.run_dir)?;
    let path = settings.run_dir.join("redis.conf");
    let staged = settings.run_dir.join("redis.conf.new");
    // A file of an earlier run would keep its mode.
    match std::fs::remove_file(&staged) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&staged)?;
    file.write_all(config.as_bytes())?;
    std::fs::rename(&staged, &path)?;
    Ok(path)
}
