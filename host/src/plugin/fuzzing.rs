//! What a fuzzer calls for the declarations of plugins: see the crate's `fuzzing`.

use std::collections::HashSet;

use sockhop_core::arguments::Message;
use sockhop_core::declarations::Declarations;
use sockhop_core::name::is_plugin_name;

use crate::event::is_event_name;

/// The limits are low, so that a short input reaches them.
const DECLARATIONS: usize = 16;
const SCHEMA_BYTES: usize = 64;

/// The calls of one `register`: a line for each, with the function and its arguments, separated by
/// tabs.
pub fn registration(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut declarations = Declarations::new(DECLARATIONS, SCHEMA_BYTES);
    let mut is_refused = false;
    for line in text.lines() {
        let fields: Vec<_> = line.split('\t').collect();
        let field = |at: usize| fields.get(at).copied().unwrap_or_default();
        let result = match field(0) {
            "plugin" => declarations.plugin(field(1), field(2), field(3).to_owned()),
            "handles" => {
                let reply = fields.get(3).map(|reply| (*reply).to_owned());
                declarations.handles(field(1), field(2).to_owned(), reply)
            }
            "arguments" => {
                let of = match field(1) {
                    "event" => Message::Event,
                    "reply" => Message::Reply,
                    _ => Message::Emit,
                };
                declarations.arguments(of, field(2))
            }
            "handshake" => declarations.handshake(),
            "requires" => declarations.requires(field(1), field(2)),
            "emits" => {
                let rooms: Vec<_> = fields.iter().skip(3).map(|room| (*room).to_owned()).collect();
                declarations.emits(field(1), field(2).to_owned(), &rooms)
            }
            "room" => declarations.room(field(1), field(2)),
            "listens" => declarations.listens(field(1)),
            _ => continue,
        };
        is_refused |= result.is_err();
    }
    match declarations.finish() {
        Err(refusal) => assert!(!refusal.code.is_empty() && !refusal.message.is_empty()),
        Ok(plugin) => {
            assert!(!is_refused, "the first refusal fails the load");
            assert!(is_plugin_name(&plugin.name));
            assert!(semver::Version::parse(&plugin.version).is_ok());
            let handles: HashSet<_> = plugin.handles.iter().map(|handles| &handles.event).collect();
            let emits: HashSet<_> = plugin.emits.iter().map(|emits| &emits.event).collect();
            assert_eq!((handles.len(), emits.len()), (plugin.handles.len(), plugin.emits.len()));
            assert!(handles.union(&emits).all(|event| is_event_name(event)));
            let rooms: HashSet<_> =
                plugin.rooms.iter().map(|room| room.pattern.to_string()).collect();
            assert_eq!(rooms.len(), plugin.rooms.len());
            let declared = handles.len() + emits.len() + rooms.len() + plugin.listens.len();
            assert!(declared < DECLARATIONS);
        }
    }
}
