//! How connections end, and how the application and the client are notified.

use sockhop_socketio::{Config, EmitError, End, NoReply, Recovery};

use crate::polling::handshake;
use crate::raw::{Message, RawClient, Received};
use crate::server::{App, Fixture, wait_until};

#[tokio::test]
async fn a_client_that_is_disconnected_receives_what_is_queued() {
    let fixture = Fixture::start(Config::default()).await;
    let mut client = RawClient::connect(fixture.address).await;
    client.send(&["42[\"bye\"]", "42[\"x\"]"]).await;
    assert_eq!(client.texts_until_end().await, ["42[\"last\",1]", "41"]);
    let log = ["connect / {}", "connected /", "disconnected / Server"];
    fixture.app().expect(&log).await;
    fixture.expect_empty().await;
}

#[tokio::test]
async fn any_task_can_disconnect_or_abort() {
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
    let log = [once[0], once[1], "disconnected / Server", once[0], once[1]];
    fixture.app().expect(&[&log[..], &["disconnected / SessionEnded(Aborted)"]].concat()).await;
    fixture.expect_empty().await;
}

#[tokio::test]
async fn a_client_is_disconnected_from_one_namespace_and_stays_in_the_other() {
    let fixture = Fixture::start(Config::default()).await;
    let mut client = RawClient::connect(fixture.address).await;
    client.send(&["40/a,"]).await;
    assert!(client.text().await.starts_with("40/a,"));
    let connection = fixture.app().connection();
    let asked = connection.emit_with_ack("ask", "", &[]).unwrap();
    // The client says nothing meanwhile.
    connection.disconnect();
    let mut log = vec![
        "connect / {}",
        "connected /",
        "connect /a {}",
        "connected /a",
        "disconnected /a Server",
    ];
    fixture.app().expect(&log).await;
    assert_eq!(asked.await, Err(NoReply));
    assert_eq!([client.text().await, client.text().await], ["42/a,0[\"ask\"]", "41/a,"]);
    client.send(&["42/a,[\"x\"]", "43/a,0[]", "41/a"]).await;
    client.assert_alive().await;
    client.send(&["40/a,"]).await;
    assert!(client.text().await.starts_with("40/a,"));
    fixture.app().connections()[0].disconnect();
    assert_eq!(client.text().await, "41");
    fixture.app().connection().disconnect();
    assert_eq!(client.texts_until_end().await, ["41/a,"]);
    log.extend([
        "connect /a {}",
        "connected /a",
        "disconnected / Server",
        "disconnected /a Server",
    ]);
    fixture.app().expect(&log).await;
    drop(connection);
    fixture.expect_empty().await;
}

#[tokio::test]
async fn a_client_that_was_disconnected_may_enter_at_once() {
    let fixture = Fixture::start(Config::default()).await;
    let mut client = RawClient::connect(fixture.address).await;
    client.send(&["42[\"bye\"]", "42[\"x\"]", "40", "42[\"y\"]"]).await;
    assert_eq!([client.text().await, client.text().await], ["42[\"last\",1]", "41"]);
    assert!(client.text().await.starts_with("40{"));
    client.assert_alive().await;
    let log = [
        "connect / {}",
        "connected /",
        "disconnected / Server",
        "connect / {}",
        "connected /",
        "y() []",
    ];
    fixture.app().expect(&log).await;
}

#[tokio::test]
async fn a_session_that_is_closed_takes_all_its_connections_with_it() {
    let fixture = Fixture::start(Config::default()).await;
    let mut client = RawClient::connect(fixture.address).await;
    client.send(&["40/a,"]).await;
    assert!(client.text().await.starts_with("40/a,"));
    fixture.app().connection().close_session();
    assert_eq!(client.until_end().await, (vec!["41/a,".into(), "41".into()], Some(1000)));
    let log = ["connect / {}", "connected /", "connect /a {}", "connected /a"];
    let ends = ["disconnected / Server", "disconnected /a Server"];
    fixture.app().expect(&[&log[..], &ends].concat()).await;
    fixture.expect_empty().await;
}

#[tokio::test]
async fn nothing_is_handled_after_the_application_has_closed_the_session() {
    for later in ["42[\"x\"]", "42/a,[\"x\"]", "40/b,", "40/a,", "41"] {
        let fixture = Fixture::start(Config::default()).await;
        let mut client = RawClient::connect(fixture.address).await;
        client.send(&["40/a,", "42/a,[\"close\"]", later, "40/b,"]).await;
        assert!(client.text().await.starts_with("40/a,"));
        assert_eq!(client.texts_until_end().await, ["41/a,", "41"], "{later}");
        let log = ["connect / {}", "connected /", "connect /a {}", "connected /a"];
        let mut ends = ["disconnected / Server", "disconnected /a Server"];
        // A connection that has ended already is removed first.
        if later.contains("/a,") {
            ends.reverse();
        }
        fixture.app().expect(&[&log[..], &ends].concat()).await;
        fixture.expect_empty().await;
    }
}

#[tokio::test]
async fn nothing_behind_a_close_frame_or_a_close_packet_is_handled() {
    for (closing, reason) in [(Message::Close, "Transport"), (Message::Text("1"), "Client")] {
        let fixture = Fixture::start(Config::default()).await;
        let mut client = RawClient::connect(fixture.address).await;
        let [wait, late] = ["421[\"wait\"]", "42[\"y\"]"].map(Message::Text);
        client.send_messages(&[wait, closing, late]).await;
        let log = ["connect / {}", "connected /", "wait begins", "wait ends"];
        fixture.app().expect(&log[..3]).await;
        // In another read, while the handler of the first event waits.
        client.send(&["42[\"z\"]"]).await;
        fixture.app().gate.add_permits(1);
        let (texts, code) = client.until_end().await;
        assert_eq!(texts, ["431[]"]);
        assert_eq!(code, (reason == "Client").then_some(1000));
        let disconnected = format!("disconnected / SessionEnded({reason})");
        fixture.app().expect(&[&log[..], &[&disconnected]].concat()).await;
        fixture.expect_empty().await;
    }
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
async fn a_handler_that_panics_before_it_returns_a_future_ends_its_session_only() {
    let fixture = Fixture::start(Config::default()).await;
    let mut client = RawClient::connect(fixture.address).await;
    client.send(&["42[\"eager panic\"]", "42[\"x\"]"]).await;
    client.texts_until_end().await;
    let log = ["connect / {}", "connected /", "disconnected / SessionEnded(Aborted)"];
    fixture.app().expect(&log).await;
    fixture.expect_empty().await;
}

#[tokio::test]
async fn connections_end_although_the_task_of_their_session_panics() {
    for recovery in [None, Some(Recovery::default())] {
        let fixture = Fixture::start(Config { recovery, ..Config::default() }).await;
        let mut client = RawClient::connect(fixture.address).await;
        client.send(&["40/a,", "42/a,[\"late panic\"]", "42[\"x\"]"]).await;
        client.texts_until_end().await;
        let log = [
            "connect / {}",
            "connected /",
            "connect /a {}",
            "connected /a",
            "late panic() []",
            "disconnected / SessionEnded(Aborted)",
            "disconnected /a SessionEnded(Aborted)",
        ];
        fixture.app().expect(&log).await;
        fixture.expect_empty().await;
    }
}

#[tokio::test]
async fn a_panic_in_disconnected_keeps_no_other_connection_from_being_called() {
    let fixture = Fixture::start(Config::default()).await;
    let mut client = RawClient::open(fixture.address).await;
    client.send(&["40{\"panic\":1}", "40/a,"]).await;
    assert!(client.text().await.starts_with("40{"));
    assert!(client.text().await.starts_with("40/a,{"));
    client.hang_up().await;
    let ended =
        ["disconnected / SessionEnded(Transport)", "disconnected /a SessionEnded(Transport)"];
    let log = [
        "connect / {\"panic\":1}",
        "connected /",
        "connect /a {}",
        "connected /a",
        ended[0],
        ended[1],
    ];
    fixture.app().expect(&log).await;
    fixture.expect_empty().await;
}

#[tokio::test]
async fn what_disconnected_sends_to_others_leaves_while_it_waits() {
    let fixture = Fixture::start_app(Config::default(), App::holding_disconnects()).await;
    let mut watcher = RawClient::open(fixture.address).await;
    watcher.send(&["40{\"watch\":1}"]).await;
    assert!(watcher.text().await.starts_with("40{"));
    RawClient::connect(fixture.address).await.hang_up().await;
    assert_eq!(watcher.text().await, "42[\"gone\"]");
    fixture.app().gate.add_permits(10);
    watcher.hang_up().await;
    fixture.expect_empty().await;
}

#[tokio::test]
async fn nothing_is_sent_after_the_end_of_the_session() {
    let fixture = Fixture::start_app(Config::default(), App::holding_disconnects()).await;
    let _client = RawClient::connect(fixture.address).await;
    let connection = fixture.app().connection();
    connection.abort();
    assert!(!connection.emit("x", "", &[]) && !connection.ack(1, "", &[]));
    assert!(!connection.send(&connection.encode("x", "", &[])));
    assert_eq!(connection.emit_with_ack("x", "", &[]).unwrap_err(), EmitError::Disconnected);
    fixture.app().gate.add_permits(10);
    drop(connection);
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
    let log = [
        "connect / {}",
        "connected /",
        &format!("disconnected / SessionEnded({:?})", End::Shutdown),
    ];
    fixture.app().expect(&log).await;
    let refused = handshake(fixture.address, "").await;
    assert!(!refused.starts_with("HTTP/1.1 200 "), "{refused}");
}
