//! Requests to the host's HTTP API, as operators send them.

use serde_json::Value;

/// Sends a GET request, or a POST request with `body`, to the host at `url`. Returns the status and
/// the JSON document, or the body as a string if it is not JSON. Blocks until the answer arrives.
pub fn ask(url: &str, path: &str, body: Option<Value>, key: Option<&str>) -> (u16, Value) {
    let url = format!("{url}{path}");
    let agent = agent();
    let key = key.map(|key| format!("Bearer {key}")).unwrap_or_default();
    let mut answer = match body {
        Some(body) => agent.post(&url).header("Authorization", key).send_json(body),
        None => agent.get(&url).header("Authorization", key).call(),
    }
    .expect("an answer over HTTP");
    let text = answer.body_mut().read_to_string().expect("a body");
    (answer.status().as_u16(), serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

/// Sends a GET request to `url`, or a POST request with `text`. Returns the status and the body.
pub(crate) fn ask_text(url: &str, text: Option<String>) -> (u16, String) {
    let answer = match text {
        Some(text) => agent().post(url).send(text),
        None => agent().get(url).call(),
    };
    let mut answer = answer.expect("an answer over HTTP");
    (answer.status().as_u16(), answer.body_mut().read_to_string().expect("a body"))
}

fn agent() -> ureq::Agent {
    ureq::Agent::config_builder().http_status_as_error(false).proxy(None).build().into()
}

/// Returns the row of the plugin `name`, or null if there is none.
pub fn row_of(rows: &Value, name: &str) -> Value {
    rows.as_array()
        .and_then(|rows| rows.iter().find(|row| row["name"] == name))
        .cloned()
        .unwrap_or_default()
}
