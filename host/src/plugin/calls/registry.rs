//! The WIT interface `registry`: a plugin declares what it is while `register` runs.

use sockhop_core::arguments::Message;

use crate::plugin::bindings::sockhop::plugin::registry;
use crate::plugin::state::InstanceState;

use super::CallResult;

impl registry::Host for InstanceState {
    fn plugin(&mut self, name: String, version: String, description: String) -> CallResult<()> {
        self.registering()?.plugin(&name, &version, description)?;
        self.read_settings_of(&name);
        Ok(())
    }

    fn handles(&mut self, event: String, data: String, reply: Option<String>) -> CallResult<()> {
        self.registering()?.handles(&event, data, reply)?;
        Ok(())
    }

    fn arguments(&mut self, of: registry::Message, event: String) -> CallResult<()> {
        let of = match of {
            registry::Message::Event => Message::Event,
            registry::Message::Reply => Message::Reply,
            registry::Message::Emit => Message::Emit,
        };
        self.registering()?.arguments(of, &event)?;
        Ok(())
    }

    fn requires(&mut self, event: String, access: String) -> CallResult<()> {
        self.registering()?.requires(&event, &access)?;
        Ok(())
    }

    fn emits(&mut self, event: String, data: String, rooms: Vec<String>) -> CallResult<()> {
        self.registering()?.emits(&event, data, &rooms)?;
        Ok(())
    }

    fn room(&mut self, pattern: String, access: String) -> CallResult<()> {
        self.registering()?.room(&pattern, &access)?;
        Ok(())
    }

    fn listens(&mut self, event: String) -> CallResult<()> {
        self.registering()?.listens(&event)?;
        Ok(())
    }

    fn handshake(&mut self) -> CallResult<()> {
        self.registering()?.handshake()?;
        Ok(())
    }

    fn route(&mut self, method: String, path: String, event: String) -> CallResult<()> {
        self.registering()?.route(&method, &path, &event)?;
        Ok(())
    }

    fn ack(&mut self, ack: String, data: String, is_list: bool) -> CallResult<()> {
        self.registering()?.ack(&ack, data, is_list)?;
        Ok(())
    }

    fn timer(&mut self, timer: String, data: String) -> CallResult<()> {
        self.registering()?.timer(&timer, data)?;
        Ok(())
    }

    fn every(&mut self, timer: String, cron: String, time_zone: String) -> CallResult<()> {
        self.registering()?.every(&timer, &cron, &time_zone)?;
        Ok(())
    }
}
