//! The WIT interface `registry`: a plugin declares what it is while `register` runs.

use crate::plugin::bindings::sockhop::plugin::registry;
use crate::plugin::state::InstanceState;

use super::Answer;

impl registry::Host for InstanceState {
    fn plugin(&mut self, name: String, version: String, description: String) -> Answer<()> {
        self.registering()?.plugin(&name, &version, description)?;
        Ok(())
    }

    fn handles(&mut self, event: String, data: String, reply: Option<String>) -> Answer<()> {
        self.registering()?.handles(&event, data, reply)?;
        Ok(())
    }

    fn requires(&mut self, event: String, access: String) -> Answer<()> {
        self.registering()?.requires(&event, &access)?;
        Ok(())
    }

    fn emits(&mut self, event: String, data: String, rooms: Vec<String>) -> Answer<()> {
        self.registering()?.emits(&event, data, &rooms)?;
        Ok(())
    }

    fn room(&mut self, pattern: String, access: String) -> Answer<()> {
        self.registering()?.room(&pattern, &access)?;
        Ok(())
    }

    fn listens(&mut self, event: String) -> Answer<()> {
        self.registering()?.listens(&event)?;
        Ok(())
    }
}
