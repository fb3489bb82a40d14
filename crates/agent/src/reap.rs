//! The first process of a container inherits every process whose parent died: it has to take their exit statuses, or
//! they stay as zombies for ever.

use nix::errno::Errno;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::board::Board;

/// Reaps at every SIGCHLD, and from time to time in case one was merged with another, until `ended`.
pub async fn run(board: Board, ended: CancellationToken) {
    let mut children = match signal(SignalKind::child()) {
        Ok(children) => children,
        Err(error) => {
            tracing::warn!(%error, "cannot reap orphaned processes");
            return;
        }
    };
    loop {
        reap(&board);
        tokio::select! {
            _ = children.recv() => {}
            () = tokio::time::sleep(Duration::from_secs(5)) => {}
            () = ended.cancelled() => return,
        }
    }
}

/// Takes the statuses of all processes that ended, except that of the server, which its supervisor waits for.
fn reap(board: &Board) {
    // Only looks who ended; the status stays for whoever waits for it.
    let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    loop {
        match waitid(Id::All, look) {
            Ok(status) => match status.pid() {
                // While the server's status waits for its supervisor, it hides the others: the next signal or tick
                // comes after it was taken.
                Some(pid) if board.is_child(pid.as_raw()) => return,
                Some(pid) => match waitpid(pid, None) {
                    Ok(WaitStatus::StillAlive) | Err(_) => return,
                    Ok(status) => tracing::debug!(?status, "reaped an orphan"),
                },
                None => return,
            },
            Err(Errno::EINTR) => {}
            Err(_) => return,
        }
    }
}
