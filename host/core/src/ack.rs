//! Emits with an ack: the events by which a plugin gets the answers of clients, and the bounds of
//! the acks that have not come yet.

use std::time::Duration;

use serde::Serialize;

use crate::rejection::Refusal;

/// The name of the event of an ack is this text and the name of the ack. No client can send it.
pub const EVENT_PREFIX: &str = "$ack:";

/// Returns the name of the event by which a plugin gets the outcomes of `ack`.
pub fn event_name(ack: &str) -> String {
    format!("{EVENT_PREFIX}{ack}")
}

/// Returns the id of an emit with an ack. `place` is the number of emits with an ack that the
/// handler has made before. The id stays the same if the handler runs again.
pub fn ack_id(event: &str, place: usize) -> String {
    format!("{event}-{place}")
}

/// What a handler asks for with an emit with an ack, besides the emitted event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AckRequest {
    /// The public id of the connection.
    pub connection: String,
    /// The declared name of the ack.
    pub ack: String,
    /// How long the client may take to answer, in milliseconds.
    pub timeout_ms: u64,
    /// JSON that the outcome brings back.
    pub context: String,
}

/// Memory of an answer that is waited for, besides its texts: its entries in the lists of the host.
const ENTRY_BYTES: usize = 512;

impl AckRequest {
    /// Bytes of its texts.
    pub fn bytes(&self) -> usize {
        self.connection.len() + self.ack.len() + self.context.len()
    }

    /// Memory that counts until its outcome is handled.
    pub fn memory(&self) -> usize {
        ENTRY_BYTES + self.bytes()
    }

    /// Returns how long the client may take to answer.
    ///
    /// # Errors
    /// `misuse`: no time, or more than `max`.
    pub fn timeout(&self, max: Duration) -> Result<Duration, Refusal> {
        let timeout = Duration::from_millis(self.timeout_ms);
        if timeout.is_zero() || timeout > max {
            return Err(Refusal::misuse(format!(
                "the timeout of an ack has 1 to {} milliseconds",
                max.as_millis()
            )));
        }
        Ok(timeout)
    }
}

/// How many answers of one plugin may be waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AckLimits {
    /// Their number.
    pub acks: usize,
    /// Their memory.
    pub bytes: usize,
}

impl AckLimits {
    /// Checks whether so many answers of a plugin, with so much memory, may be waited for.
    ///
    /// # Errors
    /// `limit`.
    pub fn check(self, acks: usize, bytes: usize) -> Result<(), Refusal> {
        let Self { acks: max, bytes: max_bytes } = self;
        if acks <= max && bytes <= max_bytes {
            return Ok(());
        }
        Err(Refusal::limit(format!(
            "a plugin waits for at most {max} acks, with {max_bytes} bytes of their contexts"
        )))
    }
}

/// What has become of an emit with an ack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome<D = String> {
    /// The client has answered with this JSON: its argument, or the array of its arguments.
    Answered(D),
    /// The client has not answered in time.
    Timeout,
    /// The connection has ended, has lost its transport, or did not exist.
    Disconnected,
    /// The client has answered, but not as the plugin declares it, for this reason.
    Invalid(String),
    /// The host had no room for the emit or for its answer, for this reason.
    Busy(String),
}

impl<D> Outcome<D> {
    /// The name that plugins get, and metrics show.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Answered(_) => "answered",
            Self::Timeout => "timeout",
            Self::Disconnected => "disconnected",
            Self::Invalid(_) => "invalid",
            Self::Busy(_) => "busy",
        }
    }
}

/// Returns the data of the event by which a plugin gets an outcome, as JSON. `context` and the data
/// of an answer are JSON texts.
pub fn event_data(id: &str, connection: &str, context: &str, outcome: &Outcome<&str>) -> String {
    #[derive(Serialize)]
    struct Head<'outcome> {
        outcome: &'static str,
        id: &'outcome str,
        connection: &'outcome str,
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<&'outcome str>,
    }
    let (reason, data) = match outcome {
        Outcome::Answered(data) => (None, Some(*data)),
        Outcome::Invalid(reason) | Outcome::Busy(reason) => (Some(reason.as_str()), None),
        Outcome::Timeout | Outcome::Disconnected => (None, None),
    };
    // Texts can always be written.
    let head = serde_json::to_string(&Head { outcome: outcome.name(), id, connection, reason });
    let head = head.unwrap_or_default();
    let head = head.strip_suffix('}').unwrap_or_default();
    match data {
        Some(data) => [head, ",\"context\":", context, ",\"data\":", data, "}"].concat(),
        None => [head, ",\"context\":", context, "}"].concat(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(timeout_ms: u64) -> AckRequest {
        let (connection, ack, context) = ("c1".to_owned(), "yes".to_owned(), "[1]".to_owned());
        AckRequest { connection, ack, timeout_ms, context }
    }

    #[test]
    fn a_timeout_is_between_a_millisecond_and_the_longest() {
        let max = Duration::from_millis(500);
        assert_eq!(request(1).timeout(max), Ok(Duration::from_millis(1)));
        assert_eq!(request(500).timeout(max), Ok(max));
        for wrong in [0, 501, u64::MAX] {
            assert_eq!(request(wrong).timeout(max).unwrap_err().code, "misuse", "{wrong}");
        }
    }

    #[test]
    fn the_answers_that_are_waited_for_are_limited_in_number_and_memory() {
        let limits = AckLimits { acks: 2, bytes: 600 };
        assert_eq!((request(1).bytes(), request(1).memory()), (8, 520));
        assert_eq!(limits.check(2, 600), Ok(()));
        assert_eq!(limits.check(3, 600).unwrap_err().code, "limit");
        assert_eq!(limits.check(2, 601).unwrap_err().code, "limit");
    }

    #[test]
    fn the_data_of_an_outcome_is_json_with_the_texts_unchanged() {
        let data = |outcome| event_data(&ack_id("01JD", 2), "c\"1", "[ 1.0 ]", &outcome);
        assert_eq!(
            data(Outcome::Answered("1e400")),
            r#"{"outcome":"answered","id":"01JD-2","connection":"c\"1","context":[ 1.0 ],"data":1e400}"#
        );
        assert_eq!(
            data(Outcome::Invalid("no \"text\"".to_owned())),
            r#"{"outcome":"invalid","id":"01JD-2","connection":"c\"1","reason":"no \"text\"","context":[ 1.0 ]}"#
        );
        assert_eq!(
            data(Outcome::Timeout),
            r#"{"outcome":"timeout","id":"01JD-2","connection":"c\"1","context":[ 1.0 ]}"#
        );
    }
}
