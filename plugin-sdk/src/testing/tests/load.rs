//! Tests of `$load` and `$check`.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::collection::{Collection, Record, encode_key};
use crate::testing::{CheckReply, TestHost};
use crate::{Context, Level, Plugin, Progress, Refusal, Result};

fn plugin<P: Into<Progress> + 'static>(
    handler: impl Fn(&Context) -> Result<P> + Send + Sync + 'static,
) -> TestHost {
    TestHost::new(Plugin::new("test", "1.0.0", "").on_load(handler))
}

/// Counts its calls in the state.
fn call(ctx: &Context) -> Result<u64> {
    let calls = ctx.state().get("calls")?.unwrap_or(0) + 1;
    ctx.state().set("calls", &calls)?;
    Ok(calls)
}

#[test]
fn load_is_sent_until_its_handler_has_finished_and_each_call_keeps_its_effects() {
    let mut host = plugin(|ctx| {
        assert_eq!((ctx.event(), ctx.connection(), ctx.user()), ("$load", None, None));
        Ok(Progress::new(call(ctx)?, 3))
    });
    let replies: Vec<_> = host.load().into_iter().map(|outcome| outcome.reply).collect();
    let progress = |done| Ok(json!({"done": done, "total": 3}));
    assert_eq!(replies, [progress(1), progress(2), Ok(json!(null))]);
    assert_eq!(host.state()["calls"], json!(3));
    // A handler that returns nothing has finished, and a plugin without one too.
    assert_eq!(plugin(|ctx| call(ctx).map(drop)).load().len(), 1);
    assert_eq!(TestHost::new(Plugin::new("test", "1.0.0", "")).load(), []);
}

#[test]
fn a_call_of_load_that_fails_has_no_effects_and_the_next_one_goes_on() {
    let mut host = plugin(|ctx| {
        let calls = call(ctx)?;
        match ctx.setting("fails") {
            Some(at) if at == calls.to_string() => Err(Refusal::new("not_ready", "no list")),
            _ => Ok(Progress::new(calls, 3)),
        }
    });
    let calls = host.setting("fails", "2").load();
    assert_eq!(calls.len(), 2);
    assert_eq!(calls[1].reply, Err(Refusal::new("not_ready", "no list")));
    assert_eq!(host.state()["calls"], json!(1));
    assert_eq!(host.setting("fails", "").load().len(), 2);
}

#[test]
fn a_handler_of_load_that_brings_no_progress_has_failed() {
    let calls = plugin(|_| Ok(Progress::new(7, 8))).load();
    assert_eq!(calls.len(), 1_002, "the first, 1,000 more, and the failure");
    let reason = calls.last().and_then(|last| last.reply.clone().err()).unwrap();
    assert_eq!(reason.code, "plugin_failed");
    assert!(reason.message.contains("no progress"), "{reason:?}");
}

#[test]
fn records_in_a_newer_format_are_no_failure_and_in_the_log() {
    let mut host = plugin(|_| Ok(Progress { newer: 2, ..Progress::new(5, 5) }));
    assert_eq!(host.load()[0].reply, Ok(json!(null)));
    let (level, line) = &host.log()[0];
    assert!(*level == Level::Warn && line.contains("2 records stay in a newer format"), "{line}");
}

#[derive(Serialize, Deserialize)]
struct Note {
    id: u64,
    text: String,
}

impl Record for Note {
    type Id = u64;
    const FORMAT: u32 = 1;

    fn id(&self) -> u64 {
        self.id
    }
}

const NOTES: Collection<Note> = Collection::new("notes");

fn note(format: u32, id: u64) -> (String, Value) {
    let key = format!("@notes/record/{}", encode_key(&id));
    (key, json!({"layout": 1, "format": format, "record": {"id": id, "text": "t"}}))
}

#[test]
fn a_check_tries_each_record_and_value_once_in_parts_and_names_what_it_cannot_read() {
    let plugin = Plugin::new("test", "1.0.0", "").on_check(|check| {
        check.values::<u64>("a/")?;
        check.collection(&NOTES)?;
        check.values::<u64>("none/")?;
        check.values::<u64>("z/")
    });
    let mut host = TestHost::new(plugin);
    assert_eq!(host.check().unwrap(), CheckReply::default());
    for number in 0..1_100 {
        host.store(&format!("a/{number:04}"), &json!(number));
        let (key, record) = note(if number % 500 == 7 { 2 } else { 1 }, number);
        host.store(&key, &record);
    }
    host.store("z/1", &json!("text")).store("z/2", &json!(2)).store("zz", &json!("unrelated"));
    let CheckReply { checked, unreadable, examples, next } = host.check().unwrap();
    assert_eq!((checked, unreadable, next), (2_202, 4, None));
    let keys: Vec<_> = examples.iter().map(|example| example.key.clone()).collect();
    let wanted = [note(2, 7).0, note(2, 507).0, note(2, 1_007).0, "z/1".to_owned()];
    assert_eq!(keys, wanted);
    assert!(examples[0].reason.contains("has format 2"), "{}", examples[0].reason);
    assert!(examples[3].reason.contains("not what it stores"), "{}", examples[3].reason);
    // A part that ends with an event is not begun again.
    for number in 0..300 {
        host.store(&format!("a/{number:04}"), &json!("no"));
    }
    let found = host.check().unwrap();
    assert_eq!((found.checked, found.unreadable, found.examples.len()), (2_202, 304, 100));
}
