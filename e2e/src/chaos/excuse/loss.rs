//! Which acknowledged writes may be gone, and which reads may be stale.

use std::time::Duration;

use super::place::{Member, Strike, all_struck};
use super::{ISOLATED, LAG};
use crate::chaos::fault::Manner;
use crate::chaos::schedule::Shape;

/// How long a server that is told to stop may go on acknowledging.
const STOPPING: Duration = Duration::from_secs(10);

/// Which acknowledged writes of a shard may be gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::chaos) enum Loss {
    /// None.
    None,
    /// Those acknowledged in this time, in milliseconds since 1970, both ends included.
    Within(i64, i64),
    /// Any that was acknowledged before this time, in milliseconds since 1970.
    Until(i64),
}

impl Loss {
    /// Whether the loss of writes acknowledged from `first` to `last` is excused.
    pub(in crate::chaos) fn covers(self, first: i64, last: i64) -> bool {
        match self {
            Self::None => false,
            Self::Within(from, to) => from <= first && last <= to,
            Self::Until(to) => last <= to,
        }
    }

    /// The same; times that nobody knows are not covered.
    pub(in crate::chaos) fn covers_times(self, times: (Option<i64>, Option<i64>)) -> bool {
        matches!(times, (Some(first), Some(last)) if self.covers(first, last))
    }

    /// What is excused by either.
    pub(in crate::chaos) fn or(self, other: Self) -> Self {
        match (self, other) {
            (Self::None, loss) | (loss, Self::None) => loss,
            (Self::Within(a, b), Self::Within(c, d)) => Self::Within(a.min(c), b.max(d)),
            (Self::Until(a), Self::Within(_, b) | Self::Until(b))
            | (Self::Within(_, a), Self::Until(b)) => Self::Until(a.max(b)),
        }
    }
}

/// What is excused of a shard that these strikes hit.
pub(super) fn loss_of(shape: &Shape, on_it: &[(&Strike, Vec<&Member>)]) -> Loss {
    let (lag, isolated) = (millis(LAG), millis(ISOLATED));
    let until = |strike: &Strike| match strike.fault.kind.manner() {
        Manner::Cut => strike.ended_ms + isolated + lag,
        _ => strike.ended_ms + lag,
    };
    let orderly = |strike: &Strike| {
        matches!(
            strike.fault.kind.manner(),
            Manner::Told | Manner::Guarded | Manner::Spared
        )
    };
    let Some(first) = on_it.iter().map(|(strike, _)| strike.began_ms).min() else {
        return Loss::None;
    };
    // Who is durable has on its volumes what it acknowledged: a crash takes no more than if others had lived.
    if all_struck(shape, on_it) && !shape.durable {
        // One that is cut off keeps what it has. Where others took all of the memory, it has nothing by then.
        let taken = on_it
            .iter()
            .filter(|(strike, _)| strike.fault.kind.manner() != Manner::Cut);
        if !shape.storage && all_struck(shape, taken) {
            let stopped = on_it.iter().map(|(strike, _)| match orderly(strike) {
                true => strike.ended_ms + millis(STOPPING),
                false => until(strike),
            });
            return Loss::Until(stopped.max().unwrap_or(first));
        }
        if on_it.iter().all(|(strike, _)| orderly(strike)) {
            return Loss::None;
        }
        let last = on_it.iter().map(|(strike, _)| until(strike)).max();
        return Loss::Within(first - lag, last.unwrap_or(first));
    }
    // Struck twice, anybody may have become the primary between.
    let twice = on_it.len() > 1;
    let windows = on_it.iter().filter(|(strike, members)| {
        !orderly(strike) && (twice || members.iter().any(|member| member.primary))
    });
    let windows = windows.map(|(strike, _)| (strike.began_ms - lag, until(strike)));
    let joined = windows.reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)));
    joined.map_or(Loss::None, |(from, to)| Loss::Within(from, to))
}

/// When a shard's reads may be stale: while one that was its primary serves, and cannot hear who is by now.
pub(super) fn stale_of(on_it: &[(&Strike, Vec<&Member>)], lonely: &[&Strike]) -> Loss {
    // Struck twice, anybody may have become the primary between.
    let twice = on_it.len() > 1;
    let cut = on_it.iter().filter(|(strike, members)| {
        strike.fault.kind.manner() == Manner::Cut
            && (twice || members.iter().any(|member| member.primary))
    });
    let cuts = cut.map(|(strike, _)| *strike).chain(lonely.iter().copied());
    cuts.map(|strike| {
        let healed =
            strike.began_ms + millis(strike.fault.lasts).max(strike.ended_ms - strike.began_ms);
        let stops = strike.ended_ms + millis(ISOLATED);
        Loss::Within(
            strike.began_ms - millis(LAG),
            stops.min(healed) + millis(LAG),
        )
    })
    .fold(Loss::None, Loss::or)
}

/// As times are counted.
pub(super) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
