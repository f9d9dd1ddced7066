//! The error type [`Refusal`], from a handler to its client or from the host to a plugin, and the
//! conversion of other errors into it.

use std::fmt;

/// The result of a handler, and of every call of the host that can be refused.
pub type Result<T = (), E = Refusal> = std::result::Result<T, E>;

/// An error, from a handler to its client or from the host to a plugin. Both have the same type, so
/// that `?` passes on a refusal of the host.
///
/// If a handler returns a refusal, nothing that the handler did is applied. Its code decides what
/// the client receives:
///
/// - `forbidden`, `unauthorized`, `invalid_payload`, `too_large`, `rate_limited`, `unavailable` and
///   `timed_out` reach the client unchanged, and `limit` as `too_large`. `timed_out` means that
///   another service has not answered, and may have done what it was asked for.
/// - `misuse`, `undeclared`, `invalid_data`, `corrupt_state` and [`internal`](Self::internal) are
///   failures of the plugin, which no client can correct. They count like a trap and reach the
///   client as `plugin_failed`. Only the operator sees the message. The host refuses calls with the
///   first three. `corrupt_state` is a stored value that this version can't read.
/// - Any other code reaches the client as `refused`, with the code as its `reason`.
///
/// `?` does not convert other error types by itself, because only the handler knows whether the
/// client or the plugin caused the error:
///
/// ```
/// # use sockhop_sdk::{Refusal, Result};
/// fn port(text: &str) -> Result<u16> {
///     // The client's fault: it is told what is wrong.
///     text.parse().map_err(|error| Refusal::invalid_payload(format!("port: {error}")))
/// }
///
/// fn table() -> Result<Vec<u16>> {
///     // The plugin's own: the client is answered `plugin_failed`, and the host logs the error.
///     serde_json::from_str(r#"[80, 443]"#).map_err(Refusal::internal)
/// }
/// # assert!(port("http").is_err() && table().is_ok());
/// ```
///
/// For an error type of your own, implement [`IntoRefusal`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// A stable code for programs, in snake_case, such as `not_found`.
    pub code: String,
    /// A message for people. It reaches the client, truncated to 1 KiB.
    pub message: String,
}

impl Refusal {
    /// A refusal with your own code (`[a-z][a-z0-9_]{0,63}`), which clients receive as `reason`.
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into() }
    }

    /// The caller is not allowed to do this.
    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::new("forbidden", message)
    }

    /// The object of the event does not exist.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new("not_found", message)
    }

    /// The payload is wrong in a way that its schema can't express.
    pub fn invalid_payload(message: impl Into<String>) -> Self {
        Self::new("invalid_payload", message)
    }

    /// A failure of the plugin itself. The client receives `plugin_failed`, and `error` goes to the
    /// host's log. `.map_err(Refusal::internal)?` passes on any error that implements `Display`.
    pub fn internal(error: impl fmt::Display) -> Self {
        Self::new("internal", error.to_string())
    }

    /// Wrong arguments: an error of the plugin itself.
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

/// An error that `?` converts into a [`Refusal`]. Implement it for your own error types:
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
/// Convert an error of a foreign type where it occurs; see [`Refusal`]:
///
/// ```compile_fail,E0277
/// fn port(text: &str) -> sockhop_sdk::Result<u16> {
///     Ok(text.parse()?)
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`?` can't turn a `{Self}` into a `Refusal`",
    label = "say whose fault it is: `.map_err(Refusal::internal)?` if the plugin's (the client is \
             answered `plugin_failed`), \
             `.map_err(|error| Refusal::invalid_payload(error.to_string()))?` if the client's"
)]
pub trait IntoRefusal {
    /// Returns the refusal that the client receives.
    fn into_refusal(self) -> Refusal;
}

impl<E: IntoRefusal> From<E> for Refusal {
    fn from(error: E) -> Self {
        error.into_refusal()
    }
}
