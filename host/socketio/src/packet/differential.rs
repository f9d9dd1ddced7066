//! The parser of `socketioxide` as an oracle: mutated packets, and every difference explained.

use proptest::prelude::*;
use proptest::sample::Index;
use socketioxide_core::Str;
use socketioxide_core::packet::PacketData;
use socketioxide_core::parser::{Parse, ParseConfig, ParseError, ParserState};
use socketioxide_parser_common::CommonParser;

use super::*;
use crate::call::{Call, parse_auth, parse_reply, quote};

/// The fields of a packet that a parser accepts.
#[derive(Debug, PartialEq)]
struct Found {
    kind: Kind,
    attachments: usize,
    namespace: String,
    id: Option<u64>,
    data: String,
}

fn ours(text: &str) -> Option<Found> {
    let packet = Packet::parse(text).ok()?;
    let is_valid = match packet.kind {
        Kind::Event | Kind::BinaryEvent => Call::parse(packet.data).is_ok(),
        Kind::Ack | Kind::BinaryAck => packet.id.is_some() && parse_reply(packet.data).is_ok(),
        Kind::Connect => parse_auth(packet.data).is_ok(),
        Kind::Disconnect => packet.data.is_empty(),
        Kind::ConnectError => false,
    };
    is_valid.then(|| Found {
        kind: packet.kind,
        attachments: packet.attachments,
        namespace: packet.namespace.to_owned(),
        id: packet.id,
        data: packet.data.to_owned(),
    })
}

/// `None` also for an event whose name the oracle can't read.
fn oracle(text: &str) -> Option<Found> {
    let state = ParserState::default();
    let config = ParseConfig { max_incoming_binaries: usize::MAX, ..ParseConfig::default() };
    let packet = match CommonParser.decode_str(&config, &state, Str::from(text.to_owned())) {
        Ok(packet) => packet,
        Err(ParseError::NeedsMoreBinaryData) => {
            state.partial_bin_packet.lock().unwrap().take().unwrap().packet
        }
        Err(_) => return None,
    };
    let attachments = state.incoming_binary_cnt.load(std::sync::atomic::Ordering::Relaxed);
    let (kind, value, id) = match packet.inner {
        PacketData::Connect(value) => (Kind::Connect, value, None),
        PacketData::Disconnect => (Kind::Disconnect, None, None),
        PacketData::Event(value, id) => (Kind::Event, Some(value), id),
        PacketData::BinaryEvent(value, id) => (Kind::BinaryEvent, Some(value), id),
        PacketData::EventAck(value, id) => (Kind::Ack, Some(value), Some(id)),
        PacketData::BinaryAck(value, id) => (Kind::BinaryAck, Some(value), Some(id)),
        PacketData::ConnectError(_) => return None,
    };
    if let (Kind::Event | Kind::BinaryEvent, Some(value)) = (kind, &value) {
        CommonParser.read_event(value).ok()?;
    }
    let data = value
        .as_ref()
        .and_then(|value| value.as_str())
        .map(ToString::to_string)
        .unwrap_or_default();
    let id = id.and_then(|id| u64::try_from(id).ok());
    Some(Found { kind, attachments, namespace: packet.ns.to_string(), id, data })
}

/// Why this crate accepts a packet that the oracle rejects.
fn is_accepted_knowingly(found: &Found) -> bool {
    // The reference server accepts both.
    let name_is_escaped_or_number = || {
        let data = found.data.trim_start().trim_start_matches('[').trim_start();
        data.starts_with(|first: char| first == '-' || first.is_ascii_digit())
            || Call::parse(&found.data)
                .is_ok_and(|call| matches!(call.name, std::borrow::Cow::Owned(_)))
    };
    match found.kind {
        Kind::Event | Kind::BinaryEvent => name_is_escaped_or_number(),
        // Whitespace may stand before JSON. The oracle finds an ack's id only directly before it.
        Kind::Ack | Kind::BinaryAck => found.data.starts_with(char::is_whitespace),
        _ => false,
    }
}

/// Why this crate rejects a packet that the oracle accepts.
fn is_rejected_knowingly(found: &Found) -> bool {
    let call = Call::parse(&found.data);
    match found.kind {
        // The oracle reads no further than an event's name, and has no reserved names.
        Kind::Event | Kind::BinaryEvent if call.is_err() => true,
        // The oracle leaves the JSON of these to the application.
        Kind::Connect => parse_auth(&found.data).is_err(),
        Kind::Ack | Kind::BinaryAck if parse_reply(&found.data).is_err() => true,
        Kind::BinaryEvent | Kind::BinaryAck => found.attachments == 0,
        // The oracle ignores the rest.
        Kind::Disconnect => true,
        _ => false,
    }
}

/// Whether two accepted packets may differ in this way.
fn differs_knowingly(ours: &Found, oracle: &Found) -> bool {
    // The oracle keeps the query of a namespace.
    let same_namespace = oracle.namespace.split('?').next() == Some(ours.namespace.as_str());
    // The oracle loses an id that is not directly followed by `[` or `{`, and one above `i64::MAX`.
    // It has none in CONNECT and DISCONNECT, where this crate ignores it.
    let same_id = oracle.id == ours.id || oracle.id.is_none();
    let same_rest = (ours.kind, ours.attachments, &ours.data)
        == (oracle.kind, oracle.attachments, &oracle.data);
    same_namespace && same_id && same_rest
}

fn check(text: &str) -> Result<(), TestCaseError> {
    match (ours(text), oracle(text)) {
        (Some(ours), Some(oracle)) if ours == oracle => {}
        (Some(ours), Some(oracle)) => {
            prop_assert!(differs_knowingly(&ours, &oracle), "{text}: {ours:?}, {oracle:?}")
        }
        (Some(ours), None) => {
            prop_assert!(is_accepted_knowingly(&ours), "{text}: {ours:?}, the oracle rejects it")
        }
        (None, Some(oracle)) => prop_assert!(
            is_rejected_knowingly(&oracle),
            "{text}: only the oracle accepts {oracle:?}"
        ),
        (None, None) => {}
    }
    Ok(())
}

const SEEDS: [&str; 14] = [
    "0",
    r#"0{"token":"x"}"#,
    r#"0/a,{"t":1}"#,
    "1",
    "1/a,",
    r#"2["x"]"#,
    r#"212["x",1,{"a":[1]}]"#,
    r#"2/a,12["x","\u00e9"]"#,
    r#"2/é?q=1,["é"]"#,
    r#"312[1,"2"]"#,
    "3/a,1[]",
    r#"51-["x",{"_placeholder":true,"num":0}]"#,
    r#"52-/a,7["x",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]"#,
    r#"61-7[{"_placeholder":true,"num":0}]"#,
];

const ALPHABET: &str = "0123456789-/,?[]{}\"\\: aé\u{1}ntx";

#[derive(Debug, Clone)]
enum Mutation {
    Remove(Index),
    Replace(Index, Index),
    Insert(Index, Index),
    Truncate(Index),
    Double(Index, Index),
}

impl Mutation {
    fn apply(&self, text: &mut Vec<char>) {
        let letter = |index: &Index| index.get(&ALPHABET.chars().collect::<Vec<_>>()).to_owned();
        match self {
            Self::Insert(at, with) => text.insert(at.index(text.len() + 1), letter(with)),
            _ if text.is_empty() => {}
            Self::Remove(at) => drop(text.remove(at.index(text.len()))),
            Self::Replace(at, with) => {
                let at = at.index(text.len());
                text[at] = letter(with);
            }
            Self::Truncate(at) => text.truncate(at.index(text.len())),
            Self::Double(from, to) => {
                let (from, to) = (from.index(text.len()), to.index(text.len()));
                let piece = text[from.min(to)..from.max(to)].to_vec();
                text.splice(from.min(to)..from.min(to), piece);
            }
        }
    }
}

fn mutation() -> impl Strategy<Value = Mutation> {
    prop_oneof![
        3 => any::<Index>().prop_map(Mutation::Remove),
        3 => any::<(Index, Index)>().prop_map(|(at, with)| Mutation::Replace(at, with)),
        3 => any::<(Index, Index)>().prop_map(|(at, with)| Mutation::Insert(at, with)),
        1 => any::<Index>().prop_map(Mutation::Truncate),
        1 => any::<(Index, Index)>().prop_map(|(from, to)| Mutation::Double(from, to)),
    ]
}

fn mutated() -> impl Strategy<Value = String> {
    (any::<Index>(), prop::collection::vec(mutation(), 0..5)).prop_map(|(seed, mutations)| {
        let mut text: Vec<char> = seed.get(&SEEDS).chars().collect();
        for mutation in mutations {
            mutation.apply(&mut text);
        }
        text.into_iter().collect()
    })
}

fn namespace() -> impl Strategy<Value = String> {
    prop_oneof![Just("/".to_owned()), "/[a-zé/_.-]{1,8}"]
}

/// JSON texts of arguments.
fn json() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<String>().prop_map(Into::into),
    ];
    let value = leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
            prop::collection::btree_map(any::<String>(), inner, 0..4)
                .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
        ]
    });
    value.prop_map(|value| value.to_string())
}

#[test]
fn both_accept_what_stock_clients_send() {
    for seed in SEEDS.iter().filter(|seed| !seed.contains('?')) {
        assert!(ours(seed).is_some(), "{seed}");
        assert_eq!(ours(seed), oracle(seed));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn mutated_packets_differ_only_as_known(text in mutated()) {
        check(&text)?;
    }

    #[test]
    fn any_text_differs_only_as_known(text in ".{0,40}") {
        check(&text)?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_written_packet_is_read_as_the_same(
        namespace in namespace(),
        name in ".{0,12}",
        arguments in prop::collection::vec(json(), 0..4),
        id in any::<Option<u64>>(),
        attachments in 0usize..3,
    ) {
        let head = Head::new(Kind::Event, attachments, &namespace, id);
        let mut text = String::from_utf8(head.as_bytes().to_vec()).unwrap();
        text.push('[');
        text.push_str(std::str::from_utf8(&quote(&name)).unwrap());
        for argument in &arguments {
            text.push(',');
            text.push_str(argument);
        }
        text.push(']');
        let packet = Packet::parse(&text).unwrap();
        prop_assert_eq!((packet.attachments, packet.namespace, packet.id), (attachments, namespace.as_str(), id));
        prop_assert_eq!(packet.kind == Kind::BinaryEvent, attachments > 0);
        match Call::parse(packet.data) {
            Ok(call) => {
                prop_assert_eq!(&call.name, &name);
                prop_assert_eq!(&call.arguments[..], &arguments[..]);
                prop_assert_eq!(call.text, arguments.join(","));
            }
            Err(rejected) => prop_assert_eq!(rejected, Rejected::ReservedName),
        }
        check(&text)?;
    }
}
