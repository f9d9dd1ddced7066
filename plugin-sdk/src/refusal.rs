//! A "no": a handler's to its client, or the host's to a plugin; and how other errors become one.

use std::fmt;

/// What a handler, and every call of the host, returns.
pub type Result<T = (), E = Refusal> = std::result::Result<T, E>;

/// A "no", from a handler to its client or from the host to a plugin: one type, so that `?` passes on what the host said.
///
/// Returned from a handler, nothing that the handler did is applied. The codes `forbidden`, `unauthorized`, `invalid_payload`,
/// `too_large` and `rate_limited` reach the client as they are, and `limit` as `too_large`. What the host says to a call that no client can put
/// right (`misuse`, `undeclared`, `invalid_data`), [`internal`](Self::internal), and `corrupt_state` (a stored value that this version
/// can't read) are failures of the plugin: they count as a trap does, reach the client as `plugin_failed`, and their message only the
/// operator. Any other code reaches the client as `refused`, with the code as its `reason`.
///
/// `?` converts no error of another kind by itself, because only the handler knows whose fault it is:
///
/// ```
/// # use sockhop_sdk::{Refusal, Result};
/// fn port(text: &str) -> Result<u16> {
///     // The client's fault: it is told what is wrong.
///     text.parse().map_err(|error| Refusal::invalid_payload(format!("port: {error}")))
/// }
///
/// fn table() -> Result<Vec<u16>> {
///     // The plugin's own: the client is answered `plugin_failed`, the error goes to the host's log.
///     serde_json::from_str(r#"[80, 443]"#).map_err(Refusal::internal)
/// }
/// # assert!(port("http").is_err() && table().is_ok());
/// ```
///
/// For an error type of your own, implement [`IntoRefusal`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Stable, snake_case, for programs: `not_found`.
    pub code: String,
    /// For people. Reaches the client, at most 1 KiB of it.
    pub message: String,
}

impl Refusal {
    /// A refusal with a code of your own (`[a-z][a-z0-9_]{0,63}`), which clients see as `reason`.
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into() }
    }

    /// The caller has no right to do this.
    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::new("forbidden", message)
    }

    /// What the event is about does not exist.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new("not_found", message)
    }

    /// The payload is wrong in a way that its schema can't say.
    pub fn invalid_payload(message: impl Into<String>) -> Self {
        Self::new("invalid_payload", message)
    }

    /// The plugin's own failure: the client is answered `plugin_failed`, and `error` goes to the host's log.
    /// `.map_err(Refusal::internal)?` passes on any error that can be displayed.
    pub fn internal(error: impl fmt::Display) -> Self {
        Self::new("internal", error.to_string())
    }

    /// Arguments that can't be right: the plugin's own mistake.
    pub(crate) fn misuse(message: impl Into<String>) -> Self {
        Self::new("misuse", message)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

impl std::error::Error for Refusal {}

/// An error that `?` turns into a [`Refusal`]: implement it for your own.
///
/// ```
/// use sockhop_sdk::{IntoRefusal, Refusal, Result};
///
/// struct SoldOut;
///
/// impl IntoRefusal for SoldOut {
///     fn into_refusal(self) -> Refusal {
///         Refusal::new("sold_out", "no seat is left")
///     }
/// }
///
/// fn reserve(seats: u32) -> std::result::Result<u32, SoldOut> {
///     seats.checked_sub(1).ok_or(SoldOut)
/// }
///
/// fn buy() -> Result<u32> {
///     Ok(reserve(0)?)
/// }
/// # assert_eq!(buy().map_err(|refusal| refusal.code), Err("sold_out".to_owned()));
/// ```
///
/// A foreign error is converted where it occurs, see [`Refusal`]:
///
/// ```compile_fail,E0277
/// fn port(text: &str) -> sockhop_sdk::Result<u16> {
///     Ok(text.parse()?)
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`?` can't turn a `{Self}` into a `Refusal`",
    label = "say whose fault it is: `.map_err(Refusal::internal)?` if the plugin's (the client is answered `plugin_failed`), \
             `.map_err(|error| Refusal::invalid_payload(error.to_string()))?` if the client's"
)]
pub trait IntoRefusal {
    /// What the client is told.
    fn into_refusal(self) -> Refusal;
}

impl<E: IntoRefusal> From<E> for Refusal {
    fn from(error: E) -> Self {
        error.into_refusal()
    }
}
