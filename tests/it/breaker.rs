//! A plugin that keeps failing is contained and shown to operators. A new version that keeps
//! failing is rolled back.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sockhop::config::Limits;
use sockhop_tests::{
    PATIENCE, TestClient, TestHost, bundled_plugin, chameleon, drop_in, eventually,
};

async fn host(open: Duration) -> TestHost {
    let host = TestHost::with(&[bundled_plugin("connection")], |config| {
        config.limits.breaker_failures = NonZeroU32::new(5).expect("not zero");
        config.limits.breaker_open_ms = open;
    })
    .await;
    drop_in(host.plugins(), "chameleon.wasm", &chameleon("version=1"));
    host.until("chameleon", |row| row["state"] == "active").await;
    host
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_failures_open_the_breaker_and_other_plugins_go_on() {
    let host = host(Duration::from_secs(60)).await;
    let client = host.client().await;
    for _ in 0..5 {
        assert_eq!(
            client.ask("behave", json!("trap")).await["error"]["code"],
            json!("plugin_failed")
        );
    }
    let refused = client.ask("which", json!(null)).await;
    assert_eq!(refused["error"]["code"], json!("unavailable"), "{refused}");
    assert_eq!(host.row("chameleon").await["state"], json!("quarantined"));
    assert_eq!(client.ask("ping", json!({"timestamp": 1})).await["timestamp"], json!(1));
    let (status, row) = host.http("/api/plugins/chameleon/enable", Some(json!({}))).await;
    assert_eq!((status, &row["state"]), (200, &json!("active")), "an operator takes it for well");
    assert_eq!(client.ask("which", json!(null)).await["version"], json!("1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_breaker_is_open_for_so_long_as_is_set_and_closes_when_a_probe_succeeds() {
    // Longer than by default.
    let open = 3 * Limits::default().breaker_open_ms;
    let host = host(open).await;
    let client = host.client().await;
    let began = Instant::now();
    for _ in 0..5 {
        client.ask("behave", json!("trap")).await;
    }
    assert_eq!(client.ask("which", json!(null)).await["error"]["code"], json!("unavailable"));
    eventually("a breaker that has closed", async || {
        (client.ask("which", json!(null)).await["version"] == "1").then_some(())
    })
    .await;
    assert!(began.elapsed() >= open, "{:?}", began.elapsed());
    assert_eq!(host.row("chameleon").await["state"], json!("active"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_works_ten_times_and_then_traps_for_ever_is_quarantined() {
    let host = host(Duration::from_secs(60)).await;
    let client = host.client().await;
    for time in 1..=10 {
        assert_eq!(client.ask("ten_times", json!(null)).await, json!(time));
    }
    let mut last = Value::Null;
    for _ in 0..6 {
        last = client.ask("ten_times", json!(null)).await;
    }
    assert_eq!(last["error"]["code"], json!("unavailable"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_version_that_fails_in_its_first_minute_goes_back_by_itself() {
    let host = host(Duration::from_secs(60)).await;
    let client = host.client().await;
    drop_in(host.plugins(), "chameleon.wasm", &chameleon("version=2 fails=always"));
    let bad = host.until("chameleon", |row| row["version"] == "2.0.0").await;
    for _ in 0..5 {
        assert_eq!(
            client.ask("failing", json!(null)).await["error"]["code"],
            json!("plugin_failed")
        );
    }
    let row = host.until("chameleon", |row| row["version"] == "1.0.0").await;
    assert_eq!(
        (&row["state"], &row["last_error"]["digest"]),
        (&json!("active"), &bad["digest"]),
        "{row}"
    );
    assert_eq!(client.ask("failing", json!(null)).await, json!(null));
}

/// Fails events until the breaker is open. Returns how many have failed.
async fn trap_until_open(host: &TestHost, client: &TestClient) -> u32 {
    let mut failed = 0;
    eventually("the breaker to open", async || {
        let answer = client.ask("behave", json!("trap")).await;
        failed += u32::from(answer["error"]["code"] == "plugin_failed");
        (host.row("chameleon").await["state"] == "quarantined").then_some(())
    })
    .await;
    failed
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_open_the_breaker_only_if_they_are_close_together() {
    const WITHIN: Duration = Duration::from_secs(3);
    type Change = fn(&mut Limits);
    let changes: [Change; 2] = [
        |limits| {
            limits.breaker_failures = NonZeroU32::new(3).expect("not zero");
            limits.breaker_failures_within_ms = WITHIN;
        },
        |limits| {
            limits.breaker_calls = NonZeroU32::new(3).expect("not zero");
            limits.breaker_calls_within_ms = WITHIN;
            limits.breaker_failures = NonZeroU32::new(1_000_000).expect("not zero");
        },
    ];
    for change in changes {
        let host = TestHost::with(&[bundled_plugin("connection")], |config| {
            config.limits.breaker_open_ms = Duration::from_secs(60);
            change(&mut config.limits);
        })
        .await;
        drop_in(host.plugins(), "chameleon.wasm", &chameleon("version=1"));
        host.until("chameleon", |row| row["state"] == "active").await;
        let client = host.client().await;
        for _ in 0..2 {
            client.ask("behave", json!("trap")).await;
        }
        // The tested condition: this time is between the failures.
        tokio::time::sleep(WITHIN + WITHIN / 5).await;
        let began = Instant::now();
        client.ask("behave", json!("trap")).await;
        assert_eq!(host.row("chameleon").await["state"], json!("active"));
        let more = trap_until_open(&host, &client).await;
        // On a very slow machine, the failures are not close together.
        assert!(more == 2 || began.elapsed() > WITHIN, "{more} in {:?}", began.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_breaker_stays_open_no_longer_than_is_set_however_many_probes_fail() {
    const OPEN: Duration = Duration::from_millis(300);
    const PROBES: u32 = 8;
    let host = TestHost::with(&[bundled_plugin("connection")], |config| {
        config.limits.breaker_failures = NonZeroU32::new(2).expect("not zero");
        config.limits.breaker_open_ms = OPEN;
        config.limits.breaker_open_at_most_ms = OPEN;
    })
    .await;
    drop_in(host.plugins(), "chameleon.wasm", &chameleon("version=1"));
    host.until("chameleon", |row| row["state"] == "active").await;
    let client = host.client().await;
    trap_until_open(&host, &client).await;
    let (began, mut failed) = (Instant::now(), 0);
    // If the time doubled with each of them, they would take 76 seconds.
    while failed < PROBES {
        let answer = client.ask("behave", json!("trap")).await;
        failed += u32::from(answer["error"]["code"] == "plugin_failed");
        assert!(began.elapsed() < PATIENCE / 2, "{failed} probes");
        tokio::time::sleep(OPEN / 10).await;
    }
}

/// Connects a client from another loopback address.
async fn client_from(host: &TestHost, last: u8) -> TestClient {
    TestClient::connect_from(&host.url, std::net::Ipv4Addr::new(127, 0, 0, last).into()).await
}

/// Makes the plugin fail on events of `client` until that client is throttled. Returns the
/// rejection.
async fn trap_until_throttled(client: &TestClient) -> Value {
    for _ in 0..5 {
        assert_eq!(
            client.ask("behave", json!("trap")).await["error"]["code"],
            json!("plugin_failed")
        );
    }
    let throttled = client.ask("which", json!(null)).await;
    assert_eq!(throttled["error"]["code"], json!("rate_limited"), "{throttled}");
    throttled
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_cause_failures_are_throttled_one_by_one_while_others_are_served() {
    let host = host(Duration::from_secs(60)).await;
    let good = host.client().await;
    let offenders =
        [client_from(&host, 2).await, client_from(&host, 3).await, client_from(&host, 4).await];
    // The clients take turns, so that none of them causes nearly all of the failures.
    for _ in 0..4 {
        for offender in &offenders {
            assert_eq!(
                offender.ask("behave", json!("trap")).await["error"]["code"],
                json!("plugin_failed")
            );
            assert_eq!(good.ask("which", json!(null)).await["version"], json!("1"));
        }
    }
    for offender in &offenders {
        assert_eq!(
            offender.ask("behave", json!("trap")).await["error"]["code"],
            json!("plugin_failed")
        );
        let throttled = offender.ask("which", json!(null)).await;
        assert_eq!(throttled["error"]["code"], json!("rate_limited"), "{throttled}");
        assert!(
            throttled["error"]["retry_after_ms"]
                .as_u64()
                .is_some_and(|ms| (1..=60_000).contains(&ms)),
            "{throttled}"
        );
        // Other plugins still handle its events.
        assert_eq!(offender.ask("ping", json!({"timestamp": 1})).await["timestamp"], json!(1));
    }
    assert_eq!(good.ask("which", json!(null)).await["version"], json!("1"));
    assert_eq!(host.row("chameleon").await["state"], json!("active"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offender_that_connects_again_is_throttled_and_its_neighbours_are_served() {
    let host = host(Duration::from_secs(60)).await;
    let (good, neighbour) = (host.client().await, client_from(&host, 2).await);
    for served in [&good, &neighbour] {
        assert_eq!(served.ask("which", json!(null)).await["version"], json!("1"));
    }
    for _ in 0..3 {
        trap_until_throttled(&client_from(&host, 2).await).await;
        assert_eq!(neighbour.ask("which", json!(null)).await["version"], json!("1"));
    }
    let fourth = client_from(&host, 2).await.ask("which", json!(null)).await;
    assert_eq!(
        fourth["error"]["code"],
        json!("rate_limited"),
        "a new connection does not help: {fourth}"
    );
    for served in [&good, &neighbour] {
        assert_eq!(served.ask("which", json!(null)).await["version"], json!("1"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_who_connect_again_after_each_failure_roll_no_new_version_back() {
    let host = host(Duration::from_secs(60)).await;
    let good = host.client().await;
    drop_in(host.plugins(), "chameleon.wasm", &chameleon("version=2"));
    host.until("chameleon", |row| row["version"] == "2.0.0").await;
    assert_eq!(good.ask("which", json!(null)).await["version"], json!("2"));
    // The last address is also that of the good client.
    for address in [2, 3, 4, 1].into_iter().cycle().take(24) {
        let stranger = client_from(&host, address).await;
        let code = &stranger.ask("behave", json!("trap")).await["error"]["code"];
        assert!(code == "plugin_failed" || code == "rate_limited", "{code}");
        assert_eq!(good.ask("which", json!(null)).await["version"], json!("2"));
    }
    let row = host.row("chameleon").await;
    assert_eq!((&row["state"], &row["version"]), (&json!("active"), &json!("2.0.0")), "{row}");
}
