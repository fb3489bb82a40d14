//! What a reader needs to see when a scenario failed.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use cachecluster_contract::labels;

use crate::cluster::{Ctx, OPERATOR};

/// How much of everything.
struct Extent {
    /// Most lines of one part.
    lines: usize,
    /// Most lines of one container's log.
    tail: &'static str,
    /// Whether what containers said before they started anew is wanted.
    previous: bool,
}

/// Gathers the resource, pods, events and the tails of the logs. Parts that cannot be had say why.
pub(crate) async fn of(ctx: &Ctx, since: Duration) -> String {
    let extent = Extent {
        lines: 120,
        tail: "--tail=40",
        previous: false,
    };
    gather(ctx, since, &extent).await
}

/// The same with whole logs, for a file.
pub(crate) async fn in_full(ctx: &Ctx, since: Duration) -> String {
    let extent = Extent {
        lines: usize::MAX,
        tail: "--tail=20000",
        previous: true,
    };
    gather(ctx, since, &extent).await
}

/// Prints the tails, and keeps the whole in `target/e2e`, by the name of the namespace.
pub(crate) async fn keep(ctx: &Ctx, since: Duration) {
    let whole = in_full(ctx, since).await;
    eprint!("{}", of(ctx, since).await);
    let path = PathBuf::from("target/e2e").join(format!("{}.log", ctx.namespace));
    let kept = std::fs::create_dir_all("target/e2e").and_then(|()| std::fs::write(&path, whole));
    match kept {
        Ok(()) => eprintln!("everything is in {}", path.display()),
        Err(error) => eprintln!("{}: {error}", path.display()),
    }
}

async fn gather(ctx: &Ctx, since: Duration, extent: &Extent) -> String {
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
            extent.tail,
            "--max-log-requests=50",
            since.as_str(),
        ]
    };
    let own = ctx.namespace.as_str();
    let before = |selector, namespace| {
        let more = ["--previous", "--ignore-errors"];
        [logs(selector, namespace), more.to_vec()].concat()
    };
    let mut parts = vec![
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
    if extent.previous {
        parts.push(("operator, before it started anew", before(OPERATOR, system)));
        parts.push(("redis, before it started anew", before(redis.as_str(), own)));
        parts.push(("api, before it started anew", before(api.as_str(), own)));
    }
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
        let skipped = lines.len().saturating_sub(extent.lines);
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
