//! Emits with an ack: the type of what clients answer, and why there is no answer.

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};

use crate::args::Incoming;
use crate::host::Registry;
use crate::refusal::{Refusal, Result};

/// What clients answer to events that handlers emit with an ack: its name, the type `T` of an
/// answer, and the type `C` of the context that the handler of the outcome gets back.
///
/// Define it as a constant, register it together with its handler
/// ([`Plugin::on_ack`](crate::Plugin::on_ack)), and ask for it with
/// [`Context::emit_with_ack`](crate::Context::emit_with_ack). An answer has one argument, and no
/// argument counts as `null`. With [`Args`](crate::Args) as `T`, it has several.
///
/// # What the host promises
///
/// - The event is sent with the other effects of the handler, or not at all.
/// - Each emit with an ack has one outcome, as long as the host runs: the answer, or [`NoAnswer`].
///   An ack is not stored: after a restart of the host there is no outcome. The handler is called
///   once, also if it fails.
/// - The outcome is handled in the order of the client's events: what the client sends after its
///   answer is handled after it. The caller is the connection, unless it never existed.
/// - The version of the plugin that serves then handles it. So each version must be able to read
///   the contexts of the versions before and after it. While the plugin is disabled, its breaker is
///   open, its file is away or the version does not declare the ack, the outcome waits for at most
///   10 minutes. Then it has no order.
/// - Whatever a client answers has passed the schema of `T`, or is [`NoAnswer::Invalid`].
pub struct Ack<T, C = ()> {
    name: &'static str,
    types: PhantomData<fn(T, C)>,
}

impl<T, C> Ack<T, C> {
    /// An ack with this name, which has the form of an event's name. An event, a timer and an ack
    /// can have the same name.
    #[must_use]
    pub const fn new(name: &'static str) -> Self {
        Self { name, types: PhantomData }
    }

    /// The ack's name.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// Asks for this ack. The client may take `timeout` to answer, from the time at which the event
    /// is sent: 1 ms to 10 minutes (by default). A part of a millisecond counts as a whole one. The
    /// handler of the outcome gets `context` back.
    #[must_use]
    pub const fn within<'ask>(&self, timeout: Duration, context: &'ask C) -> Ask<'ask, T, C> {
        Ask { ack: self.name, timeout, context, attachments: &[], types: PhantomData }
    }
}

// Not derived, because `derive` would require the same traits of the types.
impl<T, C> Clone for Ack<T, C> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T, C> Copy for Ack<T, C> {}

impl<T, C> fmt::Debug for Ack<T, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ack").field("name", &self.name).finish()
    }
}

/// What [`Context::emit_with_ack`](crate::Context::emit_with_ack) asks for; see [`Ack::within`].
pub struct Ask<'ask, T, C> {
    pub(crate) ack: &'static str,
    pub(crate) timeout: Duration,
    pub(crate) context: &'ask C,
    pub(crate) attachments: &'ask [Vec<u8>],
    types: PhantomData<fn(T)>,
}

impl<'ask, T, C> Ask<'ask, T, C> {
    /// Emits the event with these binary attachments. Its data must name each by exactly one
    /// [`Attachment`](crate::Attachment).
    #[must_use]
    pub const fn attachments(mut self, attachments: &'ask [Vec<u8>]) -> Self {
        self.attachments = attachments;
        self
    }
}

impl<T, C> fmt::Debug for Ask<'_, T, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ask")
            .field("ack", &self.ack)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

/// Why there is no answer to an emit with an ack.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum NoAnswer {
    /// The client has not answered in time. It may have received the event.
    Timeout,
    /// The connection has ended, has lost its transport, or did not exist.
    Disconnected,
    /// The client has answered something else than the ack declares, or too much. The text is for
    /// people.
    Invalid(String),
    /// The host had no room: too many acks of the connection are waited for, and nothing was sent;
    /// or too many events of the connection wait. The text is for people.
    Busy(String),
}

impl fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Timeout => f.write_str("the client has not answered in time"),
            Self::Disconnected => f.write_str("the connection has ended"),
            Self::Invalid(reason) => write!(f, "the answer of the client is invalid: {reason}"),
            Self::Busy(reason) => write!(f, "the host is busy: {reason}"),
        }
    }
}

impl std::error::Error for NoAnswer {}

/// The data of an outcome, except the answer.
#[derive(Deserialize)]
struct Head<C> {
    outcome: String,
    context: C,
    reason: Option<String>,
}

/// The answer in the data of an outcome.
#[derive(Deserialize)]
struct Answer<T> {
    data: T,
}

/// Reads the data of an outcome of `ack`: its context, and the answer.
pub(crate) fn outcome<T: Incoming, C: DeserializeOwned>(
    ack: &str,
    data: &str,
) -> Result<(C, Result<T, NoAnswer>), Refusal> {
    // Another version of the plugin may have emitted the event.
    let Head { outcome, context, reason } = serde_json::from_str(data).map_err(|error| {
        let is_context = serde_json::from_str::<Head<IgnoredAny>>(data).is_ok();
        let code = if is_context { "corrupt_state" } else { "internal" };
        Refusal::new(code, format!("the context of the ack `{ack}` can't be read: {error}"))
    })?;
    let reason = reason.unwrap_or_default();
    let answer = match outcome.as_str() {
        "answered" => match serde_json::from_str::<Answer<T::Json>>(data) {
            Ok(Answer { data }) => Ok(T::from_json(data)),
            // A value that the schema can't exclude, such as a number out of the type's range.
            Err(error) => Err(NoAnswer::Invalid(error.to_string())),
        },
        "timeout" => Err(NoAnswer::Timeout),
        "disconnected" => Err(NoAnswer::Disconnected),
        "invalid" => Err(NoAnswer::Invalid(reason)),
        "busy" => Err(NoAnswer::Busy(reason)),
        // Of a later host.
        other => Err(NoAnswer::Busy(other.to_owned())),
    };
    Ok((context, answer))
}

/// Passes an ack to the host.
pub(crate) fn declare(registry: &dyn Registry, ack: &str, data: &str, is_list: bool) -> Result {
    #[cfg(target_family = "wasm")]
    {
        let _ = registry;
        crate::imports::ack(ack, data, is_list)
    }
    #[cfg(not(target_family = "wasm"))]
    registry.ack(ack, data, is_list)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Args;

    #[test]
    fn an_outcome_has_its_context_and_an_answer_or_why_there_is_none() {
        let read = |data: &str| outcome::<u8, String>("a", data).unwrap();
        let answer = |rest: &str| read(&format!(r#"{{"context":"c",{rest}}}"#)).1;
        assert_eq!(read(r#"{"outcome":"timeout","context":"c"}"#).0, "c");
        assert_eq!(answer(r#""outcome":"answered","data":7"#), Ok(7));
        let too_large = answer(r#""outcome":"answered","data":256"#);
        assert!(matches!(too_large, Err(NoAnswer::Invalid(_))), "{too_large:?}");
        assert_eq!(answer(r#""outcome":"timeout""#), Err(NoAnswer::Timeout));
        assert_eq!(answer(r#""outcome":"disconnected""#), Err(NoAnswer::Disconnected));
        let reason = |reason: &str| reason.to_owned();
        let invalid = answer(r#""outcome":"invalid","reason":"no""#);
        assert_eq!(invalid, Err(NoAnswer::Invalid(reason("no"))));
        assert_eq!(answer(r#""outcome":"busy","reason":"b""#), Err(NoAnswer::Busy(reason("b"))));
        assert_eq!(answer(r#""outcome":"later""#), Err(NoAnswer::Busy(reason("later"))));
        let unit = outcome::<(), ()>("a", r#"{"outcome":"answered","context":null,"data":null}"#);
        assert_eq!(unit, Ok(((), Ok(()))));
        let list = r#"{"outcome":"answered","context":null,"data":[1,"x"]}"#;
        let list = outcome::<Args<(u8, String)>, ()>("a", list);
        assert_eq!(list, Ok(((), Ok(Args((1, "x".to_owned()))))));
        let other = outcome::<u8, u8>("a", r#"{"outcome":"timeout","context":"c"}"#);
        assert_eq!(other.unwrap_err().code, "corrupt_state");
    }
}
