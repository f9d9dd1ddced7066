//! Attachments of events and answers, and their bounds.

use std::time::Duration;

use sockhop_socketio::Config;

use crate::raw::{Message, RawClient, Received};
use crate::server::{Fixture, wait_until};

const TWO: &str = r#"{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}"#;

#[tokio::test]
async fn attachments_come_back() {
    let fixture = Fixture::start(Config::default()).await;
    let mut client = RawClient::connect(fixture.address).await;
    let (event, answered) = (format!("452-[\"echo\",{TWO}]"), format!("452-9[\"answer\",{TWO}]"));
    let data: Vec<u8> = (0..70_000).map(|i| i as u8).collect();
    for (sent, received) in [(&event, event.clone()), (&answered, format!("462-9[{TWO}]"))] {
        client
            .send_messages(&[Message::Text(sent), Message::Binary(&[]), Message::Binary(&data)])
            .await;
        assert_eq!(client.text().await, received);
        assert_eq!(client.receive().await, Received::Binary(Vec::new()));
        assert_eq!(client.receive().await, Received::Binary(data.clone()));
    }
    assert_eq!(fixture.server.usage().engine.unfinished_bytes, 0);
}

async fn ends(config: Config, end: &str, code: Option<u16>, messages: &[Message<'_>]) {
    let fixture = Fixture::start(config).await;
    let mut client = RawClient::connect(fixture.address).await;
    client.send_messages(messages).await;
    assert_eq!(client.until_end().await, (Vec::new(), code));
    let disconnected = format!("disconnected / SessionEnded({end})");
    fixture.app().expect(&["connect / {}", "connected /", &disconnected]).await;
    fixture.expect_empty().await;
}

#[tokio::test]
async fn too_many_attachments_are_not_waited_for() {
    let config = || Config { max_attachments: 10, ..Config::default() };
    ends(config(), "TooBig", Some(1009), &[Message::Text("4511-[\"x\"]")]).await;
    ends(config(), "TooBig", Some(1009), &[Message::Text("4599999999999-[\"x\"]")]).await;
}

#[tokio::test]
async fn attachments_are_bounded_in_bytes() {
    let config = Config { max_attachment_bytes: 100, ..Config::default() };
    let [first, second] = [Message::Binary(&[0; 60]), Message::Binary(&[0; 41])];
    ends(config, "TooBig", Some(1009), &[Message::Text("453-[\"x\"]"), first, second]).await;
}

#[tokio::test]
async fn attachments_that_do_not_come_are_not_waited_for_forever() {
    let config = Config { receive_timeout: Duration::from_millis(100), ..Config::default() };
    ends(config, "ReceiveTimeout", None, &[Message::Text("452-[\"x\"]"), Message::Binary(&[1])])
        .await;
}

#[tokio::test]
async fn many_small_attachments_and_arguments_are_counted_with_what_they_cost() {
    let fixture = Fixture::start(Config::default()).await;
    let mut client = RawClient::connect(fixture.address).await;
    let (announced, empty) = ("45901-[\"wait\"]", [0; 0]);
    let messages: Vec<_> = [Message::Text(announced)]
        .into_iter()
        .chain((0..900).map(|_| Message::Binary(&empty)))
        .collect();
    client.send_messages(&messages).await;
    let unfinished = || fixture.server.usage().engine.unfinished_bytes;
    wait_until(|| unfinished() >= 900 * 32, || unfinished().to_string()).await;
    client.send_messages(&[Message::Binary(&[])]).await;
    fixture.app().gate.add_permits(1);
    client.assert_alive().await;
    assert_eq!(unfinished(), 0);
    // An argument that is two characters long costs eight times as much while it is handled.
    client.send(&[&format!("421[\"wait\"{}]", ",1".repeat(50_000))]).await;
    wait_until(|| unfinished() >= 50_000 * 16, || unfinished().to_string()).await;
    fixture.app().gate.add_permits(1);
    assert!(client.text().await.starts_with("431[1,1"));
    client.assert_alive().await;
    assert_eq!(unfinished(), 0);
}

#[tokio::test]
async fn nothing_may_come_between_a_packet_and_its_attachments() {
    ends(
        Config::default(),
        "Parse",
        Some(1008),
        &[Message::Text("451-[\"x\"]"), Message::Text("42[\"x\"]")],
    )
    .await;
    ends(
        Config::default(),
        "Parse",
        Some(1008),
        &[Message::Text("451-[\"x\"]"), Message::Text("451-[\"x\"]")],
    )
    .await;
    // Another parser, such as msgpack's, begins like this.
    ends(Config::default(), "Parse", Some(1008), &[Message::Binary(&[0x85, 0xa4])]).await;
}

#[tokio::test]
async fn unfinished_packets_of_all_sessions_are_bounded_together() {
    let config = Config { max_unfinished_total: 40_000, ..Config::default() };
    let fixture = Fixture::start(config).await;
    let mut clients = Vec::new();
    for _ in 0..4 {
        let mut client = RawClient::connect(fixture.address).await;
        client.send_messages(&[Message::Text("453-[\"x\"]"), Message::Binary(&[0; 4000])]).await;
        clients.push(client);
    }
    let unfinished = || fixture.server.usage().engine.unfinished_bytes;
    wait_until(|| unfinished() > 16_000, || unfinished().to_string()).await;
    // Above half of the bound, a session gets no more than its share.
    let mut greedy = clients.pop().unwrap();
    greedy.send_messages(&[Message::Binary(&[0; 4000])]).await;
    greedy.texts_until_end().await;
    wait_until(|| unfinished() < 13_000, || unfinished().to_string()).await;
    let mut honest = RawClient::connect(fixture.address).await;
    honest.assert_alive().await;
    drop(clients);
    honest.hang_up().await;
    fixture.expect_empty().await;
}
