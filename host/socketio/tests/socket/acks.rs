//! Events and answers in both directions.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use sockhop_socketio::{Config, EmitError, NoReply, Reply};

use crate::raw::{Message, RawClient, Received};
use crate::server::Fixture;

#[tokio::test]
async fn events_are_answered_in_order() {
    let fixture = Fixture::start(Config::default()).await;
    let mut client = RawClient::connect(fixture.address).await;
    let events: Vec<String> =
        (0..300).map(|i| format!("42{i}[\"answer\",{i},\"x\",{{\"a\":[]}}]")).collect();
    client.send(&events.iter().map(String::as_str).collect::<Vec<_>>()).await;
    for i in 0..300 {
        assert_eq!(client.text().await, format!("43{i}[{i},\"x\",{{\"a\":[]}}]"));
    }
}

#[tokio::test]
async fn an_event_without_an_id_is_not_answered() {
    let fixture = Fixture::start(Config::default()).await;
    let mut client = RawClient::connect(fixture.address).await;
    client.send(&["42[\"answer\",1]"]).await;
    client.assert_alive().await;
}

#[tokio::test]
async fn an_event_waits_for_the_one_before() {
    let fixture = Fixture::start(Config::default()).await;
    let mut client = RawClient::connect(fixture.address).await;
    client.send(&["421[\"wait\"]", "422[\"answer\"]"]).await;
    fixture.app().expect(&["connect / {}", "connected /", "wait begins"]).await;
    // Events of other tasks are not delayed meanwhile.
    assert!(fixture.app().connection().emit("meanwhile", "", &[]));
    assert_eq!(client.text().await, "42[\"meanwhile\"]");
    fixture.app().gate.add_permits(1);
    assert_eq!(client.text().await, "431[]");
    assert_eq!(client.text().await, "432[]");
}

#[tokio::test]
async fn a_handler_ends_although_its_client_is_gone() {
    let fixture = Fixture::start(Config::default()).await;
    let mut client = RawClient::connect(fixture.address).await;
    client.send(&["421[\"wait\"]"]).await;
    let log = [
        "connect / {}",
        "connected /",
        "wait begins",
        "wait ends",
        "disconnected / SessionEnded(Transport)",
    ];
    fixture.app().expect(&log[..3]).await;
    client.hang_up().await;
    fixture.app().gate.add_permits(1);
    fixture.app().expect(&log).await;
    fixture.expect_empty().await;
}

#[tokio::test]
async fn a_client_answers() {
    let fixture = Fixture::start(Config::default()).await;
    let mut client = RawClient::connect(fixture.address).await;
    let connection = fixture.app().connection();
    let blob = [Bytes::from_static(&[1, 2])];
    let placeholder = r#"{"_placeholder":true,"num":0}"#;
    let first = connection.emit_with_ack("ask", "1", &[]).unwrap();
    let second = connection.emit_with_ack("ask", placeholder, &blob).unwrap();
    assert_eq!(client.text().await, "420[\"ask\",1]");
    assert_eq!(client.text().await, format!("451-1[\"ask\",{placeholder}]"));
    assert_eq!(client.receive().await, Received::Binary(vec![1, 2]));
    assert_eq!(fixture.server.usage().pending_acks, 2);
    let answer = format!("461-1[{placeholder},2]");
    // Unknown and repeated answers are ignored.
    client
        .send_messages(&[Message::Text(&answer), Message::Binary(&[3]), Message::Text("437[]")])
        .await;
    client.send(&["430[ \"yes\" , 2 ]", "430[\"again\"]"]).await;
    let reply = second.await.unwrap();
    assert_eq!(
        (reply.arguments, reply.attachments),
        (format!("{placeholder},2"), vec![Bytes::from_static(&[3])])
    );
    assert_eq!(first.await.unwrap().arguments, "\"yes\" , 2");
    assert_eq!(fixture.server.usage().pending_acks, 0);
    client.assert_alive().await;
}

#[tokio::test]
async fn an_answer_that_never_comes_is_an_error_when_the_connection_ends() {
    let fixture = Fixture::start(Config::default()).await;
    let mut client = RawClient::connect(fixture.address).await;
    let connection = fixture.app().connection();
    let waiting = connection.emit_with_ack("ask", "", &[]).unwrap();
    client.send(&["41"]).await;
    assert_eq!(waiting.await, Err(NoReply));
    assert_eq!(connection.emit_with_ack("ask", "", &[]).unwrap_err(), EmitError::Disconnected);
    client.send(&["40"]).await;
    assert_eq!(client.text().await, "420[\"ask\"]");
    assert!(client.text().await.starts_with("40{"));
    // A late answer to the earlier connection is not taken for one to this connection.
    let waiting = fixture.app().connection().emit_with_ack("ask", "", &[]).unwrap();
    assert_eq!(client.text().await, "421[\"ask\"]");
    client.send(&["430[\"late\"]"]).await;
    client.assert_alive().await;
    client.hang_up().await;
    assert_eq!(waiting.await, Err(NoReply));
    drop(connection);
    fixture.expect_empty().await;
}

#[tokio::test]
async fn the_answers_that_are_waited_for_are_bounded() {
    let fixture = Fixture::start(Config { max_pending_acks: 2, ..Config::default() }).await;
    let mut client = RawClient::connect(fixture.address).await;
    let connection = fixture.app().connection();
    let first = connection.emit_with_ack("ask", "", &[]).unwrap();
    let _second = connection.emit_with_ack("ask", "", &[]).unwrap();
    assert_eq!(connection.emit_with_ack("ask", "", &[]).unwrap_err(), EmitError::TooManyAcks);
    // A caller that waits no longer frees the place, and the late answer is ignored.
    drop(first);
    let _third = connection.emit_with_ack("ask", "", &[]).unwrap();
    assert_eq!(fixture.server.usage().pending_acks, 2);
    for id in 0..3 {
        assert_eq!(client.text().await, format!("42{id}[\"ask\"]"));
    }
    client.send(&["430[]"]).await;
    client.assert_alive().await;
}

/// Answers in the order in which functions were called.
type Called = Arc<Mutex<Vec<Result<String, NoReply>>>>;

/// Takes an answer.
fn note(called: &Called) -> impl FnOnce(Result<Reply, NoReply>) + Send + use<> {
    let called = Arc::clone(called);
    move |answer| called.lock().unwrap().push(answer.map(|reply| reply.arguments))
}

#[tokio::test]
async fn a_callback_gets_the_answer_before_the_next_event_is_handled() {
    let fixture = Fixture::start(Config::default()).await;
    let mut client = RawClient::connect(fixture.address).await;
    let (connection, called) = (fixture.app().connection(), Called::default());
    let mut asked = Vec::new();
    for id in 0..200 {
        asked.push(connection.emit_with_callback("ask", "", &[], note(&called)).unwrap());
        assert_eq!(client.text().await, format!("42{id}[\"ask\"]"));
        // Both in one read. The event is answered after the callback was called.
        client.send(&[&format!("43{id}[{id}]"), &format!("42{id}[\"answer\"]")]).await;
        assert_eq!(client.text().await, format!("43{id}[]"));
        assert_eq!(called.lock().unwrap().last(), Some(&Ok(id.to_string())));
    }
    assert_eq!((called.lock().unwrap().len(), fixture.server.usage().pending_acks), (200, 0));
    // The second answer to the same event is ignored.
    client.send(&["430[1]", "43999[1]"]).await;
    client.assert_alive().await;
    assert_eq!(called.lock().unwrap().len(), 200);
}

#[tokio::test]
async fn a_callback_is_called_once_when_the_connection_ends_and_never_after_it_is_cancelled() {
    let fixture = Fixture::start(Config { max_pending_acks: 2, ..Config::default() }).await;
    let mut client = RawClient::connect(fixture.address).await;
    let (connection, called) = (fixture.app().connection(), Called::default());
    let ask = || connection.emit_with_callback("ask", "", &[], note(&called));
    let cancelled = ask().unwrap();
    let _kept = ask().unwrap();
    assert_eq!(ask().unwrap_err(), EmitError::TooManyAcks);
    drop(cancelled);
    let _second = ask().unwrap();
    assert!(called.lock().unwrap().is_empty());
    for id in 0..3 {
        assert_eq!(client.text().await, format!("42{id}[\"ask\"]"));
    }
    client.send(&["430[\"late\"]", "432[\"in time\"]", "41"]).await;
    let expected = [Ok("\"in time\"".to_owned()), Err(NoReply)];
    fixture.app().expect(&["connect / {}", "connected /", "disconnected / Left"]).await;
    assert_eq!(*called.lock().unwrap(), expected);
    assert_eq!(ask().unwrap_err(), EmitError::Disconnected);
    assert_eq!((called.lock().unwrap().len(), fixture.server.usage().pending_acks), (2, 0));
}
