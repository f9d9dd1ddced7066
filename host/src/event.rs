//! Events: their names, ids and payloads, and the connections that send them. No I/O.

mod untold;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use serde_json::Value;

use crate::breaker::ClientKeys;

use untold::Untold;

/// Host events, which the host sends to the plugins that listen for them. Clients can't send them:
/// their names begin with `$`.
pub mod host_event {
    /// Sent once per start of the host, before the first client connects.
    pub const START: &str = "$start";
    /// Sent once per connection, before its first event.
    pub const CONNECT: &str = "$connect";
    /// Sent once per connection, after its last event. The connection is still in its rooms, unless
    /// the plugin is so late that the host does not wait for it.
    pub const DISCONNECT: &str = "$disconnect";
    /// Sent after the plugin has missed host events of a connection. The plugin must then list the
    /// connections again.
    pub const RESYNC: &str = "$resync";
    /// The names of all host events.
    pub const ALL: [&str; 4] = [START, CONNECT, DISCONNECT, RESYNC];
}

/// The event names that Socket.IO reserves. They are neither handled nor emitted.
pub const RESERVED_NAMES: [&str; 6] =
    ["connect", "connect_error", "disconnect", "disconnecting", "newListener", "removeListener"];

/// Maximum number of characters in an event's name.
pub const MAX_EVENT_NAME: usize = 64;

/// Whether clients may send, and plugins handle and emit, events of this name. Valid names have 1
/// to 64 printable ASCII characters except `"` and `\`, do not begin with `$`, and are not reserved
/// by Socket.IO.
pub fn is_event_name(name: &str) -> bool {
    (1..=MAX_EVENT_NAME).contains(&name.len())
        && !name.starts_with('$')
        && name.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b'"' && b != b'\\')
        && !RESERVED_NAMES.contains(&name)
}

/// The id of one event in logs and rejections. It is a ULID, so that ids sort by time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventId(ulid::Ulid);

impl EventId {
    /// Creates a new id with the timestamp `at`.
    pub fn new(at: SystemTime) -> Self {
        Self(ulid::Ulid::from_datetime(at))
    }

    /// The id as two numbers, the high half first.
    pub fn halves(self) -> [u64; 2] {
        let (high, low): (u64, u64) = self.0.into();
        [high, low]
    }

    /// The id with these halves, the high half first.
    pub fn of_halves([high, low]: [u64; 2]) -> Self {
        Self((high, low).into())
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.array_to_str(&mut [0; ulid::ULID_LEN]))
    }
}

/// The identity of a client, for the access rules of rooms and events.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    /// The authenticated user; `None` for an anonymous client.
    pub user: Option<String>,
    /// The user's roles.
    pub roles: Vec<String>,
    /// The token's claims; `null` for an anonymous client.
    pub claims: Value,
}

impl Identity {
    /// Whether the identity has `role`.
    pub fn has_role(&self, role: &str) -> bool {
        self.roles.iter().any(|held| held == role)
    }
}

/// One client's connection to one namespace. It outlives its events.
#[derive(Debug)]
pub struct Connection {
    /// The client's own Socket.IO id. It is not shown to others: anyone who knows it can send as
    /// this client while it uses long-polling.
    pub sid: String,
    /// The public id, safe to show to others.
    pub public_id: String,
    /// The namespace.
    pub namespace: Arc<str>,
    /// The identity of the connected client.
    pub identity: Arc<Identity>,
    /// The keys to which failures of its events are attributed.
    pub client: ClientKeys,
    /// The plugins that have not handled its `$connect` yet.
    pub(crate) untold: Untold,
}

/// A snapshot of all connections, in the order of their public ids.
pub type Connections = Arc<[Arc<Connection>]>;

impl Connection {
    /// Creates a connection, with the client's `address` if it is known.
    pub fn new(
        sid: String,
        public_id: String,
        namespace: Arc<str>,
        identity: Arc<Identity>,
        address: Option<IpAddr>,
    ) -> Self {
        let client = ClientKeys::new(&public_id, identity.user.as_deref(), address);
        Self { sid, public_id, namespace, identity, client, untold: Untold::default() }
    }
}

/// Valid JSON text. It was parsed once, and is not parsed again when it is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Json {
    text: String,
    /// Whether the value is an object with the property `error`. A client would take such a reply
    /// for a rejection.
    pub has_error: bool,
}

impl Json {
    /// Parses `text`. Returns the text and its value.
    ///
    /// # Errors
    /// `text` is not valid JSON.
    pub fn parse(text: String) -> serde_json::Result<(Self, Value)> {
        let value = serde_json::from_str(&text)?;
        Ok((Self::of(text, &value), value))
    }

    /// Combines `text` with its parsed `value`.
    pub fn of(text: String, value: &Value) -> Self {
        Self { text, has_error: value.get("error").is_some() }
    }

    /// `null`
    pub fn null() -> Self {
        Self { text: "null".to_owned(), has_error: false }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl From<&Value> for Json {
    fn from(value: &Value) -> Self {
        Self::of(value.to_string(), value)
    }
}

/// The payload of an event: text that should be JSON, and the attachments to which it should refer.
/// The dispatcher validates it, once.
#[derive(Debug, Clone)]
pub struct Payload {
    /// The JSON text.
    pub text: Box<str>,
    /// The attachments in the order of their placeholders.
    pub attachments: Vec<Bytes>,
}

impl Payload {
    /// `null` without attachments: the payload of an event without arguments.
    pub fn null() -> Self {
        Self { text: "null".into(), attachments: Vec::new() }
    }

    /// Bytes of the text and its attachments.
    pub fn size(&self) -> usize {
        self.text.len() + self.attachments.iter().map(Bytes::len).sum::<usize>()
    }
}

/// One event for a plugin to handle.
#[derive(Debug, Clone)]
pub struct Event {
    /// The id for logs and rejections.
    pub id: EventId,
    /// The event's name.
    pub name: String,
    /// The payload.
    pub payload: Payload,
    /// The connection that caused the event, if any.
    pub caller: Option<Arc<Connection>>,
    /// When the host received it.
    pub received_at: SystemTime,
    /// The connections at the time when the host sent the event; `None` if the current connections
    /// may be read.
    pub connections: Option<Connections>,
}

impl Event {
    /// Creates an event with the current time and a new id.
    pub fn now(name: impl Into<String>, payload: Payload, caller: Option<Arc<Connection>>) -> Self {
        let received_at = SystemTime::now();
        Self {
            id: EventId::new(received_at),
            name: name.into(),
            payload,
            caller,
            received_at,
            connections: None,
        }
    }

    /// When the host received it, in milliseconds since 1970.
    pub fn received_at_ms(&self) -> u64 {
        let since = self.received_at.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }
}

/// Whether `json` nests arrays and objects deeper than `most`. Brackets in strings don't count. The
/// text need not be well-formed.
pub fn is_deeper(json: &str, most: usize) -> bool {
    // Nearly every text has fewer brackets than allowed levels, and counting them is many times
    // cheaper.
    json.bytes().filter(|byte| matches!(byte, b'[' | b'{')).count() > most && depth(json) > most
}

fn depth(json: &str) -> usize {
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0_usize, 0_usize, false, false);
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'[' | b'{' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_names_are_printable_ascii_and_nobody_elses() {
        for good in
            ["ping", "memory_log_create", "a b", "chat:message", "__proto__", &"x".repeat(64)]
        {
            assert!(is_event_name(good), "{good}");
        }
        for bad in [
            "",
            "$connect",
            "$",
            "connect",
            "disconnect",
            "newListener",
            "a\"b",
            "a\\b",
            "é",
            "a\nb",
            &"x".repeat(65),
        ] {
            assert!(!is_event_name(bad), "{bad}");
        }
    }

    #[test]
    fn depth_counts_brackets_outside_of_strings() {
        assert_eq!(depth("1"), 0);
        assert_eq!(depth(r#"{"a":[{}]}"#), 3);
        assert_eq!(depth(r#"["[[[[", "\"[["]"#), 1);
        assert!(
            is_deeper("[[[]]]", 2) && !is_deeper("[[[]]]", 3) && !is_deeper(r#"[["[[[["]]"#, 2)
        );
    }
}
