//! The WIT interface `identity`: a handler asks who the caller is, and which event it handles.

use crate::plugin::bindings::sockhop::plugin::identity;
use crate::plugin::state::InstanceState;

use super::CallResult;

impl identity::Host for InstanceState {
    fn has_role(&mut self, role: String) -> bool {
        self.handling().is_ok_and(|calls| calls.has_role(&role))
    }

    fn claims(&mut self) -> String {
        self.handling().map_or_else(|_| "null".to_owned(), |calls| calls.claims())
    }

    fn auth(&mut self) -> CallResult<String> {
        Ok(self.handling()?.auth()?)
    }

    fn query(&mut self) -> CallResult<Option<Vec<(String, String)>>> {
        Ok(self.handling()?.query()?)
    }

    fn sid(&mut self) -> String {
        self.handling().map_or_else(|_| String::new(), |calls| calls.sid())
    }

    fn event_id(&mut self) -> String {
        self.handling().map_or_else(|_| String::new(), |calls| calls.event_id())
    }

    fn received_at(&mut self) -> u64 {
        self.handling().map_or(0, |calls| calls.received_at())
    }

    fn disconnect(&mut self, reason: String) {
        if let Ok(calls) = self.handling() {
            calls.disconnect(reason);
        }
    }
}
