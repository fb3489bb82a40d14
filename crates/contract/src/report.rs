//! What an agent knows of its pod that nobody else can see: the answer to
//! [`REPORT_PATH`](crate::ports::REPORT_PATH), as JSON.
//!
//! Members that are not known are absent, and unknown ones are passed over: agents and operators of different versions
//! talk to each other.

use serde::{Deserialize, Serialize};

/// An agent's report.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The volume with the data. Absent without storage, or before it was looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<Volume>,
    /// How many of the container's processes the system has killed for want of memory since the agent started. The server
    /// is one, and so is its child that writes a snapshot.
    #[serde(default)]
    pub oom_kills: u64,
    /// When the agent noticed the last of them, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_oom_kill: Option<i64>,
}

/// The volume with the data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Volume {
    /// Its size, in bytes.
    pub size: u64,
    /// What the server may still fill, in bytes.
    pub free: u64,
    /// Whether the server printed lately that no space is left.
    #[serde(default)]
    pub refused: bool,
}

impl Volume {
    /// How full it is, from 0 to 100. One without any size is full.
    #[must_use]
    pub fn percent(&self) -> u64 {
        let used = u128::from(self.size.saturating_sub(self.free)) * 100;
        let percent = used.checked_div(u128::from(self.size)).unwrap_or(100);
        u64::try_from(percent).unwrap_or(100)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_reads_back_also_from_a_newer_or_an_older_agent() {
        let report = Report {
            volume: Some(Volume {
                size: 100,
                free: 7,
                refused: true,
            }),
            oom_kills: 2,
            last_oom_kill: Some(1_790_000_000),
        };
        let text = serde_json::to_string(&report).unwrap();
        assert!(text.contains("\"lastOomKill\":1790000000"), "{text}");
        let newer = text.replacen('{', "{\"fromTheFuture\":1,", 1);
        assert_eq!(serde_json::from_str::<Report>(&newer).unwrap(), report);
        let older = serde_json::from_str::<Report>("{}").unwrap();
        assert_eq!(older, Report::default());
    }

    #[test]
    fn how_full_a_volume_is() {
        let percent = |size, free| {
            let refused = false;
            Volume {
                size,
                free,
                refused,
            }
            .percent()
        };
        assert_eq!(percent(200, 20), 90);
        assert_eq!(percent(200, 0), 100);
        assert_eq!(percent(0, 0), 100);
        assert_eq!(percent(u64::MAX, u64::MAX), 0);
    }
}
