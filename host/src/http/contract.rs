//! `GET /api/events`: the contract that is served now.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use serde_json::{Value, json};
use sockhop_core::arguments::Arguments;

use crate::contract::Contract;

use super::Api;
use super::problem::Problem;

/// Returns the contract: events that clients may send, events that they may receive, and rooms.
pub(super) async fn show(
    State(api): State<Arc<Api>>,
    headers: HeaderMap,
) -> Result<Json<Value>, Problem> {
    if let Some(scope) = api.contract_scope() {
        api.keys.allow(&headers, scope)?;
    }
    Ok(Json(document(api.registry.snapshot().contract())))
}

/// The contract as the endpoint shows it: the events of plugins, and those of the operator, which
/// have no plugin.
fn document(contract: Contract) -> Value {
    let mut events = Vec::new();
    for plugin in contract.plugins {
        let (name, version) = (&plugin.name, &plugin.version);
        for event in plugin.inbound {
            let mut entry = json!({"event": event.event, "direction": "in", "plugin": name, "version": version,
                "data": event.data, "access": event.access.to_string()});
            if let (Some(members), Some(reply)) = (entry.as_object_mut(), event.reply) {
                members.insert("reply".to_owned(), reply);
            }
            note_list(&mut entry, "arguments", event.arguments);
            note_list(&mut entry, "reply_arguments", event.reply_arguments);
            events.push(entry);
        }
        for event in plugin.outbound {
            let mut entry = json!({"event": event.event, "direction": "out", "plugin": name, "version": version,
                "data": event.data, "rooms": event.targets()});
            note_list(&mut entry, "arguments", event.arguments);
            events.push(entry);
        }
    }
    for event in contract.operator_outbound {
        let mut entry = json!({"event": event.event, "direction": "out", "plugin": null, "version": null,
            "data": event.data, "rooms": event.targets()});
        note_list(&mut entry, "arguments", event.arguments);
        events.push(entry);
    }
    let rooms: Vec<_> = contract
        .rooms
        .iter()
        .map(|rule| json!({"room": rule.pattern.as_str(), "access": rule.access.to_string(), "plugin": rule.owner}))
        .collect();
    json!({"generation": contract.generation, "events": events, "rooms": rooms})
}

/// Notes that a message has a list of arguments: its schema is that of the array. Without the
/// member, a message has one argument.
fn note_list(entry: &mut Value, member: &str, arguments: Arguments) {
    if let (Arguments::List, Some(members)) = (arguments, entry.as_object_mut()) {
        members.insert(member.to_owned(), json!("list"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::{InboundContract, OutboundContract, PluginContract};
    use crate::rule::{Access, RoomRule};

    #[test]
    fn the_document_lists_the_events_of_each_plugin_and_the_rooms() {
        let inbound = |event: &str, reply: Option<Value>| InboundContract {
            event: event.to_owned(),
            data: json!(true),
            arguments: Arguments::One,
            reply_arguments: if reply.is_some() { Arguments::List } else { Arguments::One },
            reply,
            access: Access::Role("admin".to_owned()),
        };
        let notes = PluginContract {
            name: "notes".to_owned(),
            version: "1.0.0".to_owned(),
            inbound: vec![inbound("quiet", None), inbound("read", Some(json!(false)))],
            outbound: vec![OutboundContract {
                event: "written".to_owned(),
                data: json!({}),
                arguments: Arguments::List,
                rooms: vec!["notes".parse().unwrap()],
                everyone: true,
            }],
            rooms: Vec::new(),
            listens: Vec::new(),
            routes: Vec::new(),
            acks: Vec::new(),
            timers: Vec::new(),
            schedules: Vec::new(),
        };
        let rule = RoomRule {
            pattern: "notes".parse().unwrap(),
            access: Access::Anyone,
            owner: "notes".to_owned(),
        };
        let price = OutboundContract {
            event: "price".to_owned(),
            data: json!({"type": "number"}),
            arguments: Arguments::One,
            rooms: Vec::new(),
            everyone: true,
        };
        let contract = Contract {
            plugins: vec![notes],
            operator_outbound: vec![price],
            ..Contract::new(7, [], std::slice::from_ref(&rule))
        };
        assert_eq!(
            document(contract),
            json!({
                "generation": 7,
                "events": [
                    {"event": "quiet", "direction": "in", "plugin": "notes", "version": "1.0.0",
                     "data": true, "access": "role:admin"},
                    {"event": "read", "direction": "in", "plugin": "notes", "version": "1.0.0",
                     "data": true, "access": "role:admin", "reply": false, "reply_arguments": "list"},
                    {"event": "written", "direction": "out", "plugin": "notes", "version": "1.0.0",
                     "data": {}, "rooms": ["notes", "*"], "arguments": "list"},
                    {"event": "price", "direction": "out", "plugin": null, "version": null,
                     "data": {"type": "number"}, "rooms": ["*"]},
                ],
                "rooms": [{"room": "notes", "access": "anyone", "plugin": "notes"}],
            })
        );
    }
}
