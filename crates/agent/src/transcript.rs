//! What the server prints: passed on to the agent's own output, and its last lines kept.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cachecluster_redis_admin::Password;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};

/// Lines that are kept.
const LINES: usize = 16;
/// Longest line in bytes; the server's own limit is 1024. What is longer is several lines.
const LINE: u64 = 2048;

/// The last lines that the server printed. Clones are one.
#[derive(Clone, Debug, Default)]
pub struct Transcript(Arc<Mutex<VecDeque<String>>>);

impl Transcript {
    /// Passes on what comes from `from` line by line, until it ends, without the password: the server quotes lines of
    /// its configuration that it does not like. What cannot be passed on is dropped, so that the server never waits.
    pub async fn pass_on(
        self,
        from: impl AsyncRead + Unpin,
        mut to: impl AsyncWrite + Unpin,
        password: Password,
    ) {
        let mut from = BufReader::new(from);
        loop {
            let mut line = Vec::new();
            match (&mut from).take(LINE).read_until(b'\n', &mut line).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
            let text = without(&password, &String::from_utf8_lossy(&line));
            let _ = to.write_all(text.as_bytes()).await;
            let _ = to.flush().await;
            self.keep(text.trim_end());
        }
    }

    fn keep(&self, line: &str) {
        if line.is_empty() {
            return;
        }
        let mut lines = self.lock();
        if lines.len() == LINES {
            lines.pop_front();
        }
        lines.push_back(line.to_owned());
    }

    /// The lines that were kept, oldest first.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.lock().iter().cloned().collect()
    }

    /// What the server said when it ended, in one line: all from its last cry on, or else its last line.
    #[must_use]
    pub fn last_words(&self) -> String {
        let lines = self.lines();
        let cry = lines.iter().rposition(|line| line.starts_with("***"));
        let from = cry.unwrap_or(lines.len().saturating_sub(1));
        match lines.get(from..) {
            None | Some([]) => "it printed nothing".to_owned(),
            Some(words) => words.join(" "),
        }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<String>> {
        // Whoever held it cannot have left half a line.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The line without the password, as it is or as it stands in the configuration.
fn without(password: &Password, line: &str) -> String {
    let plain = password.expose();
    if plain.is_empty() {
        return line.to_owned();
    }
    let escaped = plain.replace('\\', "\\\\").replace('"', "\\\"");
    line.replace(&escaped, "(password)")
        .replace(plain, "(password)")
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn heard(said: &str) -> (Transcript, String) {
        let transcript = Transcript::default();
        let mut out = Vec::new();
        let password = Password::new("pa\"ss");
        transcript
            .clone()
            .pass_on(said.as_bytes(), &mut out, password)
            .await;
        (transcript, String::from_utf8(out).unwrap())
    }

    #[tokio::test]
    async fn everything_is_passed_on_and_the_end_is_kept() {
        let said: String = (0..100).map(|n| format!("line {n}\n")).collect();
        let (transcript, out) = heard(&said).await;
        assert_eq!(out, said);
        assert_eq!(transcript.lines().len(), LINES);
        assert_eq!(transcript.last_words(), "line 99");
        assert_eq!(heard("").await.0.last_words(), "it printed nothing");
    }

    #[tokio::test]
    async fn the_last_words_begin_with_the_cry_and_the_password_is_in_none() {
        let said = "a\n\n*** FATAL ***\n>>> 'requirepass \"pa\\\"ss\"'\nwrong pa\"ss\n";
        let (transcript, out) = heard(said).await;
        assert_eq!(
            transcript.last_words(),
            "*** FATAL *** >>> 'requirepass \"(password)\"' wrong (password)"
        );
        assert!(!out.contains("pa\"ss") && !out.contains("pa\\"), "{out}");
    }
}
