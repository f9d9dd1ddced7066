//! Clients whose transport is lost return to their connections, or learn that they can't.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::Value;
use sockhop_socketio::{Config, EmitError, NoReply, Recovery};

use crate::raw::{RawClient, Received};
use crate::server::{App, Fixture, wait_until};

fn config() -> Config {
    Config { recovery: Some(Recovery::default()), ..Config::default() }
}

/// The server's answer to CONNECT.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entered {
    sid: String,
    pid: String,
}

impl Entered {
    /// The `auth` of a client that returns.
    fn auth(&self, offset: Option<&str>) -> String {
        let offset = offset.map(|offset| format!(r#","offset":"{offset}""#)).unwrap_or_default();
        format!(r#"{{"pid":"{}"{offset}}}"#, self.pid)
    }
}

/// Enters a namespace, which is written as in a packet, with its comma.
async fn enter(client: &mut RawClient, namespace: &str, auth: &str) -> Entered {
    client.send(&[&format!("40{namespace}{auth}")]).await;
    let answer = client.text().await;
    let answer: Value =
        serde_json::from_str(answer.strip_prefix(&format!("40{namespace}")).unwrap()).unwrap();
    let field = |name: &str| answer.get(name).unwrap().as_str().unwrap().to_owned();
    Entered { sid: field("sid"), pid: field("pid") }
}

/// A client that returns in a new session.
async fn come_back(fixture: &Fixture, namespace: &str, auth: &str) -> (RawClient, Entered) {
    let mut client = RawClient::open(fixture.address).await;
    let entered = enter(&mut client, namespace, auth).await;
    (client, entered)
}

/// The next event without its offset, and its offset.
async fn event(client: &mut RawClient) -> (String, String) {
    let text = client.text().await;
    let (rest, offset) = text.strip_suffix("\"]").unwrap().rsplit_once(['"']).unwrap();
    (rest.trim_end_matches(',').to_owned(), offset.to_owned())
}

async fn expect_detached(fixture: &Fixture, count: usize) {
    let usage = || fixture.server.usage();
    wait_until(
        || usage().detached == count && usage().engine.sessions == 0,
        || format!("{:?}", usage()),
    )
    .await;
}

#[tokio::test]
async fn a_client_that_returns_gets_what_it_has_missed() {
    let fixture = Fixture::start(config()).await;
    let (mut client, entered) = come_back(&fixture, "", "").await;
    let connection = fixture.app().connection();
    let old_session = Arc::downgrade(&connection.session());
    assert!(connection.emit("one", "", &[]) && connection.emit("two", "\"2\"", &[]));
    let (one, offset) = event(&mut client).await;
    let two = event(&mut client).await;
    assert_eq!([one.as_str(), two.0.as_str()], ["42[\"one\"", "42[\"two\",\"2\""]);
    let asked = connection.emit_with_ack("ask", "", &[]).unwrap();
    assert_eq!(client.text().await, "420[\"ask\"]");
    client.hang_up().await;
    expect_detached(&fixture, 1).await;
    assert_eq!(asked.await, Err(NoReply));
    assert!(!connection.has_ended() && connection.queued_bytes() == 0);
    connection.writable(0).await;
    assert!(connection.emit("three", "", &[]));
    assert!(
        connection.send(&fixture.server.encode("/", "four", "4", &[vec![4; 2000].into()]).unwrap())
    );
    assert!(!connection.ack(1, "", &[]));
    assert_eq!(connection.emit_with_ack("ask", "", &[]).unwrap_err(), EmitError::Disconnected);
    assert!(fixture.server.usage().recovery_bytes > 2000);
    assert!(fixture.server.usage().engine.queued_bytes == 0);

    // The second event is lost on its way.
    let (mut client, again) = come_back(&fixture, "", &entered.auth(Some(&offset))).await;
    assert_eq!(again, entered);
    assert_eq!(event(&mut client).await, two);
    assert_eq!(event(&mut client).await.0, "42[\"three\"");
    assert_eq!(event(&mut client).await.0, "451-[\"four\",4");
    assert_eq!(client.receive().await, Received::Binary(vec![4; 2000]));
    assert!(connection.emit("five", "", &[]) && connection.ack(1, "", &[]));
    assert_eq!(event(&mut client).await.0, "42[\"five\"");
    assert_eq!(client.text().await, "431[]");
    client.assert_alive().await;
    wait_until(|| old_session.strong_count() == 0, || "the old session's value is dropped".into())
        .await;
    assert_eq!(fixture.server.usage().detached, 0);
    client.send(&["41"]).await;
    fixture
        .app()
        .expect(&["connect / {}", "connected /", "recovered /", "disconnected / Left"])
        .await;
    client.hang_up().await;
    drop(connection);
    fixture.expect_empty().await;
}

#[tokio::test]
async fn a_client_that_has_received_nothing_returns_with_no_offset_or_an_earlier_one() {
    let fixture = Fixture::start(config()).await;
    let (mut client, mut entered) = come_back(&fixture, "", "").await;
    fixture.app().connection().emit("one", "", &[]);
    let (_, earlier) = event(&mut client).await;
    client.send(&["41"]).await;
    entered = enter(&mut client, "", &entered.auth(Some(&earlier))).await;
    let connection = fixture.app().connection();
    for offset in [None, Some(earlier.as_str()), Some("of another server")] {
        client.hang_up().await;
        expect_detached(&fixture, 1).await;
        connection.emit("two", "", &[]);
        let again;
        (client, again) = come_back(&fixture, "", &entered.auth(offset)).await;
        assert_eq!(again, entered);
    }
    for _ in 0..3 {
        assert_eq!(event(&mut client).await.0, "42[\"two\"");
    }
    client.assert_alive().await;
}

#[tokio::test]
async fn a_client_that_missed_what_was_dropped_gets_a_new_connection() {
    let recovery = Recovery { max_bytes: 16 << 10, ..Recovery::default() };
    let fixture = Fixture::start(Config { recovery: Some(recovery), ..Config::default() }).await;
    let (mut client, entered) = come_back(&fixture, "", "").await;
    let connection = fixture.app().connection();
    connection.emit("first", "", &[]);
    let (_, offset) = event(&mut client).await;
    client.hang_up().await;
    expect_detached(&fixture, 1).await;
    for _ in 0..100 {
        assert!(connection.emit("page", &format!("\"{}\"", "x".repeat(200)), &[]));
        assert!(fixture.server.usage().recovery_bytes <= 1 << 10);
    }
    let auth = entered.auth(Some(&offset));
    let (mut client, again) = come_back(&fixture, "", &auth).await;
    assert!(again.sid != entered.sid && again.pid != entered.pid);
    assert!(connection.has_ended() && !connection.emit("x", "", &[]));
    client.assert_alive().await;
    let connect = format!("connect / {auth}");
    let log = [
        "connect / {}",
        "connected /",
        "disconnected / SessionEnded(Transport)",
        &connect,
        "connected /",
    ];
    fixture.app().expect(&log).await;
    // The old connection can't be used any more.
    let (_client, again) = come_back(&fixture, "", &auth).await;
    assert!(again.sid != entered.sid);
}

#[tokio::test]
async fn a_connection_ends_once_when_its_time_is_over() {
    let recovery = Recovery { duration: Duration::from_millis(50), ..Recovery::default() };
    let fixture = Fixture::start(Config { recovery: Some(recovery), ..Config::default() }).await;
    let (client, entered) = come_back(&fixture, "", "").await;
    let connection = fixture.app().connection();
    connection.emit("one", "", &[]);
    client.hang_up().await;
    let log = ["connect / {}", "connected /", "disconnected / SessionEnded(Transport)"];
    fixture.app().expect(&log).await;
    assert!(connection.has_ended() && !connection.emit("x", "", &[]));
    drop(connection);
    fixture.expect_empty().await;
    let (client, again) = come_back(&fixture, "", &entered.auth(None)).await;
    assert!(again.sid != entered.sid && again.pid != entered.pid);
    client.hang_up().await;
    fixture.expect_empty().await;
    let connect = format!("connect / {}", entered.auth(None));
    fixture.app().expect(&[&log[..], &[connect.as_str()], &log[1..]].concat()).await;
}

#[tokio::test]
async fn a_volatile_event_is_not_kept_and_leaves_no_gap_in_what_is() {
    let fixture = Fixture::start(config()).await;
    let (mut client, entered) = come_back(&fixture, "", "").await;
    let connection = fixture.app().connection();
    let volatile = |name: &str| connection.send(&connection.encode_volatile(name, "", &[]));
    assert!(
        connection.emit("one", "", &[]) && volatile("cursor") && connection.emit("two", "", &[])
    );
    let (one, offset) = event(&mut client).await;
    assert_eq!((one.as_str(), client.text().await.as_str()), ("42[\"one\"", "42[\"cursor\"]"));
    assert_eq!(event(&mut client).await.0, "42[\"two\"");
    let asked = Arc::new(AtomicU64::new(0));
    let ended = Arc::clone(&asked);
    let note = move |answer| {
        assert_eq!(answer, Err(NoReply));
        ended.fetch_add(1, Ordering::Relaxed);
    };
    let _pending = connection.emit_with_callback("ask", "", &[], note).unwrap();
    client.hang_up().await;
    expect_detached(&fixture, 1).await;
    assert_eq!(asked.load(Ordering::Relaxed), 1, "an answer is not waited for meanwhile");
    let before = fixture.server.usage().recovery_bytes;
    assert!(!volatile("cursor"));
    assert!(fixture.server.usage().recovery_bytes == before && connection.emit("three", "", &[]));
    let (mut client, again) = come_back(&fixture, "", &entered.auth(Some(&offset))).await;
    assert_eq!(again, entered);
    assert_eq!(event(&mut client).await.0, "42[\"two\"");
    assert_eq!(event(&mut client).await.0, "42[\"three\"");
    client.assert_alive().await;
}

#[tokio::test]
async fn a_client_that_knows_no_recovery_is_served_beside_its_old_connection() {
    let fixture = Fixture::start(config()).await;
    let (client, entered) = come_back(&fixture, "", "").await;
    let old = fixture.app().connection();
    client.hang_up().await;
    expect_detached(&fixture, 1).await;
    let (mut client, again) = come_back(&fixture, "", "").await;
    assert!(again.sid != entered.sid && again.pid != entered.pid);
    assert!(old.emit("old", "", &[]) && fixture.app().connection().emit("new", "", &[]));
    assert_eq!(event(&mut client).await.0, "42[\"new\"");
    client.assert_alive().await;
    assert_eq!(fixture.server.usage().detached, 1);
    fixture.app().expect(&["connect / {}", "connected /", "connect / {}", "connected /"]).await;
}

#[tokio::test]
async fn a_client_is_served_although_the_end_of_its_old_connection_is_still_handled() {
    let recovery = Recovery { duration: Duration::from_millis(1), ..Recovery::default() };
    let config = Config { recovery: Some(recovery), ..Config::default() };
    let fixture = Fixture::start_app(config, App::holding_disconnects()).await;
    let (client, entered) = come_back(&fixture, "", "").await;
    let old = fixture.app().connection();
    client.hang_up().await;
    wait_until(|| old.has_ended(), || "its time is over".into()).await;
    for auth in ["", &entered.auth(None)] {
        let (mut client, again) = come_back(&fixture, "", auth).await;
        assert_ne!(again.sid, entered.sid);
        client.assert_alive().await;
    }
}

#[tokio::test]
async fn a_secret_that_is_forged_or_of_another_namespace_opens_nothing() {
    let fixture = Fixture::start(config()).await;
    let (client, entered) = come_back(&fixture, "", "").await;
    client.hang_up().await;
    expect_detached(&fixture, 1).await;
    let forged = "A".repeat(22);
    for (namespace, pid) in
        [("", &*forged), ("", "x"), ("", ""), ("", &entered.sid), ("/a,", &entered.pid)]
    {
        let mut client = RawClient::open(fixture.address).await;
        let again = enter(&mut client, namespace, &format!(r#"{{"pid":"{pid}"}}"#)).await;
        assert!(again.sid != entered.sid && again.pid != entered.pid);
        client.send(&[&format!("41{namespace}")]).await;
        client.hang_up().await;
        expect_detached(&fixture, 1).await;
    }
    let (_client, again) = come_back(&fixture, "", &entered.auth(None)).await;
    assert_eq!(again, entered);
}

#[tokio::test]
async fn a_client_that_the_application_does_not_recover_gets_a_new_connection() {
    let fixture = Fixture::start(config()).await;
    let (client, entered) = come_back(&fixture, "", "").await;
    client.hang_up().await;
    expect_detached(&fixture, 1).await;
    let stranger = format!(r#"{{"pid":"{}","stranger":1}}"#, entered.pid);
    let (mut stranger, other) = come_back(&fixture, "", &stranger).await;
    assert!(other.sid != entered.sid && other.pid != entered.pid);
    stranger.assert_alive().await;
    let (_client, again) = come_back(&fixture, "", &entered.auth(None)).await;
    assert_eq!(again, entered, "a stranger does not end the connection");
}

#[tokio::test]
async fn a_connection_that_one_side_has_ended_is_not_kept() {
    let fixture = Fixture::start(config()).await;
    let mut log = Vec::new();
    for (how, reason) in [
        (0, "Left"),
        (1, "SessionEnded(Client)"),
        (2, "Server"),
        (3, "Server"),
        (4, "SessionEnded(Aborted)"),
    ] {
        let (mut client, entered) = come_back(&fixture, "", "").await;
        let connection = fixture.app().connection();
        match how {
            0 => client.send(&["41"]).await,
            1 => client.send_engine_close().await,
            2 => connection.disconnect(),
            3 => connection.close_session(),
            _ => connection.abort(),
        }
        log.extend([
            "connect / {}".to_owned(),
            "connected /".to_owned(),
            format!("disconnected / {reason}"),
        ]);
        fixture.app().expect(&log.iter().map(String::as_str).collect::<Vec<_>>()).await;
        assert!(connection.has_ended());
        client.hang_up().await;
        drop(connection);
        fixture.expect_empty().await;
        let (mut client, again) = come_back(&fixture, "", &entered.auth(None)).await;
        assert_ne!(again.sid, entered.sid);
        client.send(&["41"]).await;
        client.hang_up().await;
        fixture.expect_empty().await;
        let connect = format!("connect / {}", entered.auth(None));
        log.extend([connect, "connected /".to_owned(), "disconnected / Left".to_owned()]);
    }
}

#[tokio::test]
async fn a_detached_connection_that_the_application_ends_has_the_reason_of_its_transport() {
    let fixture = Fixture::start(config()).await;
    let mut log = Vec::new();
    for how in 0..3 {
        let (client, entered) = come_back(&fixture, "", "").await;
        client.hang_up().await;
        expect_detached(&fixture, 1).await;
        let connection = fixture.app().connection();
        match how {
            0 => connection.disconnect(),
            1 => connection.close_session(),
            _ => connection.abort(),
        }
        assert!(connection.has_ended() && !connection.emit("x", "", &[]));
        log.extend([
            "connect / {}".to_owned(),
            "connected /".to_owned(),
            "disconnected / SessionEnded(Transport)".to_owned(),
        ]);
        fixture.app().expect(&log.iter().map(String::as_str).collect::<Vec<_>>()).await;
        drop(connection);
        fixture.expect_empty().await;
        let (mut client, again) = come_back(&fixture, "", &entered.auth(None)).await;
        assert_ne!(again.sid, entered.sid);
        client.send(&["41"]).await;
        client.hang_up().await;
        fixture.expect_empty().await;
        log.extend([
            format!("connect / {}", entered.auth(None)),
            "connected /".to_owned(),
            "disconnected / Left".to_owned(),
        ]);
    }
}

#[tokio::test]
async fn two_namespaces_of_one_session_return_each_for_itself() {
    let fixture = Fixture::start(config()).await;
    let (mut client, main) = come_back(&fixture, "", "").await;
    let main_connection = fixture.app().connection();
    let other = enter(&mut client, "/a,", "").await;
    let other_connection = fixture.app().connection();
    main_connection.emit("m1", "", &[]);
    other_connection.emit("o1", "", &[]);
    let (_, main_offset) = event(&mut client).await;
    let (_, other_offset) = event(&mut client).await;
    client.hang_up().await;
    expect_detached(&fixture, 2).await;
    main_connection.emit("m2", "", &[]);
    other_connection.emit("o2", "", &[]);
    let (mut client, again) = come_back(&fixture, "/a,", &other.auth(Some(&other_offset))).await;
    assert_eq!(again, other);
    assert_eq!(event(&mut client).await.0, "42/a,[\"o2\"");
    assert_eq!(fixture.server.usage().detached, 1);
    // Its offsets are those of its namespace.
    main_connection.emit("m3", "", &[]);
    other_connection.emit("o3", "", &[]);
    assert_eq!(event(&mut client).await.0, "42/a,[\"o3\"");
    assert_eq!(enter(&mut client, "", &main.auth(Some(&main_offset))).await, main);
    assert_eq!(event(&mut client).await.0, "42[\"m2\"");
    assert_eq!(event(&mut client).await.0, "42[\"m3\"");
    client.assert_alive().await;
    let log = [
        "connect / {}",
        "connected /",
        "connect /a {}",
        "connected /a",
        "recovered /a",
        "recovered /",
    ];
    fixture.app().expect(&log).await;
}

#[tokio::test]
async fn a_client_that_returns_before_its_old_session_has_ended_takes_over() {
    let fixture = Fixture::start(config()).await;
    let (mut old, entered) = come_back(&fixture, "", "").await;
    let connection = fixture.app().connection();
    old.send(&["421[\"wait\"]"]).await;
    fixture.app().expect(&["connect / {}", "connected /", "wait begins"]).await;
    let mut client = RawClient::open(fixture.address).await;
    client.send(&[&format!("40{}", entered.auth(None))]).await;
    // The old session ends, but its handler still runs.
    wait_until(
        || connection.emit_with_ack("ask", "", &[]).is_err(),
        || "the old session ends".into(),
    )
    .await;
    assert!(!connection.has_ended() && connection.emit("one", "", &[]));
    fixture.app().gate.add_permits(1);
    assert!(client.text().await.contains(&entered.sid));
    while let Received::Text(_) = old.receive().await {}
    assert_eq!(event(&mut client).await.0, "42[\"one\"");
    client.assert_alive().await;
    let log = ["connect / {}", "connected /", "wait begins", "wait ends", "recovered /"];
    fixture.app().expect(&log).await;
    assert_eq!(fixture.server.usage().detached, 0);
}

#[tokio::test]
async fn a_client_without_a_pong_is_detached() {
    let (ping_interval, ping_timeout) = (Duration::from_millis(20), Duration::from_millis(500));
    let fixture = Fixture::start(Config { ping_interval, ping_timeout, ..config() }).await;
    // It reads nothing, and so it answers no ping.
    let (silent, entered) = come_back(&fixture, "", "").await;
    expect_detached(&fixture, 1).await;
    fixture.app().connection().emit("one", "", &[]);
    let (mut client, again) = come_back(&fixture, "", &entered.auth(None)).await;
    assert_eq!(again, entered);
    assert_eq!(event(&mut client).await.0, "42[\"one\"");
    drop(silent);
    client.send(&["41"]).await;
    fixture
        .app()
        .expect(&["connect / {}", "connected /", "recovered /", "disconnected / Left"])
        .await;
}

#[tokio::test]
async fn events_that_leave_out_of_order_are_found_by_their_offsets() {
    let fixture = Fixture::start(config()).await;
    let (mut client, entered) = come_back(&fixture, "", "").await;
    let connection = fixture.app().connection();
    let early = fixture.server.encode("/", "early", "", &[]).unwrap();
    connection.emit("first", "", &[]);
    connection.send(&early);
    connection.send(&early);
    connection.emit("last", "", &[]);
    let mut events = Vec::new();
    for name in ["first", "early", "early", "last"] {
        events.push(event(&mut client).await);
        assert_eq!(events.last().unwrap().0, format!("42[\"{name}\""));
    }
    for received in 0..events.len() {
        let offset = &events.get(received).unwrap().1;
        (client, _) = come_back(&fixture, "", &entered.auth(Some(offset))).await;
        for expected in events.iter().skip(received + 1) {
            assert_eq!(event(&mut client).await, *expected);
        }
        client.assert_alive().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn what_others_send_while_a_client_returns_arrives_once_and_in_order() {
    const MAX_AHEAD: u64 = 1000;
    let fixture = Fixture::start(config()).await;
    let (mut client, entered) = come_back(&fixture, "", "").await;
    let connection = fixture.app().connection();
    let received = AtomicU64::new(0);
    let send = async {
        let mut pace = tokio::time::interval(Duration::from_millis(1));
        for number in 0u64.. {
            // A client that is behind by more events than are kept would not be recovered.
            while number > received.load(Ordering::Relaxed) + MAX_AHEAD {
                pace.tick().await;
            }
            if number % 8 == 0 {
                pace.tick().await;
            }
            assert!(connection.emit("number", &number.to_string(), &[]));
        }
    };
    let receive = async {
        let (mut expected, mut offset) = (0, None);
        for cut in 0..100 {
            for _ in 0..1 + cut % 20 {
                let (text, at) = event(&mut client).await;
                assert_eq!(text, format!("42[\"number\",{expected}"));
                expected += 1;
                received.store(expected, Ordering::Relaxed);
                offset = Some(at);
            }
            // Every second time, the old session has not noticed its end.
            if cut % 2 == 0 {
                client.shut_down().await;
            }
            let again;
            (client, again) = come_back(&fixture, "", &entered.auth(offset.as_deref())).await;
            assert_eq!(again, entered);
        }
    };
    tokio::select! {
        () = receive => {}
        () = send => {}
    }
}

#[tokio::test]
async fn no_more_connections_are_kept_than_sessions_are_allowed() {
    let fixture = Fixture::start(Config { max_sessions: 1, ..config() }).await;
    let (client, entered) = come_back(&fixture, "", "").await;
    client.hang_up().await;
    expect_detached(&fixture, 1).await;
    let (client, _) = come_back(&fixture, "", "").await;
    client.hang_up().await;
    let log = [
        "connect / {}",
        "connected /",
        "connect / {}",
        "connected /",
        "disconnected / SessionEnded(Transport)",
    ];
    fixture.app().expect(&log).await;
    expect_detached(&fixture, 1).await;
    let (_client, again) = come_back(&fixture, "", &entered.auth(None)).await;
    assert_eq!(again, entered);
}

#[tokio::test]
async fn a_server_that_stops_keeps_no_connection() {
    let fixture = Fixture::start(config()).await;
    let (client, _) = come_back(&fixture, "", "").await;
    fixture.app().connection().emit("one", "", &[]);
    client.hang_up().await;
    expect_detached(&fixture, 1).await;
    let (_attached, _) = come_back(&fixture, "/a,", "").await;
    fixture.server.close();
    fixture.server.wait().await;
    assert_eq!(fixture.server.usage(), Default::default());
    assert!(fixture.app().connections().is_empty());
}
