//! The log: one record for each end of a session, at the level of its cause, and no secrets in it.

use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sockhop_socketio::{Batch, Config, Recovery};
use tracing::field::{Field, Visit};
use tracing::subscriber::DefaultGuard;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

use crate::polling::{PollingClient, ask};
use crate::raw::{Message, RawClient};
use crate::server::{Fixture, wait_until};

/// A text that clients send and that no record may contain.
const SECRET: &str = "s3cr3t";

/// The records of the crate, of the thread of one test: its level and its text with all fields.
#[derive(Clone, Default)]
struct Records(Arc<Mutex<Vec<(Level, String)>>>);

impl Records {
    /// Collects until the guard is dropped. All tasks of the test run on its thread.
    fn collect() -> (Self, DefaultGuard) {
        let records = Self::default();
        let subscriber = tracing_subscriber::registry().with(records.clone());
        (records, tracing::subscriber::set_default(subscriber))
    }

    fn all(&self) -> Vec<(Level, String)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for the one record of a session's end, and returns its level and text.
    async fn end(&self) -> (Level, String) {
        let ends = || {
            let mut all = self.all();
            all.retain(|(_, text)| text.contains("session ended"));
            all
        };
        wait_until(|| !ends().is_empty(), || format!("{:#?}", self.all())).await;
        let ends = ends();
        assert_eq!(ends.len(), 1, "{:#?}", self.all());
        ends.into_iter().next().unwrap()
    }
}

impl<S: Subscriber> Layer<S> for Records {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let metadata = event.metadata();
        if !metadata.target().starts_with("sockhop_socketio") {
            return;
        }
        let mut text = Text::default();
        event.record(&mut text);
        let mut records = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        records.push((*metadata.level(), text.0));
    }
}

#[derive(Default)]
struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.push_str(&format!("{}={value:?} ", field.name()));
    }
}

/// How a test makes a session end.
#[derive(Debug, Clone, Copy)]
enum How {
    /// The client sends this.
    Sends(&'static str),
    HangsUp,
    SaysNothing,
    SendsCloseFrame,
    SendsTooMuch,
    ReadsNothing,
    PollsTwice,
    NeverConnects,
    ServerStops,
}

/// Settings with which each end comes soon.
fn config(how: How) -> Config {
    let (soon, never) = (Duration::from_millis(60), Duration::from_secs(60));
    let is = |wanted: &str| format!("{how:?}").contains(wanted);
    Config {
        ping_interval: if is("SaysNothing") { soon } else { never },
        ping_timeout: if is("SaysNothing") { soon } else { never },
        connect_timeout: if is("NeverConnects") { soon } else { never },
        receive_timeout: soon,
        max_payload: 10_000,
        max_queued: 100_000,
        max_unfinished_total: if is("450") { 50 } else { 1 << 20 },
        // An end for which the client could return has its record too.
        recovery: Some(Recovery { duration: soon, ..Recovery::default() }),
        ..Config::default()
    }
}

/// Makes a session end, and returns the record of its end.
async fn end(how: How) -> (Level, String) {
    let (records, _guard) = Records::collect();
    let fixture = Fixture::start(config(how)).await;
    let auth = format!("40{{\"token\":\"{SECRET}\"}}");
    let event = format!("42[\"x\",\"{SECRET}\"]");
    if let How::PollsTwice = how {
        let client = PollingClient::open(fixture.address).await;
        client.post(&[&auth, &event]).await;
        assert!(client.get().await.contains("pid"));
        tokio::join!(client.get(), client.get());
    } else {
        let mut client = RawClient::open(fixture.address).await;
        if !matches!(how, How::NeverConnects) {
            client.send(&[&auth, &event]).await;
            assert!(client.text().await.contains("pid"));
        }
        match how {
            How::Sends(text) => client.send(&[text]).await,
            How::HangsUp => client.shut_down().await,
            How::SendsCloseFrame => client.send_messages(&[Message::Close]).await,
            How::SendsTooMuch => client.send(&[&SECRET.repeat(10_000)]).await,
            How::ReadsNothing => {
                let (connection, batch) = (fixture.app().connection(), Batch::default());
                let page = format!("\"{}\"", SECRET.repeat(10_000));
                while connection.emit_in(&batch, "page", &page, &[]) {}
            }
            How::ServerStops => fixture.server.close(),
            How::SaysNothing | How::NeverConnects | How::PollsTwice => {}
        }
        let (level, text) = records.end().await;
        drop(client);
        fixture.expect_empty().await;
        assert_eq!(records.end().await, (level, text));
    }
    let found = records.end().await;
    fixture.expect_empty().await;
    for (level, text) in records.all() {
        let is_end = (level, &text) == (found.0, &found.1);
        assert!(is_end || level > Level::INFO || text.contains("panicked"), "{level} {text}");
        assert!(!text.contains(SECRET), "{text}");
        let session = text.split_once("session=Sid(").map(|(_, session)| session.find("…)"));
        assert!(session.is_none_or(|end| end == Some(4)), "only the id's beginning: {text}");
    }
    found
}

#[tokio::test]
async fn each_end_of_a_session_has_one_record_at_its_level_and_without_secrets() {
    for (how, end_name, level) in [
        (How::Sends("1"), "Client", Level::DEBUG),
        (How::HangsUp, "Transport", Level::DEBUG),
        (How::SendsCloseFrame, "Transport", Level::DEBUG),
        (How::SaysNothing, "PingTimeout", Level::DEBUG),
        (How::NeverConnects, "ConnectTimeout", Level::DEBUG),
        (How::Sends("451-[\"s3cr3t\"]"), "ReceiveTimeout", Level::DEBUG),
        (How::Sends("42{\"s3cr3t\"}"), "Parse", Level::INFO),
        (How::PollsTwice, "Overlap", Level::INFO),
        (How::SendsTooMuch, "TooBig", Level::INFO),
        (How::ReadsNothing, "Overflow", Level::WARN),
        (How::Sends("450000000001-[\"s3cr3t s3cr3t s3cr3t s3cr3t\"]"), "Overload", Level::WARN),
        (How::Sends("42[\"bye\",\"s3cr3t\"]"), "Server", Level::DEBUG),
        (How::Sends("42[\"abort\",\"s3cr3t\"]"), "Aborted", Level::DEBUG),
        (How::Sends("42[\"panic\",\"s3cr3t\"]"), "Aborted", Level::DEBUG),
        (How::ServerStops, "Shutdown", Level::DEBUG),
    ] {
        let (found, text) = end(how).await;
        assert!(text.contains(&format!("end={end_name} ")), "{how:?}: {text}");
        assert_eq!(found, level, "{how:?}: {text}");
        // The application names a client by its namespace. A client that has left has no name.
        let is_named = !matches!(end_name, "ConnectTimeout" | "Server");
        assert_eq!(text.contains("client=\"/\""), is_named, "{how:?}: {text}");
        assert!(text.contains("session=Sid("), "{how:?}: {text}");
    }
}

#[tokio::test]
async fn what_a_client_does_wrong_is_logged_with_the_name_that_the_application_gives_it() {
    let (records, _guard) = Records::collect();
    let fixture = Fixture::start(Config::default()).await;
    let mut client = RawClient::connect(fixture.address).await;
    client.send(&["40/unknown,", "40/unknown,", "42[\"panic\",\"s3cr3t\"]"]).await;
    client.texts_until_end().await;
    let handshake = "GET /socket.io/?EIO=3&transport=polling HTTP/1.1\r\nHost: x\r\n\
                     Connection: close\r\n\r\n";
    let refused = ask(fixture.address, handshake).await;
    assert!(refused.starts_with("HTTP/1.1 400 ") && refused.contains("\"code\":5"), "{refused}");
    records.end().await;
    let mut all = records.all();
    all.retain(|(level, _)| *level <= Level::INFO);
    let texts: Vec<_> = all.iter().map(|(level, text)| format!("{level} {text}")).collect();
    let [unknown, panicked, old] = &texts[..] else { panic!("{texts:#?}") };
    assert!(old.starts_with("INFO ") && old.contains("another Engine.IO version"), "{old}");
    assert!(unknown.starts_with("INFO ") && unknown.contains("unknown namespace"), "{unknown}");
    assert!(panicked.starts_with("ERROR ") && panicked.contains("handler panicked"), "{panicked}");
    assert!([unknown, panicked].iter().all(|text| text.contains("client=\"/\"")), "{texts:#?}");
}
