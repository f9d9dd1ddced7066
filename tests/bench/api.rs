//! A client of the host's HTTP API, as an operator's script would use it.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;

/// An API client with the host's own key.
pub(crate) struct Api {
    agent: ureq::Agent,
    url: String,
    authorization: String,
}

impl Api {
    /// Creates a client of the API at `address`, with the key that the host keeps in `data`.
    pub(crate) fn new(address: &str, data: &Path) -> Self {
        let key = std::fs::read_to_string(data.join("key")).expect("the host's own key");
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(Duration::from_secs(10)))
            // An idle connection would take one of the host's slots.
            .max_idle_connections(0)
            .build();
        Self {
            agent: config.into(),
            url: format!("http://{address}"),
            authorization: format!("Bearer {}", key.trim()),
        }
    }

    /// Lists the plugins, as `sockhop plugins list` does.
    pub(crate) fn list_plugins(&self) -> Result<(), String> {
        self.get("/api/plugins").map(drop)
    }

    fn get(&self, path: &str) -> Result<String, String> {
        let answer = self
            .agent
            .get(format!("{}{path}", self.url))
            .header("Authorization", &self.authorization)
            .call();
        answer
            .and_then(|mut answer| answer.body_mut().read_to_string())
            .map_err(|error| format!("GET {path}: {error}"))
    }

    /// Sends a POST request without a body.
    pub(crate) fn post(&self, path: &str) -> Result<(), String> {
        let answer = self
            .agent
            .post(format!("{}{path}", self.url))
            .header("Authorization", &self.authorization)
            .send_empty();
        answer.map(drop).map_err(|error| format!("POST {path}: {error}"))
    }

    /// Returns the state of one plugin, or an empty string if the host does not list it.
    pub(crate) fn state_of(&self, plugin: &str) -> Result<String, String> {
        self.text_of(plugin, "state")
    }

    /// Returns the digest of the version that one plugin serves with, or an empty string if it does
    /// not serve.
    pub(crate) fn digest_of(&self, plugin: &str) -> Result<String, String> {
        self.text_of(plugin, "digest")
    }

    fn text_of(&self, plugin: &str, field: &str) -> Result<String, String> {
        Ok(self.row_of(plugin)?[field].as_str().unwrap_or_default().to_owned())
    }

    /// Returns the row of one plugin, or `null` if the host does not list it.
    pub(crate) fn row_of(&self, plugin: &str) -> Result<Value, String> {
        let rows: Value = serde_json::from_str(&self.get("/api/plugins")?)
            .map_err(|error| format!("GET /api/plugins: {error}"))?;
        let rows =
            rows.as_array().or_else(|| rows["plugins"].as_array()).cloned().unwrap_or_default();
        Ok(rows.into_iter().find(|row| row["name"] == plugin).unwrap_or_default())
    }

    /// Returns one figure of `GET /metrics`, summed over its labels, or `None` if the host does not
    /// export it.
    pub(crate) fn metric(&self, name: &str) -> Result<Option<f64>, String> {
        Ok(self.metrics([name])?[0])
    }

    /// Does the same for several figures at the same moment.
    pub(crate) fn metrics<const N: usize>(
        &self,
        names: [&str; N],
    ) -> Result<[Option<f64>; N], String> {
        let text = self.get("/metrics")?;
        Ok(names.map(|name| sum(&text, name)))
    }
}

/// Returns one figure of OpenMetrics text, summed over its labels.
fn sum(text: &str, name: &str) -> Option<f64> {
    let values = text.lines().filter_map(|line| {
        let (figure, value) = line.rsplit_once(' ')?;
        (figure.split('{').next() == Some(name)).then(|| value.parse::<f64>().ok()).flatten()
    });
    values.fold(None, |sum, value| Some(sum.unwrap_or(0.0) + value))
}
