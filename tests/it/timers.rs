//! Timers of plugins: they fire at their time, at least once, together with the effects of their
//! handler.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use sockhop_tests::{
    HostProcess, TestClient, TestHost, ask, binary, directory_of, drop_in, eventually, guest,
    moment,
};

const MINUTE: i64 = 60_000;
const DAY: i64 = 24 * 60 * MINUTE;

/// The system's time in milliseconds since 1970.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time after 1970");
    since.as_millis().try_into().expect("a number")
}

async fn clockwork() -> TestHost {
    TestHost::start(&[guest("clockwork")]).await
}

/// The next time that a timer with this key fires. Ignores others.
async fn rings(client: &mut TestClient, key: &str) -> Value {
    loop {
        let rang = client.expect("rang").await;
        if rang["key"] == key {
            return rang;
        }
    }
}

/// How often the handler of each key has taken effect.
async fn rung(client: &TestClient) -> BTreeMap<String, u64> {
    let all = client.ask("rung", json!(null)).await;
    let pair = |pair: &Value| {
        let key = pair[0].as_str().expect("a key").trim_start_matches("rang/").to_owned();
        (key, pair[1].as_u64().expect("a number"))
    };
    all.as_array().unwrap_or_else(|| panic!("{all}")).iter().map(pair).collect()
}

/// The timers that operators see, without those of schedules.
async fn timers(host: &TestHost, dead: bool) -> Vec<Value> {
    let (status, page) =
        host.http(&format!("/api/plugins/clockwork/timers?dead={dead}"), None).await;
    assert_eq!(status, 200, "{page}");
    let all = page["timers"].as_array().expect("a list").clone();
    all.into_iter().filter(|timer| timer["timer"] == "bell").collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timer_fires_once_and_never_before_its_deadline() {
    let host = clockwork().await;
    let mut client = host.client().await;
    for (key, after) in [("late", 400_u64), ("soon", 100), ("at_once", 0)] {
        client.ask("set", json!({"key": key, "how": "ring", "after": after})).await;
    }
    client.ask("set", json!({"key": "past", "how": "ring", "at": 1})).await;
    let mut rang = BTreeMap::new();
    while rang.len() < 4 {
        let next = client.expect("rang").await;
        if next["key"] != "minute" {
            rang.insert(next["key"].as_str().expect("a key").to_owned(), next);
        }
    }
    for rang in rang.values() {
        let (due, at) = (rang["due"].as_u64().unwrap(), rang["at"].as_u64().unwrap());
        assert!(due <= at && at <= now(), "{rang}");
        assert_eq!(rang["attempt"], 1);
    }
    let rung = rung(&client).await;
    assert!(["late", "soon", "at_once", "past"].iter().all(|key| rung[*key] == 1), "{rung:?}");
    assert_eq!(timers(&host, false).await, [] as [Value; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timer_is_set_replaced_and_cancelled_with_the_effects_of_its_handler_or_not_at_all() {
    let host = clockwork().await;
    let mut client = host.client().await;
    let failed = json!({"key": "never", "how": "ring", "after": 0, "fails": true});
    assert_eq!(client.ask("set", failed).await["error"]["code"], "refused");
    client.ask("set", json!({"key": "cancelled", "how": "ring", "after": 60_000})).await;
    client.ask("set", json!({"key": "kept", "how": "ring", "after": 60_000})).await;
    client.ask("set", json!({"key": "cancelled", "how": ""})).await;
    let failed = json!({"key": "kept", "how": "", "fails": true});
    assert_eq!(client.ask("set", failed).await["error"]["code"], "refused");
    let set = timers(&host, false).await;
    assert!(matches!(set.as_slice(), [timer] if timer["key"] == "kept"), "{set:?}");
    // A handler that sets its own timer again is not stopped by its removal.
    client.ask("set", json!({"key": "kept", "how": "again", "after": 0})).await;
    assert_eq!(rings(&mut client, "kept").await["how"], "again");
    assert_eq!(rings(&mut client, "kept").await["how"], "ring");
    assert_eq!(rung(&client).await, BTreeMap::from([("kept".to_owned(), 2)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_breaks_a_rule_of_timers_is_refused_and_sets_nothing() {
    let host = clockwork().await;
    let client = host.client().await;
    for (set, code) in [
        // The plugin is to blame for a `misuse`, so its client sees a failed plugin.
        (json!({"key": "", "how": "ring", "after": 1}), "plugin_failed"),
        (json!({"key": "k", "how": "ring", "at": 253_402_300_800_000_u64}), "plugin_failed"),
        (json!({"key": "k".repeat(513), "how": "ring", "after": 1}), "too_large"),
        (json!({"key": "k", "how": "x".repeat(270_000), "after": 1}), "too_large"),
        (json!({"key": "k", "how": "ring", "after": 60_000, "times": 257}), "too_large"),
    ] {
        let answer = client.ask("set", set.clone()).await;
        assert_eq!(answer["error"]["code"], code, "{answer}");
    }
    assert_eq!(timers(&host, false).await, [] as [Value; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timer_whose_handler_keeps_failing_is_dead_until_an_operator_decides() {
    let host = clockwork().await;
    let mut client = host.client().await;
    for (key, how) in [("refused", "refuse"), ("trapped", "trap")] {
        client.ask("set", json!({"key": key, "how": how, "after": 0})).await;
    }
    let mut shift = 0;
    for attempt in 1..=8 {
        eventually("both have failed", async || {
            let all = [timers(&host, false).await, timers(&host, true).await].concat();
            (all.len() == 2 && all.iter().all(|timer| timer["attempts"] == attempt)).then_some(())
        })
        .await;
        shift += 10 * MINUTE;
        host.monitor.shift_clock(shift);
    }
    let dead = timers(&host, true).await;
    assert_eq!((dead.len(), timers(&host, false).await.len()), (2, 0));
    let error = |key: &str| {
        let timer = dead.iter().find(|timer| timer["key"] == key).expect("a dead timer");
        assert!(!timer["died"].is_null() && timer["next_attempt"].is_null(), "{timer}");
        timer["error"].as_str().expect("a reason").to_owned()
    };
    assert!(error("refused").contains("not now"), "{}", error("refused"));
    assert!(error("trapped").contains("trap"), "{}", error("trapped"));
    assert_eq!(rung(&client).await, BTreeMap::new(), "no effect of a failed handler remains");
    client.ask("rung", json!(null)).await;
    assert!(!client.pending().iter().any(|(_, rang)| rang["key"] != "minute"), "nothing was sent");
    let (_, row) = host.http("/api/plugins/clockwork", None).await;
    assert_eq!(row["timers"]["dead"], 2, "{row}");

    let sockhop = |args: &[&str]| {
        let mut command = Command::new(binary());
        command.args(args).args(["clockwork", "--url", &host.url, "--data"]).arg(host.data());
        let output = command.output().expect("the command runs");
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    };
    let shown = sockhop(&["plugins", "show"]);
    assert!(shown.contains("1 set, 2 dead"), "{shown}");
    let listed = sockhop(&["timers", "list", "--dead"]);
    assert!(listed.contains("refused") && listed.contains("not now"), "{listed}");
    let (status, answer) = host
        .http("/api/plugins/clockwork/timers/drop", Some(json!({"ids": [dead[0]["id"]]})))
        .await;
    assert_eq!((status, &answer["timers"]), (200, &json!(1)));
    let retried = sockhop(&["timers", "retry", "--all-dead"]);
    assert_eq!(retried.trim(), "1 timers");
    eventually("it fails again, for the first time", async || {
        let all = timers(&host, false).await;
        (all.len() == 1 && all[0]["attempts"] == 1).then_some(())
    })
    .await;
    for wrong in [json!({}), json!({"ids": [1], "all_dead": true}), json!({"id": 1})] {
        let (status, _) =
            host.http("/api/plugins/clockwork/timers/retry", Some(wrong.clone())).await;
        assert_eq!(status, 400, "{wrong}");
    }
    assert_eq!(host.http("/api/plugins/nobody/timers", None).await.0, 404);
}

/// The events that a client has received, without those of the schedule.
fn heard(client: &mut TestClient) -> Vec<Value> {
    let all = client.pending().into_iter().map(|(_, rang)| rang);
    all.filter(|rang| rang["key"] != "minute").collect()
}

/// The host looks at the clock at least once a second.
const A_LOOK: Duration = Duration::from_millis(1_500);

#[tokio::test(flavor = "multi_thread")]
async fn a_timer_waits_while_its_plugin_is_disabled_or_its_breaker_is_open() {
    let host = TestHost::with(&[guest("clockwork")], |config| {
        config.limits.breaker_failures = NonZeroU32::new(2).expect("not zero");
        config.limits.breaker_open_ms = Duration::from_secs(600);
        config.limits.breaker_open_at_most_ms = Duration::from_secs(600);
    })
    .await;
    let mut client = host.client().await;
    let command = async |command: &str| {
        let path = format!("/api/plugins/clockwork/{command}");
        assert_eq!(host.http(&path, Some(json!({}))).await.0, 200);
    };
    let waits = json!({"key": "waits", "how": "ring", "after": MINUTE});
    client.ask("set", waits).await;
    for _ in 0..3 {
        client.ask("set", json!({"key": "", "how": "trap_at_once"})).await;
    }
    host.until("clockwork", |row| row["state"] == "quarantined").await;
    host.monitor.shift_clock(10 * MINUTE);
    tokio::time::sleep(A_LOOK).await;
    assert_eq!((heard(&mut client), timers(&host, false).await.len()), (Vec::new(), 1));
    command("enable").await;
    rings(&mut client, "waits").await;

    // The time of an event is that of the system.
    let waits = json!({"key": "waits", "how": "ring", "after": 20 * MINUTE});
    client.ask("set", waits).await;
    command("disable").await;
    host.monitor.shift_clock(30 * MINUTE);
    tokio::time::sleep(A_LOOK).await;
    assert_eq!((heard(&mut client), timers(&host, false).await.len()), (Vec::new(), 1));
    command("enable").await;
    rings(&mut client, "waits").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn timers_that_always_fail_close_the_plugin_to_no_client() {
    let host = TestHost::with(&[guest("clockwork")], |config| {
        config.limits.breaker_failures = NonZeroU32::new(3).expect("not zero");
        config.limits.breaker_calls = NonZeroU32::new(5).expect("not zero");
    })
    .await;
    let mut client = host.client().await;
    assert_eq!(client.ask("rung", json!(null)).await, json!([]));
    let traps = json!({"key": "trap", "how": "trap", "after": 0, "times": 50});
    client.ask("set", traps).await;
    client.ask("set", json!({"key": "good", "how": "ring", "after": 200})).await;
    let until = tokio::time::Instant::now() + Duration::from_secs(4);
    let mut has_failed = false;
    while tokio::time::Instant::now() < until {
        let answer = client.ask("rung", json!(null)).await;
        assert!(answer.is_array(), "{answer}");
        has_failed |= timers(&host, false).await.iter().any(|timer| timer["attempts"] != 0);
    }
    assert!(has_failed);
    rings(&mut client, "good").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn timers_that_always_fail_do_not_keep_the_breaker_open() {
    let host = TestHost::with(&[guest("clockwork")], |config| {
        config.limits.breaker_failures = NonZeroU32::new(3).expect("not zero");
        config.limits.breaker_open_ms = Duration::from_millis(200);
        config.limits.breaker_open_at_most_ms = Duration::from_secs(600);
    })
    .await;
    let client = host.client().await;
    let traps = json!({"key": "trap", "how": "trap", "after": 500, "times": 50});
    client.ask("set", traps).await;
    for _ in 0..3 {
        client.ask("set", json!({"key": "k", "how": "trap_at_once", "after": 0})).await;
    }
    assert_eq!(client.ask("rung", json!(null)).await["error"]["code"], "unavailable");
    // Each is tried when the breaker lets an event pass. Otherwise it would be open for 200 ms, and
    // then twice as long each time.
    eventually("six have failed", async || {
        let failed = timers(&host, false).await.iter().filter(|row| row["attempts"] != 0).count();
        (failed >= 6).then_some(())
    })
    .await;
    let began = Instant::now();
    eventually("the client is served", async || {
        client.ask("rung", json!(null)).await.is_array().then_some(())
    })
    .await;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missed_timer_fires_after_a_restart_and_the_missed_times_of_a_schedule_fire_once() {
    let host = clockwork().await;
    let client = host.client().await;
    client.ask("set", json!({"key": "missed", "how": "ring", "after": 60_000})).await;
    drop(client);
    host.monitor.shift_clock(0);
    let host = host.restart().await;
    let mut client = host.client().await;
    // Five minutes are missed.
    host.monitor.shift_clock(5 * MINUTE);
    let (mut missed, mut minutes) = (0, Vec::new());
    while missed == 0 || minutes.is_empty() {
        let rang = client.expect("rang").await;
        match rang["key"].as_str() {
            Some("missed") => missed += 1,
            _ => minutes.push(rang["due"].as_u64().expect("a time")),
        }
    }
    eventually("the next minute is in the future", async || {
        let (_, page) = host.http("/api/plugins/clockwork/timers", None).await;
        let next = page["timers"].as_array()?.iter().find(|timer| timer["timer"] == "minute")?;
        let next: jiff::Timestamp = next["due"].as_str()?.parse().ok()?;
        let clock = i64::try_from(now()).ok()? + 5 * MINUTE;
        (next.as_millisecond() > clock - 1_000).then_some(())
    })
    .await;
    client.ask("rung", json!(null)).await;
    let more = client.pending().into_iter().filter(|(_, rang)| rang["key"] == "minute");
    let due: Vec<_> =
        minutes.into_iter().chain(more.map(|(_, rang)| rang["due"].as_u64().unwrap())).collect();
    assert!(
        due.len() <= 2,
        "at most one for what was missed, and one for the current minute: {due:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_set_by_a_day_delays_no_timer_and_fires_none_before_its_deadline() {
    let host = clockwork().await;
    let mut client = host.client().await;
    let tomorrow = now() + DAY.unsigned_abs();
    client.ask("set", json!({"key": "tomorrow", "how": "ring", "at": tomorrow})).await;
    host.monitor.shift_clock(-DAY);
    // Not due by the clock before either: the host may be reading its timers by that one.
    let soon = now() + u64::try_from(10 * MINUTE).unwrap();
    client.ask("set", json!({"key": "soon", "how": "ring", "at": soon})).await;
    tokio::time::sleep(A_LOOK).await;
    client.ask("rung", json!(null)).await;
    assert_eq!(heard(&mut client), [] as [Value; 0], "the clock shows yesterday");
    // A schedule follows the clock that was set back.
    host.monitor.shift_clock(MINUTE - DAY);
    rings(&mut client, "minute").await;
    host.monitor.shift_clock(11 * MINUTE);
    rings(&mut client, "soon").await;
    assert_eq!(timers(&host, false).await.len(), 1);
    host.monitor.shift_clock(DAY + 1_000);
    let rang = rings(&mut client, "tomorrow").await;
    assert!(rang["at"].as_u64() >= rang["due"].as_u64(), "{rang}");
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_timers_that_are_due_at_once_fire_once_each() {
    const EACH: u64 = 200;
    const ALL: u64 = 10_000;
    let host = clockwork().await;
    let mut client = host.client().await;
    let due = now() + u64::try_from(10 * MINUTE).unwrap();
    for group in 0..ALL / EACH {
        let set = json!({"key": format!("{group}-"), "how": "ring", "at": due, "times": EACH});
        assert_eq!(client.ask("set", set).await, json!(null));
    }
    let (_, row) = host.http("/api/plugins/clockwork", None).await;
    assert!(row["timers"]["set"].as_u64() >= Some(ALL), "{row}");
    host.monitor.shift_clock(10 * MINUTE);
    let other = host.client().await;
    let mut rang = BTreeMap::<String, u64>::new();
    while (rang.len() as u64) < ALL {
        let next = client.expect("rang").await;
        if next["key"] != "minute" {
            *rang.entry(next["key"].as_str().expect("a key").to_owned()).or_default() += 1;
        }
        if rang.len().is_multiple_of(1_000) {
            // Other events are handled meanwhile.
            other.ask("set", json!({"key": "other", "how": ""})).await;
        }
    }
    assert!(rang.values().all(|times| *times == 1));
    assert_eq!(timers(&host, false).await, [] as [Value; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_without_a_schedule_removes_it_and_timers_wait_for_a_version_that_knows_them() {
    let host = clockwork().await;
    let mut client = host.client().await;
    client.ask("set", json!({"key": "waits", "how": "ring", "after": 60_000})).await;
    let schedules = async || {
        let (_, page) = host.http("/api/plugins/clockwork/timers", None).await;
        let all = page["timers"].as_array().expect("a list").clone();
        all.iter().filter(|timer| timer["timer"] == "minute").count()
    };
    eventually("the schedule is set", async || (schedules().await == 1).then_some(())).await;
    let without = std::fs::read(guest("clockwork_without")).expect("a plugin");
    drop_in(host.plugins(), "clockwork.wasm", &without);
    host.until("clockwork", |row| row["version"] == "2.0.0").await;
    eventually("the schedule is removed", async || (schedules().await == 0).then_some(())).await;
    host.monitor.shift_clock(5 * MINUTE);
    tokio::time::sleep(A_LOOK).await;
    let waiting = timers(&host, false).await;
    assert!(matches!(waiting.as_slice(), [timer] if timer["attempts"] == 0), "{waiting:?}");
    assert_eq!(heard(&mut client), [] as [Value; 0]);
    let with = std::fs::read(guest("clockwork")).expect("a plugin");
    drop_in(host.plugins(), "clockwork.wasm", &with);
    host.until("clockwork", |row| row["version"] == "1.0.0").await;
    rings(&mut client, "waits").await;
    eventually("the schedule is set again", async || (schedules().await == 1).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_has_so_many_timers_as_is_set() {
    let host = TestHost::with(&[guest("clockwork")], |config| {
        config.limits.timers = NonZeroU32::new(5).expect("not zero");
    })
    .await;
    let client = host.client().await;
    let set = |key: &str, times: u32| json!({"key": key, "how": "ring", "after": 600_000, "times": times});
    // One is that of the schedule, which may not be set yet.
    assert_eq!(client.ask("set", set("a", 4)).await, json!(null));
    let refused = client.ask("set", set("b", 2)).await;
    assert!(!refused["error"].is_null(), "{refused}");
    assert_eq!(client.ask("set", set("a", 4)).await, json!(null), "those that are replaced");
    assert_eq!(timers(&host, false).await.len(), 4);
}

#[test]
fn check_says_which_timers_a_plugin_declares() {
    let check = |args: &[&str]| {
        let output = Command::new(binary())
            .arg("check")
            .arg(guest("clockwork"))
            .args(args)
            .output()
            .expect("the command runs");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let said = check(&[]);
    assert!(said.contains("  timer    bell\n"), "{said}");
    assert!(said.contains("  every    minute (* * * * *, UTC)\n"), "{said}");
    let document: Value = serde_json::from_str(&check(&["--json"])).expect("a document");
    let plugin = &document["plugins"][0];
    assert_eq!(plugin["timers"], json!(["bell"]));
    let minute = json!([{"timer": "minute", "cron": "* * * * *", "time_zone": "UTC"}]);
    assert_eq!(plugin["schedules"], minute);
}

/// How often a host is killed: `SOCKHOP_TEST_KILLS`, or a few times.
fn kills() -> usize {
    std::env::var("SOCKHOP_TEST_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(6)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_timer_fires_at_least_once_although_the_host_is_killed_and_plugins_are_replaced() {
    let (plugins, data) =
        (directory_of(&[guest("clockwork")]), tempfile::tempdir().expect("a directory"));
    let [with, without] = ["clockwork", "clockwork_without"]
        .map(|name| std::fs::read(guest(name)).expect("a plugin"));
    let mut set = Vec::new();
    let kills = kills();
    for round in 0..kills {
        drop_in(plugins.path(), "clockwork.wasm", &with);
        let host = HostProcess::start(plugins.path(), data.path());
        let client = TestClient::connect(&host.url).await;
        for (number, after) in [0_u64, 20, 80, 200, 400, 2_000].into_iter().enumerate() {
            let (key, rolled_back) =
                (format!("{round}/{number}"), format!("never/{round}/{number}"));
            let how = if number == 2 { "again" } else { "ring" };
            let answer = client.ask("set", json!({"key": key, "how": how, "after": after})).await;
            assert_eq!(answer, json!(null));
            set.push(key);
            let failed = json!({"key": rolled_back, "how": "ring", "after": 0, "fails": true});
            client.ask("set", failed).await;
        }
        if round % 3 != 0 {
            drop_in(plugins.path(), "clockwork.wasm", &without);
        }
        // While timers are set, fire and are removed.
        moment(300).await;
        if round % 3 == 2 {
            // To the version that declares them. It is refused if the other does not serve yet.
            let path = "/api/plugins/clockwork/rollback";
            let (url, key) = (host.url.clone(), host.key.clone());
            let roll_back = move || ask(&url, path, Some(json!({})), Some(&key));
            let (status, answer) = tokio::task::spawn_blocking(roll_back).await.expect("an answer");
            assert!([200, 409].contains(&status), "{answer}");
            moment(100).await;
        }
        host.kill();
    }
    drop_in(plugins.path(), "clockwork.wasm", &with);
    let host = HostProcess::start(plugins.path(), data.path());
    let client = TestClient::connect(&host.url).await;
    let rung = eventually("each has fired", async || {
        let rung = rung(&client).await;
        set.iter().all(|key| rung.contains_key(key)).then_some(rung)
    })
    .await;
    assert!(!rung.keys().any(|key| key.starts_with("never")), "{rung:?}");
    // A run that took effect is never repeated: the timer is removed together with its effects.
    for (number, key) in set.iter().enumerate() {
        let most = if number % 6 == 2 { 2 } else { 1 };
        assert!(rung[key] <= most, "{key}: {rung:?}");
    }
}
