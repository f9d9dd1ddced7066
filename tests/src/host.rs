//! A host in the test's own process, on a free port, with temporary directories.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use sockhop::config::{Config, ConfigSource, WrittenSettings};
use sockhop::host::{Host, Monitor, key_file};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{PollingSession, TestClient, api, compiled, directory_of};

/// A host that ends with the test.
pub struct TestHost {
    /// `http://ADDR`
    pub url: String,
    /// The same for operators: another address if a test has set `[admin] listen`.
    pub operators: String,
    key: String,
    /// The handle that the process of a host has.
    pub monitor: Monitor,
    stop: CancellationToken,
    running: Option<JoinHandle<()>>,
    /// Is `None` only after another host has taken over the directory.
    plugins: Option<TempDir>,
    data: PathBuf,
    own_data: Option<TempDir>,
}

impl TestHost {
    /// Starts a host with these plugins.
    pub async fn start(plugins: &[PathBuf]) -> Self {
        Self::with(plugins, |_| {}).await
    }

    /// Does the same with other settings.
    pub async fn with(plugins: &[PathBuf], change: impl FnOnce(&mut Config)) -> Self {
        let data = tempfile::tempdir().expect("a temporary directory");
        let mut host =
            Self::launch(directory_of(plugins), data.path(), &crate::binary(), change).await;
        host.own_data = Some(data);
        host
    }

    /// Does the same with other settings and with `compiler` instead of the program that compiles
    /// plugins.
    pub async fn compiling_with(
        plugins: &[PathBuf],
        compiler: &Path,
        change: impl FnOnce(&mut Config),
    ) -> Self {
        let data = tempfile::tempdir().expect("a temporary directory");
        let mut host = Self::launch(directory_of(plugins), data.path(), compiler, change).await;
        host.own_data = Some(data);
        host
    }

    /// Starts a host on the data directory of an earlier host.
    pub async fn with_data(plugins: &[PathBuf], data: &Path) -> Self {
        Self::launch(directory_of(plugins), data, &crate::binary(), |_| {}).await
    }

    /// Stops the host, and starts another one on its directories.
    pub async fn restart(self) -> Self {
        self.restart_after(|_| {}).await
    }

    /// Does the same with other settings.
    pub async fn restart_with(self, change: impl FnOnce(&mut Config)) -> Self {
        self.relaunch(|_| {}, change).await
    }

    /// Does the same, and calls `change` with the plugin directory between stop and start.
    pub async fn restart_after(self, change: impl FnOnce(&Path)) -> Self {
        self.relaunch(change, |_| {}).await
    }

    async fn relaunch(
        mut self,
        between: impl FnOnce(&Path),
        change: impl FnOnce(&mut Config),
    ) -> Self {
        let (data, own_data) = (self.data.clone(), self.own_data.take());
        let plugins = self.plugins.take().expect("a host has its directory until its end");
        self.stop().await;
        between(plugins.path());
        let mut host = Self::launch(plugins, &data, &crate::binary(), change).await;
        host.own_data = own_data;
        host
    }

    async fn launch(
        plugins: TempDir,
        data: &Path,
        compiler: &Path,
        change: impl FnOnce(&mut Config),
    ) -> Self {
        let mut config = Config::default();
        config.server.listen = ([127, 0, 0, 1], 0).into();
        config.plugins.dir = plugins.path().to_owned();
        config.data.dir = data.to_owned();
        config.server.socketio = crate::socketio();
        // A handler may be slow because other tests run on the machine. Only the tests of the limit
        // depend on it.
        config.limits.event_cpu_ms = Duration::from_secs(1);
        config.limits.register_cpu_ms = Duration::from_secs(10);
        // A handler may fail any number of times in a test. The circuit breaker has its own tests.
        config.limits.breaker_failures = std::num::NonZeroU32::MAX;
        config.limits.breaker_calls = std::num::NonZeroU32::MAX;
        // Tests have no load balancer.
        config.limits.shutdown_unready_ms = Duration::from_millis(1);
        config.limits.shutdown_close_ms = Duration::from_millis(1);
        change(&mut config);
        let (scheme, operators_scheme) = (config.scheme(), config.operators_scheme());
        let is_usual = compiler == crate::binary();
        if is_usual {
            compiled::lend(plugins.path(), data);
        }
        // A test that reloads the configuration writes this file.
        let file = data.join("sockhop.toml");
        let source = ConfigSource { file: Some(file), ..ConfigSource::default() };
        let loaded = (config, WrittenSettings::default());
        let host = Host::bind_reloadable(loaded, source, Some(compiler.to_owned()))
            .await
            .expect("a host that starts");
        for row in host.statuses().iter().filter(|row| row.active.is_none()) {
            let reason =
                row.last_error.as_ref().map(|error| error.reason.as_str()).unwrap_or_default();
            assert!(row.active.is_some(), "{} failed: {reason}", row.file.display());
        }
        if is_usual {
            compiled::keep(plugins.path(), data);
        }
        let url = format!("{scheme}://{}", host.local_addr());
        let operators = format!("{operators_scheme}://{}", host.operator_addr());
        let monitor = host.monitor();
        // The file does not exist if a test has configured other keys.
        let key = std::fs::read_to_string(key_file(data)).unwrap_or_default().trim().to_owned();
        let stop = CancellationToken::new();
        let running = tokio::spawn(host.run(stop.clone(), CancellationToken::new()));
        Self {
            url,
            operators,
            key,
            monitor,
            stop,
            running: Some(running),
            plugins: Some(plugins),
            data: data.to_owned(),
            own_data: None,
        }
    }

    /// The watched plugin directory.
    pub fn plugins(&self) -> &Path {
        self.plugins.as_ref().expect("a host has its directory until its end").path()
    }

    /// The data directory.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Returns the row of the plugin `name` in the operators' list, or null if the host does not
    /// list it.
    pub async fn row(&self, name: &str) -> Value {
        let (_, rows) = self.http("/api/plugins", None).await;
        api::row_of(&rows, name)
    }

    /// Waits until `is` accepts the row of `name`, and returns that row.
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

    /// Returns a connected client.
    pub async fn client(&self) -> TestClient {
        TestClient::connect(&self.url).await
    }

    /// Returns a client that is connected to one namespace.
    pub async fn client_of(&self, namespace: &str) -> TestClient {
        TestClient::connect_to(&self.url, namespace).await
    }

    /// Returns a connected client over HTTP long-polling.
    pub async fn polling_session(&self) -> PollingSession {
        PollingSession::connect(&self.url).await
    }

    /// Returns the value of a metric without labels.
    pub async fn figure(&self, name: &str) -> u64 {
        let (status, text) = self.http("/metrics", None).await;
        assert_eq!(status, 200, "{text}");
        let text = text.as_str().expect("text");
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
            .unwrap_or_else(|| panic!("no {name} in {text}"));
        line.parse().expect("a number")
    }

    /// Sends an HTTP request with the host's own key. Returns the status and the document.
    pub async fn http(&self, path: &str, body: Option<Value>) -> (u16, Value) {
        self.http_with(path, body, Some(self.key.clone())).await
    }

    /// Does the same with another key, or without one.
    pub async fn http_with(
        &self,
        path: &str,
        body: Option<Value>,
        key: Option<String>,
    ) -> (u16, Value) {
        let (url, path) = (self.operators.clone(), path.to_owned());
        let ask = move || api::ask(&url, &path, body, key.as_deref());
        tokio::task::spawn_blocking(ask).await.expect("an answer over HTTP")
    }

    /// The host's own key.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Stops the host, and waits until it has ended.
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
