//! What the process is told: [`Args`] as they were given, [`Settings`] as the rest of the crate reads them.
//!
//! Every flag can be given by environment as well. A secret is never an argument: a password comes in a file, or, for
//! a quick trial, within the URL.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use cachecluster_contract::ports;
use cachecluster_telemetry::logs::Format;
use clap::Parser;

use crate::redis::Seed;

/// The command line.
#[derive(Debug, Parser)]
#[command(
    name = "cachecluster-api",
    version,
    about = "The HTTP cache API of CacheCluster"
)]
pub struct Args {
    /// Address of the public routes
    #[arg(long, env = "CACHE_LISTEN", default_value_t = SocketAddr::from(([0, 0, 0, 0], ports::API)))]
    listen: SocketAddr,
    /// Address of /metrics, /livez and /readyz
    #[arg(long, env = "CACHE_ADMIN_LISTEN", default_value_t = SocketAddr::from(([0, 0, 0, 0], ports::API_ADMIN)))]
    admin_listen: SocketAddr,
    /// Redis to ask first, redis://[user:password@]host[:port]; repeat it or separate by commas. Without it the
    /// values are kept in this process's memory
    #[arg(
        long,
        env = "CACHE_REDIS_URL",
        value_delimiter = ',',
        hide_env_values = true
    )]
    redis_url: Vec<String>,
    /// File with the Redis password, read again for each new connection
    #[arg(long, env = "CACHE_REDIS_PASSWORD_FILE")]
    redis_password_file: Option<PathBuf>,
    /// Connections to each Redis node
    #[arg(long, env = "CACHE_REDIS_CONNECTIONS", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    redis_connections: u16,
    /// Bound of the memory store, e.g. 64Mi
    #[arg(long, env = "CACHE_MEMORY_LIMIT", default_value = "64Mi", value_parser = parse_size)]
    memory_limit: u64,
    /// Longest request body, e.g. 1Mi
    #[arg(long, env = "CACHE_MAX_BODY", default_value = "1Mi", value_parser = parse_size)]
    max_body: u64,
    /// Room for all request bodies that are in memory at a time, e.g. 32Mi, and as much again for responses; further ones
    /// are told to come back
    #[arg(long, env = "CACHE_MAX_BUFFERED", default_value = "32Mi", value_parser = parse_size)]
    max_buffered: u64,
    /// Longest key, in bytes
    #[arg(long, env = "CACHE_MAX_KEY", default_value = "1024", value_parser = parse_size)]
    max_key: u64,
    /// Requests worked on at a time; further ones are told to come back
    #[arg(long, env = "CACHE_MAX_IN_FLIGHT", default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1..))]
    max_in_flight: u32,
    /// Connections held at a time; further ones wait to be accepted
    #[arg(long, env = "CACHE_MAX_CONNECTIONS", default_value_t = 16384, value_parser = clap::value_parser!(u32).range(1..))]
    max_connections: u32,
    /// Longest time that a request may take, e.g. 5s
    #[arg(long, env = "CACHE_REQUEST_DEADLINE", default_value = "5s", value_parser = parse_duration)]
    request_deadline: Duration,
    /// How long to go on serving after the signal to stop, not ready any more, until load balancers know it
    #[arg(long, env = "CACHE_DRAIN_DELAY", default_value = "0s", value_parser = parse_duration)]
    drain_delay: Duration,
    /// How long to wait, after the drain delay, for requests that are still being answered
    #[arg(long, env = "CACHE_DRAIN_TIMEOUT", default_value = "10s", value_parser = parse_duration)]
    drain_timeout: Duration,
    /// What to log, in RUST_LOG's syntax
    #[arg(long = "log", env = "RUST_LOG", default_value = "info")]
    log: String,
    /// How log lines look: text or json
    #[arg(long, env = "CACHE_LOG_FORMAT", default_value = "text")]
    log_format: Format,
}

/// Settings that were found to be in order.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Address of the public routes.
    pub listen: SocketAddr,
    /// Address of the admin port.
    pub admin_listen: SocketAddr,
    /// Where the values are.
    pub store: StoreSettings,
    /// What one request may cost.
    pub limits: Limits,
    /// Connections held at a time.
    pub max_connections: usize,
    /// How long to serve on after the signal to stop.
    pub drain_delay: Duration,
    /// How long requests may take to end after that.
    pub drain_timeout: Duration,
    /// Filter of the log.
    pub log: String,
    /// Look of the log.
    pub log_format: Format,
}

/// Where the values are.
#[derive(Clone, Debug)]
pub enum StoreSettings {
    /// In this process, up to so many bytes.
    Memory {
        /// Bound on keys, values and what it costs to hold them, in bytes.
        limit: u64,
    },
    /// In Redis.
    Redis(RedisSettings),
}

/// How to reach Redis.
#[derive(Clone, Debug)]
pub struct RedisSettings {
    /// Whom to ask first. Never empty.
    pub seeds: Vec<Seed>,
    /// File with the password, if it is not in a URL.
    pub password_file: Option<PathBuf>,
    /// Connections to each node, at least 1.
    pub connections: usize,
}

/// What one request may cost.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Longest body, in bytes.
    pub body: usize,
    /// Room for all request bodies that are in memory at a time, and again for responses, in bytes.
    pub buffered: usize,
    /// Longest key, in bytes.
    pub key: usize,
    /// Requests worked on at a time.
    pub in_flight: usize,
    /// Longest time for one request.
    pub deadline: Duration,
}

/// A setting that cannot be.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// A Redis URL.
    #[error("--redis-url: {0}")]
    RedisUrl(#[from] crate::redis::SeedError),
    /// The bounds contradict each other.
    #[error("--memory-limit of {memory} bytes cannot hold one body of --max-body, {body} bytes")]
    MemoryBelowBody {
        /// The memory limit.
        memory: u64,
        /// The body limit.
        body: u64,
    },
    /// As above.
    #[error("--max-buffered of {buffered} bytes cannot hold one body of --max-body, {body} bytes")]
    BufferedBelowBody {
        /// The room for bodies.
        buffered: u64,
        /// The body limit.
        body: u64,
    },
    /// Too short to do anything in.
    #[error("--request-deadline must be at least 50ms")]
    Deadline,
}

impl Settings {
    /// Reads the process's arguments and environment. Prints usage and exits on `--help` and on words it does not know.
    ///
    /// # Errors
    /// When a value is well formed but cannot be.
    pub fn from_env() -> Result<Self, SettingsError> {
        Args::parse().try_into()
    }
}

impl TryFrom<Args> for Settings {
    type Error = SettingsError;

    fn try_from(args: Args) -> Result<Self, Self::Error> {
        let seeds = args
            .redis_url
            .iter()
            .map(|url| url.trim())
            .filter(|url| !url.is_empty())
            .map(str::parse)
            .collect::<Result<Vec<Seed>, _>>()?;
        let store = if seeds.is_empty() {
            if args.memory_limit < args.max_body {
                return Err(SettingsError::MemoryBelowBody {
                    memory: args.memory_limit,
                    body: args.max_body,
                });
            }
            StoreSettings::Memory {
                limit: args.memory_limit,
            }
        } else {
            StoreSettings::Redis(RedisSettings {
                seeds,
                password_file: args
                    .redis_password_file
                    .filter(|path| !path.as_os_str().is_empty()),
                connections: usize::from(args.redis_connections),
            })
        };
        if args.max_buffered < args.max_body {
            return Err(SettingsError::BufferedBelowBody {
                buffered: args.max_buffered,
                body: args.max_body,
            });
        }
        if args.request_deadline < Duration::from_millis(50) {
            return Err(SettingsError::Deadline);
        }
        Ok(Self {
            listen: args.listen,
            admin_listen: args.admin_listen,
            store,
            limits: Limits {
                body: usize::try_from(args.max_body).unwrap_or(usize::MAX),
                buffered: usize::try_from(args.max_buffered).unwrap_or(usize::MAX),
                key: usize::try_from(args.max_key).unwrap_or(usize::MAX),
                in_flight: args.max_in_flight as usize,
                deadline: args.request_deadline,
            },
            max_connections: args.max_connections as usize,
            drain_delay: args.drain_delay,
            drain_timeout: args.drain_timeout,
            log: args.log,
            log_format: args.log_format,
        })
    }
}

/// A size in bytes: a number, alone or with `k`, `Ki`, `M`, `Mi`, `G` or `Gi` as in Kubernetes quantities.
fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let number: u64 = digits
        .parse()
        .map_err(|_| format!("{text:?} is no size: give a number of bytes, or e.g. 64Mi"))?;
    let unit = match text[digits.len()..].trim() {
        "" => 1,
        "k" => 1_000,
        "Ki" => 1 << 10,
        "M" => 1_000_000,
        "Mi" => 1 << 20,
        "G" => 1_000_000_000,
        "Gi" => 1 << 30,
        other => {
            return Err(format!(
                "{other:?} is no unit of size: use k, Ki, M, Mi, G or Gi"
            ));
        }
    };
    number
        .checked_mul(unit)
        .filter(|size| *size > 0)
        .ok_or_else(|| format!("{text:?} is out of range"))
}

/// A duration: a number of seconds, alone or with `ms`, `s` or `m`.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let number: u64 = digits
        .parse()
        .map_err(|_| format!("{text:?} is no duration: give e.g. 5s or 250ms"))?;
    let millis = match text[digits.len()..].trim() {
        "ms" => Some(number),
        "" | "s" => number.checked_mul(1_000),
        "m" => number.checked_mul(60_000),
        other => return Err(format!("{other:?} is no unit of time: use ms, s or m")),
    };
    millis
        .map(Duration::from_millis)
        .ok_or_else(|| format!("{text:?} is out of range"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(args: &[&str]) -> Result<Settings, SettingsError> {
        Args::try_parse_from([&["cachecluster-api"], args].concat())
            .unwrap()
            .try_into()
    }

    #[test]
    fn without_a_redis_url_the_values_are_kept_in_memory() {
        let plain = settings(&[]).unwrap();
        assert!(matches!(
            plain.store,
            StoreSettings::Memory { limit: 67_108_864 }
        ));
        let empty = settings(&["--redis-url", ""]).unwrap();
        assert!(matches!(empty.store, StoreSettings::Memory { .. }));
    }

    #[test]
    fn help_shows_no_password() {
        use clap::CommandFactory;
        let command = Args::command();
        let url = command
            .get_arguments()
            .find(|arg| arg.get_id() == "redis_url");
        assert!(url.unwrap().is_hide_env_values_set());
    }

    #[test]
    fn redis_urls_are_repeated_or_separated_by_commas() {
        let given = settings(&[
            "--redis-url",
            "redis://a,redis://b:7000",
            "--redis-url",
            "redis://c",
        ]);
        let StoreSettings::Redis(redis) = given.unwrap().store else {
            panic!("a memory store")
        };
        let hosts: Vec<_> = redis
            .seeds
            .iter()
            .map(|seed| (seed.host.as_str(), seed.port))
            .collect();
        assert_eq!(hosts, [("a", 6379), ("b", 7000), ("c", 6379)]);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        assert!(settings(&["--redis-url", "http://a"]).is_err());
        assert!(settings(&["--memory-limit", "1k"]).is_err());
        assert!(settings(&["--max-buffered", "1k"]).is_err());
        assert!(settings(&["--request-deadline", "1ms"]).is_err());
        for size in ["", "x", "5X", "-1", "0", "99999999999Gi"] {
            assert!(parse_size(size).is_err(), "{size}");
        }
        for duration in ["", "s", "5h", "99999999999999999999m"] {
            assert!(parse_duration(duration).is_err(), "{duration}");
        }
    }

    #[test]
    fn sizes_and_durations_have_units() {
        assert_eq!(parse_size("64Mi"), Ok(64 << 20));
        assert_eq!(parse_size("10k"), Ok(10_000));
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_duration("5"), Ok(Duration::from_secs(5)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
    }
}
