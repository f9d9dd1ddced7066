//! What a client says: an event, who caused it, and which names it may have. No I/O.

mod untold;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use serde_json::Value;

use crate::breaker::ClientKeys;

use untold::Untold;

/// Host events: what the host itself tells plugins that ask for it. No client can send a name that begins with `$`.
pub mod host_event {
    /// Once per start of the host, before the first client.
    pub const START: &str = "$start";
    /// Once per connection, before its first event.
    pub const CONNECT: &str = "$connect";
    /// Once per connection, after its last event, while it is still in its rooms.
    pub const DISCONNECT: &str = "$disconnect";
    /// After the plugin has missed some of these for a connection: it is to read the connections again.
    pub const RESYNC: &str = "$resync";
    /// All of them.
    pub const ALL: [&str; 4] = [START, CONNECT, DISCONNECT, RESYNC];
}

/// The names that Socket.IO keeps for itself: neither handled nor emitted.
pub const RESERVED_NAMES: [&str; 6] = ["connect", "connect_error", "disconnect", "disconnecting", "newListener", "removeListener"];

/// Characters of an event's name.
pub const MAX_EVENT_NAME: usize = 64;

/// Whether clients may send, and plugins handle and emit, an event of this name: 1 to 64 printable ASCII characters but `"` and `\`, not
/// beginning with `$`, and none of Socket.IO's own.
pub fn is_event_name(name: &str) -> bool {
    (1..=MAX_EVENT_NAME).contains(&name.len())
        && !name.starts_with('$')
        && name.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b'"' && b != b'\\')
        && !RESERVED_NAMES.contains(&name)
}

/// The id of one event, as in logs and rejections: a ULID, so that ids sort by time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventId(ulid::Ulid);

impl EventId {
    /// A new id, of `at`.
    pub fn new(at: SystemTime) -> Self {
        Self(ulid::Ulid::from_datetime(at))
    }

    /// The id as two numbers, the high one first.
    pub fn halves(self) -> [u64; 2] {
        let (high, low): (u64, u64) = self.0.into();
        [high, low]
    }

    /// The id of these halves.
    pub fn of_halves([high, low]: [u64; 2]) -> Self {
        Self((high, low).into())
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.array_to_str(&mut [0; ulid::ULID_LEN]))
    }
}

/// Who somebody is, to the rules of rooms and events.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    /// The authenticated user; none for an anonymous client.
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

/// One client's connection to one namespace: what outlives its events.
#[derive(Debug)]
pub struct Connection {
    /// The client's own Socket.IO id. Whoever knows it can speak as that client while it polls: it is shown to nobody else.
    pub sid: String,
    /// The public id, safe to show to others.
    pub public_id: String,
    /// The namespace.
    pub namespace: Arc<str>,
    /// Who is connected.
    pub identity: Arc<Identity>,
    /// To whom failures of its events are attributed.
    pub client: ClientKeys,
    /// The plugins that have not handled its `$connect` yet.
    pub(crate) untold: Untold,
}

/// All connections at one moment, in the order of their public ids.
pub type Connections = Arc<[Arc<Connection>]>;

impl Connection {
    /// A new connection, from `address` where that is known.
    pub fn new(sid: String, public_id: String, namespace: Arc<str>, identity: Arc<Identity>, address: Option<IpAddr>) -> Self {
        let client = ClientKeys::new(&public_id, identity.user.as_deref(), address);
        Self { sid, public_id, namespace, identity, client, untold: Untold::default() }
    }
}

/// JSON text: it has been parsed once, and is not parsed again to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Json {
    text: String,
    /// Whether it has a property `error` at its top: a client would take such a reply for a rejection.
    pub has_error: bool,
}

impl Json {
    /// Parses `text`.
    ///
    /// # Errors
    /// Where it is not JSON.
    pub fn parse(text: String) -> serde_json::Result<(Self, Value)> {
        let value = serde_json::from_str(&text)?;
        Ok((Self::of(text, &value), value))
    }

    /// The text of `value`.
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

/// What came with an event: text that should be JSON, and the attachments that it should name. The dispatcher finds out, once.
#[derive(Debug, Clone)]
pub struct Payload {
    /// The document.
    pub text: Box<str>,
    /// In the order of their placeholders.
    pub attachments: Vec<Bytes>,
}

impl Payload {
    /// `null` without attachments: what an event without arguments means.
    pub fn null() -> Self {
        Self { text: "null".into(), attachments: Vec::new() }
    }

    /// Bytes of the document and its attachments.
    pub fn size(&self) -> usize {
        self.text.len() + self.attachments.iter().map(Bytes::len).sum::<usize>()
    }
}

/// One occurrence that a plugin is asked to handle.
#[derive(Debug, Clone)]
pub struct Event {
    /// As in logs and rejections.
    pub id: EventId,
    /// The event's type.
    pub name: String,
    /// What came with it.
    pub payload: Payload,
    /// Who caused it; none where nobody did.
    pub caller: Option<Arc<Connection>>,
    /// When the host received it.
    pub received_at: SystemTime,
    /// The connections as they were when the host sent it; none where they may be read as they are.
    pub connections: Option<Connections>,
}

impl Event {
    /// An event of now, with a new id.
    pub fn now(name: impl Into<String>, payload: Payload, caller: Option<Arc<Connection>>) -> Self {
        let received_at = SystemTime::now();
        Self { id: EventId::new(received_at), name: name.into(), payload, caller, received_at, connections: None }
    }

    /// When the host received it, milliseconds since 1970.
    pub fn received_at_ms(&self) -> u64 {
        let since = self.received_at.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }
}

/// Whether `json` nests deeper than `most`, counting arrays and objects; brackets in strings don't count. The text need not be well-formed.
pub fn is_deeper(json: &str, most: usize) -> bool {
    // Nearly every text has fewer brackets than levels are allowed, wherever they stand, and to count them is many times cheaper.
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
        for good in ["ping", "memory_log_create", "a b", "chat:message", "__proto__", &"x".repeat(64)] {
            assert!(is_event_name(good), "{good}");
        }
        for bad in ["", "$connect", "$", "connect", "disconnect", "newListener", "a\"b", "a\\b", "é", "a\nb", &"x".repeat(65)] {
            assert!(!is_event_name(bad), "{bad}");
        }
    }

    #[test]
    fn depth_counts_brackets_outside_of_strings() {
        assert_eq!(depth("1"), 0);
        assert_eq!(depth(r#"{"a":[{}]}"#), 3);
        assert_eq!(depth(r#"["[[[[", "\"[["]"#), 1);
        assert!(is_deeper("[[[]]]", 2) && !is_deeper("[[[]]]", 3) && !is_deeper(r#"[["[[[["]]"#, 2));
    }
}
