//! When a file that failed is tried again.

/// When a file that failed may succeed, though its bytes stay the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// Never: its bytes are at fault.
    Never,
    /// As soon as its surroundings have changed, and from time to time: they are at fault.
    Soon,
    /// From time to time: its surroundings may be at fault, and each attempt costs much.
    Later,
}
