//! A host event: its kind, the plugins that it is for, and its payload. No I/O.

use std::sync::Arc;
use std::time::SystemTime;

use serde_json::json;
use sockhop_core::declarations::Registration;

use crate::event::{Caller, Connection, Payload, host_event};
use crate::rooms::RoomChange;

/// One host event. The backlogs of all its recipients share it.
#[derive(Debug)]
pub(super) struct HostEvent {
    pub(super) kind: HostEventKind,
    pub(super) recipients: Recipients,
    /// The data that a handler receives.
    pub(super) payload: Payload,
    /// When the host created it.
    pub(super) at: SystemTime,
}

/// What happened.
#[derive(Debug)]
pub(super) enum HostEventKind {
    /// The host has started.
    Start,
    /// A connection began.
    Connect(Arc<Connection>),
    /// A connection ended.
    Disconnect(Arc<Connection>),
    /// The recipient has missed events of connections, and must read the connections again.
    Resync,
    /// A room of the recipient has become occupied or vacated.
    Room(RoomChange),
}

/// The plugins that an event is for, if they listen for events of its kind.
#[derive(Debug)]
pub(super) enum Recipients {
    /// All plugins.
    All,
    /// One plugin, by name.
    Plugin(Arc<str>),
}

impl HostEvent {
    /// Creates an event with the current time.
    pub(super) fn new(kind: HostEventKind, recipients: Recipients) -> Self {
        let payload = match &kind {
            HostEventKind::Room(RoomChange { key, .. }) => {
                let data = json!({"room": &*key.room, "namespace": &*key.namespace});
                Payload { text: data.to_string().into(), ..Payload::null() }
            }
            _ => Payload::null(),
        };
        Self { kind, recipients, payload, at: SystemTime::now() }
    }

    /// Whether the event is for the plugin that made these declarations.
    pub(super) fn is_for(&self, plugin: &Registration) -> bool {
        self.is_for_listener(&plugin.name, &plugin.listens)
    }

    /// Whether the event is for the plugin of this name that listens for such events.
    pub(super) fn is_for_listener(&self, plugin: &str, listens: &[&str]) -> bool {
        let is_recipient = match &self.recipients {
            Recipients::All => true,
            Recipients::Plugin(name) => **name == *plugin,
        };
        is_recipient && listens.contains(&self.kind.name())
    }

    /// The connection that the event is about, if it is about one.
    pub(super) fn connection(&self) -> Option<&Arc<Connection>> {
        match &self.kind {
            HostEventKind::Connect(connection) | HostEventKind::Disconnect(connection) => {
                Some(connection)
            }
            HostEventKind::Start | HostEventKind::Resync | HostEventKind::Room(_) => None,
        }
    }

    /// The change of the room that the event is about, if it is about one.
    pub(super) fn room(&self) -> Option<&RoomChange> {
        if let HostEventKind::Room(change) = &self.kind { Some(change) } else { None }
    }

    /// The caller that the handler sees.
    pub(super) fn caller(&self) -> Caller {
        match &self.kind {
            HostEventKind::Connect(connection) | HostEventKind::Disconnect(connection) => {
                Caller::Connection(Arc::clone(connection))
            }
            // Its handler emits in the namespace of the room.
            HostEventKind::Room(change) => Caller::Namespace(Arc::clone(&change.key.namespace)),
            HostEventKind::Start | HostEventKind::Resync => Caller::None,
        }
    }
}

impl HostEventKind {
    /// The name by which a plugin listens for such events.
    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self::Start => host_event::START,
            Self::Connect(_) => host_event::CONNECT,
            Self::Disconnect(_) => host_event::DISCONNECT,
            Self::Resync => host_event::RESYNC,
            Self::Room(change) if change.is_occupied => host_event::ROOM_OCCUPIED,
            Self::Room(_) => host_event::ROOM_VACATED,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plugin(name: &str, listens: &[&'static str]) -> Registration {
        Registration {
            name: name.to_owned(),
            version: "1.0.0".to_owned(),
            listens: listens.to_vec(),
            ..Registration::default()
        }
    }

    #[test]
    fn an_event_reaches_only_its_recipients_that_listen_for_it() {
        let (all, one) = (
            HostEvent::new(HostEventKind::Start, Recipients::All),
            HostEvent::new(HostEventKind::Start, Recipients::Plugin("one".into())),
        );
        let listens = [host_event::START];
        assert!(all.is_for(&plugin("one", &listens)) && all.is_for(&plugin("other", &listens)));
        assert!(one.is_for(&plugin("one", &listens)) && !one.is_for(&plugin("other", &listens)));
        let deaf = plugin("one", &[host_event::RESYNC]);
        assert!(!all.is_for(&deaf) && !one.is_for(&deaf));
    }
}
