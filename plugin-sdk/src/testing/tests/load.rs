//! Tests of `$load`.

use serde_json::json;

use crate::testing::TestHost;
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
