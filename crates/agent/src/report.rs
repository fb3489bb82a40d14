//! What only this agent can see of its pod, for the operator: room on the volume, and kills for want of memory.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::routing::get;
use axum::{Json, Router};
use cachecluster_contract::Persistence;
use cachecluster_contract::ports::REPORT_PATH;
use cachecluster_contract::report::{Report, Volume};
use nix::sys::statvfs::statvfs;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::board::Board;
use crate::settings::Settings;

/// Time between two looks.
const PERIOD: Duration = Duration::from_secs(1);
/// How the system puts ENOSPC in words, which the server prints.
const NO_SPACE: &str = "No space left on device";

/// The route at which the report is read.
pub fn routes(board: &Board) -> Router {
    let board = board.clone();
    Router::new().route(REPORT_PATH, get(async move || Json(report(&board))))
}

fn report(board: &Board) -> Report {
    let since_1970 = |at: SystemTime| at.duration_since(UNIX_EPOCH).ok();
    let last = board.oom().last().and_then(since_1970);
    Report {
        volume: board.room().map(|room| {
            let lines = board.transcript().lines();
            Volume {
                refused: lines.iter().any(|line| line.contains(NO_SPACE)),
                ..room
            }
        }),
        oom_kills: board.oom().kills(),
        last_oom_kill: last.and_then(|last| i64::try_from(last.as_secs()).ok()),
    }
}

/// Looks at the volume and at the kernel's count of kills until `ended`.
pub async fn run(settings: Settings, board: Board, ended: CancellationToken) {
    let mut asking: Option<JoinHandle<Option<Volume>>> = None;
    loop {
        board.oom().look(&settings.cgroup_dir, SystemTime::now());
        if settings.cluster.persistence == Persistence::Volume {
            // A file system may take long to answer, or never do: it is asked once at a time, and not waited for.
            match asking.take() {
                Some(answer) if answer.is_finished() => board.put_room(answer.await.ok().flatten()),
                Some(answer) => asking = Some(answer),
                None => {
                    let dir = settings.data_dir.clone();
                    asking = Some(tokio::task::spawn_blocking(move || room(&dir)));
                }
            }
        }
        tokio::select! {
            () = tokio::time::sleep(PERIOD) => {}
            () = ended.cancelled() => return,
        }
    }
}

/// The file system that `dir` is on. `None` when it does not say.
fn room(dir: &Path) -> Option<Volume> {
    let told = statvfs(dir).inspect_err(|error| tracing::debug!(%error, "cannot ask the volume"));
    let told = told.ok()?;
    // What is kept for the superuser is neither in use nor for the server to fill.
    let unit = told.fragment_size();
    let kept = told.blocks_free().saturating_sub(told.blocks_available());
    Some(Volume {
        size: told.blocks().saturating_sub(kept).saturating_mul(unit),
        free: told.blocks_available().saturating_mul(unit),
        refused: false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_says_how_much_room_there_is() {
        let dir = tempfile::tempdir().unwrap();
        let volume = room(dir.path()).unwrap();
        assert!(volume.size > 0 && volume.free <= volume.size);
        assert_eq!(room(&dir.path().join("none")), None);
    }

    #[tokio::test]
    async fn words_of_the_server_count_while_they_are_among_its_last() {
        let board = Board::new();
        assert_eq!(report(&board), Report::default());
        let volume = Volume {
            size: 100,
            free: 10,
            refused: false,
        };
        board.put_room(Some(volume));
        let say = async |words: String| {
            let password = cachecluster_redis_admin::Password::new("secret");
            let transcript = board.transcript().clone();
            transcript
                .pass_on(words.as_bytes(), tokio::io::sink(), password)
                .await;
        };
        let refused = || report(&board).volume.unwrap().refused;
        assert!(!refused());
        say(format!("Error writing to the AOF file: {NO_SPACE}\n")).await;
        assert!(refused());
        say("all is well\n".repeat(20)).await;
        assert!(!refused());
    }
}
