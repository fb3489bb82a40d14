//! For how long nothing was heard. Pure.

use std::time::Duration;

use tokio::time::Instant;

/// Time between two looks at what was heard.
pub(super) const TICK: Duration = Duration::from_millis(50);

/// The time since something was heard last.
#[derive(Debug)]
pub(super) struct Silence {
    answers: u64,
    heard: Instant,
    noted: Instant,
    certain: Duration,
}

impl Silence {
    /// None yet: starts as if something had just been heard.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            answers: 0,
            heard: now,
            noted: now,
            certain: Duration::ZERO,
        }
    }

    /// Notes how many answers there have been so far.
    pub(super) fn note(&mut self, answers: u64, now: Instant) {
        if answers == self.answers {
            // A look that comes late was not the primary's fault: this agent, or its whole machine, stood still.
            self.certain += now.duration_since(self.noted).min(TICK * 2);
        } else {
            self.answers = answers;
            self.heard = now;
            self.certain = Duration::ZERO;
        }
        self.noted = now;
    }

    /// The time since something was heard. Zero when that was just now.
    pub(super) fn length(&self) -> Duration {
        self.noted.duration_since(self.heard)
    }

    /// As much of it as this agent was awake to listen.
    pub(super) fn certain(&self) -> Duration {
        self.certain
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_that_stood_still_has_heard_nothing_and_knows_nothing() {
        let start = Instant::now();
        let mut silence = Silence::new(start);
        silence.note(1, start + TICK);
        assert_eq!(silence.length(), Duration::ZERO);
        silence.note(1, start + TICK * 2);
        silence.note(1, start + TICK * 3);
        assert_eq!(silence.certain(), TICK * 2);
        silence.note(1, start + TICK * 1003);
        assert_eq!(silence.certain(), TICK * 4);
        assert_eq!(silence.length(), TICK * 1002);
        silence.note(2, start + TICK * 1004);
        assert_eq!(silence.certain(), Duration::ZERO);
        assert_eq!(silence.length(), Duration::ZERO);
    }
}
