//! The severity of log lines.

/// Severity of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// The finest detail.
    Trace,
    /// For the author of the plugin.
    Debug,
    /// For the operator.
    Info,
    /// Something is unexpected.
    Warn,
    /// Something is broken.
    Error,
}
