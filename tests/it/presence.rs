//! The presence helper of the SDK on a real host.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};
use sockhop_tests::{TestClient, TestHost, drop_in, eventually, guest, token, with_tokens};

async fn connect(host: &TestHost, user: &str) -> TestClient {
    let connected = TestClient::connect_with(&host.url, &token(user, &[], 3_600)).await;
    connected.unwrap_or_else(|refused| panic!("{refused}"))
}

async fn lines(client: &TestClient, event: &str) -> Option<Vec<String>> {
    serde_json::from_value(client.ask(event, json!(null)).await).ok()
}

async fn until_present(client: &TestClient, expected: &[&str]) {
    eventually("the plugin to know who is present", async || {
        (lines(client, "roster").await? == expected).then_some(())
    })
    .await;
}

/// Checks that each user came and went in turn.
fn check_turns(log: &[String]) {
    let mut present = BTreeSet::new();
    for line in log {
        let (sign, user) = line.split_at(1);
        let is_new = if sign == "+" { present.insert(user) } else { present.remove(user) };
        assert!(is_new, "{line} twice: {log:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_knows_who_is_present_by_user_also_after_a_restart() {
    let host = TestHost::with(&[guest("roster")], |config| config.auth = with_tokens()).await;
    let witness = connect(&host, "1").await;
    let (seven, too, eight) =
        (connect(&host, "7").await, connect(&host, "7").await, connect(&host, "8").await);
    until_present(&witness, &["1", "7", "8"]).await;
    drop((seven, eight));
    until_present(&witness, &["1", "7"]).await;
    assert_eq!(lines(&witness, "roster_log").await.expect("lines"), ["+1", "+7", "+8", "-8"]);
    drop((witness, too));
    let host = host.restart_with(|config| config.auth = with_tokens()).await;
    let nine = connect(&host, "9").await;
    until_present(&nine, &["9"]).await;
    check_turns(&lines(&nine, "roster_log").await.expect("lines"));
}

#[tokio::test(flavor = "multi_thread")]
async fn presence_equals_the_truth_after_breakers_disables_reloads_and_mass_disconnects() {
    const USERS: usize = 8;
    let number = |number| std::num::NonZeroU32::new(number).expect("not zero");
    let host = TestHost::with(&[guest("roster")], |config| {
        config.auth = with_tokens();
        config.limits.breaker_failures = number(3);
        config.limits.breaker_open_ms = Duration::from_millis(50);
        config.limits.breaker_open_at_most_ms = Duration::from_millis(50);
    })
    .await;
    let witness = connect(&host, "witness").await;
    let set = async |what: &str| {
        let path = format!("/api/plugins/roster/{what}");
        assert_eq!(host.http(&path, Some(json!({}))).await.0, 200);
    };
    let (mut random, mut clients) = (fastrand::Rng::with_seed(71), Vec::new());
    for step in 0..50_u8 {
        match random.usize(..6) {
            0 => {
                for _ in 0..3 {
                    witness.ask("roster_trap", json!(null)).await;
                }
            }
            1 => {
                set("disable").await;
                clients.truncate(clients.len() / 2);
                let user = format!("u{}", random.usize(..USERS));
                clients.push((user.clone(), connect(&host, &user).await));
                set("enable").await;
            }
            2 => {
                // Another version: an empty section at the end of the file.
                let mut bytes = std::fs::read(guest("roster")).expect("a guest");
                bytes.extend([0, 3, 2, b'a' + step / 10, b'a' + step % 10]);
                let digest = |row: &Value| row["digest"].clone();
                let before = digest(&host.row("roster").await);
                drop_in(host.plugins(), "roster.wasm", &bytes);
                let serves = |row: &Value| row["state"] == "active" && digest(row) != before;
                host.until("roster", serves).await;
            }
            3 => clients.clear(),
            _ => {
                for _ in 0..6 {
                    let user = format!("u{}", random.usize(..USERS));
                    clients.push((user.clone(), connect(&host, &user).await));
                }
            }
        }
        if !clients.is_empty() {
            drop(clients.swap_remove(random.usize(..clients.len())));
        }
    }
    for user in ["u0", "u1", "u1"] {
        clients.push((user.to_owned(), connect(&host, user).await));
    }
    let truth: BTreeSet<_> = clients.iter().map(|(user, _)| user.as_str()).collect();
    let truth: Vec<_> = truth.into_iter().chain(["witness"]).collect();
    until_present(&witness, &truth).await;
    check_turns(&lines(&witness, "roster_log").await.expect("lines"));
}
