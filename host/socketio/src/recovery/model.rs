//! A client that loses its session at any moment, against the list of events that were sent to it.

use std::future::{Future, poll_fn, ready};
use std::pin::pin;
use std::sync::Mutex as StdMutex;
use std::task::Poll;

use http::request::Parts;
use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::client::Client;
use crate::connection::{
    ConnectError, ConnectRequest, Connection, Context, DisconnectReason, Event, EventFrame, Handler,
};
use crate::engineio::testing::{session, take_packets};
use crate::engineio::{Batch, End, Protocol, Refused, Session};
use crate::hub::Hub;

/// Records its calls.
#[derive(Default)]
struct App {
    log: StdMutex<Vec<&'static str>>,
    connected: StdMutex<Vec<Arc<Connection<App>>>>,
}

impl App {
    fn log(&self, entry: &'static str) -> std::future::Ready<()> {
        self.log.lock().unwrap().push(entry);
        ready(())
    }
}

impl Handler for App {
    type Session = ();
    type Data = ();

    fn open(&self, _request: &Parts) -> Result<(), Refused> {
        Ok(())
    }

    async fn connect(&self, _request: &ConnectRequest<'_, Self>) -> Result<(), ConnectError> {
        ready(Ok(())).await
    }

    async fn connected(&self, cx: &Context<'_, Self>) {
        self.connected.lock().unwrap().push(Arc::clone(cx.connection()));
        self.log("connected").await;
    }

    async fn recovered(&self, _cx: &Context<'_, Self>) {
        self.log("recovered").await;
    }

    async fn event(&self, _cx: &Context<'_, Self>, _event: &Event<'_>) {
        ready(()).await;
    }

    async fn disconnected(&self, _cx: &Context<'_, Self>, reason: DisconnectReason) {
        assert_eq!(reason, DisconnectReason::SessionEnded(End::Transport));
        self.log("disconnected").await;
    }
}

#[derive(Debug, Clone)]
enum Step {
    Emit {
        len: usize,
    },
    /// An event is encoded, and sent later, perhaps never or twice.
    Encode,
    Send(usize),
    Answer,
    /// The client receives the queued packets.
    Receive,
    /// The session ends, and queued packets are lost.
    Lose,
    /// The client returns, perhaps before its session has ended.
    Return,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0..300usize).prop_map(|len| Step::Emit { len }),
        2 => Just(Step::Encode),
        4 => (0..10usize).prop_map(Step::Send),
        1 => Just(Step::Answer),
        4 => Just(Step::Receive),
        2 => Just(Step::Lose),
        4 => Just(Step::Return),
    ];
    proptest::collection::vec(step, 1..80)
}

/// A stock client, as far as this matters, and the server's side of its session.
struct Model {
    hub: Arc<Hub<App>>,
    session: Arc<Session>,
    client: Client<App>,
    is_lost: bool,
    /// Its id and secret.
    entered: (String, String),
    offset: Option<String>,
    /// The numbers that were sent to its connection, and how many of them it has received.
    sent: Vec<u64>,
    received: usize,
    log: Vec<&'static str>,
}

impl Model {
    fn connection(&self) -> Arc<Connection<App>> {
        Arc::clone(self.hub.handler().connected.lock().unwrap().last().unwrap())
    }

    /// Enters in a new session, while the old one may end. Returns whether it was recovered.
    async fn enter(&mut self, auth: &str) -> bool {
        let (session, batch) = (session(), Batch::default());
        let mut client = Client::new(&self.hub, &session, ());
        let mut is_lost = self.is_lost;
        let packet = format!("0{auth}");
        {
            let mut entering = pin!(client.text(&packet, &batch));
            let first = poll_fn(|cx| Poll::Ready(entering.as_mut().poll(cx))).await;
            if first.is_pending() {
                assert!(
                    !is_lost && self.session.ended() == Some(End::Transport),
                    "it waits for the old session only"
                );
                self.client.closed(End::Transport, &batch).await;
                is_lost = true;
                entering.await.unwrap();
            }
        }
        if !is_lost {
            // The server did not know that it is the same client.
            self.session.end(End::Transport);
            self.client.closed(End::Transport, &batch).await;
        }
        (self.session, self.client, self.is_lost) = (session, client, false);
        let packets = take_packets(&self.session);
        let (answer, events) = packets.split_first().unwrap();
        let answer: Value = serde_json::from_str(answer.strip_prefix("40").unwrap()).unwrap();
        let field = |name: &str| answer[name].as_str().unwrap().to_owned();
        let entered = (field("sid"), field("pid"));
        let is_recovered = entered == self.entered;
        assert_eq!(is_recovered, entered.1 == self.entered.1);
        if !is_recovered {
            (self.sent, self.received, self.entered) = (Vec::new(), 0, entered);
        }
        self.take(events);
        is_recovered
    }

    /// The client receives events, and answers that have no offset.
    fn take(&mut self, packets: &[String]) {
        for packet in packets.iter().filter(|packet| !packet.starts_with("43")) {
            let event: Vec<Value> =
                serde_json::from_str(packet.strip_prefix("42").unwrap()).unwrap();
            assert_eq!(event[1].as_u64(), self.sent.get(self.received).copied(), "{packet}");
            self.received += 1;
            self.offset = Some(event.last().unwrap().as_str().unwrap().to_owned());
        }
    }

    async fn lose(&mut self) {
        if !self.is_lost {
            self.session.end(End::Transport);
            self.client.closed(End::Transport, &Batch::default()).await;
            self.is_lost = true;
        }
    }
}

async fn run(steps: &[Step], max_bytes: usize) {
    let recovery = Recovery { max_bytes, ..Recovery::default() };
    let hub = Arc::new(
        Hub::new(&Config { recovery: Some(recovery), ..Config::default() }, App::default(), ["/"])
            .unwrap(),
    );
    let first = session();
    let client = Client::new(&hub, &first, ());
    let entered = (String::new(), String::new());
    let (sent, log) = (Vec::new(), Vec::new());
    let mut model = Model {
        hub: Arc::clone(&hub),
        session: first,
        client,
        is_lost: true,
        entered,
        offset: None,
        sent,
        received: 0,
        log,
    };
    assert!(!model.enter("").await);
    model.log.push("connected");
    let mut encoded: Vec<(u64, EventFrame)> = Vec::new();
    for (number, step) in (0..).zip(steps) {
        let connection = model.connection();
        match *step {
            Step::Emit { len } => {
                assert!(connection.emit("n", &format!("{number},\"{}\"", "x".repeat(len)), &[]));
                model.sent.push(number);
            }
            Step::Encode => {
                encoded.push((number, connection.encode("n", &number.to_string(), &[])))
            }
            Step::Send(index) if !encoded.is_empty() => {
                let (number, event) = &encoded[index % encoded.len()];
                assert!(connection.send(event));
                model.sent.push(*number);
            }
            Step::Send(_) => {}
            Step::Answer => assert_eq!(connection.ack(1, "", &[]), !model.is_lost),
            Step::Receive if !model.is_lost => {
                let packets = take_packets(&model.session);
                model.take(&packets);
                assert_eq!(model.received, model.sent.len());
            }
            Step::Receive => {}
            Step::Lose => model.lose().await,
            Step::Return => {
                let offset = model
                    .offset
                    .as_deref()
                    .map(|offset| format!(r#","offset":"{offset}""#))
                    .unwrap_or_default();
                let auth = format!(r#"{{"pid":"{}"{offset}}}"#, model.entered.1);
                let is_recovered = model.enter(&auth).await;
                assert!(is_recovered || max_bytes < 1 << 20, "nothing was dropped");
                model.log.extend(if is_recovered {
                    &["recovered"][..]
                } else {
                    &["disconnected", "connected"]
                });
                assert_eq!(model.received, model.sent.len());
            }
        }
        let recovery = hub.recovery().unwrap();
        assert_eq!(recovery.detached(), usize::from(model.is_lost));
        assert_eq!(*hub.handler().log.lock().unwrap(), model.log);
        let held: usize = encoded.iter().map(|(_, event)| event.len() + 128).sum();
        assert!(recovery.used() <= max_bytes + held);
    }
    // The time of the runtime stands still, except when there is nothing else to do.
    model.lose().await;
    encoded.clear();
    hub.tasks().close();
    hub.tasks().wait().await;
    model.log.push("disconnected");
    assert_eq!(*hub.handler().log.lock().unwrap(), model.log);
    let recovery = hub.recovery().unwrap();
    assert_eq!((recovery.detached(), recovery.used(), recovery.connections().len()), (0, 0, 0));
    assert!(model.connection().has_ended());
}

fn run_now(steps: &[Step], max_bytes: usize) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(run(steps, max_bytes));
}

#[test]
fn an_offset_of_an_earlier_connection_means_nothing_although_its_event_is_sent_again() {
    let large = Step::Emit { len: 300 };
    // The client is not recovered, and its last event is the first one of its next connection.
    let begin = [Step::Encode, Step::Send(0), Step::Receive, large, Step::Return];
    let again = [Step::Send(0), Step::Emit { len: 0 }, Step::Lose, Step::Return];
    run_now(&[&begin[..], &again].concat(), 16 * 400);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_client_that_returns_misses_nothing_or_learns_it(steps in steps(), max_bytes in prop_oneof![Just(64 << 20), 4000..64_000usize]) {
        run_now(&steps, max_bytes);
    }
}
