//! Requests to the host's HTTP API, as operators send them.

use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::Value;

use crate::PATIENCE;

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

/// An answer over HTTP.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    head: String,
    /// The body.
    pub body: String,
}

impl Answer {
    /// The value of a header, if there is one. `name` is in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.head.lines().filter_map(|line| line.split_once(": "));
        headers.find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// The body as JSON, or null.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_default()
    }
}

/// Sends any HTTP request to the host at `url`, exactly as it is given. Blocks until the host has
/// closed the connection.
pub fn send(url: &str, line: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    let address = url.trim_start_matches("http://");
    let mut request = format!("{line} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n");
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    if !body.is_empty() {
        request.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    request.push_str("\r\n");
    request.push_str(body);
    let mut stream = TcpStream::connect(address).expect("a host to connect to");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    // A host that has not read the whole request resets the connection after its answer.
    let _ = stream.write_all(request.as_bytes());
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8(answer).expect("an answer in UTF-8");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Answer { status: status.expect("a status"), head: head.to_owned(), body: body.to_owned() }
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
