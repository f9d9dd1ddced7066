//! Packets that no stock client sends, including those of the published advisories on parsers of
//! Socket.IO: CVE-2020-36049, CVE-2022-2421, CVE-2023-32695 and CVE-2026-33151.

use sockhop_socketio::Config;
use tokio::time::timeout;

use crate::raw::{Message, PATIENCE, RawClient};
use crate::server::Fixture;

/// Each ends the session, and nothing of it reaches the application.
const REJECTED: &[&str] = &[
    // No packet
    "4",
    "4abc",
    "47",
    "4-1",
    "4é",
    "4\u{0}",
    // Not JSON
    "42",
    "42{}",
    "42[",
    "42[\"x\"",
    "42[\"x\"]]",
    "42[\"x\",]",
    "42[\"x\",NaN]",
    "42[\"x\"]\u{0}",
    "42['x']",
    "42abc[\"x\"]",
    "42\"x\"",
    "42null",
    "42[\"x\",\"\n\"]",
    // No names (CVE-2023-32695: an object with its own `toString`)
    "42[]",
    "42[{}]",
    "42[null]",
    "42[[\"x\"]]",
    "42[{\"toString\":\"x\"}]",
    "42[true]",
    "42[\"\\ud800\"]",
    // Names of the libraries themselves
    "42[\"connect\"]",
    "42[\"connect_error\"]",
    "42[\"disconnect\"]",
    "42[\"disconnecting\"]",
    "42[\"newListener\"]",
    "42[\"removeListener\"]",
    "42[\"\\u0064isconnect\"]",
    // Ids
    "4299999999999999999999[\"x\"]",
    "42-1[\"x\"]",
    "421.5[\"x\"]",
    "43[]",
    "43{}",
    "431",
    "431{}",
    "43x[]",
    // Numbers of attachments (CVE-2020-36049, CVE-2026-33151: memory for what is only announced)
    "45[\"x\"]",
    "450-[\"x\"]",
    "45-[\"x\"]",
    "45-1-[\"x\"]",
    "451[\"x\"]",
    "45x-[\"x\"]",
    "451.5-[\"x\"]",
    "451e9-[\"x\"]",
    "459999999-[\"x\"]",
    "4599999999999999999999-[\"x\"]",
    "46[]",
    "460-1[]",
    // Packets that only a server sends, and a second CONNECT
    "40",
    "40{}",
    "44{\"message\":\"x\"}",
    "44",
    // DISCONNECT with something behind it
    "41{}",
    "41[]",
    "41x",
    // CONNECT to another namespace with an `auth` that is not an object
    "40/a,[]",
    "40/a,true",
    "40/a,{",
    "40/a,\"x\"",
    "40/a,null",
    "40/a,{}{}",
];

#[tokio::test]
async fn a_malformed_packet_ends_the_session_only() {
    let fixture = Fixture::start(Config { max_attachments: 100, ..Config::default() }).await;
    let mut honest = RawClient::connect(fixture.address).await;
    for packet in REJECTED {
        let mut client = RawClient::connect(fixture.address).await;
        client.send(&[packet, "42[\"never\"]"]).await;
        let code = if packet.starts_with("459999999-") { 1009 } else { 1008 };
        assert_rejected(&mut client, packet, code).await;
        honest.assert_alive().await;
    }
    let mut log = vec!["connect / {}", "connected /"];
    for packet in REJECTED {
        let is_too_big = packet.starts_with("459999999-");
        let end = if is_too_big {
            "disconnected / SessionEnded(TooBig)"
        } else {
            "disconnected / SessionEnded(Parse)"
        };
        log.extend(["connect / {}", "connected /", end]);
    }
    fixture.app().expect(&log).await;
    honest.hang_up().await;
    fixture.expect_empty().await;
}

async fn assert_rejected(client: &mut RawClient, packet: &str, code: u16) {
    let received = timeout(PATIENCE / 2, client.until_end()).await;
    assert_eq!(received, Ok((Vec::new(), Some(code))), "{packet} is not rejected");
}

/// Each ends a session that has not entered a namespace.
const REJECTED_BEFORE_CONNECT: &[&str] =
    &["42[\"x\"]", "41", "430[]", "42/a,[\"x\"]", "44{}", "40[]", "40null", "40x", "451-[\"x\"]"];

#[tokio::test]
async fn nothing_comes_before_connect() {
    let fixture = Fixture::start(Config::default()).await;
    for packet in REJECTED_BEFORE_CONNECT {
        let mut client = RawClient::open(fixture.address).await;
        client.send_messages(&[Message::Text(packet), Message::Binary(b"x")]).await;
        assert_rejected(&mut client, packet, 1008).await;
    }
    fixture.app().expect(&[]).await;
    fixture.expect_empty().await;
}

/// Each reaches the application unchanged; the application can detect forged placeholders.
const FORGED: &[(&str, &str)] = &[
    // CVE-2022-2421: a placeholder that names a method of the list of attachments
    (r#"{"_placeholder":true,"num":"splice"}"#, " forged"),
    (r#"{"_placeholder":true,"num":1}"#, " forged"),
    (r#"{"_placeholder":true,"num":-1}"#, " forged"),
    (r#"{"_placeholder":true,"num":0.5}"#, " forged"),
    (r#"{"_placeholder":true}"#, " forged"),
    (r#"{"a":[{"\u005fplaceholder":true,"num":9}]}"#, " forged"),
    (r#"{"_placeholder":"true","num":9}"#, ""),
    (r#"{"_placeholder":true,"num":0}"#, ""),
    // An attachment that no placeholder names
    ("1", ""),
    // Depth, a name that matters in JavaScript, half a surrogate pair, a large number
    (r#"{"__proto__":{"x":1}}"#, ""),
    (r#""\ud800""#, ""),
    ("1e999", ""),
];

#[tokio::test]
async fn forged_placeholders_are_the_applications_to_answer() {
    let fixture = Fixture::start(Config::default()).await;
    let mut client = RawClient::connect(fixture.address).await;
    let mut log = vec!["connect / {}".to_owned(), "connected /".to_owned()];
    for (argument, validity) in FORGED {
        client
            .send_messages(&[
                Message::Text(&format!("451-[\"x\",{argument}]")),
                Message::Binary(b"abc"),
            ])
            .await;
        log.push(format!("x({argument}) [3]{validity}"));
    }
    let deep = "[".repeat(100_000) + &"]".repeat(100_000);
    client.send(&[&format!("42[\"x\",{deep}]")]).await;
    log.push(format!("x({deep}) []"));
    client.assert_alive().await;
    fixture.app().expect(&log.iter().map(String::as_str).collect::<Vec<_>>()).await;
}
