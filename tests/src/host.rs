//! A host in the test's own process, on a free port, with directories that go with it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use sockhop::config::Config;
use sockhop::host::{Host, key_file};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{PollingSession, TestClient, api, directory_of};

/// A host that ends with the test.
pub struct TestHost {
    /// `http://ADDR`
    pub url: String,
    key: String,
    stop: CancellationToken,
    running: Option<JoinHandle<()>>,
    /// Taken only when another host goes on with it.
    plugins: Option<TempDir>,
    data: PathBuf,
    own_data: Option<TempDir>,
}

impl TestHost {
    /// A host with these plugins.
    pub async fn start(plugins: &[PathBuf]) -> Self {
        Self::with(plugins, |_| {}).await
    }

    /// The same with other settings.
    pub async fn with(plugins: &[PathBuf], change: impl FnOnce(&mut Config)) -> Self {
        let data = tempfile::tempdir().expect("a temporary directory");
        let mut host = Self::launch(directory_of(plugins), data.path(), &crate::binary(), change).await;
        host.own_data = Some(data);
        host
    }

    /// The same with other settings, and a program of the test's own in the place of the one that compiles plugins.
    pub async fn compiling_with(plugins: &[PathBuf], compiler: &Path, change: impl FnOnce(&mut Config)) -> Self {
        let data = tempfile::tempdir().expect("a temporary directory");
        let mut host = Self::launch(directory_of(plugins), data.path(), compiler, change).await;
        host.own_data = Some(data);
        host
    }

    /// The same on the data of a host before it.
    pub async fn with_data(plugins: &[PathBuf], data: &Path) -> Self {
        Self::launch(directory_of(plugins), data, &crate::binary(), |_| {}).await
    }

    /// Stops the host, and starts another on its directories.
    pub async fn restart(self) -> Self {
        self.restart_after(|_| {}).await
    }

    /// The same after `change` to the plugin directory, or to anything else.
    pub async fn restart_after(mut self, change: impl FnOnce(&Path)) -> Self {
        let (data, own_data) = (self.data.clone(), self.own_data.take());
        let plugins = self.plugins.take().expect("a host has its directory until its end");
        self.stop().await;
        change(plugins.path());
        let mut host = Self::launch(plugins, &data, &crate::binary(), |_| {}).await;
        host.own_data = own_data;
        host
    }

    async fn launch(plugins: TempDir, data: &Path, compiler: &Path, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::default();
        config.server.listen = ([127, 0, 0, 1], 0).into();
        config.plugins.dir = plugins.path().to_owned();
        config.data.dir = data.to_owned();
        config.server.socketio = crate::socketio();
        // A handler that is only slow, because the machine is busy with other tests, is not what a test of the limit is about.
        config.limits.event_cpu_ms = Duration::from_secs(1);
        config.limits.register_cpu_ms = Duration::from_secs(10);
        // One test may let a handler fail as often as it likes: the breaker has tests of its own.
        config.limits.breaker_failures = std::num::NonZeroU32::MAX;
        config.limits.breaker_calls = std::num::NonZeroU32::MAX;
        // Tests have no load balancer.
        config.limits.shutdown_unready_ms = Duration::from_millis(1);
        change(&mut config);
        let host = Host::bind_with(config, compiler.to_owned()).await.expect("a host that starts");
        for row in host.rows().iter().filter(|row| row.served.is_none()) {
            let reason = row.last_error.as_ref().map(|error| error.reason.as_str()).unwrap_or_default();
            assert!(row.served.is_some(), "{} failed: {reason}", row.file.display());
        }
        let url = format!("http://{}", host.local_addr());
        // There is none where a test has configured others.
        let key = std::fs::read_to_string(key_file(data)).unwrap_or_default().trim().to_owned();
        let stop = CancellationToken::new();
        let running = tokio::spawn(host.run(stop.clone(), CancellationToken::new()));
        Self { url, key, stop, running: Some(running), plugins: Some(plugins), data: data.to_owned(), own_data: None }
    }

    /// The directory that it follows.
    pub fn plugins(&self) -> &Path {
        self.plugins.as_ref().expect("a host has its directory until its end").path()
    }

    /// Where it keeps what must survive it.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// What operators see of the plugin `name`; null where nothing is known of it.
    pub async fn row(&self, name: &str) -> Value {
        let (_, rows) = self.http("/api/plugins", None).await;
        api::row_of(&rows, name)
    }

    /// Waits until the row of `name` is as `is` says, and returns it.
    pub async fn until(&self, name: &str, is: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        let until = tokio::time::Instant::now() + crate::PATIENCE;
        while tokio::time::Instant::now() < until {
            last = self.row(name).await;
            if is(&last) {
                return last;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{name} never became what it should: {last:#}");
    }

    /// A client that is connected.
    pub async fn client(&self) -> TestClient {
        TestClient::connect(&self.url).await
    }

    /// A client that is connected to one namespace.
    pub async fn client_of(&self, namespace: &str) -> TestClient {
        TestClient::connect_to(&self.url, namespace).await
    }

    /// A client over long-polling that is connected.
    pub async fn polling_session(&self) -> PollingSession {
        PollingSession::connect(&self.url).await
    }

    /// The value of a metric without labels.
    pub async fn figure(&self, name: &str) -> u64 {
        let (status, text) = self.http("/metrics", None).await;
        assert_eq!(status, 200, "{text}");
        let text = text.as_str().expect("text");
        let line =
            text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).unwrap_or_else(|| panic!("no {name} in {text}"));
        line.parse().expect("a number")
    }

    /// Asks over HTTP with the host's own key: status and document.
    pub async fn http(&self, path: &str, body: Option<Value>) -> (u16, Value) {
        self.http_with(path, body, Some(self.key.clone())).await
    }

    /// The same with another key, or none.
    pub async fn http_with(&self, path: &str, body: Option<Value>, key: Option<String>) -> (u16, Value) {
        let (url, path) = (self.url.clone(), path.to_owned());
        let ask = move || api::ask(&url, &path, body, key.as_deref());
        tokio::task::spawn_blocking(ask).await.expect("an answer over HTTP")
    }

    /// The host's own key.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Stops the host, and waits until it has.
    pub async fn stop(mut self) {
        self.stop.cancel();
        if let Some(running) = self.running.take() {
            running.await.expect("a host that stops");
        }
    }
}

impl Drop for TestHost {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
