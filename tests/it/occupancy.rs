//! A plugin learns which of its rooms are occupied: after each change that lasts, once, and also
//! after a time in which it did not serve.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sockhop::config::Config;
use sockhop_tests::{TestClient, TestHost, drop_in, eventually, guest};

/// Starts a host whose rooms need to stay as they are only for a moment.
async fn host(change: impl FnOnce(&mut Config)) -> TestHost {
    TestHost::with(&[guest("lab"), guest("halls")], |config| {
        config.limits.room_debounce_ms = Duration::from_millis(20);
        change(config);
    })
    .await
}

async fn lines(client: &TestClient, event: &str) -> Option<Vec<String>> {
    serde_json::from_value(client.ask(event, json!(null)).await).ok()
}

/// Waits until the plugin was told of exactly this.
async fn until_told(client: &TestClient, expected: &[&str]) {
    let mut last = None;
    let wait = eventually("the plugin to be told", async || {
        last = lines(client, "hall_told").await;
        (last.as_deref()?.len() >= expected.len()).then_some(())
    });
    wait.await;
    assert_eq!(last.expect("lines"), expected);
}

async fn until_believed(client: &TestClient, expected: &[&str]) {
    eventually("the plugin to know its rooms", async || {
        (lines(client, "halls").await? == expected).then_some(())
    })
    .await;
}

async fn enter(client: &TestClient, room: &str) {
    assert_eq!(client.ask("hall_enter", json!(room)).await, json!(null));
}

async fn leave(client: &TestClient, room: &str) {
    assert_eq!(client.ask("hall_leave", json!(room)).await, json!(null));
}

async fn set(host: &TestHost, what: &str) {
    assert_eq!(host.http(&format!("/api/plugins/halls/{what}"), Some(json!({}))).await.0, 200);
}

/// The bytes of the guest with an empty section of this name: another version.
fn version(name: &str) -> Vec<u8> {
    let mut bytes = std::fs::read(guest("halls")).expect("a guest");
    let length = u8::try_from(name.len()).expect("a short name");
    bytes.extend([0, length + 1, length]);
    bytes.extend(name.as_bytes());
    bytes
}

/// Replaces the file of the plugin, and waits until the new version serves.
async fn deploy(host: &TestHost, bytes: &[u8]) {
    let digest = |row: &Value| row["digest"].clone();
    let before = digest(&host.row("halls").await);
    drop_in(host.plugins(), "halls.wasm", bytes);
    host.until("halls", |row| row["state"] == "active" && digest(row) != before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_learns_once_that_a_room_of_it_is_occupied_and_once_that_it_is_vacated() {
    let host = host(|_| {}).await;
    let (mut one, two) = (host.client().await, host.client().await);
    // A room of another plugin.
    one.ask("enter", json!(null)).await;
    enter(&one, "hall_a").await;
    assert_eq!(one.expect("hall").await, json!("+hall_a"));
    enter(&two, "hall_a").await;
    enter(&two, "hall_b").await;
    until_told(&one, &["=", "+hall_a", "+hall_b"]).await;
    assert_eq!(two.ask("hall_count", json!("hall_a")).await, json!(2));
    leave(&one, "hall_a").await;
    drop(two);
    let mut last = Vec::new();
    eventually("both rooms to be vacated", async || {
        last = lines(&one, "hall_told").await?;
        (last.len() >= 5).then_some(())
    })
    .await;
    last[3..].sort();
    assert_eq!(last, ["=", "+hall_a", "+hall_b", "-hall_a", "-hall_b"]);
    assert_eq!(one.pending(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_room_must_stay_as_it_is_for_as_long_as_is_set() {
    // Longer than the default.
    let delay = Duration::from_secs(2);
    let host = host(|config| config.limits.room_debounce_ms = delay).await;
    let client = host.client().await;
    let began = Instant::now();
    enter(&client, "hall_a").await;
    enter(&client, "hall_flaps").await;
    leave(&client, "hall_flaps").await;
    until_told(&client, &["=", "+hall_a"]).await;
    assert!(began.elapsed() >= delay);
    leave(&client, "hall_a").await;
    enter(&client, "hall_a").await;
    enter(&client, "hall_b").await;
    until_told(&client, &["=", "+hall_a", "+hall_b"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_did_not_serve_learns_how_its_rooms_are_then() {
    let host = host(|_| {}).await;
    let (one, two) = (host.client().await, host.client().await);
    enter(&one, "hall_a").await;
    enter(&two, "hall_b").await;
    until_believed(&one, &["hall_a", "hall_b"]).await;
    set(&host, "disable").await;
    // No client can join its rooms while it is disabled, but clients can leave.
    drop(two);
    eventually("the connection to end", async || {
        (host.figure("sockhop_connections").await == 1).then_some(())
    })
    .await;
    eventually("the event to wait", async || {
        (host.figure("sockhop_host_events_waiting{plugin=\"halls\"}").await == 1).then_some(())
    })
    .await;
    set(&host, "enable").await;
    until_believed(&one, &["hall_a"]).await;
    let told = lines(&one, "hall_told").await.expect("lines");
    assert_eq!((told.len(), told.last().map(String::as_str)), (4, Some("-hall_b")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_version_knows_what_the_version_before_was_told_and_a_new_plugin_is_told_of_all() {
    let host = TestHost::with(&[guest("lab")], |config| {
        config.limits.room_debounce_ms = Duration::from_millis(20);
    })
    .await;
    let client = host.client().await;
    drop_in(host.plugins(), "halls.wasm", &version("first"));
    host.until("halls", |row| row["state"] == "active").await;
    enter(&client, "hall_a").await;
    // A plugin that is added after the start begins with `$resync`.
    until_told(&client, &["=", "+hall_a"]).await;
    deploy(&host, &version("second")).await;
    enter(&client, "hall_b").await;
    until_told(&client, &["=", "+hall_a", "+hall_b"]).await;
    // While its file is away, nobody is in its rooms. `$resync` makes it forget them.
    std::fs::remove_file(host.plugins().join("halls.wasm")).expect("its file");
    host.until("halls", Value::is_null).await;
    drop_in(host.plugins(), "halls.wasm", &version("second"));
    host.until("halls", |row| row["state"] == "active").await;
    until_told(&client, &["=", "+hall_a", "+hall_b", "="]).await;
    until_believed(&client, &[]).await;
    enter(&client, "hall_b").await;
    until_told(&client, &["=", "+hall_a", "+hall_b", "=", "+hall_b"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rooms_of_two_namespaces_are_told_apart() {
    let host = host(|config| config.server.namespaces.push("/chat".to_owned())).await;
    let mut main = host.client().await;
    let mut chat = TestClient::connect_to(&host.url, "/chat").await;
    enter(&main, "hall_a").await;
    assert_eq!(main.expect("hall").await, json!("+hall_a"));
    enter(&chat, "hall_a").await;
    assert_eq!(chat.expect("hall").await, json!("+hall_a"));
    assert_eq!(chat.ask("hall_count", json!("hall_a")).await, json!(1));
    until_told(&main, &["=", "+hall_a", "+hall_a"]).await;
    assert_eq!(main.pending(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_knows_its_rooms_after_breakers_disables_reloads_and_mass_disconnects() {
    const ROOMS: usize = 12;
    let number = |number| std::num::NonZeroU32::new(number).expect("not zero");
    let host = host(|config| {
        config.limits.breaker_failures = number(3);
        config.limits.breaker_open_ms = Duration::from_millis(50);
        config.limits.breaker_open_at_most_ms = Duration::from_millis(50);
    })
    .await;
    let witness = host.client().await;
    let (mut random, mut clients) = (fastrand::Rng::with_seed(17), Vec::new());
    for step in 0..50 {
        match random.usize(..6) {
            0 => {
                for _ in 0..3 {
                    witness.ask("hall_trap", json!(null)).await;
                }
            }
            1 => {
                set(&host, "disable").await;
                clients.truncate(clients.len() / 2);
                set(&host, "enable").await;
            }
            2 if step % 3 == 0 => deploy(&host, &version(&step.to_string())).await,
            3 => clients.clear(),
            _ => {
                for _ in 0..6 {
                    clients.push(host.client().await);
                }
            }
        }
        for client in &clients {
            let room = format!("hall_{:02}", random.usize(..ROOMS));
            let event = if random.bool() { "hall_enter" } else { "hall_leave" };
            // While the plugin does not serve, this is refused.
            client.ask(event, json!(room)).await;
        }
    }
    let connections = u64::try_from(clients.len()).expect("few") + 1;
    eventually("the connections to end", async || {
        (host.figure("sockhop_connections").await == connections).then_some(())
    })
    .await;
    eventually("the plugin to serve and to know the truth", async || {
        let mut truth = Vec::new();
        for number in 0..ROOMS {
            let room = format!("hall_{number:02}");
            let members = witness.ask("hall_count", json!(room)).await.as_u64()?;
            truth.extend((members > 0).then_some(room));
        }
        (lines(&witness, "halls").await? == truth).then_some(())
    })
    .await;
    let told = lines(&witness, "hall_told").await.expect("lines");
    for room in (0..ROOMS).map(|number| format!("hall_{number:02}")) {
        let signs: Vec<_> = told.iter().filter(|line| line[1..] == room || *line == "=").collect();
        let twice = signs.windows(2).find(|pair| pair[0] == pair[1] && pair[0] != "=");
        assert_eq!(twice, None, "{told:?}");
    }
}
