//! A host in the test's own process, on a free port, with directories that go with it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use sockhop::config::Config;
use sockhop::host::{Host, key_file};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{TestClient, directory_of};

/// A host that ends with the test.
pub struct TestHost {
    /// `http://ADDR`
    pub url: String,
    key: String,
    stop: CancellationToken,
    running: Option<JoinHandle<()>>,
    _plugins: TempDir,
    data: Option<TempDir>,
}

impl TestHost {
    /// A host with these plugins.
    pub async fn start(plugins: &[PathBuf]) -> Self {
        Self::with(plugins, |_| {}).await
    }

    /// The same with other settings.
    pub async fn with(plugins: &[PathBuf], change: impl FnOnce(&mut Config)) -> Self {
        let data = tempfile::tempdir().expect("a temporary directory");
        let mut host = Self::launch(plugins, data.path(), change).await;
        host.data = Some(data);
        host
    }

    /// The same on the data of a host before it.
    pub async fn with_data(plugins: &[PathBuf], data: &Path) -> Self {
        Self::launch(plugins, data, |_| {}).await
    }

    async fn launch(plugins: &[PathBuf], data: &Path, change: impl FnOnce(&mut Config)) -> Self {
        let plugins = directory_of(plugins);
        let mut config = Config::default();
        config.server.listen = ([127, 0, 0, 1], 0).into();
        config.plugins.dir = plugins.path().to_owned();
        config.data.dir = data.to_owned();
        // A handler that is only slow, because the machine is busy with other tests, is not what a test of the limit is about.
        config.limits.event_cpu_ms = Duration::from_secs(1);
        config.limits.register_cpu_ms = Duration::from_secs(10);
        // One test may let a handler fail as often as it likes: the breaker has tests of its own.
        config.limits.breaker_failures = std::num::NonZeroU32::MAX;
        config.limits.breaker_calls = std::num::NonZeroU32::MAX;
        // Tests have no load balancer.
        config.limits.shutdown_unready_ms = Duration::from_millis(1);
        change(&mut config);
        let host = Host::bind_with(config, crate::binary()).await.expect("a host that starts");
        if let Some((file, error)) = host.rows().iter().find_map(|row| Some((&row.file, row.last_error.as_ref()?))) {
            panic!("{} failed: {}", file.display(), error.reason);
        }
        let url = format!("http://{}", host.local_addr());
        // There is none where a test has configured others.
        let key = std::fs::read_to_string(key_file(data)).unwrap_or_default().trim().to_owned();
        let stop = CancellationToken::new();
        let running = tokio::spawn(host.run(stop.clone(), CancellationToken::new()));
        Self { url, key, stop, running: Some(running), _plugins: plugins, data: None }
    }

    /// A client that is connected.
    pub async fn client(&self) -> TestClient {
        TestClient::connect(&self.url).await
    }

    /// A client that is connected to one namespace.
    pub async fn client_of(&self, namespace: &str) -> TestClient {
        TestClient::connect_to(&self.url, namespace).await
    }

    /// Asks over HTTP with the host's own key: status and document.
    pub async fn http(&self, path: &str, body: Option<Value>) -> (u16, Value) {
        self.http_with(path, body, Some(self.key.clone())).await
    }

    /// The same with another key, or none.
    pub async fn http_with(&self, path: &str, body: Option<Value>, key: Option<String>) -> (u16, Value) {
        let url = format!("{}{path}", self.url);
        let ask = move || {
            let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).proxy(None).build().into();
            let key = key.map(|key| format!("Bearer {key}")).unwrap_or_default();
            let mut answer = match body {
                Some(body) => agent.post(&url).header("Authorization", key).send_json(body),
                None => agent.get(&url).header("Authorization", key).call(),
            }
            .expect("an answer over HTTP");
            let text = answer.body_mut().read_to_string().expect("a body");
            (answer.status().as_u16(), serde_json::from_str(&text).unwrap_or(Value::String(text)))
        };
        tokio::task::spawn_blocking(ask).await.expect("an answer over HTTP")
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
