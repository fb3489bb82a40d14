//! Progress that people can follow: what is being waited for and how long it has taken.

use std::cell::RefCell;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};

/// One thing that takes a while. On a terminal a line that moves; elsewhere a line for each change.
pub(crate) struct Step {
    what: String,
    start: Instant,
    bar: Option<ProgressBar>,
    detail: RefCell<String>,
}

impl Step {
    /// Says what begins.
    pub(crate) fn start(what: impl Into<String>) -> Self {
        let what = what.into();
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
                bar.set_style(style);
            }
            bar.set_message(what.clone());
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        if bar.is_none() {
            eprintln!("… {what}");
        }
        Self {
            what,
            start: Instant::now(),
            bar,
            detail: RefCell::default(),
        }
    }

    /// Says what it waits for by now.
    pub(crate) fn say(&self, detail: &str) {
        if *self.detail.borrow() == detail {
            return;
        }
        detail.clone_into(&mut self.detail.borrow_mut());
        match &self.bar {
            Some(bar) => bar.set_message(format!("{}: {detail}", self.what)),
            None => eprintln!(
                "  {:>6.1}s {}: {detail}",
                self.start.elapsed().as_secs_f32(),
                self.what
            ),
        }
    }

    /// Says that it is done, and how long it took.
    pub(crate) fn done(self) -> Duration {
        let taken = self.start.elapsed();
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        eprintln!("✓ {} ({:.1}s)", self.what, taken.as_secs_f32());
        taken
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar
            && !bar.is_finished()
        {
            bar.finish_and_clear();
        }
    }
}

/// Does `work` as a step.
///
/// # Errors
/// Those of `work`.
pub(crate) fn step<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let step = Step::start(what);
    let outcome = work()?;
    step.done();
    Ok(outcome)
}
