//! A model of one client in several namespaces, against any sequence of its packets and of the
//! application's calls for connections, including ended ones.

use std::collections::BTreeMap;
use std::future::ready;
use std::sync::Mutex;
use std::task::{Poll, Waker};

use http::request::Parts;
use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::connection::{AckReceiver, NoReply};
use crate::engineio::testing::{session, take_packets};
use crate::engineio::{Config, Recovery, Refused};

/// The last one is unknown to the server.
const NAMESPACES: [&str; 4] = ["/", "/a", "/b", "/unknown"];

/// Records its calls, and answers events that have an ack id.
#[derive(Default)]
struct App {
    log: Mutex<Vec<String>>,
    connected: Mutex<Vec<Arc<Connection<App>>>>,
}

impl App {
    fn log(&self, entry: String) {
        self.log.lock().unwrap().push(entry);
    }
}

impl Handler for App {
    type Session = ();
    type Data = ();

    fn open(&self, _request: &Parts) -> Result<(), Refused> {
        Ok(())
    }

    fn connect(
        &self,
        request: &ConnectRequest<'_, Self>,
    ) -> impl Future<Output = Result<(), ConnectError>> + Send {
        let is_refused = request.auth.contains("refuse");
        ready(if is_refused { Err(ConnectError::new("no")) } else { Ok(()) })
    }

    async fn connected(&self, cx: &Context<'_, Self>) {
        self.log(format!("connected {}", cx.connection().namespace()));
        self.connected.lock().unwrap().push(Arc::clone(cx.connection()));
        ready(()).await;
    }

    async fn event(&self, cx: &Context<'_, Self>, event: &Event<'_>) {
        let attachments = event.attachments.len();
        self.log(format!("event {} {} {attachments}", cx.connection().namespace(), event.text));
        ready(cx.ack(event, "true", &[])).await;
    }

    async fn disconnected(&self, cx: &Context<'_, Self>, reason: DisconnectReason) {
        self.log(format!("disconnected {} {reason:?}", cx.connection().namespace()));
        ready(()).await;
    }
}

/// One step. The client writes, or the application uses one of the connections that it ever had.
#[derive(Debug, Clone)]
enum Step {
    Connect {
        namespace: usize,
        is_refused: bool,
    },
    Disconnect {
        namespace: usize,
    },
    Event {
        namespace: usize,
        id: Option<u8>,
        attachments: usize,
    },
    Answer {
        namespace: usize,
        id: u64,
    },
    Attachment,
    Emit(Index),
    Ask(Index),
    Forget(Index),
    /// The application disconnects the client from the namespace.
    SendAway(Index),
    /// The session's task calls the client, if it must.
    Wake,
}

fn step() -> impl Strategy<Value = Step> {
    let namespace = || prop_oneof![9 => 0usize..3, 1 => Just(3)];
    let attachments = prop_oneof![6 => Just(0), 1 => 1usize..3];
    prop_oneof![
        6 => (namespace(), prop::bool::weighted(0.2))
            .prop_map(|(namespace, is_refused)| Step::Connect { namespace, is_refused }),
        3 => namespace().prop_map(|namespace| Step::Disconnect { namespace }),
        4 => (namespace(), any::<Option<u8>>(), attachments)
            .prop_map(|(namespace, id, attachments)| Step::Event { namespace, id, attachments }),
        3 => (namespace(), 0u64..3).prop_map(|(namespace, id)| Step::Answer { namespace, id }),
        1 => Just(Step::Attachment),
        2 => any::<Index>().prop_map(Step::Emit),
        4 => any::<Index>().prop_map(Step::Ask),
        1 => any::<Index>().prop_map(Step::Forget),
        2 => any::<Index>().prop_map(Step::SendAway),
        2 => Just(Step::Wake),
    ]
}

/// The expected packets and calls.
#[derive(Default)]
struct Model {
    /// The number of the connection in each namespace.
    inside: BTreeMap<usize, usize>,
    connections: usize,
    /// Connections that were disconnected, with their namespaces, in the order of their begin.
    sent_away: BTreeMap<usize, usize>,
    is_woken: bool,
    /// How many answers were asked for in each namespace.
    asked: BTreeMap<usize, u64>,
    was_connected: bool,
    /// An event whose attachments are missing, and how many.
    partial: Option<(usize, Option<u8>, usize, usize)>,
    log: Vec<String>,
    packets: Vec<String>,
}

fn prefix(namespace: usize) -> String {
    if namespace == 0 { String::new() } else { format!("{},", NAMESPACES[namespace]) }
}

impl Model {
    /// The application learns that a connection in the namespace was disconnected.
    fn notice(&mut self, namespace: usize) {
        for _ in self.sent_away.extract_if(.., |_, sent_away| *sent_away == namespace) {
            self.log.push(format!("disconnected {} Server", NAMESPACES[namespace]));
        }
    }

    /// Whether a packet for the namespace reaches a connection. An error if the session ends.
    fn reaches(&mut self, namespace: usize) -> Result<bool, End> {
        self.notice(namespace);
        let is_inside = self.inside.contains_key(&namespace);
        if is_inside || self.was_connected { Ok(is_inside) } else { Err(End::Parse) }
    }

    fn event(&mut self, namespace: usize, id: Option<u8>, attachments: usize) -> Result<(), End> {
        if self.reaches(namespace)? {
            self.log.push(format!("event {} 1 {attachments}", NAMESPACES[namespace]));
            self.packets.extend(id.map(|id| format!("43{}{id}[true]", prefix(namespace))));
        }
        Ok(())
    }

    fn step(&mut self, step: &Step, connections: &[Arc<Connection<App>>]) -> Result<(), End> {
        let is_text = matches!(
            step,
            Step::Connect { .. }
                | Step::Disconnect { .. }
                | Step::Event { .. }
                | Step::Answer { .. }
        );
        if is_text && self.partial.is_some() {
            return Err(End::Parse);
        }
        if let Step::Connect { namespace, .. } = *step {
            self.notice(namespace);
        }
        match *step {
            Step::Connect { namespace, .. } if self.inside.contains_key(&namespace) => {
                return Err(End::Parse);
            }
            Step::Connect { namespace: 3, .. } => {
                self.packets.push(r#"44/unknown,{"message":"Invalid namespace"}"#.into());
            }
            Step::Connect { namespace, is_refused: true } => {
                self.packets.push(format!(r#"44{}{{"message":"no"}}"#, prefix(namespace)));
            }
            Step::Connect { namespace, .. } => {
                let id = connections.last().unwrap().id();
                self.packets.push(format!(r#"40{}{{"sid":"{id}"}}"#, prefix(namespace)));
                self.log.push(format!("connected {}", NAMESPACES[namespace]));
                self.inside.insert(namespace, self.connections);
                self.connections += 1;
                self.was_connected = true;
            }
            Step::Disconnect { namespace } => {
                if self.reaches(namespace)? {
                    self.inside.remove(&namespace);
                    self.log.push(format!("disconnected {} Left", NAMESPACES[namespace]));
                }
            }
            Step::Event { namespace, id, attachments: 0 } => self.event(namespace, id, 0)?,
            Step::Event { namespace, id, attachments } => {
                self.partial = Some((namespace, id, attachments, attachments));
            }
            Step::Answer { namespace, .. } => drop(self.reaches(namespace)?),
            Step::Attachment => {
                let Some((namespace, id, attachments, missing)) = self.partial else {
                    return Err(End::Parse);
                };
                self.partial = (missing > 1).then_some((namespace, id, attachments, missing - 1));
                if missing == 1 {
                    self.event(namespace, id, attachments)?;
                }
            }
            Step::Wake if take(&mut self.is_woken) => {
                for (_, namespace) in take(&mut self.sent_away) {
                    self.log.push(format!("disconnected {} Server", NAMESPACES[namespace]));
                }
                return if self.inside.is_empty() { Err(End::Server) } else { Ok(()) };
            }
            Step::Emit(_) | Step::Ask(_) | Step::Forget(_) | Step::SendAway(_) | Step::Wake => {}
        }
        Ok(())
    }

    fn is_open(&self, connection: usize) -> bool {
        self.inside.values().any(|inside| *inside == connection)
    }

    fn namespace(&self, connection: usize) -> usize {
        let inside = self.inside.iter().find(|(_, inside)| **inside == connection);
        *inside.unwrap().0
    }
}

/// The packet of a step of the client. `None` for an attachment and for a step of the application.
fn packet(step: &Step) -> Option<String> {
    Some(match *step {
        Step::Connect { namespace, is_refused } => {
            let auth = if is_refused { r#"{"refuse":1}"# } else { "" };
            format!("0{}{auth}", prefix(namespace))
        }
        Step::Disconnect { namespace } => format!("1{}", prefix(namespace)),
        Step::Event { namespace, id, attachments } => {
            let id = id.map(|id| id.to_string()).unwrap_or_default();
            let kind = if attachments == 0 { "2".into() } else { format!("5{attachments}-") };
            format!("{kind}{}{id}[\"x\",1]", prefix(namespace))
        }
        Step::Answer { namespace, id } => format!("3{}{id}[{id}]", prefix(namespace)),
        Step::Attachment
        | Step::Emit(_)
        | Step::Ask(_)
        | Step::Forget(_)
        | Step::SendAway(_)
        | Step::Wake => return None,
    })
}

fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut std::task::Context::from_waker(Waker::noop())) {
        Poll::Ready(done) => done,
        Poll::Pending => panic!("the application never waits"),
    }
}

/// An answer that the application waits for, of which connection, and its id.
type Waiting = (usize, u64, AckReceiver<App>);

fn run(steps: &[Step]) -> Result<(), TestCaseError> {
    let hub = Arc::new(
        Hub::new(&Config::default(), App::default(), NAMESPACES.into_iter().take(3)).unwrap(),
    );
    let session = session();
    let mut client = Client::new(&hub, &session, ());
    let mut model = Model::default();
    let mut waiting: Vec<Waiting> = Vec::new();
    let batch = Batch::default();
    for step in steps {
        let answering = match *step {
            Step::Answer { namespace, id } => {
                model.inside.get(&namespace).map(|connection| (*connection, id))
            }
            _ => None,
        };
        let result = match packet(step) {
            Some(packet) => now(client.text(&packet, &batch)),
            None if matches!(step, Step::Attachment) => now(client.binary(b"x", &batch)),
            None if matches!(step, Step::Wake) && session.take_woken() => now(client.woken(&batch)),
            None => Ok(()),
        };
        let connections = hub.handler().connected.lock().unwrap().clone();
        let expected = model.step(step, &connections);
        prop_assert_eq!(result, expected, "{:?}", step);
        if let Err(end) = result {
            session.end(end);
            now(client.closed(end, &batch));
            for namespace in model.inside.keys() {
                let entry =
                    format!("disconnected {} SessionEnded({end:?})", NAMESPACES[*namespace]);
                prop_assert!(hub.handler().log.lock().unwrap().contains(&entry));
            }
            let log = hub.handler().log.lock().unwrap();
            let count = |reason: &str| log.iter().filter(|entry| entry.ends_with(reason)).count();
            let noticed = model.log.iter().filter(|entry| entry.ends_with(" Server")).count();
            prop_assert_eq!(count(" Server"), noticed + model.sent_away.len());
            prop_assert!(connections.iter().all(|connection| connection.has_ended()));
            prop_assert!(waiting.into_iter().all(|(_, _, answer)| now(answer) == Err(NoReply)));
            prop_assert_eq!(hub.shared().pending_acks(), 0);
            return Ok(());
        }
        // An answer resolves its pending ack. The end of a connection drops all its pending acks.
        let ready = |(connection, id, _): &mut Waiting| {
            answering == Some((*connection, *id)) || !model.is_open(*connection)
        };
        for (connection, id, answer) in waiting.extract_if(.., ready) {
            let reply = now(answer).map(|reply| reply.arguments);
            let is_answered = answering == Some((connection, id));
            prop_assert_eq!(reply, if is_answered { Ok(id.to_string()) } else { Err(NoReply) });
        }
        match step {
            Step::Emit(index) if !connections.is_empty() => {
                let at = index.index(connections.len());
                prop_assert_eq!(connections[at].emit("note", "", &[]), model.is_open(at));
                if model.is_open(at) {
                    let namespace = prefix(model.namespace(at));
                    model.packets.push(format!("42{namespace}[\"note\"]"));
                }
            }
            Step::Ask(index) if !connections.is_empty() => {
                let at = index.index(connections.len());
                let asked = connections[at].emit_with_ack("ask", "", &[]);
                prop_assert_eq!(asked.is_ok(), model.is_open(at));
                if let Ok(answer) = asked {
                    let namespace = model.namespace(at);
                    let asked = model.asked.entry(namespace).or_insert(0);
                    let id = *asked;
                    *asked += 1;
                    let namespace = prefix(namespace);
                    model.packets.push(format!("42{namespace}{id}[\"ask\"]"));
                    waiting.push((at, id, answer));
                }
            }
            Step::SendAway(index) if !connections.is_empty() => {
                let at = index.index(connections.len());
                connections[at].disconnect();
                if model.is_open(at) {
                    let namespace = model.namespace(at);
                    model.inside.remove(&namespace);
                    model.sent_away.insert(at, namespace);
                    model.is_woken = true;
                    model.packets.push(format!("41{}", prefix(namespace)));
                    for (_, _, answer) in
                        waiting.extract_if(.., |(connection, _, _)| *connection == at)
                    {
                        prop_assert_eq!(now(answer), Err(NoReply));
                    }
                }
            }
            Step::Forget(index) if !waiting.is_empty() => {
                drop(waiting.remove(index.index(waiting.len())))
            }
            _ => {}
        }
        prop_assert_eq!(take_packets(&session), take(&mut model.packets));
        prop_assert_eq!(&*hub.handler().log.lock().unwrap(), &model.log);
        prop_assert_eq!(hub.shared().pending_acks(), waiting.len());
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2048, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_client_is_what_its_model_is(steps in prop::collection::vec(step(), 0..40)) {
        run(&steps)?;
    }
}

#[test]
fn a_session_that_was_closed_is_not_recovered_although_its_transport_is_lost_before_it_ends() {
    let config = Config { recovery: Some(Recovery::default()), ..Config::default() };
    let hub = Arc::new(Hub::new(&config, App::default(), ["/", "/a"]).unwrap());
    let (session, batch) = (session(), Batch::default());
    let mut client = Client::new(&hub, &session, ());
    now(client.text("0", &batch)).unwrap();
    now(client.text("0/a,", &batch)).unwrap();
    let connections = hub.handler().connected.lock().unwrap().clone();
    connections[1].close_session();
    session.end(End::Transport);
    now(client.closed(End::Transport, &batch));
    assert!(connections.iter().all(|connection| connection.has_ended()));
    assert_eq!(hub.recovery().unwrap().detached(), 0);
    let log = [
        "connected /",
        "connected /a",
        "disconnected / SessionEnded(Transport)",
        "disconnected /a Server",
    ];
    assert_eq!(*hub.handler().log.lock().unwrap(), log);
}

/// Any task may send, and it may have asked whether the connection has ended just before it ended.
#[test]
fn no_packet_of_an_ended_connection_follows_the_connect_with_which_its_client_enters_again() {
    for config in
        [Config::default(), Config { recovery: Some(Recovery::default()), ..Config::default() }]
    {
        let hub = Arc::new(Hub::new(&config, App::default(), ["/"]).unwrap());
        let (session, batch) = (session(), Batch::default());
        let mut client = Client::new(&hub, &session, ());
        now(client.text("0", &batch)).unwrap();
        for _ in 0..200 {
            let connection = hub.handler().connected.lock().unwrap().pop().unwrap();
            std::thread::scope(|scope| {
                let sends = || while connection.emit("old", "1", &[]) {};
                let sender = scope.spawn(sends);
                while session.queued_bytes() < 100 {
                    std::hint::spin_loop();
                }
                connection.disconnect();
                now(client.text("0", &batch)).unwrap();
                sender.join().unwrap();
            });
            let packets = take_packets(&session);
            assert!(packets.last().unwrap().starts_with("40{"), "{packets:?}");
        }
    }
}

#[test]
fn an_event_and_its_answer_allocate_nothing_of_their_own() {
    const EVENTS: u64 = 100;
    let hub = Arc::new(Hub::new(&Config::default(), Echo, ["/"]).unwrap());
    let session = session();
    let mut client = Client::new(&hub, &session, ());
    let batch = Batch::default();
    now(client.text("0", &batch)).unwrap();
    let mut counted = 0;
    for _ in 0..EVENTS {
        let text = r#"212["ping",{"timestamp":1767225600123},[1,2]]"#;
        let handled = || now(client.text(text, &batch)).unwrap();
        counted += allocation_counter::measure(handled).count_total;
        take_packets(&session);
    }
    // Of a session that polls, the queue grows with each of the two packets.
    assert!(counted <= 2 * EVENTS, "{counted} allocations for {EVENTS} events");
}

/// Answers every event.
struct Echo;

impl Handler for Echo {
    type Session = ();
    type Data = ();

    fn open(&self, _request: &Parts) -> Result<(), Refused> {
        Ok(())
    }

    async fn connect(&self, _request: &ConnectRequest<'_, Self>) -> Result<(), ConnectError> {
        ready(Ok(())).await
    }

    async fn event(&self, cx: &Context<'_, Self>, event: &Event<'_>) {
        cx.emit("pong", event.text, &[]);
        ready(cx.ack(event, event.text, &[])).await;
    }
}
