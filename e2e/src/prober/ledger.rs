//! What was acknowledged, and whether it is there at the end. Both writers keep one.

/// What happened to one key.
#[derive(Clone, Debug)]
pub(super) struct Written {
    /// The key.
    pub(super) key: String,
    /// Its last acknowledged write, if one was.
    pub(super) acked: Option<Acked>,
}

impl Written {
    /// A key that nothing was written to yet.
    pub(super) fn new(key: String) -> Self {
        Self { key, acked: None }
    }
}

/// The last acknowledged write of a key.
#[derive(Clone, Copy, Debug)]
pub(super) struct Acked {
    /// The value.
    pub(super) number: u64,
    /// When the acknowledgement arrived, in milliseconds since 1970.
    pub(super) at_ms: i64,
}

impl Acked {
    /// The number, acknowledged at this moment.
    pub(super) fn now(number: u64) -> Self {
        Self {
            number,
            at_ms: now_ms(),
        }
    }
}

/// How a key was found at the end.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// With its last acknowledged value, or a later one.
    Kept,
    /// With an older value, or not at all.
    Lost {
        /// When the lost write was acknowledged, in milliseconds since 1970.
        at_ms: i64,
        /// What is there instead, in words.
        how: String,
    },
    /// It could not be read; why.
    Unread(String),
}

/// The sum over all keys.
#[derive(Debug, Default)]
pub(super) struct Losses {
    /// Keys found [`Found::Lost`].
    pub(super) lost: u64,
    /// When the first of those was acknowledged, in milliseconds since 1970.
    pub(super) first_ms: Option<i64>,
    /// When the last of those was acknowledged.
    pub(super) last_ms: Option<i64>,
    /// Keys found [`Found::Unread`].
    pub(super) unread: u64,
    /// Some of both, in words.
    pub(super) examples: Vec<String>,
}

impl Losses {
    /// Counts one key.
    pub(super) fn count(&mut self, found: Found) {
        match found {
            Found::Kept => {}
            Found::Lost { at_ms, how } => {
                self.lost += 1;
                self.first_ms = Some(self.first_ms.map_or(at_ms, |t| t.min(at_ms)));
                self.last_ms = self.last_ms.max(Some(at_ms));
                note(&mut self.examples, [how]);
            }
            Found::Unread(how) => {
                self.unread += 1;
                note(&mut self.examples, [how]);
            }
        }
    }
}

/// Whether the value read at the end is at least as new as the last acknowledged write.
pub(super) fn judge(written: &Written, value: Option<&str>) -> Found {
    let Some(Acked { number, at_ms }) = written.acked else {
        return Found::Kept;
    };
    let there = match value.map(str::parse::<u64>) {
        Some(Ok(read)) if read >= number => return Found::Kept,
        Some(_) => format!("{value:?} is there"),
        None => "nothing is there".to_owned(),
    };
    let key = &written.key;
    Found::Lost {
        at_ms,
        how: format!("{key}: {number} was acknowledged at {at_ms}, {there}"),
    }
}

/// Keeps the first ten.
pub(super) fn note(examples: &mut Vec<String>, more: impl IntoIterator<Item = String>) {
    let room = 10usize.saturating_sub(examples.len());
    examples.extend(more.into_iter().take(room));
}

/// Milliseconds since 1970.
pub(super) fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acked(number: Option<u64>) -> Written {
        Written {
            key: "k".to_owned(),
            acked: number.map(|number| Acked { number, at_ms: 7 }),
        }
    }

    #[test]
    fn an_acknowledged_write_is_lost_if_an_older_value_or_none_is_there() {
        assert_eq!(judge(&acked(Some(5)), Some("5")), Found::Kept);
        assert_eq!(judge(&acked(Some(5)), Some("6")), Found::Kept);
        assert_eq!(judge(&acked(None), None), Found::Kept);
        for value in [Some("4"), Some("other"), None] {
            assert!(matches!(
                judge(&acked(Some(5)), value),
                Found::Lost { at_ms: 7, .. }
            ));
        }
    }

    #[test]
    fn losses_tell_from_when_to_when_they_were_acknowledged() {
        let mut losses = Losses::default();
        let lost = |at_ms| Found::Lost {
            at_ms,
            how: format!("at {at_ms}"),
        };
        for found in [Found::Kept, lost(20), lost(10), lost(15)] {
            losses.count(found);
        }
        losses.count(Found::Unread("why".to_owned()));
        assert_eq!((losses.lost, losses.unread), (3, 1));
        assert_eq!((losses.first_ms, losses.last_ms), (Some(10), Some(20)));
        assert_eq!(losses.examples.len(), 4);
    }
}
