//! What handlers have done, as JSON values: effects, state, timers, deliveries and messages.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::effect::{Effect, Emit, Target, Who};
use crate::scenario::bytes_value;
use crate::socketio::recorded::{Kind, Message};
use crate::store::{PageQuery, Store, StoreError};

/// An effect.
pub(super) fn effect(effect: &Effect) -> Value {
    match effect {
        Effect::Emit(emit) => emitted(emit),
        Effect::Join(room) => json!({"join": room}),
        Effect::Leave(room) => json!({"leave": room}),
        Effect::JoinMember(who, room) => with_who(json!({"join": room}), who),
        Effect::RemoveMember(who, room) => with_who(json!({"leave": room}), who),
        Effect::Disconnect(reason) => json!({"disconnect": reason}),
    }
}

fn with_who(mut value: Value, who: &Who) -> Value {
    let (kind, name) = match who {
        Who::Connection(id) => ("connection", id),
        Who::User(user) => ("user", user),
    };
    if let Some(members) = value.as_object_mut() {
        members.insert(kind.to_owned(), Value::from(name.as_str()));
    }
    value
}

fn emitted(Emit { to, event, data, attachments, is_volatile, ack }: &Emit) -> Value {
    let to = match to {
        Target::Sender => json!("sender"),
        Target::Everyone => json!("everyone"),
        Target::Connection(id) => json!({"connection": id}),
        Target::Rooms(rooms) => json!({"rooms": rooms}),
        Target::RoomsButSender(rooms) => json!({"rooms": rooms, "skip_sender": true}),
    };
    let mut members = Map::new();
    members.insert("emit".to_owned(), Value::from(event.as_str()));
    members.insert("to".to_owned(), to);
    if *is_volatile {
        members.insert("volatile".to_owned(), Value::Bool(true));
    }
    if let Some(ack) = ack {
        members.insert("ack".to_owned(), Value::from(ack.request.ack.as_str()));
    }
    add_arguments(&mut members, data.arguments(), attachments);
    Value::Object(members)
}

/// A message that a client has received, if it is an event.
pub(super) fn event(message: &Message) -> Option<Value> {
    let Kind::Event(name) = &message.kind else { return None };
    let mut members = Map::new();
    members.insert("event".to_owned(), Value::from(name.as_str()));
    add_arguments(&mut members, &message.arguments, &message.attachments);
    Some(Value::Object(members))
}

fn add_arguments(members: &mut Map<String, Value>, text: &str, attachments: &[bytes::Bytes]) {
    let mut arguments = arguments(text);
    if arguments.len() == 1 {
        members.insert("data".to_owned(), arguments.remove(0));
    } else {
        members.insert("args".to_owned(), Value::Array(arguments));
    }
    if !attachments.is_empty() {
        let shown = attachments.iter().map(|bytes| bytes_value(bytes)).collect();
        members.insert("attachments".to_owned(), Value::Array(shown));
    }
}

/// The values of arguments whose texts are separated by commas.
pub(super) fn arguments(text: &str) -> Vec<Value> {
    // The host sends only JSON that it has checked.
    serde_json::from_str(&format!("[{text}]")).unwrap_or_default()
}

/// Rows that are read at once.
const PAGE: u32 = 1_000;

/// Bytes of entries that are read at once.
const PAGE_BYTES: usize = 4 << 20;

/// All entries of a state: JSON where a value is JSON, else text or bytes.
///
/// # Errors
/// The state can't be read.
pub(super) fn entries(store: &Store) -> Result<BTreeMap<String, Value>, StoreError> {
    let (mut entries, mut after) = (BTreeMap::new(), None);
    loop {
        let query = PageQuery {
            after,
            limit: PAGE as usize,
            max_bytes: PAGE_BYTES,
            ..PageQuery::default()
        };
        let page = store.content_page(&query)?;
        entries.extend(page.entries.into_iter().map(|(key, bytes)| (key, stored(&bytes))));
        match page.next {
            Some(next) => after = Some(next),
            None => return Ok(entries),
        }
    }
}

/// A stored value.
pub(super) fn stored(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap_or_else(|_| bytes_value(bytes))
}

/// The timers that are set, in the order of their times, without those of `schedules`.
///
/// # Errors
/// The state can't be read.
pub(super) fn timers(
    store: &Store,
    is_scheduled: impl Fn(&str) -> bool,
) -> Result<Vec<Value>, StoreError> {
    let (mut rows, mut after) = (Vec::new(), 0);
    loop {
        let page = store.timers(false, after, PAGE)?;
        let Some(last) = page.last() else { break };
        after = last.id;
        rows.extend(page);
    }
    rows.retain(|row| !(row.key.is_empty() && is_scheduled(&row.timer)));
    rows.sort_by_key(|row| (row.next, row.id));
    let shown = |row: crate::store::TimerRow| json!({"timer": row.timer, "key": row.key, "due": time(row.next)});
    Ok(rows.into_iter().map(shown).collect())
}

/// The deliveries that wait.
///
/// # Errors
/// The state can't be read.
pub(super) fn deliveries(store: &Store) -> Result<Vec<Value>, StoreError> {
    let (mut shown, mut after) = (Vec::new(), 0);
    loop {
        let page = store.deliveries(false, after, PAGE)?;
        let Some(last) = page.last() else { break };
        after = last.id;
        for row in page {
            let request = store.delivery_request(row.id)?;
            let request = request.map(|request| {
                let body = serde_json::from_slice(&request.body);
                let body = body.unwrap_or_else(|_| bytes_value(&request.body));
                json!({"method": request.method, "url": request.url, "body": body})
            });
            shown.push(json!({"delivery": row.delivery, "key": row.key, "request": request}));
        }
    }
    Ok(shown)
}

/// A time as RFC 3339 in UTC with milliseconds.
pub(super) fn time(milliseconds: u64) -> String {
    let time = i64::try_from(milliseconds).ok();
    let time = time.and_then(|time| jiff::Timestamp::from_millisecond(time).ok());
    time.map(|time| format!("{time:.3}")).unwrap_or_default()
}
