//! The fence: a user has this pod's server stopped, and kept stopped, until it is lifted.
//!
//! The operator raises and lifts it, as an annotation of the cluster says; it proves itself by the cluster's password. A
//! file in the data directory keeps the fence over restarts of the container and, with a volume, of the pod.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::put;
use axum::{Json, Router};
use cachecluster_contract::fence;
use subtle::ConstantTimeEq;
use tokio::sync::{Mutex, Semaphore, watch};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::Instant;

use crate::board::{Board, Phase};
use crate::settings::Settings;

/// How long the data directory may take to keep or to lose the file.
const KEEPING: Duration = Duration::from_secs(2);
/// How long whoever does not show the password waits for the answer, and others of his kind are sent away.
const SLOWLY: Duration = Duration::from_millis(200);
/// Least time between two lines of the log about such.
const TELLING: Duration = Duration::from_secs(1);
/// For whoever finds the file on the volume.
const NOTE: &str =
    "This pod is fenced: its server is not started while this file is here and its agent runs.\n";

/// The fence of this pod. Clones are one.
#[derive(Clone, Debug)]
pub struct Fence(Arc<Post>);

#[derive(Debug)]
struct Post {
    file: PathBuf,
    up: watch::Sender<bool>,
    /// Held while the file is made or removed, so that file and state agree.
    changing: Mutex<Disk>,
}

impl Fence {
    /// The fence as an earlier container, or an earlier pod on this volume, left it.
    ///
    /// # Errors
    /// When the data directory cannot be read.
    pub fn found(data_dir: &Path) -> io::Result<Self> {
        let file = data_dir.join(fence::FILE);
        let up = file.try_exists()?;
        Ok(Self(Arc::new(Post {
            file,
            up: watch::Sender::new(up),
            changing: Mutex::new(Disk {
                kept: Some(up),
                busy: None,
            }),
        })))
    }

    /// Whether it is up.
    #[must_use]
    pub fn is_up(&self) -> bool {
        *self.0.up.borrow()
    }

    /// Returns once it is up.
    pub async fn raised(&self) {
        self.becomes(true).await;
    }

    /// Returns once it is not up.
    pub async fn lifted(&self) {
        self.becomes(false).await;
    }

    async fn becomes(&self, state: bool) {
        let mut states = self.0.up.subscribe();
        // The sender is kept, so that the channel does not close.
        let _ = states.wait_for(|up| *up == state).await;
    }

    /// Raises it. A data directory that cannot keep it, because its disk is broken, is a reason more to stop the server:
    /// then the fence holds until the container ends, and is raised again by the operator.
    pub async fn raise(&self) {
        let mut disk = self.0.changing.lock().await;
        self.0
            .up
            .send_if_modified(|up| !std::mem::replace(up, true));
        let file = self.0.file.clone();
        if let Err(error) = disk.make(true, move || keep(&file)).await {
            tracing::warn!(%error, "the fence cannot be kept in the data directory");
        }
    }

    /// Lifts it.
    ///
    /// # Errors
    /// When the file cannot be removed: the fence stays up, since a restart would find it again.
    pub async fn lift(&self) -> io::Result<()> {
        let mut disk = self.0.changing.lock().await;
        let file = self.0.file.clone();
        disk.make(false, move || lose(&file)).await?;
        self.0
            .up
            .send_if_modified(|up| std::mem::replace(up, false));
        Ok(())
    }
}

/// What is known of the file, and the one thread that may be at it: a disk that hangs holds up a thread for as long as it
/// hangs, and no more than one.
#[derive(Debug)]
struct Disk {
    /// Whether the file is there for good. `None` when that is not known.
    kept: Option<bool>,
    /// The work that is not done yet, and what the file is like afterwards.
    busy: Option<(bool, JoinHandle<io::Result<()>>)>,
}

impl Disk {
    /// Makes the file `kept` or not by `work`, unless it is, once what was begun earlier is done. For a bounded time; the
    /// work goes on afterwards.
    async fn make(
        &mut self,
        kept: bool,
        work: impl FnOnce() -> io::Result<()> + Send + 'static,
    ) -> io::Result<()> {
        let patience = tokio::time::sleep(KEEPING);
        let mut patience = std::pin::pin!(patience);
        let mut work = Some(work);
        loop {
            if let Some((becomes, working)) = &mut self.busy {
                let becomes = *becomes;
                let done = tokio::select! {
                    done = working => done,
                    () = &mut patience => return Err(io::ErrorKind::TimedOut.into()),
                };
                self.busy = None;
                let done = done.unwrap_or_else(|error| Err(io::Error::other(error)));
                self.kept = done.is_ok().then_some(becomes);
                // What was begun for another request is no answer to this one.
                if work.is_none() {
                    return done;
                }
            }
            if self.kept == Some(kept) {
                return Ok(());
            }
            match work.take() {
                Some(work) => self.busy = Some((kept, spawn_blocking(work))),
                None => return Ok(()),
            }
        }
    }
}

fn keep(file: &Path) -> io::Result<()> {
    if file.try_exists()? {
        return Ok(());
    }
    let mut made = File::create(file)?;
    // On a full disk the file is empty, and does as well.
    let _ = made.write_all(NOTE.as_bytes());
    made.sync_all()?;
    sync_directory(file)
}

fn lose(file: &Path) -> io::Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        removed => removed?,
    }
    sync_directory(file)
}

fn sync_directory(file: &Path) -> io::Result<()> {
    match file.parent() {
        Some(directory) => File::open(directory)?.sync_all(),
        None => Ok(()),
    }
}

#[derive(Clone)]
struct Gate {
    fence: Fence,
    board: Board,
    credentials: Arc<str>,
    /// Wrong attempts are answered one at a time, and cost no more than that. Guesses are as many as Redis itself takes.
    turn: Arc<Semaphore>,
    wrong: Arc<Wrong>,
}

/// Attempts with wrong credentials.
#[derive(Debug, Default)]
struct Wrong(std::sync::Mutex<(u64, Option<Instant>)>);

impl Wrong {
    /// Counts one, and logs at most once in [`TELLING`] how many there were.
    fn note(&self) {
        let mut noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (count, told) = &mut *noted;
        *count = count.saturating_add(1);
        if told.is_none_or(|told| told.elapsed() >= TELLING) {
            *told = Some(Instant::now());
            tracing::warn!(count, "somebody without the password asked for the fence");
        }
    }
}

/// The route by which the operator raises and lifts the fence. Bodies are not read.
pub fn routes(settings: &Settings, board: &Board, fence: &Fence) -> Router {
    let gate = Gate {
        fence: fence.clone(),
        board: board.clone(),
        credentials: fence::credentials(settings.password.expose()).into(),
        turn: Arc::new(Semaphore::new(1)),
        wrong: Arc::default(),
    };
    Router::new()
        .route(fence::PATH, put(raise).delete(lift))
        .with_state(gate)
}

impl Gate {
    /// # Errors
    /// The answer to whoever does not show the password.
    async fn admit(&self, headers: &HeaderMap) -> Result<(), StatusCode> {
        // How long the comparison takes tells nothing of where the two differ.
        let is_right = headers
            .get(fence::HEADER)
            .is_some_and(|given| given.as_bytes().ct_eq(self.credentials.as_bytes()).into());
        if is_right {
            return Ok(());
        }
        self.wrong.note();
        let _turn = self
            .turn
            .try_acquire()
            .map_err(|_| StatusCode::TOO_MANY_REQUESTS)?;
        tokio::time::sleep(SLOWLY).await;
        Err(StatusCode::UNAUTHORIZED)
    }

    fn state(&self) -> Response {
        Json(fence::State {
            fenced: self.fence.is_up(),
            stopped: matches!(*self.board.phase().borrow(), Phase::Fenced),
        })
        .into_response()
    }
}

async fn raise(State(gate): State<Gate>, headers: HeaderMap) -> Response {
    if let Err(refusal) = gate.admit(&headers).await {
        return refusal.into_response();
    }
    gate.fence.raise().await;
    gate.state()
}

async fn lift(State(gate): State<Gate>, headers: HeaderMap) -> Response {
    if let Err(refusal) = gate.admit(&headers).await {
        return refusal.into_response();
    }
    match gate.fence.lift().await {
        Ok(()) => gate.state(),
        Err(error) => {
            let why = format!("the fence cannot be removed from the data directory: {error}");
            tracing::error!("{why}");
            (StatusCode::INTERNAL_SERVER_ERROR, why).into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_fence_is_found_again_until_it_is_lifted() {
        let dir = tempfile::tempdir().unwrap();
        let fence = Fence::found(dir.path()).unwrap();
        assert!(!fence.is_up());
        for _ in 0..2 {
            fence.raise().await;
            assert!(fence.is_up() && Fence::found(dir.path()).unwrap().is_up());
        }
        fence.raised().await;
        for _ in 0..2 {
            fence.lift().await.unwrap();
            assert!(!fence.is_up() && !Fence::found(dir.path()).unwrap().is_up());
        }
        fence.lifted().await;
    }

    #[tokio::test]
    async fn a_fence_that_cannot_be_kept_is_up_and_one_that_cannot_be_removed_stays() {
        let dir = tempfile::tempdir().unwrap();
        let gone = Fence::found(&dir.path().join("gone")).unwrap();
        gone.raise().await;
        assert!(gone.is_up());
        // Nobody removes a directory as a file.
        let stuck = dir.path().join("stuck");
        fs::create_dir_all(stuck.join(fence::FILE)).unwrap();
        let stuck = Fence::found(&stuck).unwrap();
        assert!(stuck.lift().await.is_err());
        assert!(stuck.is_up());
    }

    #[tokio::test(start_paused = true)]
    async fn a_disk_that_hangs_holds_up_one_thread() {
        use std::sync::atomic::{AtomicUsize, Ordering};
        use std::sync::mpsc;
        let (begun, (end, ended)) = (Arc::new(AtomicUsize::new(0)), mpsc::channel::<()>());
        let ended = Arc::new(std::sync::Mutex::new(ended));
        let work = || {
            let (begun, ended) = (begun.clone(), ended.clone());
            move || {
                begun.fetch_add(1, Ordering::SeqCst);
                ended.lock().unwrap().recv().map_err(io::Error::other)
            }
        };
        let (kept, busy) = (Some(false), None);
        let mut disk = Disk { kept, busy };
        // Virtual time stands still while a thread is at work: it is let go on by hand.
        for kept in [true, true, false, true] {
            let mut making = Box::pin(disk.make(kept, work()));
            assert!(futures::poll!(&mut making).is_pending());
            tokio::time::advance(KEEPING).await;
            assert_eq!(making.await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        }
        end.send(()).unwrap();
        disk.make(true, work()).await.unwrap();
        assert_eq!(begun.load(Ordering::SeqCst), 1);
        // It is known to be kept.
        disk.make(true, work()).await.unwrap();
        assert_eq!(begun.load(Ordering::SeqCst), 1);
        end.send(()).unwrap();
        disk.make(false, work()).await.unwrap();
        assert_eq!((begun.load(Ordering::SeqCst), disk.kept), (2, Some(false)));
    }
}
