//! The HTTP contract, statement by statement.
//!
//! Bodies on success and for a missing key are exact to the byte; what bad input is told must be a 400 with one member
//! `error` that names what is wrong. The same statements hold for every way to run the API: on a cluster, by Compose,
//! or alone with its memory store.

use std::time::{Duration, Instant};

use anyhow::Result;
use reqwest::Method;
use serde_json::{Value, json};

use super::client::{Answer, Client};
use super::report::ContractReport;

/// `prober contract`
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Base URL of the API, e.g. http://127.0.0.1:5000
    #[arg(long)]
    url: String,
    /// How long to wait for a first answer, in seconds
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(0..=600))]
    patience: u64,
}

const SET: &str = r#"{"message":"Cache set successfully!"}"#;
const DELETED: &str = r#"{"message":"Key deleted"}"#;
const MISSING: &str = r#"{"error":"Key not found"}"#;

/// Makes every statement. Uses keys that start with `contract-`, and removes them again.
///
/// # Errors
/// When the URL is none, or nothing answers at all.
pub(crate) async fn run(args: &Args) -> Result<ContractReport> {
    let client = Client::new(&args.url, Duration::from_secs(10), true)?;
    client
        .await_answer(Duration::from_secs(args.patience))
        .await?;
    super::announce();
    let mut checks = Checks {
        client,
        report: ContractReport::default(),
    };
    checks.write_read_remove().await;
    checks.values().await;
    checks.unusual_keys().await;
    checks.time_to_live().await;
    checks.bad_input().await;
    checks.routes().await;
    checks.health_and_stats().await;
    Ok(checks.report)
}

struct Checks {
    client: Client,
    report: ContractReport,
}

impl Checks {
    async fn write_read_remove(&mut self) {
        let body = r#"{"key":"contract-test","value":"123"}"#;
        self.exact("a value is set", Method::POST, "/cache", body, 200, SET)
            .await;
        self.exact(
            "and read back",
            Method::GET,
            "/cache/contract-test",
            "",
            200,
            r#"{"key":"contract-test","value":"123"}"#,
        )
        .await;
        let body = r#"{"key":"contract-test","value":"456"}"#;
        self.exact(
            "a value is replaced",
            Method::POST,
            "/cache",
            body,
            200,
            SET,
        )
        .await;
        self.exact(
            "and the new one is read back",
            Method::GET,
            "/cache/contract-test",
            "",
            200,
            r#"{"key":"contract-test","value":"456"}"#,
        )
        .await;
        let path = "/cache/contract-test";
        self.exact("a key is removed", Method::DELETE, path, "", 200, DELETED)
            .await;
        self.exact("and is gone", Method::GET, path, "", 404, MISSING)
            .await;
        self.exact(
            "and cannot be removed twice",
            Method::DELETE,
            path,
            "",
            404,
            MISSING,
        )
        .await;
    }

    async fn values(&mut self) {
        let long = "x".repeat(64 * 1024);
        for (written, read) in [
            (json!("").to_string(), json!("")),
            (
                json!("a \"b\" \\ \n é 日本 🦀").to_string(),
                json!("a \"b\" \\ \n é 日本 🦀"),
            ),
            (json!(long).to_string(), json!(long)),
            ("42".to_owned(), json!("42")),
            ("-1.50".to_owned(), json!("-1.50")),
            ("true".to_owned(), json!("true")),
        ] {
            let label: String = written.chars().take(24).collect();
            let body = format!(r#"{{"key":"contract-value","value":{written}}}"#);
            self.exact(
                &format!("{label} is a value"),
                Method::POST,
                "/cache",
                &body,
                200,
                SET,
            )
            .await;
            let answer = self.ask(Method::GET, "/cache/contract-value", "").await;
            self.hold(&format!("{label} is read back"), answer, |answer| {
                answer.status == 200 && answer.json()["value"] == read
            });
        }
        self.clean("contract-value").await;
    }

    async fn unusual_keys(&mut self) {
        for (key, path) in [
            ("contract with spaces", "contract%20with%20spaces"),
            ("contract-é日本", "contract-%C3%A9%E6%97%A5%E6%9C%AC"),
            ("contract-a/b?c#d%e", "contract-a%2Fb%3Fc%23d%25e"),
            ("contract-{tag}:1", "contract-%7Btag%7D%3A1"),
        ] {
            let body = json!({"key": key, "value": "v"}).to_string();
            self.exact(
                &format!("{key:?} is a key"),
                Method::POST,
                "/cache",
                &body,
                200,
                SET,
            )
            .await;
            let answer = self.ask(Method::GET, &format!("/cache/{path}"), "").await;
            let wanted = json!({"key": key, "value": "v"});
            self.hold(&format!("{key:?} is read back"), answer, |answer| {
                answer.status == 200 && answer.json() == wanted
            });
            self.clean(path).await;
        }
    }

    async fn time_to_live(&mut self) {
        let body = r#"{"key":"contract-stays","value":"v","ttl_seconds":60}"#;
        self.exact("a TTL is taken", Method::POST, "/cache", body, 200, SET)
            .await;
        let body = r#"{"key":"contract-goes","value":"v","ttl_seconds":1}"#;
        self.exact(
            "a short TTL is taken",
            Method::POST,
            "/cache",
            body,
            200,
            SET,
        )
        .await;
        // Gone a second later; asked until then, and a little longer, as clocks differ.
        let until = Instant::now() + Duration::from_secs(4);
        let last = loop {
            let answer = self.ask(Method::GET, "/cache/contract-goes", "").await;
            if matches!(&answer, Ok(answer) if answer.status == 404) || Instant::now() >= until {
                break answer;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        };
        self.hold("a value goes when its TTL ends", last, |answer| {
            answer.status == 404 && answer.body == MISSING
        });
        self.exact(
            "a value stays while its TTL lasts",
            Method::GET,
            "/cache/contract-stays",
            "",
            200,
            r#"{"key":"contract-stays","value":"v"}"#,
        )
        .await;
        self.clean("contract-stays").await;
    }

    async fn bad_input(&mut self) {
        for (body, word) in [
            ("", "empty"),
            ("{", "JSON"),
            ("not json", "JSON"),
            (r#"["contract-bad","v"]"#, "object"),
            (r#""text""#, "object"),
            ("{}", "key"),
            (r#"{"value":"v"}"#, "key"),
            (r#"{"key":"","value":"v"}"#, "key"),
            (r#"{"key":null,"value":"v"}"#, "key"),
            (r#"{"key":7,"value":"v"}"#, "key"),
            (r#"{"key":"contract-bad"}"#, "value"),
            (r#"{"key":"contract-bad","value":null}"#, "value"),
            (r#"{"key":"contract-bad","value":{"a":1}}"#, "value"),
            (r#"{"key":"contract-bad","value":[1]}"#, "value"),
            (
                r#"{"key":"contract-bad","value":"v","ttl_seconds":0}"#,
                "ttl_seconds",
            ),
            (
                r#"{"key":"contract-bad","value":"v","ttl_seconds":-5}"#,
                "ttl_seconds",
            ),
            (
                r#"{"key":"contract-bad","value":"v","ttl_seconds":1.5}"#,
                "ttl_seconds",
            ),
            (
                r#"{"key":"contract-bad","value":"v","ttl_seconds":"60"}"#,
                "ttl_seconds",
            ),
        ] {
            let answer = self.ask(Method::POST, "/cache", body).await;
            self.hold(&format!("POST {body:?} is refused"), answer, |answer| {
                refusal(answer, 400).is_some_and(|said| said.contains(word))
            });
        }
        self.exact(
            "what was refused was not stored",
            Method::GET,
            "/cache/contract-bad",
            "",
            404,
            MISSING,
        )
        .await;
        let key = "k".repeat(64 * 1024);
        let body = json!({"key": key, "value": "v"}).to_string();
        let answer = self.ask(Method::POST, "/cache", &body).await;
        self.hold("a key of 64 KiB is refused", answer, |answer| {
            refusal(answer, 400).is_some()
        });
        let answer = self.client.announce_body(4 << 20).await;
        self.hold(
            "a body of 4 MiB is refused before it is sent",
            answer,
            |answer| refusal(answer, 413).is_some(),
        );
    }

    async fn routes(&mut self) {
        let answer = self.ask(Method::GET, "/nothing-here", "").await;
        self.hold("an unknown path is a 404 in JSON", answer, |answer| {
            refusal(answer, 404).is_some()
        });
        let answer = self.ask(Method::GET, "/cache/", "").await;
        self.hold("a path without a key is a 400", answer, |answer| {
            refusal(answer, 400).is_some_and(|said| said.contains("key"))
        });
        let answer = self.ask(Method::PATCH, "/cache/contract-test", "").await;
        self.hold(
            "another method is a 405 that names those there are",
            answer,
            |answer| {
                refusal(answer, 405).is_some()
                    && answer.allow.contains("GET")
                    && answer.allow.contains("DELETE")
            },
        );
    }

    async fn health_and_stats(&mut self) {
        let answer = self.ask(Method::GET, "/health", "").await;
        self.hold("a healthy cache says so", answer, |answer| {
            answer.status == 200 && answer.json()["status"] == "healthy"
        });
        let answer = self.ask(Method::GET, "/stats", "").await;
        self.hold(
            "each shard tells its name, hits, misses and memory",
            answer,
            |answer| {
                answer.status == 200
                    && answer.json()["shards"]
                        .as_array()
                        .is_some_and(|shards| !shards.is_empty() && shards.iter().all(is_counted))
            },
        );
    }

    async fn ask(&self, method: Method, path: &str, body: &str) -> Result<Answer> {
        let body = (method == Method::POST).then(|| body.to_owned());
        self.client.send(method, path, body).await
    }

    /// One request whose answer is known to the byte.
    async fn exact(
        &mut self,
        statement: &str,
        method: Method,
        path: &str,
        body: &str,
        status: u16,
        wanted: &str,
    ) {
        let answer = self.ask(method, path, body).await;
        self.hold(statement, answer, |answer| {
            answer.status == status
                && answer.body == wanted
                && answer.media_type.starts_with("application/json")
        });
    }

    /// Counts a statement as held, or notes what was seen instead.
    fn hold(
        &mut self,
        statement: &str,
        answer: Result<Answer>,
        holds: impl FnOnce(&Answer) -> bool,
    ) {
        let saw = match answer {
            Ok(answer) if holds(&answer) => {
                self.report.passed += 1;
                return;
            }
            Ok(answer) => {
                let body: String = answer.body.chars().take(200).collect();
                format!("{} {} {body}", answer.status, answer.media_type)
            }
            Err(error) => format!("{error:#}"),
        };
        self.report.failures.push(format!("{statement}: {saw}"));
    }

    async fn clean(&self, path: &str) {
        // Tidiness alone; a failure here would have shown in a statement.
        let _ = self.client.delete(path).await;
    }
}

/// What a refusal says, if the answer is one: JSON with one member `error` that is a text.
fn refusal(answer: &Answer, status: u16) -> Option<String> {
    let json = answer.json();
    let members = json.as_object()?;
    let said = members.get("error")?.as_str()?.to_owned();
    let whole = answer.status == status
        && members.len() == 1
        && !said.is_empty()
        && answer.media_type.starts_with("application/json");
    whole.then_some(said)
}

/// Whether a shard's entry has a name and its counters.
fn is_counted(shard: &Value) -> bool {
    let number = |part: &str| {
        shard.as_object().is_some_and(|members| {
            members
                .iter()
                .any(|(name, value)| name.contains(part) && value.is_u64())
        })
    };
    shard["name"].as_str().is_some_and(|name| !name.is_empty())
        && number("hits")
        && number("misses")
        && number("memory")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &str) -> Answer {
        Answer {
            status,
            media_type: "application/json".to_owned(),
            allow: String::new(),
            body: body.to_owned(),
        }
    }

    #[test]
    fn a_refusal_is_json_with_one_member_that_says_something() {
        assert_eq!(
            refusal(&answer(400, r#"{"error":"why"}"#), 400).as_deref(),
            Some("why")
        );
        for (status, body) in [
            (500, r#"{"error":"why"}"#),
            (400, r#"{"error":""}"#),
            (400, r#"{"error":"why","more":1}"#),
            (400, "why"),
        ] {
            assert_eq!(refusal(&answer(status, body), 400), None, "{body}");
        }
    }

    #[test]
    fn a_shard_that_counted_nothing_is_noticed() {
        let shard =
            json!({"name": "a", "keyspace_hits": 1, "keyspace_misses": 0, "used_memory": 9});
        assert!(is_counted(&shard));
        assert!(!is_counted(&json!({"name": "a", "error": "no answer"})));
    }
}
