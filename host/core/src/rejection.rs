//! Rejections: why an event had no effects, in the form for its sender, with one table of stable
//! codes.
//!
//! This module knows neither sockets nor HTTP. Both convert a [`Rejection`] to their own form
//! ([`Rejection::document`], [`Rejection::status`]).

use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};

/// A refusal by a handler, or by the host of a plugin's call. Both have the same shape, so that a
/// handler can pass on a refusal of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// A stable code in snake_case, for programs.
    pub code: String,
    /// A text for people.
    pub message: String,
}

impl Refusal {
    /// A refusal with `code` and `message`.
    pub fn new(code: &str, message: impl Into<String>) -> Self {
        Self { code: code.to_owned(), message: message.into() }
    }

    /// A refusal of a call that is not allowed here, or that has invalid arguments.
    pub fn misuse(message: impl Into<String>) -> Self {
        Self::new("misuse", message)
    }

    /// A refusal of a call that exceeds a limit of the host.
    pub fn limit(message: impl Into<String>) -> Self {
        Self::new("limit", message)
    }
}

/// One violation that a schema check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Detail {
    /// JSON pointer to the invalid part of the payload.
    pub path: String,
    /// The violated keyword of the schema.
    pub rule: String,
    /// A text for people, without the client's value. It is a part of a sentence.
    pub message: String,
}

/// Why an event had no effects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rejection {
    /// The payload does not match the schema, has the wrong number of arguments, or is not JSON.
    InvalidPayload {
        /// A text for people.
        message: String,
        /// The violations that the schema check found; empty if the payload was rejected before
        /// that check.
        details: Vec<Detail>,
    },
    /// No plugin handles the event, or its name is not valid.
    UnknownEvent,
    /// The client has no valid identity.
    Unauthorized(String),
    /// The client's identity lacks the right.
    Forbidden(String),
    /// The handler refused the event; its code is sent as `reason`.
    Refused(Refusal),
    /// The client is throttled because the plugin failed too often on its events, or the handler
    /// refused the event with `rate_limited`.
    RateLimited {
        /// A text for people.
        message: String,
        /// When the client may try again.
        retry_after: Duration,
    },
    /// The mailbox is full, all instances are in use, or the state is contended.
    Busy(String),
    /// A message, an attachment, the nesting depth, or a handler's effects exceed a limit.
    TooLarge(String),
    /// The plugin failed: a trap, or a reply that does not match its schema. The log has the cause
    /// under the event's id.
    PluginFailed,
    /// The handler exceeded its time limit.
    TimedOut,
    /// The plugin, its state or the host can't handle events now.
    Unavailable(String),
}

/// How long a client should wait after `busy`, or if no better value is known: about the time in
/// which a full mailbox drains.
const RETRY_AFTER: Duration = Duration::from_millis(250);

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).max(1)
}

impl Rejection {
    /// An invalid payload that was rejected without a schema check.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::InvalidPayload { message: message.into(), details: Vec::new() }
    }

    /// An invalid payload with the violations that the schema check found.
    pub fn against_schema(details: Vec<Detail>) -> Self {
        let message = match details.first() {
            Some(first) => {
                let place = first.path.trim_start_matches('/').replace('/', ".");
                if place.is_empty() {
                    first.message.clone()
                } else {
                    format!("{place}: {}", first.message)
                }
            }
            None => "the payload does not fit the event's schema".to_owned(),
        };
        Self::InvalidPayload { message, details }
    }

    /// Converts a handler's refusal. A few codes are the host's own and keep their meaning, or show
    /// a fault of the plugin. Any other code becomes a reason.
    pub fn from_handler(mut refusal: Refusal) -> Self {
        truncate(&mut refusal.message, Self::MAX_MESSAGE);
        match refusal.code.as_str() {
            "forbidden" => Self::Forbidden(refusal.message),
            "unauthorized" => Self::Unauthorized(refusal.message),
            "invalid_payload" => Self::invalid(refusal.message),
            "too_large" | "limit" => Self::TooLarge(refusal.message),
            "unavailable" => Self::Unavailable(refusal.message),
            // No client can correct these: the host's refusals of invalid calls, the handler's own
            // failures, and stored values that this version can't read. The last may follow a
            // rollback from a newer version.
            "misuse" | "undeclared" | "invalid_data" | "internal" | "corrupt_state" => {
                Self::PluginFailed
            }
            "rate_limited" => {
                Self::RateLimited { message: refusal.message, retry_after: RETRY_AFTER }
            }
            _ => {
                truncate(&mut refusal.code, Self::MAX_REASON);
                Self::Refused(refusal)
            }
        }
    }

    /// Maximum bytes of a refusal's message that are sent to a client: an error is not for data.
    pub const MAX_MESSAGE: usize = 1024;

    /// Maximum bytes of a refusal's code that are sent to a client.
    pub const MAX_REASON: usize = 64;

    /// The row of the table: the stable code, and the corresponding HTTP status.
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

    /// The corresponding HTTP status.
    pub fn status(&self) -> u16 {
        match self {
            Self::Refused(refusal) if refusal.code == "not_found" => 404,
            _ => self.row().1,
        }
    }

    /// A text for people. It never contains a trap's message, a path or another client's data.
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
            Self::UnknownEvent => "no plugin handles this event",
            Self::PluginFailed => "the handler failed; the host's log has more under this id",
            Self::TimedOut => "the handler took too long",
        }
    }

    /// The JSON object that clients receive: in an ack under `error`, or as the argument of an
    /// `error` event.
    pub fn document(&self, event: &str, id: &str) -> Value {
        let mut document =
            json!({"code": self.code(), "message": self.message(), "event": event, "id": id});
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

/// Truncates `text` to at most `max` bytes, at a character boundary.
pub fn truncate(text: &mut String, max: usize) {
    if text.len() > max {
        text.truncate(text.floor_char_boundary(max));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rejection_carries_its_code_event_and_id() {
        let detail = Detail {
            path: "/content".into(),
            rule: "required".into(),
            message: "is required".into(),
        };
        assert_eq!(
            Rejection::against_schema(vec![detail]).document("memory_log_create", "01JD"),
            json!({"code": "invalid_payload", "message": "content: is \
                                        required", "event": "memory_log_create", "id": "01JD",
                   "details": [{"path": "/content", "rule": "required", "message": "is required"}]})
        );
    }

    #[test]
    fn a_handlers_refusal_becomes_a_reason_unless_its_code_is_the_hosts() {
        let not_found = Rejection::from_handler(Refusal::new("not_found", "no record 7"));
        assert_eq!((not_found.code(), not_found.status()), ("refused", 404));
        assert_eq!(
            not_found.document("e", "i"),
            json!({"code": "refused", "message": "no record \
                                        7", "event": "e", "id": "i", "reason": "not_found"})
        );
        let forbidden = Rejection::from_handler(Refusal::new("forbidden", "not yours"));
        assert_eq!((forbidden.code(), forbidden.status()), ("forbidden", 403));
        assert_eq!(
            Rejection::from_handler(Refusal::new("limit", "more than 256 effects")).code(),
            "too_large"
        );
    }

    #[test]
    fn a_refusal_that_the_plugin_causes_is_not_shown_to_the_client() {
        for code in ["misuse", "undeclared", "invalid_data", "internal", "corrupt_state"] {
            assert_eq!(
                Rejection::from_handler(Refusal::new(code, "internal")),
                Rejection::PluginFailed
            );
        }
    }

    #[test]
    fn a_long_message_is_truncated_at_a_character_boundary() {
        let rejection = Rejection::from_handler(Refusal::new("x", "é".repeat(1024)));
        assert_eq!(rejection.message().len(), 1024);
        let odd = Rejection::from_handler(Refusal::new("x", format!("a{}", "é".repeat(1024))));
        assert_eq!(odd.message().len(), 1023);
    }
}
