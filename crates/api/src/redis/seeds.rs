//! Whom to ask first: the URLs that were given, and the addresses behind their names.

use std::fmt;
use std::str::FromStr;

use redis::{ConnectionAddr, IntoConnectionInfo};

/// A `redis://` URL, taken apart.
#[derive(Clone, PartialEq, Eq)]
pub struct Seed {
    /// A name, which may stand for many addresses, or an address.
    pub host: String,
    /// The port, 6379 if the URL has none.
    pub port: u16,
    /// The user, if the URL has one.
    pub username: Option<String>,
    /// The password, if the URL has one.
    pub password: Option<String>,
}

/// Shows no password: settings are logged.
impl fmt::Debug for Seed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "redis://{}:{}", self.host, self.port)
    }
}

/// A URL that names no Redis that we can talk to.
#[derive(Debug, thiserror::Error)]
pub enum SeedError {
    /// It does not parse. The URL is not shown, since it may hold a password.
    #[error("not a URL of the form redis://[user:password@]host[:port]: {0}")]
    Malformed(redis::RedisError),
    /// Only plain TCP is spoken.
    #[error("only redis:// is supported, over TCP")]
    Scheme,
    /// Redis Cluster has database 0 only.
    #[error("database {0}: Redis Cluster has database 0 only")]
    Database(i64),
}

impl FromStr for Seed {
    type Err = SeedError;

    fn from_str(url: &str) -> Result<Self, Self::Err> {
        if !url.starts_with("redis://") && !url.starts_with("valkey://") {
            return Err(SeedError::Scheme);
        }
        let info = url.into_connection_info().map_err(SeedError::Malformed)?;
        let ConnectionAddr::Tcp(host, port) = info.addr().clone() else {
            return Err(SeedError::Scheme);
        };
        let redis = info.redis_settings();
        if redis.db() != 0 {
            return Err(SeedError::Database(redis.db()));
        }
        Ok(Self {
            host,
            port,
            username: redis.username().map(str::to_owned),
            password: redis.password().map(str::to_owned),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_taken_apart_and_its_password_not_shown() {
        let seed: Seed = "redis://cache:s%40crt@nodes.example:7000".parse().unwrap();
        assert_eq!((seed.host.as_str(), seed.port), ("nodes.example", 7000));
        assert_eq!(seed.username.as_deref(), Some("cache"));
        assert_eq!(seed.password.as_deref(), Some("s@crt"));
        assert_eq!(format!("{seed:?}"), "redis://nodes.example:7000");
        let seed: Seed = "redis://[fd00::1]:7000".parse().unwrap();
        assert_eq!(seed.host, "fd00::1");
    }

    #[test]
    fn what_we_cannot_talk_to_is_refused() {
        for url in [
            "",
            "nodes:6379",
            "rediss://a",
            "unix:///a",
            "redis://a/3",
            "redis://",
        ] {
            assert!(url.parse::<Seed>().is_err(), "{url}");
        }
    }
}
