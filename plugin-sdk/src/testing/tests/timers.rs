//! Tests of timers, schedules and the clock of the test host.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sockhop_core::limits;

use super::{done, reason};
use crate::testing::{Effect, Outcome, SetTimer, TestHost};
use crate::{Context, Cron, FiredTimer, Plugin, Refusal, Result, Timer};

/// 2026-01-01T00:00:00.000Z, a Thursday: the time at which a test host starts.
const START: u64 = 1_767_225_600_000;
const HOUR: u64 = 3_600_000;
const DAY: u64 = 24 * HOUR;

const T: Timer<Value> = Timer::new("t");

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A plugin that handles `event` with one handler, and the timer `t` with the other.
fn plugin(
    handler: impl Fn(&Context, Value) -> Result + Send + Sync + 'static,
    fired: impl Fn(&Context, Value) -> Result + Send + Sync + 'static,
) -> Plugin {
    Plugin::new("test", "1.0.0", "").on("event", handler).on_timer(T, fired)
}

/// Sets the timer `t` as the payload says: `{"key": …, "after": …}`, or with `at`.
fn set(ctx: &Context, data: Value) -> Result {
    let key = data["key"].as_str().unwrap_or("k");
    match data["at"].as_u64() {
        Some(at) => ctx.at(&T, at, key, &data),
        None => ctx.after(&T, ms(data["after"].as_u64().unwrap_or_default()), key, &data),
    }
}

fn timer(key: &str, due: u64, attempt: u32) -> FiredTimer {
    FiredTimer { name: "t".to_owned(), key: key.to_owned(), due, attempt }
}

/// The keys and the deadlines of the timers that have fired. A deadline counts from the start.
fn keys(fired: &[(FiredTimer, Outcome)]) -> Vec<(&str, u64)> {
    fired.iter().map(|(timer, _)| (timer.key.as_str(), timer.due - START)).collect()
}

fn waiting(host: &TestHost) -> Vec<(String, u64)> {
    host.timers().into_iter().map(|timer| (timer.key, timer.due - START)).collect()
}

#[test]
fn a_timer_fires_at_its_deadline_with_its_data_and_without_a_caller() {
    let plugin = plugin(set, |ctx, data| {
        let timer = ctx.timer().map(|timer| (timer.name, timer.key, timer.due, timer.attempt));
        let (event, at) = (ctx.event(), ctx.received_at());
        let (user, connection) = (ctx.user(), ctx.connection());
        ctx.state().set("seen", &(event, user, connection, at, timer, data))
    });
    let mut host = TestHost::new(plugin);
    let data = json!({"key": "a", "after": 1_000});
    let due = START + 1_000;
    let outcome = host.user("7").handle("event", data.clone());
    let (name, key) = ("t".to_owned(), "a".to_owned());
    let effect =
        Effect::SetTimer { timer: name.clone(), key: key.clone(), due, data: data.clone() };
    assert_eq!(outcome, done(vec![effect]));
    let set = SetTimer { name, key, due, data: data.clone(), attempts: 0 };
    assert_eq!(host.timers(), [set]);

    assert_eq!(host.advance(ms(999)), []);
    assert_eq!(host.advance(ms(500)), [(timer("a", due, 1), done(vec![]))]);
    let seen = json!(["$timer:t", null, null, due, ["t", "a", due, 1], data]);
    assert_eq!(host.state()["seen"], seen);
    assert_eq!((host.timers(), host.dead_timers()), (vec![], vec![]));
    assert_eq!(host.advance(ms(DAY)), []);
}

#[test]
fn only_the_handler_of_a_timer_has_one() {
    let plugin = plugin(|ctx, _| ctx.state().set("timer", &ctx.timer().is_some()), |_, _| Ok(()));
    let mut host = TestHost::new(plugin);
    host.handle("event", json!(null));
    assert_eq!(host.state()["timer"], json!(false));
    let code = host.handle("$timer:t", json!(null)).reply.map_err(|refusal| refusal.code);
    assert_eq!(code, Err("unknown_event".to_owned()), "no client can send its event");
}

#[test]
fn timers_fire_by_deadline_and_then_in_the_order_in_which_they_were_set() {
    let mut host = TestHost::new(plugin(set, |_, _| Ok(())));
    for (key, after) in [("z", 2_000), ("b", 1_000), ("a", 2_000), ("c", 500)] {
        host.handle("event", json!({"key": key, "after": after}));
    }
    // To set it again changes its place.
    host.handle("event", json!({"key": "z", "after": 2_000}));
    let order = [("c", 500), ("b", 1_000), ("a", 2_000), ("z", 2_000)];
    assert_eq!(waiting(&host), order.map(|(key, due)| (key.to_owned(), due)));
    assert_eq!(keys(&host.advance(ms(2_000))), order);
}

#[test]
fn the_deadline_of_a_timer_counts_from_the_time_at_which_its_handler_sets_it() {
    let plugin = plugin(set, |ctx, data| {
        ctx.after(&T, ms(1_000), "chain", &data)?;
        ctx.state().set("at", &ctx.received_at())
    });
    let mut host = TestHost::new(plugin);
    host.handle("event", json!({"key": "chain", "after": 1_000}));
    let fired = host.advance(ms(3_500));
    assert_eq!(keys(&fired), [("chain", 1_000), ("chain", 2_000), ("chain", 3_000)]);
    assert_eq!(host.state()["at"], json!(START + 3_000), "the clock stands at the deadline");
    assert_eq!(waiting(&host), [("chain".to_owned(), 4_000)], "it is set again");
    assert_eq!(keys(&host.advance(ms(500))), [("chain", 4_000)], "3.5 s have passed before");
}

#[test]
#[should_panic(expected = "more than 100000 timers fire in one `advance`, the last one is `t`")]
fn a_timer_that_is_set_again_at_once_ends_the_test() {
    let mut host = TestHost::new(plugin(set, |ctx, data| ctx.at(&T, 0, "k", &data)));
    host.handle("event", json!({"at": 0}));
    host.advance(Duration::ZERO);
}

#[test]
fn setting_a_timer_again_replaces_its_deadline_and_its_data() {
    let plugin = plugin(set, |ctx, data| ctx.state().set("fired", &data));
    let mut host = TestHost::new(plugin);
    host.handle("event", json!({"after": 1_000}));
    host.handle("event", json!({"after": 2_000, "text": "again"}));
    assert_eq!(keys(&host.advance(ms(5_000))), [("k", 2_000)]);
    assert_eq!(host.state()["fired"]["text"], json!("again"));
}

#[test]
fn a_cancelled_timer_does_not_fire() {
    let plugin =
        plugin(set, |_, _| Ok(())).on("cancel", |ctx: &Context, key: String| ctx.cancel(&T, &key));
    let mut host = TestHost::new(plugin);
    host.handle("event", json!({"key": "a", "after": 1_000}));
    host.handle("event", json!({"key": "b", "after": 1_000}));
    let effect = Effect::CancelTimer { timer: "t".to_owned(), key: "a".to_owned() };
    assert_eq!(host.handle("cancel", json!("a")), done(vec![effect.clone()]));
    assert_eq!(host.handle("cancel", json!("a")), done(vec![effect]), "it is not set: no error");
    assert_eq!(keys(&host.advance(ms(1_000))), [("b", 1_000)]);
}

#[test]
fn of_several_changes_of_a_timer_in_one_event_the_last_counts() {
    let plugin = plugin(
        |ctx, _| {
            for n in 0..300 {
                ctx.after(&T, ms(n), "k", &json!(n))?;
            }
            ctx.cancel(&T, "k")?;
            ctx.after(&T, ms(7), "other", &json!(null))?;
            ctx.after(&T, ms(5), "k", &json!("last"))
        },
        |_, _| Ok(()),
    );
    let mut host = TestHost::new(plugin);
    let effect = |key: &str, after: u64, data: Value| {
        let (timer, key, due) = ("t".to_owned(), key.to_owned(), START + after);
        Effect::SetTimer { timer, key, due, data }
    };
    let effects = vec![effect("other", 7, json!(null)), effect("k", 5, json!("last"))];
    assert_eq!(host.handle("event", json!(null)), done(effects));
    assert_eq!(waiting(&host), [("k".to_owned(), 5), ("other".to_owned(), 7)]);
}

#[test]
fn a_handler_that_fails_sets_and_cancels_nothing() {
    let plugin = plugin(
        |ctx, data| {
            set(ctx, data.clone())?;
            if data["fails"] == true {
                ctx.cancel(&T, "first")?;
                return Err(Refusal::new("no", "no"));
            }
            Ok(())
        },
        |_, _| Ok(()),
    );
    let mut host = TestHost::new(plugin);
    host.handle("event", json!({"key": "first", "after": 1}));
    let refused = host.handle("event", json!({"key": "second", "after": 1, "fails": true}));
    assert_eq!(refused, Outcome::refused("no", "no"));
    assert_eq!(keys(&host.advance(ms(1))), [("first", 1)]);
}

/// Sets two timers and a value, and fails unless the state says otherwise.
fn fails(ctx: &Context, data: Value) -> Result {
    ctx.after(&T, ms(0), "never", &data)?;
    ctx.cancel(&T, "k")?;
    ctx.state().set("never", &data)?;
    if ctx.state().get::<bool>("is_well")? == Some(true) {
        ctx.cancel(&T, "never")?;
        return ctx.state().delete("never");
    }
    Err(Refusal::new("not_now", "try again"))
}

#[test]
fn a_timer_whose_handler_fails_comes_again_and_is_dead_after_eight_attempts() {
    let mut host = TestHost::new(plugin(set, fails));
    host.handle("event", json!({"after": 100}));
    let due = START + 100;
    // The times of the attempts, since the first one.
    let mut at = 0;
    let mut expected = vec![];
    for (attempt, delay) in (1..).zip([0, 1_000, 5_000, 25_000, 125_000, 600_000, 600_000, 600_000])
    {
        at += delay;
        expected.push((timer("k", due, attempt), Outcome::refused("not_now", "try again")));
    }
    assert_eq!(host.advance(ms(100 + 1_000 + 5_000 + 24_999)), expected[..3]);
    let [waiting] = host.timers().try_into().expect("one timer");
    assert_eq!((waiting.due, waiting.attempts), (due, 3), "it keeps its deadline");
    assert_eq!(host.advance(ms(1)), expected[3..4]);
    assert_eq!(host.advance(ms(at - 31_000 - 1)), expected[4..7]);
    assert_eq!(host.dead_timers(), []);
    assert_eq!(host.advance(ms(1)), expected[7..]);
    let [dead] = host.dead_timers().try_into().expect("one dead timer");
    assert_eq!((dead.name.as_str(), dead.key.as_str()), ("t", "k"));
    assert_eq!((dead.due, dead.data, dead.attempts), (due, json!({"after": 100}), 8));
    assert_eq!((host.timers(), host.advance(ms(DAY))), (vec![], vec![]));
    assert_eq!(host.state().len(), 0, "no attempt has stored anything");
}

#[test]
fn a_later_attempt_succeeds_and_removes_the_timer() {
    let mut host = TestHost::new(plugin(set, fails));
    host.handle("event", json!({}));
    assert_eq!(host.advance(ms(0)).len(), 1);
    host.store("is_well", &json!(true));
    let fired = host.advance(ms(1_000));
    assert_eq!(fired[0].0, timer("k", START, 2));
    assert_eq!(fired[0].1.reply, Ok(json!(null)));
    assert_eq!((host.timers(), host.dead_timers()), (vec![], vec![]));
}

#[test]
fn a_dead_timer_stays_while_another_with_its_key_is_set_and_cancelled() {
    let plugin = plugin(set, fails).on("cancel", |ctx: &Context, ()| ctx.cancel(&T, "k"));
    let mut host = TestHost::new(plugin);
    host.handle("event", json!({}));
    host.advance(ms(HOUR));
    let dead = host.dead_timers();
    assert_eq!((dead.len(), host.timers()), (1, vec![]));
    host.handle("event", json!({}));
    assert_eq!((host.dead_timers(), host.timers()[0].attempts), (dead.clone(), 0));
    host.handle("cancel", json!(null));
    assert_eq!((host.dead_timers(), host.timers()), (dead, vec![]));
    host.handle("event", json!({}));
    assert_eq!(host.advance(ms(HOUR)).len(), 8);
    assert_eq!(host.dead_timers().len(), 2);
}

#[test]
fn an_overdue_timer_fires_in_the_next_advance_at_the_time_of_the_clock() {
    let plugin = plugin(set, |ctx, _| ctx.state().set("at", &ctx.received_at()));
    let mut host = TestHost::new(plugin);
    host.handle("event", json!({"key": "a", "after": 1_000}));
    host.handle("event", json!({"key": "over", "at": 5}));
    assert_eq!(host.timers()[0].due, 5, "a time that is over is allowed");
    host.at(START + 2_000);
    assert_eq!(host.timers().len(), 2, "`at` fires nothing");
    let due: Vec<_> =
        host.advance(Duration::ZERO).into_iter().map(|(timer, _)| timer.due).collect();
    assert_eq!(due, [5, START + 1_000]);
    assert_eq!(host.state()["at"], json!(START + 2_000));
    host.handle("event", json!({"key": "b", "after": 1}));
    host.at(START);
    assert_eq!(host.advance(ms(2_000)), [], "the clock was set back");
    assert_eq!(keys(&host.advance(ms(1))), [("b", 2_001)]);
}

fn scheduled(cron: Cron) -> Plugin {
    Plugin::new("test", "1.0.0", "").every("daily", cron, |ctx| {
        ctx.info(ctx.received_at() - START);
        Ok(())
    })
}

/// The times at which the schedule has fired, since the start.
fn times(host: &TestHost) -> Vec<u64> {
    host.log().iter().filter_map(|(_, line)| line.parse().ok()).collect()
}

#[test]
fn a_schedule_fires_at_its_times_with_an_empty_key() {
    let mut host = TestHost::new(scheduled(Cron::utc("0 9 * * MON-FRI")));
    let first = START + 9 * HOUR;
    let (name, key) = ("daily".to_owned(), String::new());
    let set = SetTimer {
        name: name.clone(),
        key: key.clone(),
        due: first,
        data: json!(null),
        attempts: 0,
    };
    assert_eq!(host.timers(), [set]);
    let fired = host.advance(ms(4 * DAY));
    let timers: Vec<_> = fired.into_iter().map(|(timer, _)| timer).collect();
    let timer = |due| FiredTimer { name: name.clone(), key: key.clone(), due, attempt: 1 };
    assert_eq!(timers, [timer(first), timer(first + DAY)], "Thursday and Friday");
    assert_eq!(times(&host), [9 * HOUR, DAY + 9 * HOUR]);
    assert_eq!(host.timers()[0].due, first + 4 * DAY, "Monday");
}

#[test]
fn a_schedule_follows_the_clock_of_its_zone() {
    let mut host = TestHost::new(scheduled(Cron::in_zone("0 9 * * *", "Europe/Berlin")));
    // 2026-03-28T12:00:00Z, the day before the clocks are set forward.
    let noon = 1_774_699_200_000;
    host.at(noon);
    let due: Vec<_> =
        host.advance(ms(2 * DAY)).into_iter().map(|(timer, _)| timer.due - noon).collect();
    assert_eq!(due, [19 * HOUR, 43 * HOUR], "07:00 in UTC, and 08:00 before");
}

#[test]
fn times_that_a_schedule_has_missed_come_once_together() {
    let mut host = TestHost::new(scheduled(Cron::utc("0 * * * *")));
    assert_eq!(host.advance(ms(HOUR)).len(), 1);
    host.at(START + 5 * HOUR + 1);
    let fired = host.advance(ms(HOUR));
    let due: Vec<_> = fired.iter().map(|(timer, _)| timer.due - START).collect();
    assert_eq!(due, [2 * HOUR, 6 * HOUR]);
    assert_eq!(times(&host), [HOUR, 5 * HOUR + 1, 6 * HOUR]);
}

#[test]
fn the_times_of_a_schedule_come_after_the_start_of_the_host() {
    let mut host = TestHost::new(scheduled(Cron::utc("0 * * * *")));
    host.at(START + 10 * HOUR + 1);
    assert_eq!(host.advance(Duration::ZERO), [], "nothing was missed before the start");
    assert_eq!(keys(&host.advance(ms(HOUR))), [("", 11 * HOUR)]);
}

#[test]
fn a_schedule_comes_again_if_the_clock_is_set_back() {
    let mut host = TestHost::new(scheduled(Cron::utc("0 * * * *")));
    host.advance(ms(10 * HOUR));
    host.at(START + 5 * HOUR + 1);
    assert_eq!(host.timers().len(), 1);
    assert_eq!(keys(&host.advance(ms(HOUR))), [("", 6 * HOUR)]);
}

#[test]
fn a_schedule_whose_handler_fails_is_tried_again_and_then_waits_for_its_next_time() {
    let plugin = Plugin::new("test", "1.0.0", "")
        .every("hourly", Cron::utc("0 * * * *"), |_| Err(Refusal::new("not_now", "try again")));
    let mut host = TestHost::new(plugin);
    let fired = host.advance(ms(2 * HOUR));
    let attempts: Vec<_> = fired.iter().map(|(timer, _)| (timer.due, timer.attempt)).collect();
    let first = (1..=8).map(|attempt| (START + HOUR, attempt));
    assert_eq!(attempts, first.chain([(START + 2 * HOUR, 1)]).collect::<Vec<_>>());
    host.advance(ms(HOUR));
    let dead: Vec<_> = host.dead_timers().into_iter().map(|dead| (dead.key, dead.due)).collect();
    let expected = [1, 2].map(|hours| START + hours * HOUR).map(|due| (due.to_string(), due));
    assert_eq!(dead, expected, "beside the one that is set");
    assert_eq!(host.timers().len(), 1);
}

#[test]
fn a_plugin_with_a_wrong_timer_or_schedule_is_not_loaded() {
    let plugin = || Plugin::new("test", "1.0.0", "").on_timer(T, |_, _| Ok(()));
    assert_eq!(reason(plugin().every("s", Cron::utc("* * * * *"), |_| Ok(()))), "");
    let every = |cron| reason(plugin().every("s", cron, |_| Ok(())));
    for (reason, at_fault) in [
        (every(Cron::utc("0 25 * * *")), "timer `s`: its schedule is refused: `0 25 * * *` is not"),
        (every(Cron::utc("0 0 30 2 *")), "no time matches"),
        (every(Cron::in_zone("0 9 * * *", "Europe/Atlantis")), "`Europe/Atlantis`"),
        (reason(plugin().every("t", Cron::utc("* * * * *"), |_| Ok(()))), "`t` is declared twice"),
        (reason(plugin().on_timer(T, |_, _| Ok(()))), "`t` is declared twice"),
        (reason(plugin().on_timer(Timer::<u8>::new("$t"), |_, _| Ok(()))), "`$t`"),
    ] {
        assert!(reason.contains(at_fault), "{at_fault}: {reason}");
        assert_eq!(reason.matches("is not a").count().max(1), 1, "said once: {reason}");
    }
}

#[derive(Serialize, Deserialize, JsonSchema)]
struct Small {
    #[schemars(range(max = 9))]
    number: u8,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    note: Option<String>,
}

#[test]
fn the_data_of_a_timer_must_match_its_schema() {
    const SMALL: Timer<Small> = Timer::new("small");
    let plugin = Plugin::new("test", "1.0.0", "")
        .on("event", |ctx: &Context, number: u8| {
            ctx.after(&SMALL, ms(0), "k", &Small { number, note: None })
        })
        .on_timer(SMALL, |ctx, small| ctx.state().set("number", &small.number));
    let mut host = TestHost::new(plugin);
    let reason = "the data of timer `small` does not fit its schema: /number must be at most 9";
    let outcome = host.handle("event", json!(10));
    assert_eq!(outcome, Outcome::refused("invalid_data", reason));
    host.handle("event", json!(9));
    host.advance(Duration::ZERO);
    assert_eq!(host.state()["number"], json!(9));
}

/// Serializes to a number that the schema allows and the type does not.
#[derive(Deserialize, JsonSchema)]
struct Odd(u8);

impl Serialize for Odd {
    fn serialize<S: serde::Serializer>(
        &self,
        serializer: S,
    ) -> std::result::Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.0.into())
    }
}

#[test]
fn data_that_a_version_can_not_read_fails_its_handler() {
    const ODD: Timer<Odd> = Timer::new("odd");
    let plugin = Plugin::new("test", "1.0.0", "")
        .on("event", |ctx: &Context, number: u8| ctx.after(&ODD, ms(0), "k", &Odd(number)))
        .on_timer(ODD, |_, _| Ok(()));
    let mut host = TestHost::new(plugin);
    host.handle("event", json!(7));
    let fired = host.advance(Duration::ZERO);
    let code = fired[0].1.reply.clone().map_err(|refusal| refusal.code);
    assert_eq!(code, Err("corrupt_state".to_owned()));
    assert!(host.log()[0].1.contains("`odd`"), "{:?}", host.log());
    assert_eq!(host.timers()[0].attempts, 1);
}

#[test]
fn a_timer_is_refused_with_the_code_of_a_host() {
    let refused = |handler: fn(&Context) -> Result| {
        let plugin = plugin(move |ctx, _| handler(ctx), |_, _| Ok(()));
        let plugin = plugin.every("daily", Cron::utc("0 9 * * *"), |_| Ok(()));
        let outcome = TestHost::new(plugin).handle("event", json!(null));
        outcome.reply.map(|_| "ok".to_owned()).unwrap_or_else(|refusal| refusal.code)
    };
    type Call = fn(&Context) -> Result;
    let cases: [(Call, &str); 14] = [
        (|ctx| ctx.after(&T, ms(1), &"k".repeat(512), &json!(0)), "ok"),
        (|ctx| ctx.after(&T, ms(1), &"k".repeat(513), &json!(0)), "limit"),
        (|ctx| ctx.after(&T, ms(1), "", &json!(0)), "misuse"),
        (|ctx| ctx.after(&T, Duration::MAX, "k", &json!(0)), "misuse"),
        (|ctx| ctx.at(&T, 253_402_300_800_000, "k", &json!(0)), "misuse"),
        (|ctx| ctx.at(&T, 253_402_300_799_999, "k", &json!(0)), "ok"),
        // Two bytes are the quotation marks.
        (|ctx| ctx.after(&T, ms(1), "k", &json!("d".repeat(256 * 1024 - 2))), "ok"),
        (|ctx| ctx.after(&T, ms(1), "k", &json!("d".repeat(256 * 1024 - 1))), "limit"),
        (|ctx| ctx.after(&Timer::new("other"), ms(1), "k", &json!(0)), "undeclared"),
        (|ctx| ctx.after(&Timer::new("daily"), ms(1), "k", &json!(null)), "undeclared"),
        (|ctx| ctx.cancel(&Timer::<u8>::new("other"), "k"), "undeclared"),
        (|ctx| ctx.cancel(&T, ""), "misuse"),
        (|ctx| ctx.cancel(&T, &"k".repeat(513)), "limit"),
        (|ctx| ctx.cancel(&T, "k"), "ok"),
    ];
    for (n, (handler, code)) in cases.into_iter().enumerate() {
        assert_eq!(refused(handler), code, "case {n}");
    }
}

/// Sets the timer `t` under a number of one digit or more.
fn set_key(ctx: &Context, number: i32, data: &str) -> Result {
    ctx.after(&T, ms(1), &number.to_string(), &json!(data))
}

/// Data for a timer with a name and a key of one byte each, which then counts 256 KiB. Two bytes
/// are quotation marks.
fn quarter() -> String {
    "d".repeat(256 * 1024 - 4)
}

#[test]
fn timers_count_against_the_limits_of_one_event() {
    let code = |handler: fn(&Context) -> Result| {
        let plugin = plugin(move |ctx, _| handler(ctx), |_, _| Ok(()));
        let outcome = TestHost::new(plugin).handle("event", json!(null));
        outcome.reply.map(|_| "ok".to_owned()).unwrap_or_else(|refusal| refusal.code)
    };
    assert_eq!(code(|ctx| (0..256).try_for_each(|n| set_key(ctx, n, ""))), "ok");
    assert_eq!(code(|ctx| (0..257).try_for_each(|n| set_key(ctx, n, ""))), "limit");
    assert_eq!(code(|ctx| (0..257).try_for_each(|n| ctx.cancel(&T, &n.to_string()))), "limit");
    let with_values: fn(&Context) -> Result = |ctx| {
        (0..256).try_for_each(|n| set_key(ctx, n, ""))?;
        ctx.state().set("key", &0)
    };
    assert_eq!(code(with_values), "limit");
    let full: fn(&Context) -> Result = |ctx| (0..4).try_for_each(|n| set_key(ctx, n, &quarter()));
    assert_eq!(code(full), "ok");
    let over: fn(&Context) -> Result = |ctx| {
        (0..4).try_for_each(|n| set_key(ctx, n, &quarter()))?;
        ctx.state().set("k", &0)
    };
    assert_eq!(code(over), "limit");
    let again: fn(&Context) -> Result = |ctx| {
        (0..256).try_for_each(|n| set_key(ctx, n, ""))?;
        (0..8).try_for_each(|_| set_key(ctx, 0, &quarter()))
    };
    assert_eq!(code(again), "ok", "each counts once");
}

#[test]
fn a_plugin_has_a_maximum_number_of_timers() {
    let plugin = plugin(
        |ctx, data: Value| {
            if let Some(key) = data["cancel"].as_str() {
                ctx.cancel(&T, key)?;
            }
            let numbers = data["from"].as_u64().zip(data["to"].as_u64()).unwrap_or_default();
            (numbers.0..numbers.1).try_for_each(|n| ctx.after(&T, ms(1), &n.to_string(), &json!(n)))
        },
        |_, _| Ok(()),
    );
    let mut host = TestHost::new(plugin);
    let max = u64::from(limits::TIMERS);
    for from in (0..max).step_by(250) {
        let outcome = host.handle("event", json!({"from": from, "to": from + 250}));
        assert_eq!(outcome.reply, Ok(json!(null)));
    }
    assert_eq!(host.timers().len() as u64, max);
    let mut code = |data: Value| {
        let reply = host.handle("event", data).reply;
        reply.map(|_| "ok".to_owned()).unwrap_or_else(|refusal| refusal.code)
    };
    assert_eq!(code(json!({"from": max, "to": max + 1})), "limit");
    assert_eq!(code(json!({"from": 0, "to": 9})), "ok", "they are replaced");
    assert_eq!(code(json!({"cancel": "0"})), "ok");
    assert_eq!(code(json!({"from": max, "to": max + 2})), "limit");
    assert_eq!(code(json!({"from": max, "to": max + 1})), "ok");
    assert_eq!(host.advance(ms(1)).len() as u64, max);
}

#[test]
fn another_version_takes_over_the_timers_and_has_its_own_schedules() {
    let version = |schedules: &[(&'static str, &'static str)]| {
        schedules.iter().fold(plugin(set, |_, _| Ok(())), |plugin, &(name, pattern)| {
            plugin.every(name, Cron::utc(pattern), |_| Ok(()))
        })
    };
    let names = |fired: &[(FiredTimer, Outcome)]| -> Vec<(String, u64)> {
        fired.iter().map(|(timer, _)| (timer.name.clone(), timer.due - START)).collect()
    };
    let mut host = TestHost::new(version(&[
        ("kept", "0 3 * * *"),
        ("moved", "0 4 * * *"),
        ("removed", "0 5 * * *"),
    ]));
    host.handle("event", json!({"after": 6 * HOUR}));
    host.at(START + 3 * HOUR);
    host.deploy(version(&[("kept", "0 3 * * *"), ("moved", "0 7 * * *"), ("new", "0 8 * * *")]));
    let expected = [("kept", 3), ("t", 6), ("moved", 7), ("new", 8)];
    assert_eq!(
        names(&host.advance(ms(DAY / 2))),
        expected.map(|(name, hour)| (name.to_owned(), hour * HOUR)),
        "an overdue time of a schedule that is the same is not lost"
    );
}

#[test]
#[should_panic(expected = "a host refuses to load")]
fn a_version_that_a_host_refuses_is_not_deployed() {
    let mut host = TestHost::new(plugin(set, |_, _| Ok(())));
    host.deploy(Plugin::new("Test", "1.0.0", ""));
}
