//! What a reader needs to see when a scenario failed.

use std::fmt::Write as _;
use std::time::Duration;

use cachecluster_contract::labels;

use crate::cluster::{Ctx, OPERATOR};

/// Longest text of one part.
const LINES: usize = 120;

/// Gathers the resource, pods, events and the tails of the logs. Parts that cannot be had say why.
pub(crate) async fn of(ctx: &Ctx, since: Duration) -> String {
    let since = format!("--since={}s", since.as_secs() + 5);
    let redis = format!("{}={}", labels::COMPONENT, labels::COMPONENT_REDIS);
    let api = format!("{}={}", labels::COMPONENT, labels::COMPONENT_API);
    let system = ctx.settings.operator_namespace.as_str();
    let logs = |selector, namespace| {
        vec![
            "logs",
            "--namespace",
            namespace,
            "--selector",
            selector,
            "--all-containers",
            "--prefix",
            "--tail=40",
            "--max-log-requests=50",
            since.as_str(),
        ]
    };
    let own = ctx.namespace.as_str();
    let parts = [
        (
            "resources",
            vec!["get", "cacheclusters", "-n", own, "-o", "yaml"],
        ),
        (
            "objects",
            vec!["get", "pods,pvc,services", "-n", own, "-o", "wide"],
        ),
        (
            "events",
            vec!["get", "events", "-n", own, "--sort-by=.lastTimestamp"],
        ),
        ("operator", logs(OPERATOR, system)),
        ("redis", logs(redis.as_str(), own)),
        ("api", logs(api.as_str(), own)),
    ];
    let mut text = String::new();
    for (title, args) in parts {
        let part = match ctx
            .settings
            .target
            .kubectl(&args, Duration::from_secs(20))
            .await
        {
            Ok(part) => part,
            Err(error) => format!("{error:#}"),
        };
        let lines: Vec<&str> = part.lines().collect();
        let skipped = lines.len().saturating_sub(LINES);
        let _ = writeln!(text, "--- {own}: {title}");
        if skipped > 0 {
            let _ = writeln!(text, "    … {skipped} lines before");
        }
        for line in &lines[skipped..] {
            let _ = writeln!(text, "    {line}");
        }
    }
    text
}
