//! The interface `identity`.

use crate::host::IdentityCalls;
use crate::refusal::Result;

use super::Component;
use super::generated::sockhop::plugin::identity;

impl IdentityCalls for Component {
    fn has_role(&self, role: &str) -> bool {
        identity::has_role(role)
    }

    fn claims(&self) -> String {
        identity::claims()
    }

    fn sid(&self) -> String {
        identity::sid()
    }

    fn event_id(&self) -> String {
        identity::event_id()
    }

    fn received_at(&self) -> u64 {
        identity::received_at()
    }

    fn disconnect(&self, reason: &str) {
        identity::disconnect(reason);
    }
}

/// Calls the import `identity.auth`.
pub(crate) fn auth() -> Result<String> {
    Ok(identity::auth()?)
}

/// Calls the import `identity.query`.
pub(crate) fn query() -> Result<Option<Vec<(String, String)>>> {
    Ok(identity::query()?)
}
