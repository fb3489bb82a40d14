//! Kills for want of memory: the kernel counts them for each control group, and a container is one.
//!
//! The agent is the first process of its container and small. Where the kernel kills one process instead of the whole
//! group, that is the server, or its child that writes a snapshot, and nobody outside is told.

use std::fs;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

/// Where the count is, below the mount point of the control groups: version 2, then version 1.
///
/// Source: the kernel's documentation of control groups, `memory.events` and `memory.oom_control`.
const FILES: [&str; 2] = ["memory.events", "memory/memory.oom_control"];

/// How many processes the kernel has killed in the container whose control groups are mounted at `cgroups`. `None` where
/// that cannot be known.
fn read(cgroups: &Path) -> Option<u64> {
    FILES.iter().find_map(|file| {
        let text = fs::read_to_string(cgroups.join(file)).ok()?;
        let mut lines = text.lines();
        lines.find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
    })
}

/// The kills since the agent started.
#[derive(Debug, Default)]
pub struct OomKills(Mutex<Tally>);

#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    /// What the kernel had counted at the last look.
    seen: Option<u64>,
    kills: u64,
    last: Option<SystemTime>,
}

impl OomKills {
    /// Looks at the kernel's count `now`. How many there were in all, since the first look.
    pub fn look(&self, cgroups: &Path, now: SystemTime) -> u64 {
        let count = read(cgroups);
        let mut tally = self.lock();
        if let Some(count) = count {
            let new = count.saturating_sub(tally.seen.unwrap_or(count));
            if new > 0 {
                tally.kills += new;
                tally.last = Some(now);
                tracing::error!(
                    kills = tally.kills,
                    "the system has killed a process of this container for want of memory"
                );
            }
            tally.seen = Some(count);
        }
        tally.kills
    }

    /// How many there were at the last look.
    #[must_use]
    pub fn kills(&self) -> u64 {
        self.lock().kills
    }

    /// When the last of them was noticed.
    #[must_use]
    pub fn last(&self) -> Option<SystemTime> {
        self.lock().last
    }

    fn lock(&self) -> MutexGuard<'_, Tally> {
        // Every change of it is one assignment.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn what_the_kernel_counted_before_does_not_count() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("memory.events");
        let write = |kills: u64| {
            let text = format!("low 0\nhigh 0\nmax 4\noom 2\noom_kill {kills}\noom_group_kill 0\n");
            fs::write(&file, text).unwrap();
        };
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let oom = OomKills::default();
        assert_eq!(oom.look(dir.path(), at(1)), 0, "there is no such file");
        write(3);
        assert_eq!(oom.look(dir.path(), at(2)), 0);
        assert_eq!(oom.last(), None);
        write(5);
        assert_eq!(oom.look(dir.path(), at(3)), 2);
        assert_eq!(oom.look(dir.path(), at(4)), 2);
        assert_eq!((oom.kills(), oom.last()), (2, Some(at(3))));
    }

    #[test]
    fn both_versions_of_control_groups_are_read() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path()), None);
        fs::create_dir(dir.path().join("memory")).unwrap();
        let file = dir.path().join("memory/memory.oom_control");
        fs::write(file, "oom_kill_disable 0\nunder_oom 0\noom_kill 7\n").unwrap();
        assert_eq!(read(dir.path()), Some(7));
    }
}
