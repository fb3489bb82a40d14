//! The first process of a container inherits orphans: here by the flag that makes any process do so.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use cachecluster_agent::board::Board;
use cachecluster_agent::reap;
use cachecluster_redis_admin::fixture::until;
use nix::errno::Errno;
use nix::sys::prctl::set_child_subreaper;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

const LOOK: WaitPidFlag = WaitPidFlag::WEXITED
    .union(WaitPidFlag::WNOHANG)
    .union(WaitPidFlag::WNOWAIT);

// Alone in its file: every child of this process is the reaper's business.
#[tokio::test]
async fn orphans_are_reaped_and_the_servers_status_is_left_to_its_supervisor() {
    set_child_subreaper(true).unwrap();
    let board = Board::new();
    let ended = CancellationToken::new();
    let mut child = Command::new("sh")
        .args([
            "-c",
            "sleep 0.5 & exit_late() { sleep 0.3; exit 7; }; exit_late",
        ])
        .spawn()
        .unwrap();
    board.put_child(child.id().map(|pid| pid as i32));
    let reaping = tokio::spawn(reap::run(board.clone(), ended.clone()));

    // The child has ended and its status can still be had: the reaper, who was told so as well, has left it.
    let pid = Pid::from_raw(child.id().unwrap() as i32);
    until("the child has ended", async || {
        waitid(Id::Pid(pid), LOOK) == Ok(WaitStatus::Exited(pid, 7))
    })
    .await;
    assert_eq!(child.wait().await.unwrap().code(), Some(7));
    board.put_child(None);
    until("no child is left, dead or alive", async || {
        waitid(Id::All, LOOK) == Err(Errno::ECHILD)
    })
    .await;
    ended.cancel();
    reaping.await.unwrap();
}
