//! An API in this process, on ports of its own.

use std::time::{Duration, Instant};

use cachecluster_api::settings::Args;
use cachecluster_api::{Listeners, Settings};
use clap::Parser;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub(crate) struct Api {
    pub(crate) base: String,
    pub(crate) admin: String,
    pub(crate) address: std::net::SocketAddr,
    pub(crate) http: reqwest::Client,
    stop: CancellationToken,
    task: JoinHandle<std::io::Result<()>>,
}

impl Api {
    pub(crate) async fn start(args: &[&str]) -> Self {
        let args = [&["cachecluster-api"], args].concat();
        let settings = Settings::try_from(Args::try_parse_from(args).unwrap()).unwrap();
        let listeners = Listeners {
            public: TcpListener::bind("127.0.0.1:0").await.unwrap(),
            admin: TcpListener::bind("127.0.0.1:0").await.unwrap(),
        };
        let address = listeners.public.local_addr().unwrap();
        let base = format!("http://{address}");
        let admin = format!("http://{}", listeners.admin.local_addr().unwrap());
        let stop = CancellationToken::new();
        let task = tokio::spawn(cachecluster_api::run(settings, listeners, stop.clone()));
        Self {
            base,
            admin,
            address,
            http: reqwest::Client::new(),
            stop,
            task,
        }
    }

    /// Over Redis, ready.
    pub(crate) async fn over(urls: &str, more: &[&str]) -> Self {
        let api = Self::start(&[&["--redis-url", urls], more].concat()).await;
        api.until_ready().await;
        api
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    pub(crate) async fn is_ready(&self) -> bool {
        let url = format!("{}/readyz", self.admin);
        self.http
            .get(url)
            .send()
            .await
            .is_ok_and(|response| response.status() == 200)
    }

    pub(crate) async fn until_ready(&self) {
        until("the API is ready", async || self.is_ready().await).await;
    }

    pub(crate) async fn set(&self, key: &str, value: &str) -> (u16, String) {
        let body = serde_json::json!({"key": key, "value": value});
        answer(self.http.post(self.url("/cache")).json(&body)).await
    }

    pub(crate) async fn get(&self, key: &str) -> (u16, String) {
        answer(self.http.get(self.url(&format!("/cache/{key}")))).await
    }

    pub(crate) async fn delete(&self, key: &str) -> (u16, String) {
        answer(self.http.delete(self.url(&format!("/cache/{key}")))).await
    }

    pub(crate) async fn metrics(&self) -> String {
        answer(self.http.get(format!("{}/metrics", self.admin)))
            .await
            .1
    }

    pub(crate) fn stop(&self) {
        self.stop.cancel();
    }

    pub(crate) async fn stopped(self) {
        self.stop.cancel();
        let ended = tokio::time::timeout(Duration::from_secs(20), self.task).await;
        ended.expect("the API ends").unwrap().unwrap();
    }
}

pub(crate) async fn answer(request: reqwest::RequestBuilder) -> (u16, String) {
    let response = request.send().await.unwrap();
    (response.status().as_u16(), response.text().await.unwrap())
}

/// Waits for a condition, asked again and again, for half a minute at most.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !holds().await {
        assert!(began.elapsed() < Duration::from_secs(30), "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// What a future gives, which must be soon.
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(10), future)
        .await
        .unwrap_or_else(|_| panic!("never: {what}"))
}
