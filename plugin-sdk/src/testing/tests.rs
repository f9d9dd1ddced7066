//! Tests of the SDK through its own test host: the behaviour on which plugin authors rely.

mod load;
mod messages;
mod timers;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Effect, Outcome, TestHost};
use crate::{Access, Attachment, Context, Emits, Level, Plugin, Refusal, Result, Scan, Target};

#[derive(Deserialize, JsonSchema)]
struct Small {
    number: u8,
    note: Option<String>,
}

const NOTED: Emits<Value> = Emits::new("noted").to(&["notes", "user_{user_id}"]);
const SECRET: Emits<Value> = Emits::new("secret");
const TO_ALL: Emits<Value> = Emits::new("to_all").to(&["*"]);

fn done(effects: Vec<Effect>) -> Outcome {
    Outcome { reply: Ok(Value::Null), effects }
}

fn on<R: Serialize + JsonSchema + 'static>(
    handler: impl Fn(&Context, Value) -> Result<R> + Send + Sync + 'static,
) -> Plugin {
    Plugin::new("test", "1.0.0", "").on("event", handler)
}

#[test]
fn a_payload_that_does_not_match_its_schema_is_an_invalid_payload() {
    let plugin = Plugin::new("test", "1.0.0", "")
        .on("event", |_: &Context, small: Small| Ok((small.number, small.note)));
    let mut host = TestHost::new(plugin);
    assert_eq!(
        host.handle("event", json!({"number": 7, "more": true})).reply,
        Ok(json!([7, null]))
    );
    let outcome = host.handle("event", json!({"number": 256}));
    assert_eq!(outcome, Outcome::refused("invalid_payload", "number: must be at most 255"));
    // The schema can't exclude this value, because JSON has no integers.
    let outcome = host.handle("event", json!({"number": 7.0}));
    assert_eq!(outcome.reply.map_err(|refusal| refusal.code), Err("invalid_payload".to_owned()));
}

#[test]
fn a_schema_has_its_properties_at_the_top_and_options_are_optional() {
    let plugin = Plugin::new("test", "1.0.0", "").on("event", |_: &Context, _: Small| Ok(()));
    let schema = TestHost::new(plugin).payload_schema("event");
    assert_eq!(
        schema.pointer("/$schema"),
        Some(&json!("https://json-schema.org/draft/2020-12/schema"))
    );
    assert_eq!(schema.pointer("/properties/note/type"), Some(&json!(["string", "null"])));
    assert_eq!(schema.pointer("/properties/number/maximum"), Some(&json!(255)));
    assert_eq!(schema.pointer("/required"), Some(&json!(["number"])));
}

#[test]
fn a_refusal_undoes_everything_but_numbers_and_log_lines() {
    let plugin = on(|ctx, data| {
        ctx.join("notes")?;
        ctx.emit(Target::room("notes"), &NOTED, &data)?;
        ctx.state().set("last", &data)?;
        ctx.info("about to decide");
        match ctx.state().next_id("n")? {
            1 => Err(Refusal::new("not_today", "come back")),
            number => Ok(number),
        }
    });
    let mut host = TestHost::new(plugin.room("notes", Access::Anyone).emits(NOTED));
    assert_eq!(host.handle("event", json!(1)), Outcome::refused("not_today", "come back"));
    assert_eq!((host.state().len(), host.members("notes").len()), (0, 0));
    assert_eq!(host.log(), [(Level::Info, "about to decide".to_owned())]);

    let effects =
        vec![Effect::join("notes"), Effect::emit(Target::room("notes"), "noted", json!(5))];
    assert_eq!(host.handle("event", json!(5)), Outcome { reply: Ok(json!(2)), effects });
    assert_eq!(host.state().get("last"), Some(&json!(5)));
    assert_eq!(host.members("notes"), ["c1"]);
}

#[test]
fn emitting_is_checked_against_the_declaration() {
    let emit = |to: Target, event: Emits<Value>| {
        let plugin = on(move |ctx, data| ctx.emit(to.clone(), &event, &data));
        TestHost::new(plugin.emits(NOTED).emits(TO_ALL)).handle("event", json!({}))
    };
    let sent = |to: Target, event: &str| done(vec![Effect::emit(to, event, json!({}))]);
    assert_eq!(emit(Target::Sender, NOTED), sent(Target::Sender, "noted"));
    assert_eq!(emit(Target::room("user_7"), NOTED), sent(Target::room("user_7"), "noted"));
    assert_eq!(emit(Target::Everyone, TO_ALL), sent(Target::Everyone, "to_all"));
    let outcome = emit(Target::Rooms(vec!["notes".into(), "user_".into()]), NOTED);
    assert_eq!(
        outcome,
        Outcome::refused("undeclared", "the declaration of `noted` does not name the room `user_`")
    );
    let outcome = emit(Target::Everyone, NOTED);
    assert_eq!(
        outcome,
        Outcome::refused(
            "undeclared",
            "the declaration of `noted` does not send it to everyone (`*`)"
        )
    );
    let outcome = emit(Target::Sender, SECRET);
    assert_eq!(
        outcome,
        Outcome::refused("undeclared", "this plugin does not declare that it emits `secret`")
    );
}

#[test]
fn an_event_with_a_rule_is_refused_to_all_others() {
    let plugin = on(|_, _| Ok(())).requires(Access::Role("admin"));
    let mut host = TestHost::new(plugin);
    assert_eq!(
        host.handle("event", json!(0)),
        Outcome::refused("unauthorized", "this event requires a user; connect with a token")
    );
    assert_eq!(
        host.user("7").handle("event", json!(0)),
        Outcome::refused("forbidden", "this event requires the role `admin`")
    );
    assert_eq!(host.role("admin").handle("event", json!(0)), done(vec![]));
}

#[test]
fn joining_follows_the_rooms_rule() {
    let plugin = on(|ctx, room: Value| ctx.join(room.as_str().unwrap_or_default()));
    let mut host = TestHost::new(plugin.room("user_{user}", Access::Owner));
    host.room("lobby", Access::Authenticated);
    assert_eq!(
        host.handle("event", json!("x")),
        Outcome::refused("unknown_room", "no loaded plugin declares the room `x`")
    );
    assert_eq!(
        host.handle("event", json!("lobby")),
        Outcome::refused("forbidden", "the room `lobby` is not open to this client")
    );
    assert_eq!(host.user("7").handle("event", json!("lobby")), done(vec![Effect::join("lobby")]));
    assert_eq!(host.handle("event", json!("user_7")), done(vec![Effect::join("user_7")]));
    assert_eq!(
        host.handle("event", json!("user_8")),
        Outcome::refused("forbidden", "the room `user_8` is not open to this client")
    );
}

#[test]
fn a_connection_is_in_its_rooms_until_its_disconnect_was_handled() {
    let plugin = on(|ctx, _| ctx.join("lobby"))
        .on_disconnect(|ctx| ctx.state().set("was_in", &(ctx.rooms(), ctx.room_size("lobby"))));
    let mut host = TestHost::new(plugin.room("lobby", Access::Anyone));
    host.handle("event", json!(0));
    host.connection("c2").handle("event", json!(0));
    assert_eq!(host.members("lobby"), ["c1", "c2"]);
    assert_eq!(host.disconnect(), done(vec![]));
    assert_eq!(host.state().get("was_in"), Some(&json!([["lobby"], 2])));
    assert_eq!(host.members("lobby"), ["c1"]);
}

#[test]
fn a_start_has_no_caller() {
    let plugin = on(|_, _| Ok(())).on_start(|ctx| {
        ctx.state().set("start", &(ctx.connection(), ctx.user(), ctx.namespace(), ctx.event()))?;
        ctx.join("lobby")
    });
    let mut host = TestHost::new(plugin.room("lobby", Access::Anyone));
    assert_eq!(host.start(), Outcome::refused("misuse", "no connection caused this event"));
}

#[test]
fn scanning_goes_both_ways_from_a_cursor() {
    let plugin = on(|ctx, data: Value| {
        let (backwards, cursor) = (data["backwards"] == true, data["cursor"].as_str());
        let scan = Scan::prefix("n/").limit(2);
        let scan = if backwards { scan.backwards() } else { scan };
        let entries = ctx.state().scan::<u64>(cursor.map_or(scan, |cursor| scan.cursor(cursor)))?;
        Ok(entries.into_iter().map(|(_, value)| value).collect::<Vec<_>>())
    });
    let mut host = TestHost::new(plugin);
    host.store("m", &json!(0))
        .store("n/1", &json!(1))
        .store("n/2", &json!(2))
        .store("n/3", &json!(3))
        .store("o", &json!(9));
    assert_eq!(host.handle("event", json!({})).reply, Ok(json!([1, 2])));
    assert_eq!(host.handle("event", json!({"cursor": "n/2"})).reply, Ok(json!([3])));
    assert_eq!(host.handle("event", json!({"backwards": true})).reply, Ok(json!([3, 2])));
    assert_eq!(
        host.handle("event", json!({"backwards": true, "cursor": "n/2"})).reply,
        Ok(json!([1]))
    );
    host.store("n/1", &json!("one"));
    assert_eq!(
        host.handle("event", json!({})).reply.map_err(|refusal| refusal.code),
        Err("corrupt_state".to_owned())
    );
}

#[test]
fn attachments_are_found_by_their_placeholders() {
    let plugin = Plugin::new("test", "1.0.0", "").emits(SECRET).on(
        "event",
        |ctx: &Context, image: Attachment| {
            let bytes = ctx.attachment(&image).map(<[u8]>::to_vec);
            ctx.emit_binary(
                Target::Sender,
                &SECRET,
                &json!(Attachment::new(0)),
                ctx.attachments(),
            )?;
            Ok(bytes)
        },
    );
    let placeholder = json!({"_placeholder": true, "num": 0});
    let outcome =
        TestHost::new(plugin).handle_binary("event", placeholder.clone(), vec![vec![1, 2]]);
    let (to, event) = (Target::Sender, "secret".to_owned());
    let effects =
        vec![Effect::Emit { to, event, data: placeholder, attachments: vec![vec![1, 2]] }];
    assert_eq!(outcome, Outcome { reply: Ok(json!([1, 2])), effects });
}

#[test]
#[should_panic(expected = "event `event` has two handlers; an event has one")]
fn two_handlers_for_one_event_fail_the_load() {
    let _ = TestHost::new(on(|_, _| Ok(())).on("event", |_: &Context, _: Value| Ok(())));
}

fn reason(plugin: Plugin) -> String {
    TestHost::try_new(plugin).err().map(|error| error.to_string()).unwrap_or_default()
}

#[test]
fn a_plugin_that_the_host_refuses_is_not_loaded() {
    let plugin = || Plugin::new("test", "1.0.0", "");
    for (refused, at_fault) in [
        (Plugin::new("Test", "1.0.0", ""), "`Test`"),
        (Plugin::new("test", "1", ""), "`1`"),
        (Plugin::new("dir", "1.0.0", ""), "`dir`"),
        (plugin().on("$start", |_: &Context, _: Value| Ok(())), "`$start`"),
        (plugin().room("a{b", Access::Anyone), "`a{b`"),
        (plugin().room("lobby", Access::Owner), "`lobby`"),
        (plugin().room("lobby", Access::Role("")), "`role:`"),
        (plugin().emits(Emits::<Value>::new("disconnect")), "`disconnect`"),
        (plugin().emits(Emits::<Value>::new("e").to(&["}"])), "`}`"),
        (plugin().requires(Access::Anyone), "does not handle it"),
        (on(|_, _| Ok(())).requires(Access::Owner), "`owner`"),
        (on(|_, _| Ok(())).requires(Access::Handler), "`handler`"),
    ] {
        let reason = reason(refused);
        assert!(reason.contains(at_fault), "{at_fault}: {reason}");
    }
    let twice = plugin().room("lobby", Access::Anyone).room("lobby", Access::Anyone);
    assert_eq!(reason(twice), "", "an identical declaration may be repeated");
    let twice = plugin().room("lobby", Access::Anyone).room("lobby", Access::Authenticated);
    assert!(reason(twice).contains("declared twice"));
}

#[derive(Serialize, JsonSchema)]
struct Faulty {
    error: String,
}

#[derive(Serialize, JsonSchema)]
struct Look {
    #[schemars(regex(pattern = "(?=a)"))]
    around: String,
}

#[test]
fn a_schema_that_the_host_does_not_support_fails_the_load() {
    let faulty = on(|_, _| Ok(Faulty { error: String::new() }));
    assert!(reason(faulty).contains("property `error`"));
    let look = reason(on(|_, _| Ok(Look { around: String::new() })));
    assert!(look.contains("the schema of its reply is refused: the pattern"), "{look}");
}

#[test]
#[should_panic(expected = "room `user_{id}` is taken by plugin `test`, as `user_{user}`")]
fn a_room_of_another_plugin_may_not_conflict_with_one_of_the_plugin() {
    let mut host = TestHost::new(on(|_, _| Ok(())).room("user_{user}", Access::Owner));
    host.room("user_{user}", Access::Owner).room("user_{id}", Access::Owner);
}

#[test]
fn a_handler_lets_clients_only_into_its_own_rooms_with_the_rule_handler() {
    let plugin = on(|ctx, room: Value| ctx.join(room.as_str().unwrap_or_default()));
    let mut host = TestHost::new(plugin.room("order_{id}", Access::Handler));
    host.room("chess_{id}", Access::Handler);
    let outcome = host.handle("event", json!("order_1"));
    assert_eq!((outcome.reply, outcome.effects), (Ok(json!(null)), vec![Effect::join("order_1")]));
    assert_eq!(
        host.handle("event", json!("chess_1")),
        Outcome::refused("forbidden", "the room `chess_1` is not open to this client")
    );
}

#[derive(Serialize, JsonSchema)]
struct Short {
    #[schemars(length(max = 3))]
    text: String,
}

#[test]
fn a_reply_that_does_not_match_its_schema_leaves_nothing_behind() {
    let plugin = on(|ctx, data: Value| {
        ctx.state().set("last", &data)?;
        Ok(Short { text: data.as_str().unwrap_or_default().to_owned() })
    });
    let mut host = TestHost::new(plugin);
    assert_eq!(host.handle("event", json!("abc")).reply, Ok(json!({"text": "abc"})));
    let reason = "the reply does not fit its schema: /text must be at most 3 characters long";
    assert_eq!(host.handle("event", json!("abcd")), Outcome::refused("plugin_failed", reason));
    assert_eq!(host.state().get("last"), Some(&json!("abc")));
    let mut any = TestHost::new(on(|_, data: Value| Ok(data)));
    let reason = "the reply has a property `error` at its top level";
    assert_eq!(any.handle("event", json!({"error": 1})), Outcome::refused("plugin_failed", reason));
}

#[test]
fn emitted_data_must_match_its_schema() {
    const SHORT: Emits<Short> = Emits::new("short");
    let plugin = on(|ctx, data: Value| {
        let text = data.as_str().unwrap_or_default().to_owned();
        ctx.emit(Target::Sender, &SHORT, &Short { text })
    });
    let mut host = TestHost::new(plugin.emits(SHORT));
    let effects = vec![Effect::emit(Target::Sender, "short", json!({"text": "abc"}))];
    assert_eq!(host.handle("event", json!("abc")), done(effects));
    let reason =
        "the data of `short` does not fit its schema: /text must be at most 3 characters long";
    assert_eq!(host.handle("event", json!("abcd")), Outcome::refused("invalid_data", reason));
}

#[test]
fn each_attachment_has_exactly_one_placeholder() {
    let plugin = on(|ctx, data| ctx.emit_binary(Target::Sender, &SECRET, &data, &[vec![1]]));
    let mut host = TestHost::new(plugin.emits(SECRET));
    let code = |outcome: Outcome| outcome.reply.map_err(|refusal| refusal.code);
    let placeholder = json!(Attachment::new(0));
    let attached = host.handle_binary("event", placeholder.clone(), vec![vec![1]]);
    assert_eq!(code(attached), Ok(Value::Null));
    assert_eq!(code(host.handle("event", placeholder)), Err("invalid_payload".to_owned()));
    assert_eq!(code(host.handle("event", json!(1))), Err("misuse".to_owned()));
}

#[test]
fn an_anonymous_client_has_no_roles_and_no_claims() {
    let plugin = on(|ctx, _| Ok((ctx.has_role("admin"), ctx.claims())));
    let mut host = TestHost::new(plugin);
    host.role("admin").claims(json!({"sub": "7"}));
    assert_eq!(host.handle("event", json!(0)).reply, Ok(json!([false, null])));
    assert_eq!(host.user("7").handle("event", json!(0)).reply, Ok(json!([true, {"sub": "7"}])));
}

#[test]
fn calls_over_the_hosts_limits_are_refused() {
    let refused = |handler: fn(&Context) -> Result| {
        let plugin = on(move |ctx, _| handler(ctx));
        let plugin = plugin.room("room_{x}", Access::Anyone).emits(SECRET);
        let refusal = TestHost::new(plugin).handle("event", json!(0)).reply.expect_err("refused");
        refusal.code
    };
    let limits: [fn(&Context) -> Result; 7] = [
        |ctx| (0..=100).try_for_each(|n| ctx.join(&format!("room_{n}"))),
        |ctx| (0..=256).try_for_each(|n| ctx.emit(Target::Sender, &SECRET, &json!(n))),
        |ctx| (0..=256).try_for_each(|n| ctx.state().set(&n.to_string(), &n)),
        |ctx| (0..5).try_for_each(|n| ctx.state().set_bytes(&n.to_string(), &[0; 256 * 1024])),
        |ctx| ctx.state().set_bytes("key", &[0; 256 * 1024 + 1]),
        |ctx| ctx.state().set(&"k".repeat(513), &0),
        |ctx| ctx.state().next_id(&"n".repeat(129)).map(drop),
    ];
    for handler in limits {
        assert_eq!(refused(handler), "limit");
    }
    let misuses: [fn(&Context) -> Result; 4] = [
        |ctx| ctx.state().next_id("").map(drop),
        |ctx| ctx.state().set("", &0),
        |ctx| ctx.state().scan_bytes(Scan::prefix("").limit(1001)).map(drop),
        |ctx| ctx.connections_after(None, 0).map(drop),
    ];
    for handler in misuses {
        assert_eq!(refused(handler), "misuse");
    }
}

#[test]
fn a_plugin_that_missed_host_events_reads_the_connections_again() {
    fn online(ctx: &Context) -> Result {
        let connections = ctx
            .connections()?
            .into_iter()
            .map(|connection| (connection.id, connection.user))
            .collect::<Vec<_>>();
        ctx.state().set("online", &connections)
    }
    let mut host = TestHost::new(Plugin::new("presence", "1.0.0", "").on_resync(online));
    host.connection("b").connect();
    host.connection("a").user("7").connect();
    host.connection("c").connect();
    host.disconnect();
    assert_eq!(host.state(), BTreeMap::new(), "it has not listened");
    assert_eq!(host.resync(), Outcome { reply: Ok(json!(null)), effects: vec![] });
    assert_eq!(host.state()["online"], json!([["a", "7"], ["b", null]]));
}
