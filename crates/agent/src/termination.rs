//! The termination message: why the agent ended, where `kubectl describe pod` shows it.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use cachecluster_contract::paths::TERMINATION_LOG_BYTES;

/// Writes what the server printed last and the reason, which is the last line. A file that is not there is not made:
/// Kubernetes made it, or nobody reads it. Failing is only logged.
pub fn tell(path: &Path, printed: &[String], reason: &str) {
    let message = compose(printed, reason);
    match overwrite(path, &message) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            tracing::debug!(path = %path.display(), "no termination log");
        }
        Err(error) => {
            tracing::warn!(%error, path = %path.display(), "cannot write the termination message");
        }
    }
}

fn overwrite(path: &Path, message: &str) -> io::Result<()> {
    let mut file = fs::OpenOptions::new()
        .write(true)
        .truncate(true)
        .open(path)?;
    file.write_all(message.as_bytes())
}

/// As many of the last lines as fit; of a reason that is too long its beginning.
fn compose(printed: &[String], reason: &str) -> String {
    let reason = reason.replace('\n', " ");
    let mut message = reason[..reason.floor_char_boundary(TERMINATION_LOG_BYTES)].to_owned();
    for line in printed.iter().rev() {
        if line.len() + 1 + message.len() > TERMINATION_LOG_BYTES {
            break;
        }
        message = format!("{line}\n{message}");
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_is_the_last_line_and_the_message_is_bounded() {
        let printed: Vec<_> = (0..100)
            .map(|n| format!("{n} {}", "x".repeat(100)))
            .collect();
        let message = compose(&printed, "it\nended");
        assert!(message.len() <= TERMINATION_LOG_BYTES);
        assert!(message.len() > TERMINATION_LOG_BYTES - 110);
        assert!(message.lines().rev().nth(1).unwrap().starts_with("99 "));
        assert_eq!(message.lines().last(), Some("it ended"));
        let long = compose(&printed, &"\u{e4}".repeat(TERMINATION_LOG_BYTES));
        assert_eq!(long.len(), TERMINATION_LOG_BYTES);
    }

    #[test]
    fn only_a_file_that_is_there_is_written_to() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("termination-log");
        tell(&path, &[], "why");
        assert!(!path.exists());
        fs::write(&path, "what an earlier one wrote").unwrap();
        tell(&path, &[], "why");
        assert_eq!(fs::read_to_string(&path).unwrap(), "why");
    }
}
