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
    /// The handler refused the event, with a code of the host or with one of its own, which is sent
    /// as `reason`.
    Refused(Refusal),
    /// The client is throttled because the plugin failed too often on its events.
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
    /// The effects of the handler can't be committed now. The host can't tell in each case whether
    /// the state was written, or the handler has sent requests to other services.
    NotCommitted(String),
}

/// Whether a client may repeat a rejected event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// The event had no effect. A repeat may succeed later.
    Safe,
    /// The handler has begun. A repeat may succeed later, but the handler may then run a second
    /// time with consequences outside of the host, or with state that was written.
    Unsafe,
    /// The event had no effect. A repeat is rejected again until the event, the client or the
    /// plugins change.
    Never,
}

impl Retry {
    /// What holds for an error with this HTTP status.
    pub const fn of_status(status: u16) -> Self {
        match status {
            408 | 429 | 503 => Self::Safe,
            500 | 504 => Self::Unsafe,
            _ => Self::Never,
        }
    }

    /// The name that clients see.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Safe => "safe",
            Self::Unsafe => "unsafe",
            Self::Never => "never",
        }
    }
}

/// Who rejected an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The host, before the handler ran or when it committed the effects.
    Host,
    /// The handler: it refused the event, failed, or took too long.
    Handler,
}

impl Origin {
    /// The name that clients see.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Handler => "handler",
        }
    }
}

/// A row of the table of rejections: the stable code, and the corresponding HTTP status.
type Row = (&'static str, u16);

const INVALID_PAYLOAD: Row = ("invalid_payload", 422);
const UNKNOWN_EVENT: Row = ("unknown_event", 404);
const UNAUTHORIZED: Row = ("unauthorized", 401);
const FORBIDDEN: Row = ("forbidden", 403);
const REFUSED: Row = ("refused", 409);
const RATE_LIMITED: Row = ("rate_limited", 429);
const BUSY: Row = ("busy", 503);
const TOO_LARGE: Row = ("too_large", 413);
const PLUGIN_FAILED: Row = ("plugin_failed", 500);
const TIMED_OUT: Row = ("timed_out", 504);
const UNAVAILABLE: Row = ("unavailable", 503);

/// The rows whose code a handler may refuse with, by that code. Any other code of a handler is a
/// reason.
fn row_of_handler(code: &str) -> Row {
    match code {
        "forbidden" => FORBIDDEN,
        "unauthorized" => UNAUTHORIZED,
        "invalid_payload" => INVALID_PAYLOAD,
        "too_large" | "limit" => TOO_LARGE,
        "unavailable" => UNAVAILABLE,
        "busy" => BUSY,
        "rate_limited" => RATE_LIMITED,
        "timed_out" => TIMED_OUT,
        _ => REFUSED,
    }
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
        match refusal.code.as_str() {
            // No client can correct these: the host's refusals of invalid calls, the handler's own
            // failures, and stored values that this version can't read. The last may follow a
            // rollback from a newer version.
            "misuse" | "undeclared" | "invalid_data" | "internal" | "corrupt_state" => {
                Self::PluginFailed
            }
            _ => {
                truncate(&mut refusal.message, Self::MAX_MESSAGE);
                truncate(&mut refusal.code, Self::MAX_REASON);
                Self::Refused(refusal)
            }
        }
    }

    /// Maximum bytes of a refusal's message that are sent to a client: an error is not for data.
    pub const MAX_MESSAGE: usize = 1024;

    /// Maximum bytes of a refusal's code that are sent to a client.
    pub const MAX_REASON: usize = 64;

    /// The row of the table.
    fn row(&self) -> Row {
        match self {
            Self::InvalidPayload { .. } => INVALID_PAYLOAD,
            Self::UnknownEvent => UNKNOWN_EVENT,
            Self::Unauthorized(_) => UNAUTHORIZED,
            Self::Forbidden(_) => FORBIDDEN,
            Self::Refused(refusal) => row_of_handler(&refusal.code),
            Self::RateLimited { .. } => RATE_LIMITED,
            Self::Busy(_) => BUSY,
            Self::TooLarge(_) => TOO_LARGE,
            Self::PluginFailed => PLUGIN_FAILED,
            Self::TimedOut => TIMED_OUT,
            Self::Unavailable(_) | Self::NotCommitted(_) => UNAVAILABLE,
        }
    }

    /// The stable code that clients and logs see.
    pub fn code(&self) -> &'static str {
        self.row().0
    }

    /// The corresponding HTTP status.
    pub fn status(&self) -> u16 {
        match self {
            Self::Refused(refusal) if refusal.code == "not_found" => 404,
            _ => self.row().1,
        }
    }

    /// Whether the client may repeat the event.
    pub fn retry(&self) -> Retry {
        match self {
            Self::NotCommitted(_) => Retry::Unsafe,
            _ => Retry::of_status(self.row().1),
        }
    }

    /// Who rejected the event.
    pub const fn origin(&self) -> Origin {
        match self {
            Self::Refused(_) | Self::PluginFailed | Self::TimedOut => Origin::Handler,
            _ => Origin::Host,
        }
    }

    /// The handler's own code, if it refused the event with one.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Refused(refusal) if self.code() == REFUSED.0 => Some(&refusal.code),
            _ => None,
        }
    }

    /// After which time the client may repeat the event, if the host can tell.
    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RateLimited { retry_after, .. } => Some(*retry_after),
            _ if [BUSY.0, RATE_LIMITED.0].contains(&self.code()) => Some(RETRY_AFTER),
            _ => None,
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
            | Self::Unavailable(message)
            | Self::NotCommitted(message) => message,
            Self::Refused(refusal) => &refusal.message,
            Self::UnknownEvent => "no plugin handles this event",
            Self::PluginFailed => "the handler failed; the host's log has more under this id",
            Self::TimedOut => "the handler took too long",
        }
    }

    /// The JSON object that clients receive: in an ack under `error`, or as the argument of an
    /// `error` event. If the rejection is about no event, it has no member `event`.
    pub fn document(&self, event: Option<&str>, id: &str) -> Value {
        let mut document = json!({
            "code": self.code(),
            "message": self.message(),
            "id": id,
            "retry": self.retry().name(),
            "origin": self.origin().name(),
        });
        if let Some(members) = document.as_object_mut() {
            if let Some(event) = event {
                members.insert("event".to_owned(), json!(event));
            }
            if let Self::InvalidPayload { details, .. } = self
                && !details.is_empty()
            {
                members.insert("details".to_owned(), json!(details));
            }
            if let Some(reason) = self.reason() {
                members.insert("reason".to_owned(), json!(reason));
            }
            if let Some(time) = self.retry_after() {
                members.insert("retry_after_ms".to_owned(), json!(milliseconds(time)));
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
            Rejection::against_schema(vec![detail]).document(Some("memory_log_create"), "01JD"),
            json!({
                "code": "invalid_payload", "message": "content: is required",
                "event": "memory_log_create", "id": "01JD", "retry": "never", "origin": "host",
                "details": [{"path": "/content", "rule": "required", "message": "is required"}],
            })
        );
    }

    #[test]
    fn a_handlers_refusal_becomes_a_reason_unless_its_code_is_the_hosts() {
        let not_found = Rejection::from_handler(Refusal::new("not_found", "no record 7"));
        assert_eq!((not_found.code(), not_found.status()), ("refused", 404));
        assert_eq!(
            not_found.document(Some("e"), "i"),
            json!({
                "code": "refused", "message": "no record 7", "event": "e", "id": "i",
                "retry": "never", "origin": "handler", "reason": "not_found",
            })
        );
        let forbidden = Rejection::from_handler(Refusal::new("forbidden", "not yours"));
        assert_eq!((forbidden.code(), forbidden.status()), ("forbidden", 403));
        assert_eq!(forbidden.reason(), None);
        assert_eq!(
            Rejection::from_handler(Refusal::new("limit", "more than 256 effects")).code(),
            "too_large"
        );
    }

    /// Every code of a handler keeps its meaning, its status and its advice.
    #[test]
    fn what_a_handler_refuses_is_told_from_what_the_host_rejects() {
        let text = || "text".to_owned();
        let wait = Duration::from_secs(1);
        let by_host = [
            Rejection::Forbidden(text()),
            Rejection::Unauthorized(text()),
            Rejection::invalid(text()),
            Rejection::TooLarge(text()),
            Rejection::Unavailable(text()),
            Rejection::Busy(text()),
            Rejection::RateLimited { message: text(), retry_after: wait },
        ];
        for by_host in by_host {
            let by_handler = Rejection::from_handler(Refusal::new(by_host.code(), text()));
            let shape = |rejection: &Rejection| {
                (
                    rejection.code(),
                    rejection.status(),
                    rejection.retry(),
                    rejection.reason().is_none(),
                )
            };
            assert_eq!(shape(&by_handler), shape(&by_host));
            assert_eq!((by_host.origin(), by_handler.origin()), (Origin::Host, Origin::Handler));
        }
        let late = Rejection::from_handler(Refusal::new("timed_out", text()));
        assert_eq!((late.code(), late.status(), late.reason()), ("timed_out", 504, None));
        assert_eq!((late.retry(), late.origin()), (Retry::Unsafe, Origin::Handler));
        let limited = Rejection::from_handler(Refusal::new("rate_limited", text()));
        assert_eq!(limited.document(Some("e"), "i")["retry_after_ms"], json!(250));
    }

    #[test]
    fn a_client_repeats_an_event_only_if_it_can_have_had_no_effect() {
        let text = || "text".to_owned();
        for (rejection, retry, origin) in [
            (Rejection::UnknownEvent, Retry::Never, Origin::Host),
            (Rejection::Busy(text()), Retry::Safe, Origin::Host),
            (Rejection::Unavailable(text()), Retry::Safe, Origin::Host),
            (Rejection::NotCommitted(text()), Retry::Unsafe, Origin::Host),
            (Rejection::PluginFailed, Retry::Unsafe, Origin::Handler),
            (Rejection::TimedOut, Retry::Unsafe, Origin::Handler),
        ] {
            assert_eq!((rejection.retry(), rejection.origin()), (retry, origin), "{rejection:?}");
        }
        let lost = Rejection::NotCommitted(text());
        assert_eq!((lost.code(), lost.status()), ("unavailable", 503));
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
