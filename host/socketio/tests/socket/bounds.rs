//! The queues of clients: bounded in bytes, and with shared memory for events that many receive.

use sockhop_socketio::{Batch, Config};

use crate::raw::RawClient;
use crate::server::{Fixture, wait_until};

#[tokio::test]
async fn an_event_for_many_is_encoded_once() {
    let fixture = Fixture::start(Config::default()).await;
    let mut clients = Vec::new();
    for _ in 0..5 {
        clients.push(RawClient::connect(fixture.address).await);
    }
    // Fewer bytes than those from which on a message leaves before the batch ends.
    let large = format!("\"{}\"", "x".repeat(60_000));
    let event = fixture.server.encode("/", "news", &large, &[]).unwrap();
    assert_eq!(fixture.server.usage().engine.queued_bytes, event.len());
    let batch = Batch::default();
    for connection in fixture.app().connections() {
        assert!(connection.send_in(&batch, &event));
        assert_eq!(connection.queued_bytes(), event.len());
    }
    assert_eq!(fixture.server.usage().engine.queued_bytes, event.len());
    drop(batch);
    for client in &mut clients {
        assert_eq!(client.text().await, format!("42[\"news\",{large}]"));
    }
    drop(event);
    wait_until(|| fixture.server.usage().engine.queued_bytes == 0, || "all is sent".into()).await;
}

#[tokio::test]
async fn an_event_is_sent_in_its_namespace_only() {
    let fixture = Fixture::start(Config::default()).await;
    let mut client = RawClient::connect(fixture.address).await;
    let connection = fixture.app().connection();
    let event = fixture.server.encode("/a", "news", "1", &[]).unwrap();
    assert_eq!(event.namespace(), "/a");
    assert!(!connection.send(&event));
    assert!(connection.send(&connection.encode("news", "2", &[])));
    assert_eq!(client.text().await, "42[\"news\",2]");
    assert!(fixture.server.encode("/unknown", "news", "", &[]).is_none());
}

#[tokio::test]
async fn a_client_that_does_not_read_costs_its_bound() {
    let config = Config { max_queued: 1 << 20, ..Config::default() };
    let fixture = Fixture::start(config).await;
    let client = RawClient::connect(fixture.address).await;
    let connection = fixture.app().connection();
    let page = format!("\"{}\"", "x".repeat(64 << 10));
    // The bytes that the kernel takes come on top of the bound.
    for _ in 0..1000 {
        let is_queued = connection.emit("page", &page, &[]);
        assert_eq!(is_queued, !connection.has_ended());
        assert!(connection.queued_bytes() <= (1 << 20) + (65 << 10));
        if connection.has_ended() {
            break;
        }
    }
    assert!(connection.has_ended());
    fixture
        .app()
        .expect(&["connect / {}", "connected /", "disconnected / SessionEnded(Overflow)"])
        .await;
    drop((client, connection));
    fixture.expect_empty().await;
}

#[tokio::test]
async fn a_client_is_not_read_while_its_handler_waits() {
    let fixture = Fixture::start(Config::default()).await;
    let mut client = RawClient::connect(fixture.address).await;
    client.send(&["421[\"wait\"]"]).await;
    fixture.app().expect(&["connect / {}", "connected /", "wait begins"]).await;
    let event = format!("42[\"x\",\"{}\"]", "x".repeat(500_000));
    // The kernel takes a few megabytes, and then the client can write no more.
    let written = client.write_until_stalled(&event, 200).await;
    assert!(written < 100, "{written} events were written");
    assert!(fixture.server.usage().engine.unfinished_bytes < 2_000_000);
    assert_eq!(fixture.server.usage().engine.sessions, 1);
}

#[tokio::test]
async fn a_task_that_sends_much_waits_until_the_client_has_read() {
    let fixture = Fixture::start(Config { max_queued: 1 << 20, ..Config::default() }).await;
    let mut client = RawClient::connect(fixture.address).await;
    let connection = fixture.app().connection();
    let page = format!("\"{}\"", "x".repeat(256 << 10));
    let send = async {
        for _ in 0..100 {
            connection.writable(1 << 19).await;
            assert!(connection.emit("page", &page, &[]));
        }
    };
    let receive = async {
        for _ in 0..100 {
            assert_eq!(client.text().await.len(), page.len() + 11);
        }
    };
    tokio::join!(send, receive);
    connection.abort();
    connection.writable(0).await;
}

#[tokio::test]
async fn volatile_events_never_end_the_session_of_a_client_that_does_not_read() {
    let fixture = Fixture::start(Config { max_queued: 64 << 10, ..Config::default() }).await;
    let mut client = RawClient::connect(fixture.address).await;
    let connection = fixture.app().connection();
    let frame = connection.encode_volatile("cursor", &format!("\"{}\"", "x".repeat(10 << 10)), &[]);
    // The kernel takes the first ones.
    let sent = (0..10_000).filter(|_| connection.send_volatile(None, &frame, usize::MAX)).count();
    assert!(sent < 10_000 && !connection.has_ended(), "{sent}");
    assert!(connection.queued_bytes() <= 64 << 10);
    assert!(!connection.send_volatile(None, &frame, 1_000), "more waits than that");
    for _ in 0..sent {
        assert!(client.text().await.starts_with("42[\"cursor\""));
    }
    client.assert_alive().await;
    assert!(connection.send_volatile(None, &frame, 1_000));
    assert!(client.text().await.starts_with("42[\"cursor\""));
}

#[tokio::test]
async fn volatile_events_of_several_tasks_do_not_exceed_a_bound_together() {
    let fixture = Fixture::start(Config { max_queued: 64 << 10, ..Config::default() }).await;
    let mut client = RawClient::connect(fixture.address).await;
    let connection = fixture.app().connection();
    let frame = connection.encode_volatile("cursor", &format!("\"{}\"", "x".repeat(30 << 10)), &[]);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..5_000 {
                    connection.send_volatile(None, &frame, usize::MAX);
                }
            });
        }
    });
    assert!(!connection.has_ended());
    assert!(client.text().await.starts_with("42[\"cursor\""));
}
