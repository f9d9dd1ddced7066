//! The record of a client that the host cuts.

/// The reason to cut a client whose token has expired or was revoked.
pub(crate) const TOKEN: &str = "token";

/// Logs that a client is cut. A token that ends is normal.
pub(super) fn log_cut(client: &str, reason: &str, waiting_bytes: usize) {
    if reason == TOKEN {
        tracing::info!(client, reason, waiting_bytes, "client cut");
    } else {
        tracing::warn!(client, reason, waiting_bytes, "client cut");
    }
}
