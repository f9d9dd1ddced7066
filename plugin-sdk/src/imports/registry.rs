//! The interface `registry`.

use sockhop_core::arguments::Message;

use crate::host::Registry;
use crate::refusal::Result;

use super::Component;
use super::generated::sockhop::plugin::registry;

impl Registry for Component {
    fn plugin(&self, name: &str, version: &str, description: &str) -> Result {
        Ok(registry::plugin(name, version, description)?)
    }

    fn handles(&self, event: &str, data: &str, reply: Option<&str>) -> Result {
        Ok(registry::handles(event, data, reply)?)
    }

    fn requires(&self, event: &str, access: &str) -> Result {
        Ok(registry::requires(event, access)?)
    }

    fn emits(&self, event: &str, data: &str, rooms: &[String]) -> Result {
        Ok(registry::emits(event, data, rooms)?)
    }

    fn room(&self, pattern: &str, access: &str) -> Result {
        Ok(registry::room(pattern, access)?)
    }

    fn listens(&self, event: &str) -> Result {
        Ok(registry::listens(event)?)
    }
}

/// Calls the import `registry.route`.
pub(crate) fn route(method: &str, path: &str, event: &str) -> Result {
    Ok(registry::route(method, path, event)?)
}

/// Calls the import `registry.handshake`.
pub(crate) fn handshake() -> Result {
    Ok(registry::handshake()?)
}

/// Calls the import `registry.arguments`.
pub(crate) fn arguments(of: Message, event: &str) -> Result {
    let of = match of {
        Message::Event => registry::Message::Event,
        Message::Reply => registry::Message::Reply,
        Message::Emit => registry::Message::Emit,
    };
    Ok(registry::arguments(of, event)?)
}

/// Calls the import `registry.ack`.
pub(crate) fn ack(ack: &str, data: &str, is_list: bool) -> Result {
    Ok(registry::ack(ack, data, is_list)?)
}

/// Calls the import `registry.timer`.
pub(crate) fn timer(timer: &str, data: &str) -> Result {
    Ok(registry::timer(timer, data)?)
}

/// Calls the import `registry.every`.
pub(crate) fn every(timer: &str, cron: &str, zone: &str) -> Result {
    Ok(registry::every(timer, cron, zone)?)
}
