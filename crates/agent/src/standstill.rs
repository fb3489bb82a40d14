//! Tells a server that stands still from one that is at work, by what the kernel says of its process.
//!
//! A server that does not answer may compute, or wait for a disk, and is given time. One that was stopped will not go on
//! by itself.

use std::time::Duration;

use cachecluster_contract::agent::STOPPED_LIMIT_MS;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::board::{Board, Phase};

/// Time between two looks at the process.
const TICK: Duration = Duration::from_millis(50);
/// For how long it may be stopped.
const STOPPED: Duration = Duration::from_millis(STOPPED_LIMIT_MS);

/// What the kernel says of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Stopped by a signal or a debugger.
    Stopped,
    /// Waits for something, and could be woken.
    Asleep,
    /// Computes, wants to, or waits for a disk; or nothing is known.
    Working,
}

/// Looks at the server's process until `ended`. One that is stopped for too long is reported.
pub async fn run(board: Board, ended: CancellationToken) {
    let mut standstill = Standstill::default();
    let mut last = Instant::now();
    loop {
        let pid = board.child();
        let state = pid.map_or(State::Working, read);
        standstill.note(pid, state, last.elapsed());
        last = Instant::now();
        board.put_asleep(standstill.asleep);
        let phase = board.phase().borrow().clone();
        if let Phase::Running(since) = phase
            && standstill.stopped >= STOPPED
            && board.report_hung(since)
        {
            tracing::error!(pid, "the server's process is stopped");
        }
        tokio::select! {
            () = tokio::time::sleep(TICK) => {}
            () = ended.cancelled() => return,
        }
    }
}

/// For how long a process has been in the same state whenever it was looked at.
#[derive(Debug, Default)]
struct Standstill {
    pid: Option<i32>,
    stopped: Duration,
    asleep: Duration,
}

impl Standstill {
    /// Adds a look, so long after the one before.
    fn note(&mut self, pid: Option<i32>, state: State, since_last: Duration) {
        // When the agent itself stood still, it did not look.
        let length = since_last.min(TICK * 2);
        let same = self.pid == pid;
        let go_on = |so_far: Duration, is: bool| match is {
            true if same => so_far + length,
            _ => Duration::ZERO,
        };
        self.stopped = go_on(self.stopped, state == State::Stopped);
        self.asleep = go_on(self.asleep, state == State::Asleep);
        self.pid = pid;
    }
}

fn read(pid: i32) -> State {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.map_or(State::Working, |stat| parse(&stat))
}

/// The third field of `/proc/<pid>/stat`, after the name in parentheses, which may hold anything.
///
/// Source: proc_pid_stat(5).
fn parse(stat: &str) -> State {
    let state = stat
        .rsplit_once(')')
        .and_then(|(_, fields)| fields.split_whitespace().next());
    match state {
        Some("T" | "t") => State::Stopped,
        Some("S") => State::Asleep,
        _ => State::Working,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_is_what_follows_the_name() {
        assert_eq!(parse("7 (redis-server) T 1 7"), State::Stopped);
        assert_eq!(parse("7 (redis-server) t 1 7"), State::Stopped);
        assert_eq!(parse("7 (a) T) S 1 7"), State::Asleep);
        for working in ["7 (redis-server) R 1 7", "7 (redis-server) D 1 7", ""] {
            assert_eq!(parse(working), State::Working, "{working}");
        }
    }

    #[test]
    fn only_looks_in_a_row_at_one_process_add_up() {
        let mut standstill = Standstill::default();
        for _ in 0..7 {
            standstill.note(Some(1), State::Stopped, TICK);
        }
        assert!(standstill.stopped >= STOPPED);
        standstill.note(Some(2), State::Stopped, TICK);
        assert_eq!(standstill.stopped, Duration::ZERO, "another process");
        // The agent was stopped along with it.
        standstill.note(Some(2), State::Stopped, TICK * 1000);
        assert!(standstill.stopped < STOPPED);
        standstill.note(Some(2), State::Asleep, TICK);
        assert_eq!(standstill.stopped, Duration::ZERO);
        assert_eq!(standstill.asleep, TICK);
    }
}
