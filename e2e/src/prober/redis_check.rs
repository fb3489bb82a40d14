//! Plain Redis clients at the cluster's Services.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use redis::aio::MultiplexedConnection;

use super::report::RedisReport;

/// `prober redis-check`
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The Service that Redis Cluster clients start from, e.g. redis://demo-redis:6379
    #[arg(long)]
    url: String,
    /// The Service to the one primary of a cluster of one shard
    #[arg(long)]
    primary_url: Option<String>,
    /// File with the password
    #[arg(long)]
    password_file: PathBuf,
}

/// Longest time for one command or connection.
const BOUND: Duration = Duration::from_secs(5);

/// Looks at the cluster, and at the primary if there is a Service for it.
///
/// # Errors
/// When the password file cannot be read or a URL is none. What the servers do wrong is in the report.
pub(crate) async fn run(args: &Args) -> Result<RedisReport> {
    let password = std::fs::read_to_string(&args.password_file)
        .with_context(|| format!("reading {}", args.password_file.display()))?;
    let password = password.trim_end_matches(['\r', '\n']);
    let mut report = RedisReport::default();
    super::announce();

    match without_password(&args.url).await {
        Ok(said) if said.contains("NOAUTH") => {}
        Ok(said) => report
            .failures
            .push(format!("a client without a password was told {said:?}")),
        Err(error) => report.failures.push(format!("{}: {error:#}", args.url)),
    }
    if let Err(error) = look(&args.url, password, &mut report).await {
        report.failures.push(format!("{}: {error:#}", args.url));
    }
    if let Some(url) = &args.primary_url
        && let Err(error) = use_plainly(url, password).await
    {
        report.failures.push(format!("{url}: {error:#}"));
    }
    Ok(report)
}

async fn connect(url: &str, password: Option<&str>) -> Result<MultiplexedConnection> {
    let mut info: redis::ConnectionInfo = url
        .parse()
        .with_context(|| format!("{url} is no Redis URL"))?;
    if let Some(password) = password {
        let settings = info.redis_settings().clone().set_password(password);
        info = info.set_redis_settings(settings);
    }
    let config = redis::AsyncConnectionConfig::new()
        .set_connection_timeout(Some(BOUND))
        .set_response_timeout(Some(BOUND));
    let client = redis::Client::open(info)?;
    Ok(client
        .get_multiplexed_async_connection_with_config(&config)
        .await?)
}

/// What a client hears that gives no password: an error is expected, and returned as text.
async fn without_password(url: &str) -> Result<String> {
    let mut connection = connect(url, None).await?;
    match redis::cmd("GET")
        .arg("anything")
        .query_async::<Option<String>>(&mut connection)
        .await
    {
        Ok(answer) => Ok(format!("{answer:?}")),
        Err(error) => Ok(error.to_string()),
    }
}

/// Reads the cluster's view of itself into the report.
async fn look(url: &str, password: &str, report: &mut RedisReport) -> Result<()> {
    let mut connection = connect(url, Some(password)).await?;
    let mut cluster = redis::cmd("CLUSTER");
    let info: String = cluster.arg("INFO").query_async(&mut connection).await?;
    report.info = info
        .lines()
        .filter_map(|line| line.trim().split_once(':'))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect::<BTreeMap<_, _>>();
    let nodes: String = redis::cmd("CLUSTER")
        .arg("NODES")
        .query_async(&mut connection)
        .await?;
    for line in nodes.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        // id, address, flags, primary, ping, pong, epoch, link, slots…
        if let [id, _, flags, _, _, _, _, _, slots @ ..] = words.as_slice() {
            report.nodes.insert((*id).to_owned());
            let primary = flags.split(',').any(|flag| flag == "master");
            if primary && !slots.is_empty() {
                report.primaries += 1;
            }
        }
    }
    Ok(())
}

/// PING, SET, GET and DEL as a program does that has never heard of Redis Cluster.
async fn use_plainly(url: &str, password: &str) -> Result<()> {
    let mut connection = connect(url, Some(password)).await?;
    let pong: String = redis::cmd("PING").query_async(&mut connection).await?;
    anyhow::ensure!(pong == "PONG", "PING was answered {pong:?}");
    for number in 0..50 {
        let (key, value) = (format!("plain-{number}"), format!("v{number}"));
        let () = redis::cmd("SET")
            .arg(&key)
            .arg(&value)
            .arg("EX")
            .arg(60)
            .query_async(&mut connection)
            .await
            .with_context(|| format!("SET {key}"))?;
        let read: Option<String> = redis::cmd("GET")
            .arg(&key)
            .query_async(&mut connection)
            .await
            .with_context(|| format!("GET {key}"))?;
        anyhow::ensure!(
            read.as_deref() == Some(value.as_str()),
            "GET {key} was answered {read:?}"
        );
    }
    Ok(())
}
