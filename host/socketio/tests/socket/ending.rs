//! How connections end, and what the application and the client learn of it.

use sockhop_socketio::{Config, End};

use crate::polling::handshake;
use crate::raw::{RawClient, Received};
use crate::server::{App, Fixture, wait_until};

#[tokio::test]
async fn a_client_that_is_sent_away_receives_what_is_queued() {
    let fixture = Fixture::start(Config::default()).await;
    let mut client = RawClient::connect(fixture.address).await;
    client.send(&["42[\"bye\"]", "42[\"x\"]"]).await;
    assert_eq!(client.texts_until_end().await, ["42[\"last\",1]", "41"]);
    let log = ["connect / {}", "connected /", "disconnected / SessionEnded(Server)"];
    fixture.app().expect(&log).await;
    fixture.expect_empty().await;
}

#[tokio::test]
async fn any_task_can_send_a_client_away_or_cut_it_off() {
    let fixture = Fixture::start(Config::default()).await;
    let mut client = RawClient::connect(fixture.address).await;
    let connection = fixture.app().connection();
    connection.disconnect();
    connection.disconnect();
    connection.abort();
    assert!(connection.has_ended() && !connection.emit("x", "", &[]));
    assert_eq!(client.texts_until_end().await, ["41"]);
    drop(connection);
    fixture.expect_empty().await;

    let mut client = RawClient::connect(fixture.address).await;
    fixture.app().connection().abort();
    assert_eq!(client.texts_until_end().await, Vec::<String>::new());
    let once = ["connect / {}", "connected /"];
    let log = [once[0], once[1], "disconnected / SessionEnded(Server)", once[0], once[1]];
    fixture.app().expect(&[&log[..], &["disconnected / SessionEnded(Aborted)"]].concat()).await;
    fixture.expect_empty().await;
}

#[tokio::test]
async fn a_session_takes_all_its_connections_with_it() {
    let fixture = Fixture::start(Config::default()).await;
    let mut client = RawClient::connect(fixture.address).await;
    client.send(&["40/a,"]).await;
    assert!(client.text().await.starts_with("40/a,"));
    fixture.app().connection().disconnect();
    assert_eq!(client.texts_until_end().await, ["41/a,"]);
    fixture.expect_empty().await;
}

#[tokio::test]
async fn a_client_that_goes_away_while_it_is_being_accepted() {
    let fixture = Fixture::start(Config::default()).await;
    let mut client = RawClient::open(fixture.address).await;
    client.send(&["40{\"slow\":1}"]).await;
    let log = ["connect / {\"slow\":1}", "connected /", "disconnected / SessionEnded(Transport)"];
    fixture.app().expect(&log[..1]).await;
    client.hang_up().await;
    fixture.app().gate.add_permits(1);
    fixture.app().expect(&log).await;
    fixture.expect_empty().await;
}

#[tokio::test]
async fn a_handler_that_panics_ends_its_session_only() {
    let fixture = Fixture::start(Config::default()).await;
    let mut honest = RawClient::connect(fixture.address).await;
    let mut client = RawClient::connect(fixture.address).await;
    client.send(&["42[\"panic\"]", "42[\"x\"]"]).await;
    client.texts_until_end().await;
    let once = ["connect / {}", "connected /"];
    let log = [&once[..], &once, &["disconnected / SessionEnded(Aborted)"]].concat();
    fixture.app().expect(&log).await;
    honest.assert_alive().await;
    honest.hang_up().await;
    fixture.expect_empty().await;
}

#[tokio::test]
async fn a_client_says_goodbye() {
    let fixture = Fixture::start(Config::default()).await;
    let mut client = RawClient::connect(fixture.address).await;
    client.send(&["42[\"x\"]"]).await;
    // Engine.IO's close packet.
    client.send_engine_close().await;
    assert!(matches!(client.receive().await, Received::End(_)));
    let log = ["connect / {}", "connected /", "x() []", "disconnected / SessionEnded(Client)"];
    fixture.app().expect(&log).await;
}

#[tokio::test]
async fn a_session_occupies_its_place_until_the_application_is_done() {
    let config = Config { max_sessions: 1, ..Config::default() };
    let fixture = Fixture::start_app(config, App::holding_disconnects()).await;
    RawClient::connect(fixture.address).await.hang_up().await;
    wait_until(|| fixture.app().connection().has_ended(), || "the session ends".into()).await;
    assert_eq!(fixture.server.usage().engine.sessions, 1);
    let refused = handshake(fixture.address, "").await;
    assert!(!refused.starts_with("HTTP/1.1 200 "), "{refused}");
    fixture.app().gate.add_permits(10);
    fixture.expect_empty().await;
    let accepted = handshake(fixture.address, "").await;
    assert!(accepted.starts_with("HTTP/1.1 200 "), "{accepted}");
}

#[tokio::test]
async fn the_application_refuses_a_session() {
    let fixture = Fixture::start(Config::default()).await;
    let answer = handshake(fixture.address, "&refuse=1").await;
    assert!(answer.starts_with("HTTP/1.1 401 ") && answer.contains("refused"), "{answer}");
    fixture.expect_empty().await;
}

#[tokio::test]
async fn clients_are_not_told_when_the_server_stops() {
    let fixture = Fixture::start(Config::default()).await;
    let mut client = RawClient::connect(fixture.address).await;
    fixture.server.close();
    assert_eq!(client.texts_until_end().await, Vec::<String>::new());
    fixture.server.wait().await;
    assert_eq!(fixture.server.usage(), Default::default());
    let log = ["connect / {}", "connected /", &format!("disconnected / SessionEnded({:?})", End::Shutdown)];
    fixture.app().expect(&log).await;
    let refused = handshake(fixture.address, "").await;
    assert!(!refused.starts_with("HTTP/1.1 200 "), "{refused}");
}
