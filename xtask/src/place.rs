//! Where things are: the checkout, what is kept outside of it, and logs.

use std::path::PathBuf;

use anyhow::{Context, Result};

/// Makes the root of the checkout the current directory, so that every path in here is relative to it.
///
/// # Errors
/// When the checkout is gone.
pub(crate) fn enter_checkout() -> Result<()> {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    std::env::set_current_dir(root).with_context(|| format!("enter {root}"))
}

/// What is built once and kept: `$XDG_CACHE_HOME` or `~/.cache`, as `testbed/binaries` has it too.
///
/// # Errors
/// When there is no home directory.
pub(crate) fn cache() -> Result<PathBuf> {
    let base = match std::env::var_os("XDG_CACHE_HOME") {
        Some(directory) => PathBuf::from(directory),
        None => PathBuf::from(std::env::var_os("HOME").context("HOME is not set")?).join(".cache"),
    };
    Ok(base.join("cachecluster"))
}

/// The log of a step of this run.
///
/// # Errors
/// When its directory cannot be made.
pub(crate) fn log(step: &str) -> Result<PathBuf> {
    let directory = PathBuf::from("target/xtask");
    std::fs::create_dir_all(&directory)?;
    Ok(directory.join(format!("{step}.log")))
}
