//! Which keys, values, scans and sequences the state of a plugin allows. The caller passes the
//! limits that an operator can change.

use crate::rejection::Refusal;

/// Maximum number of entries that one scan may ask for.
pub const MAX_SCAN_ENTRIES: u32 = 1000;

/// Maximum bytes of a sequence's name.
pub const MAX_SEQUENCE_NAME: usize = 128;

/// Maximum number of sequences of one plugin. A sequence is a named counter in the plugin's file,
/// for example one for the ids of all orders. Do not use one for each order: each sequence that is
/// used also takes memory until the file is closed.
pub const MAX_SEQUENCES: u32 = 1000;

/// Why a call of `state` is not allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// The key is empty.
    #[error("a key may not be empty")]
    EmptyKey,
    /// The key is too long.
    #[error("a key may have at most {max} bytes, this one has {bytes}")]
    LongKey {
        /// Bytes of the key.
        bytes: usize,
        /// Maximum bytes.
        max: usize,
    },
    /// The value is too long.
    #[error("a value may have at most {max} bytes, this one has {bytes}")]
    LongValue {
        /// Bytes of the value.
        bytes: usize,
        /// Maximum bytes.
        max: usize,
    },
    /// The argument `limit` of the scan is 0 or too large.
    #[error("the `limit` of a scan is 1 to {MAX_SCAN_ENTRIES}, not {0}")]
    ScanLimit(u32),
    /// The entries of the scan have too many bytes in total.
    #[error("a scan may return at most {max} bytes, ask for fewer entries")]
    LargeScan {
        /// Maximum bytes.
        max: usize,
    },
    /// The name of the sequence is empty.
    #[error("a sequence needs a name")]
    UnnamedSequence,
    /// The name of the sequence is too long.
    #[error("the name of a sequence may have at most {MAX_SEQUENCE_NAME} bytes")]
    LongSequenceName,
    /// The plugin has the maximum number of sequences.
    #[error("a plugin may have at most {MAX_SEQUENCES} sequences")]
    TooManySequences,
}

impl StateError {
    /// Whether the data of the call exceeds a limit: one that the operator sets, or a fixed one of
    /// sequences. Otherwise an argument makes no sense: a name or a key is empty, or the `limit` of
    /// a scan is not one of the allowed numbers.
    pub fn is_limit(self) -> bool {
        !matches!(self, Self::EmptyKey | Self::ScanLimit(_) | Self::UnnamedSequence)
    }
}

impl From<StateError> for Refusal {
    fn from(error: StateError) -> Self {
        if error.is_limit() {
            Self::limit(error.to_string())
        } else {
            Self::misuse(error.to_string())
        }
    }
}

/// Checks a key, which may have at most `max` bytes.
///
/// # Errors
/// Returns why the key is not allowed.
pub fn check_key(key: &str, max: usize) -> Result<(), StateError> {
    match key.len() {
        0 => Err(StateError::EmptyKey),
        bytes if bytes > max => Err(StateError::LongKey { bytes, max }),
        _ => Ok(()),
    }
}

/// Checks a value that has `bytes` bytes and may have at most `max`.
///
/// # Errors
/// Returns why the value is not allowed.
pub fn check_value(bytes: usize, max: usize) -> Result<(), StateError> {
    if bytes > max { Err(StateError::LongValue { bytes, max }) } else { Ok(()) }
}

/// Checks the argument `limit` of a scan.
///
/// # Errors
/// Returns why the limit is not allowed.
pub fn check_scan(limit: u32) -> Result<(), StateError> {
    if (1..=MAX_SCAN_ENTRIES).contains(&limit) { Ok(()) } else { Err(StateError::ScanLimit(limit)) }
}

/// Checks the name of a sequence.
///
/// # Errors
/// Returns why the name is not allowed.
pub fn check_sequence(name: &str) -> Result<(), StateError> {
    match name.len() {
        0 => Err(StateError::UnnamedSequence),
        1..=MAX_SEQUENCE_NAME => Ok(()),
        _ => Err(StateError::LongSequenceName),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(checked: Result<(), StateError>) -> String {
        checked.map_or_else(|error| Refusal::from(error).code, |()| "ok".to_owned())
    }

    #[test]
    fn too_much_data_is_refused_as_limit_and_an_invalid_argument_as_misuse() {
        assert_eq!(code(check_key("k", 2)), "ok");
        assert_eq!(code(check_key("", 2)), "misuse");
        assert_eq!(code(check_key("key", 2)), "limit");
        assert_eq!(code(check_value(3, 3)), "ok");
        assert_eq!(code(check_value(4, 3)), "limit");
        assert_eq!((code(check_scan(1)), code(check_scan(1000))), ("ok".into(), "ok".into()));
        assert_eq!(
            (code(check_scan(0)), code(check_scan(1001))),
            ("misuse".into(), "misuse".into())
        );
        assert_eq!(code(check_sequence(&"n".repeat(128))), "ok");
        assert_eq!(code(check_sequence("")), "misuse");
        assert_eq!(code(check_sequence(&"n".repeat(129))), "limit");
    }
}
