//! The clients of the test host.

use std::collections::BTreeSet;

use serde_json::Value;

/// The identity of a connection.
#[derive(Debug, Clone, Default)]
pub(super) struct Client {
    pub(super) user: Option<String>,
    pub(super) roles: BTreeSet<String>,
    pub(super) claims: Value,
}
