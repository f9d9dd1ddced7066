//! When loading a failed file is tried again.

/// When another attempt may succeed, if the bytes of the failed file do not change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// Never: the cause is in its bytes.
    Never,
    /// As soon as the environment has changed, and periodically: the cause is in the environment.
    Soon,
    /// Periodically: the cause may be in the environment, and each attempt is expensive.
    Later,
}
