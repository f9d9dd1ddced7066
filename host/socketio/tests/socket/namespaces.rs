//! Entering and leaving namespaces, in every order that a client can write.

use sockhop_socketio::Config;

use crate::raw::{RawClient, Received};
use crate::server::Fixture;

#[tokio::test]
async fn leave_enter_leave_in_one_write_before_the_client_is_gone() {
    let fixture = Fixture::start(Config::default()).await;
    let mut client = RawClient::connect(fixture.address).await;
    client.send(&["41", "40", "41"]).await;
    client.hang_up().await;
    let once = ["connect / {}", "connected /", "disconnected / Left"];
    fixture.app().expect(&[once, once].concat()).await;
    fixture.expect_empty().await;
}

#[tokio::test]
async fn a_namespace_that_is_left_can_be_entered_again() {
    let fixture = Fixture::start(Config::default()).await;
    let mut client = RawClient::connect(fixture.address).await;
    let first = fixture.app().connection();
    client.send(&["41", "40{\"greet\":1}", "42[\"echo\",1]"]).await;
    let answer = client.text().await;
    assert!(answer.starts_with("40{\"sid\":\""), "{answer}");
    assert!(!answer.contains(first.id().as_str()), "a connection of its own");
    assert_eq!(client.text().await, "42[\"welcome\"]");
    assert_eq!(client.text().await, "42[\"echo\",1]");
    // Events that other tasks still send to the old connection must not reach the new one.
    assert!(first.has_ended());
    assert!(!first.emit("stray", "", &[]) && !first.ack(1, "", &[]));
    assert!(!first.send(&fixture.server.encode("/", "stray", "", &[]).unwrap()));
    client.assert_alive().await;
}

#[tokio::test]
async fn events_in_flight_while_a_client_leaves_are_ignored() {
    let fixture = Fixture::start(Config::default()).await;
    let mut client = RawClient::connect(fixture.address).await;
    client.send(&["42[\"x\",1]", "41", "42[\"x\",2]", "430[]", "41", "40", "42[\"x\",3]"]).await;
    let disconnected = "disconnected / Left";
    let log = [
        "connect / {}",
        "connected /",
        "x(1) []",
        disconnected,
        "connect / {}",
        "connected /",
        "x(3) []",
    ];
    fixture.app().expect(&log).await;
    assert!(client.text().await.starts_with("40{"));
    client.assert_alive().await;
}

#[tokio::test]
async fn a_client_in_two_namespaces() {
    let fixture = Fixture::start(Config::default()).await;
    let mut client = RawClient::connect(fixture.address).await;
    client.send(&["40/a,{\"greet\":true}"]).await;
    assert!(client.text().await.starts_with("40/a,{\"sid\":\""));
    assert_eq!(client.text().await, "42/a,[\"welcome\"]");
    client.send(&["42/a,[\"echo\",\"a\"]", "42/a,7[\"answer\"]", "41/a", "42[\"echo\"]"]).await;
    assert_eq!(client.text().await, "42/a,[\"echo\",\"a\"]");
    assert_eq!(client.text().await, "43/a,7[]");
    assert_eq!(client.text().await, "42[\"echo\"]");
    assert_eq!(fixture.server.usage().connections, 1);
    client.hang_up().await;
    fixture.expect_empty().await;
}

#[tokio::test]
async fn an_unknown_namespace_is_refused_and_the_session_goes_on() {
    let fixture = Fixture::start(Config::default()).await;
    let mut client = RawClient::open(fixture.address).await;
    client.send(&["40/nope,{}", "40/nope?a=1", "40"]).await;
    assert_eq!(client.text().await, r#"44/nope,{"message":"Invalid namespace"}"#);
    assert_eq!(client.text().await, r#"44/nope,{"message":"Invalid namespace"}"#);
    assert!(client.text().await.starts_with("40{"));
    client.assert_alive().await;
}

#[tokio::test]
async fn a_refused_client_is_told_why_and_may_try_again() {
    let fixture = Fixture::start(Config::default()).await;
    let mut client = RawClient::open(fixture.address).await;
    client.send(&["40/a,{\"refuse\":1}", "40/a"]).await;
    assert_eq!(client.text().await, r#"44/a,{"message":"refused","data":{"code":7}}"#);
    assert!(client.text().await.starts_with("40/a,{"));
    fixture.app().expect(&["connect /a {\"refuse\":1}", "connect /a {}", "connected /a"]).await;
}

#[tokio::test]
async fn a_client_that_enters_no_namespace_is_disconnected() {
    let config =
        Config { connect_timeout: std::time::Duration::from_millis(50), ..Config::default() };
    let fixture = Fixture::start(config).await;
    let mut client = RawClient::open(fixture.address).await;
    assert!(matches!(client.receive().await, Received::End(_)));
    fixture.expect_empty().await;
}

#[tokio::test]
async fn a_client_that_left_all_namespaces_keeps_its_session() {
    let config =
        Config { connect_timeout: std::time::Duration::from_millis(50), ..Config::default() };
    let fixture = Fixture::start(config).await;
    let mut client = RawClient::connect(fixture.address).await;
    client.send(&["41"]).await;
    tokio::time::sleep(std::time::Duration::from_millis(150)).await;
    client.send(&["40"]).await;
    assert!(client.text().await.starts_with("40{"));
}
