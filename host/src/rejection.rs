//! Why an event had no effects, as its sender is told: one table of stable codes.
//!
//! Knows neither sockets nor HTTP; both turn a [`Rejection`] into their own form ([`Rejection::document`], [`Rejection::status`]).

use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};

/// A handler's own no, or the host's no to a plugin's call: one shape, so that a handler can pass on what the host said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Stable, snake_case, for programs.
    pub code: String,
    /// For people.
    pub message: String,
}

impl Refusal {
    /// A refusal with `code` and `message`.
    pub fn new(code: &str, message: impl Into<String>) -> Self {
        Self { code: code.to_owned(), message: message.into() }
    }

    /// A call that is not allowed here, or arguments that can't be right.
    pub fn misuse(message: impl Into<String>) -> Self {
        Self::new("misuse", message)
    }

    /// One of the host's limits.
    pub fn limit(message: impl Into<String>) -> Self {
        Self::new("limit", message)
    }
}

/// One thing that a schema check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Detail {
    /// JSON pointer to the offending place of the payload.
    pub path: String,
    /// The schema's keyword that was broken.
    pub rule: String,
    /// For people; a fragment that never repeats the client's value.
    pub message: String,
}

/// Why an event had no effects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rejection {
    /// Against the schema, the wrong number of arguments, or not JSON.
    InvalidPayload {
        /// For people.
        message: String,
        /// What the schema check found; empty where it never came to one.
        details: Vec<Detail>,
    },
    /// Nobody handles it, or it is no name for an event.
    UnknownEvent,
    /// No valid identity.
    Unauthorized(String),
    /// An identity without the right.
    Forbidden(String),
    /// The handler's own no; its code travels as `reason`.
    Refused(Refusal),
    /// Over the rate.
    RateLimited {
        /// For people.
        message: String,
        /// When to come back.
        retry_after: Duration,
    },
    /// The mailbox or the instances are full, or the state is contended.
    Busy(String),
    /// A message, an attachment, the depth, or a handler's effects.
    TooLarge(String),
    /// A trap, a reply that does not fit its schema: the plugin's fault. What happened is in the log, under the event's id.
    PluginFailed,
    /// The handler's time was over.
    TimedOut,
    /// The plugin is not to be asked now.
    Unavailable(String),
}

/// How long a client is asked to wait after `busy`, and where nothing better is known: about the time in which a full mailbox drains.
const RETRY_AFTER: Duration = Duration::from_millis(250);

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).max(1)
}

impl Rejection {
    /// A payload that is wrong in a way that no schema had to find.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::InvalidPayload { message: message.into(), details: Vec::new() }
    }

    /// A payload that its schema refuses.
    pub fn against_schema(details: Vec<Detail>) -> Self {
        let message = match details.first() {
            Some(first) => {
                let place = first.path.trim_start_matches('/').replace('/', ".");
                if place.is_empty() { first.message.clone() } else { format!("{place}: {}", first.message) }
            }
            None => "the payload does not fit the event's schema".to_owned(),
        };
        Self::InvalidPayload { message, details }
    }

    /// What a handler's refusal means to its client: a few codes are the host's own words and pass as they are, or are the plugin's own fault;
    /// any other is a reason.
    pub fn from_handler(mut refusal: Refusal) -> Self {
        truncate(&mut refusal.message, Self::MAX_MESSAGE);
        match refusal.code.as_str() {
            "forbidden" => Self::Forbidden(refusal.message),
            "unauthorized" => Self::Unauthorized(refusal.message),
            "invalid_payload" => Self::invalid(refusal.message),
            "too_large" | "limit" => Self::TooLarge(refusal.message),
            "unavailable" => Self::Unavailable(refusal.message),
            // What the host said to a call that no client can put right, what the handler itself failed at, and a stored value that this
            // version can't read, as one that follows a newer version by a rollback.
            "misuse" | "undeclared" | "invalid_data" | "internal" | "corrupt_state" => Self::PluginFailed,
            "rate_limited" => Self::RateLimited { message: refusal.message, retry_after: RETRY_AFTER },
            _ => {
                truncate(&mut refusal.code, Self::MAX_REASON);
                Self::Refused(refusal)
            }
        }
    }

    /// Bytes of a refusal's message that reach a client: an error is no place for data.
    pub const MAX_MESSAGE: usize = 1024;

    /// Bytes of a refusal's code that reach a client.
    pub const MAX_REASON: usize = 64;

    /// The stable code, with the HTTP status that says the same.
    const fn row(&self) -> (&'static str, u16) {
        match self {
            Self::InvalidPayload { .. } => ("invalid_payload", 422),
            Self::UnknownEvent => ("unknown_event", 404),
            Self::Unauthorized(_) => ("unauthorized", 401),
            Self::Forbidden(_) => ("forbidden", 403),
            Self::Refused(_) => ("refused", 409),
            Self::RateLimited { .. } => ("rate_limited", 429),
            Self::Busy(_) => ("busy", 503),
            Self::TooLarge(_) => ("too_large", 413),
            Self::PluginFailed => ("plugin_failed", 500),
            Self::TimedOut => ("timed_out", 504),
            Self::Unavailable(_) => ("unavailable", 503),
        }
    }

    /// The stable code that clients and logs see.
    pub const fn code(&self) -> &'static str {
        self.row().0
    }

    /// The HTTP status that says the same.
    pub fn status(&self) -> u16 {
        match self {
            Self::Refused(refusal) if refusal.code == "not_found" => 404,
            _ => self.row().1,
        }
    }

    /// For people; never a trap's text, a path or another client's data.
    pub fn message(&self) -> &str {
        match self {
            Self::InvalidPayload { message, .. }
            | Self::Unauthorized(message)
            | Self::Forbidden(message)
            | Self::RateLimited { message, .. }
            | Self::Busy(message)
            | Self::TooLarge(message)
            | Self::Unavailable(message) => message,
            Self::Refused(refusal) => &refusal.message,
            Self::UnknownEvent => "nobody handles this event",
            Self::PluginFailed => "the handler failed; the host's log has more under this id",
            Self::TimedOut => "the handler took too long",
        }
    }

    /// The object that clients receive: in an ack under `error`, or as the argument of an `error` event.
    pub fn document(&self, event: &str, id: &str) -> Value {
        let mut document = json!({"code": self.code(), "message": self.message(), "event": event, "id": id});
        if let Some(members) = document.as_object_mut() {
            match self {
                Self::InvalidPayload { details, .. } if !details.is_empty() => {
                    members.insert("details".to_owned(), json!(details));
                }
                Self::Refused(refusal) => {
                    members.insert("reason".to_owned(), json!(refusal.code));
                }
                Self::Busy(_) => {
                    members.insert("retry_after_ms".to_owned(), json!(milliseconds(RETRY_AFTER)));
                }
                Self::RateLimited { retry_after, .. } => {
                    members.insert("retry_after_ms".to_owned(), json!(milliseconds(*retry_after)));
                }
                _ => {}
            }
        }
        document
    }
}

/// Cuts `text` to at most `max` bytes, at a character's border.
pub(crate) fn truncate(text: &mut String, max: usize) {
    if text.len() > max {
        text.truncate(text.floor_char_boundary(max));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rejection_carries_its_code_event_and_id() {
        let detail = Detail { path: "/content".into(), rule: "required".into(), message: "is required".into() };
        assert_eq!(
            Rejection::against_schema(vec![detail]).document("memory_log_create", "01JD"),
            json!({"code": "invalid_payload", "message": "content: is required", "event": "memory_log_create", "id": "01JD",
                   "details": [{"path": "/content", "rule": "required", "message": "is required"}]})
        );
    }

    #[test]
    fn a_handlers_refusal_becomes_a_reason_unless_it_is_the_hosts_word() {
        let not_found = Rejection::from_handler(Refusal::new("not_found", "no record 7"));
        assert_eq!((not_found.code(), not_found.status()), ("refused", 404));
        assert_eq!(
            not_found.document("e", "i"),
            json!({"code": "refused", "message": "no record 7", "event": "e", "id": "i", "reason": "not_found"})
        );
        let forbidden = Rejection::from_handler(Refusal::new("forbidden", "not yours"));
        assert_eq!((forbidden.code(), forbidden.status()), ("forbidden", 403));
        assert_eq!(Rejection::from_handler(Refusal::new("limit", "more than 256 effects")).code(), "too_large");
    }

    #[test]
    fn a_refusal_for_the_plugins_own_fault_is_never_the_clients() {
        for code in ["misuse", "undeclared", "invalid_data", "internal", "corrupt_state"] {
            assert_eq!(Rejection::from_handler(Refusal::new(code, "internal")), Rejection::PluginFailed);
        }
    }

    #[test]
    fn a_long_message_is_cut_at_a_characters_border() {
        let rejection = Rejection::from_handler(Refusal::new("x", "é".repeat(1024)));
        assert_eq!(rejection.message().len(), 1024);
        let odd = Rejection::from_handler(Refusal::new("x", format!("a{}", "é".repeat(1024))));
        assert_eq!(odd.message().len(), 1023);
    }
}
