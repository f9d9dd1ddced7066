//! A model test: polls, posts, the task that owns the session, an upgrade and the session's end,
//! interleaved at random.
//!
//! The test plays one client over the functions that the HTTP requests call, with pipes instead of
//! TCP and a clock that only the test moves. After each step it compares with what any client may
//! rely on: everything is received and handled at most once and in order, nothing is lost while the
//! session lives, `closed` comes once and last, and nothing is left at the end.
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, SimplexStream, WriteHalf, simplex};
use tokio::task::JoinHandle;
use tokio::time::{Instant, advance};
use tokio_util::task::TaskTracker;

use super::receiver::Receiver;
use super::session::Polled;
use super::stream::{Reader, Writer};
use super::{Batch, Config, End, Engine, Protocol, Refused, Service, Session};
use super::{frame, frame::masked, polling, upgrade};

/// What the protocol saw.
#[derive(Debug, Default)]
struct Log {
    handled: Vec<u32>,
    closed: Vec<End>,
}

struct Recorder(Arc<Mutex<Log>>);

impl Protocol for Recorder {
    /// Handles a number; some take a while.
    async fn text(&mut self, text: &str, _batch: &Batch) -> Result<(), End> {
        let number: u32 = text.parse().map_err(|_| End::Parse)?;
        if number.is_multiple_of(5) {
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
        let mut log = self.0.lock().unwrap();
        assert_eq!(log.closed, [], "nothing is handled after `closed`");
        log.handled.push(number);
        Ok(())
    }

    async fn binary(&mut self, _data: &[u8], _batch: &Batch) -> Result<(), End> {
        Err(End::Parse)
    }

    async fn closed(&mut self, end: End, _batch: &Batch) {
        tokio::task::yield_now().await;
        self.0.lock().unwrap().closed.push(end);
    }
}

/// A session, and what its protocol saw.
type Opened = (Arc<Session>, Arc<Mutex<Log>>);

#[derive(Default)]
struct Recorders {
    opened: Mutex<Option<Opened>>,
}

impl Service for Recorders {
    type Protocol = Recorder;

    fn open(self: &Arc<Self>, session: &Arc<Session>, _: &Parts) -> Result<Recorder, Refused> {
        let log = Arc::<Mutex<Log>>::default();
        *self.opened.lock().unwrap() = Some((Arc::clone(session), Arc::clone(&log)));
        session.connected();
        Ok(Recorder(log))
    }
}

#[derive(Debug, Clone)]
enum Step {
    /// The server sends a number.
    Send,
    Get,
    CancelGet,
    /// The client posts so many numbers.
    Post(u8),
    CancelPost,
    PostPong,
    PostClose,
    OpenWebSocket,
    Probe,
    Upgrade,
    /// The client sends a number over the WebSocket, whatever state it is in.
    WebSocketSend,
    CutWebSocket,
    Advance(u64),
    End(End),
    CloseServer,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        12 => Just(Step::Send),
        12 => Just(Step::Get),
        1 => Just(Step::CancelGet),
        8 => (1..4u8).prop_map(Step::Post),
        1 => Just(Step::CancelPost),
        2 => Just(Step::PostPong),
        1 => Just(Step::PostClose),
        6 => Just(Step::OpenWebSocket),
        6 => Just(Step::Probe),
        6 => Just(Step::Upgrade),
        8 => Just(Step::WebSocketSend),
        2 => Just(Step::CutWebSocket),
        8 => prop_oneof![Just(1), Just(40), Just(110), Just(5000), Just(21_000)].prop_map(Step::Advance),
        1 => prop_oneof![Just(End::Server), Just(End::Aborted)].prop_map(Step::End),
        1 => Just(Step::CloseServer),
    ];
    proptest::collection::vec(step, 1..40)
}

type Posted = JoinHandle<Result<(), Option<End>>>;

struct Client {
    engine: Arc<Engine<Recorders>>,
    session: Arc<Session>,
    log: Arc<Mutex<Log>>,
    /// The server's messages: the number of the last one sent, and the numbers received.
    sent: u32,
    received: Vec<u32>,
    /// The number of the client's next message.
    next: u32,
    /// The numbers that the client has sent over its WebSocket after the upgrade. If the session
    /// lives at the end of the test, they must be handled.
    promised: Vec<u32>,
    get: Option<JoinHandle<Polled>>,
    post: Option<(Vec<u32>, Posted)>,
    websocket: Option<(WriteHalf<SimplexStream>, ReadHalf<SimplexStream>)>,
    probed: bool,
    upgraded: bool,
    /// How many guards of connections have been dropped.
    guards: Arc<AtomicU32>,
    connections: u32,
    /// For which reasons the session may have ended.
    reasons: Vec<End>,
    started: Instant,
}

struct Guard(Arc<AtomicU32>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Client {
    fn open(config: Config) -> Self {
        let service = Arc::new(Recorders::default());
        let engine = Engine::new(config, Arc::clone(&service));
        let parts = http::Request::new(()).into_parts().0;
        assert!(engine.open_polling(&parts).is_ok());
        let (session, log) = service.opened.lock().unwrap().take().unwrap();
        Self {
            engine,
            session,
            log,
            sent: 0,
            received: Vec::new(),
            next: 1,
            promised: Vec::new(),
            get: None,
            post: None,
            websocket: None,
            probed: false,
            upgraded: false,
            guards: Arc::default(),
            connections: 0,
            reasons: Vec::new(),
            started: Instant::now(),
        }
    }

    async fn step(&mut self, step: Step) {
        match step {
            Step::Send => {
                if self.session.ended().is_none() {
                    self.sent += 1;
                    self.session.text(&[self.sent.to_string().as_bytes()], &[]);
                    self.session.flush();
                }
            }
            Step::Get => self.get().await,
            Step::CancelGet => {
                if let Some(get) = self.get.take() {
                    self.reasons.push(End::Transport);
                    get.abort();
                }
            }
            Step::Post(count) => {
                let numbers: Vec<u32> = (self.next..).take(count.into()).collect();
                self.next += u32::from(count);
                let packets: Vec<String> = numbers.iter().map(|n| format!("4{n}")).collect();
                self.post(numbers, packets.join("\x1e"));
            }
            Step::CancelPost => {
                let started = self.session.start_post().is_some();
                self.reasons.push(if started { End::Transport } else { End::Overlap });
            }
            Step::PostPong => self.post(Vec::new(), "3".into()),
            Step::PostClose => {
                self.reasons.push(End::Client);
                self.post(Vec::new(), "1".into());
            }
            Step::OpenWebSocket => self.open_websocket(),
            Step::Probe => {
                // Before the upgrade, a second probe makes only the upgrade fail. After the
                // upgrade, a probe ends the session.
                self.probed = self.websocket.is_some();
                self.reasons.extend(self.upgraded.then_some(End::Parse));
                self.write(b"2probe").await;
            }
            Step::Upgrade => self.write(b"5").await,
            Step::WebSocketSend => {
                let number = self.next;
                self.next += 1;
                let carries = self.upgraded && self.websocket.is_some();
                self.write(format!("4{number}").as_bytes()).await;
                if carries {
                    self.promised.push(number);
                }
            }
            Step::CutWebSocket => {
                self.reasons.extend(self.upgraded.then_some(End::Transport));
                if let Some((mut to_server, _)) = self.websocket.take() {
                    let _ = to_server.shutdown().await;
                }
            }
            Step::Advance(ms) => advance(Duration::from_millis(ms)).await,
            Step::End(end) => {
                self.reasons.push(end);
                self.session.end(end);
            }
            Step::CloseServer => self.close(),
        }
        self.run_until_idle().await;
    }

    fn close(&mut self) {
        self.reasons.push(End::Shutdown);
        self.engine.close();
    }

    async fn get(&mut self) {
        let session = Arc::clone(&self.session);
        let get = TaskTracker::new().spawn(async move { polling::poll(&session).await });
        if self.get.is_none() {
            self.get = Some(get);
        } else {
            self.reasons.push(End::Overlap);
            assert!(matches!(get.await, Ok(Polled::Refused)), "a second poll is refused");
        }
    }

    fn post(&mut self, numbers: Vec<u32>, body: String) {
        let entry = self.engine.sessions().find(self.session.sid().as_str());
        let Some(protocol) = entry.and_then(|entry| entry.protocol) else { return };
        self.reasons.extend(self.post.is_some().then_some(End::Overlap));
        let Some(guard) = self.session.start_post() else { return };
        let held = self.session.reserve();
        let handled = polling::receive(guard, protocol, Bytes::from(body), held);
        self.post = Some((numbers, self.engine.tasks().spawn(handled)));
    }

    fn open_websocket(&mut self) {
        if !self.session.start_upgrade() {
            return;
        }
        self.connections += 1;
        let ((read, to_server), (from_server, write)) = (simplex(1 << 20), simplex(1 << 20));
        let guard = Box::new(Guard(Arc::clone(&self.guards)));
        let receiver = Receiver::new(Reader::Pipe(read), b"", self.engine.config(), guard);
        let session = Arc::clone(&self.session);
        let deadline = Instant::now() + Duration::from_secs(10);
        let upgrade = upgrade::upgrade(session, receiver, Writer::Pipe(write), deadline);
        self.engine.tasks().spawn(upgrade);
        (self.websocket, self.probed) = (Some((to_server, from_server)), false);
    }

    async fn write(&mut self, packet: &[u8]) {
        self.write_raw(&masked(0x81, packet)).await;
    }

    async fn write_raw(&mut self, bytes: &[u8]) {
        if let Some((to_server, _)) = &mut self.websocket {
            let _ = to_server.write_all(bytes).await;
        }
    }

    /// Lets everything run that can, and looks at what the client got.
    async fn run_until_idle(&mut self) {
        for _ in 0..40 {
            tokio::task::yield_now().await;
        }
        if let Some(get) = self.get.take_if(|get| get.is_finished()) {
            match get.await.unwrap() {
                Polled::Packets(body) => self.receive(body.as_ref()),
                Polled::Packet(packet) => self.receive(packet.as_bytes()),
                Polled::Refused | Polled::Closed => {}
            }
        }
        if let Some((numbers, post)) = self.post.take_if(|(_, post)| post.is_finished())
            && post.await.unwrap().is_ok()
        {
            let handled = &self.log.lock().unwrap().handled;
            assert!(numbers.iter().all(|n| handled.contains(n)), "{numbers:?} of {handled:?}");
        }
        if let Some((_, from_server)) = &mut self.websocket {
            let mut frames = Vec::new();
            let cx = &mut std::task::Context::from_waker(std::task::Waker::noop());
            while let std::task::Poll::Ready(Ok(1..)) =
                std::pin::pin!(from_server.read_buf(&mut frames)).poll(cx)
            {}
            let mut packets = Vec::new();
            frame::append_packets(&frames, &mut packets);
            self.receive(&packets);
        }
        self.upgraded |= self.session.transport() == super::Transport::WebSocket;
        self.check();
    }

    fn receive(&mut self, packets: &[u8]) {
        for packet in packets.split(|byte| *byte == frame::SEPARATOR) {
            match packet {
                [b'4', number @ ..] => {
                    self.received.push(str::from_utf8(number).unwrap().parse().unwrap());
                }
                b"" | b"6" | b"2" => {}
                b"3probe" => assert!(self.probed, "no probe was sent"),
                b"1" => assert_eq!(self.session.ended(), Some(End::Overlap)),
                other => panic!("{other:?}"),
            }
        }
    }

    fn check(&self) {
        let expected: Vec<u32> = (1..).take(self.received.len()).collect();
        assert_eq!(self.received, expected, "received once, in order, without a gap");
        let late = self.started.elapsed() >= Duration::from_secs(45);
        let ended = self.session.ended().filter(|end| *end != End::PingTimeout || !late);
        assert!(ended.is_none_or(|end| self.reasons.contains(&end)), "{ended:?} has no reason");
        let log = self.log.lock().unwrap();
        assert!(log.handled.is_sorted_by(|a, b| a < b), "handled once, in order");
        assert!(log.closed.len() <= 1);
        if let [end] = log.closed[..] {
            assert_eq!(Some(end), self.session.ended());
        }
    }

    /// Waits for running handlers, and fetches the last messages. Checks that none is lost if the
    /// session lives. Then closes the server, and checks that nothing is left.
    async fn finish(mut self) {
        self.step(Step::Advance(100)).await;
        for _ in 0..20 {
            // The handlers that take a while.
            self.step(Step::Advance(31)).await;
        }
        if self.session.transport() == super::Transport::Polling {
            self.step(Step::Get).await;
        }
        if self.session.ended().is_none() {
            assert_eq!(self.received.len(), self.sent as usize, "nothing is lost");
            let handled = &self.log.lock().unwrap().handled;
            assert!(self.promised.iter().all(|n| handled.contains(n)), "nothing is lost");
        }
        self.close();
        self.run_until_idle().await;
        for _ in 0..20 {
            self.step(Step::Advance(1000)).await;
        }
        assert_eq!(self.log.lock().unwrap().closed.len(), 1, "`closed` comes once");
        assert!(self.get.is_none(), "no poll hangs");
        assert_eq!(self.guards.load(Ordering::Relaxed), self.connections);
        assert_eq!(self.engine.usage(), super::Usage::default(), "nothing is left");
        self.engine.wait().await;
    }
}

/// Runs a test with a clock that only the test moves.
fn with_clock(test: impl Future<Output = ()>) {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_time().start_paused(true).build().unwrap().block_on(test);
}

fn run(steps: Vec<Step>) {
    with_clock(async {
        let mut client = Client::open(Config::default());
        for step in steps {
            client.step(step).await;
        }
        client.finish().await;
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_interleaving_keeps_the_promises(steps in steps()) {
        run(steps);
    }
}

#[test]
fn an_upgrade_with_a_post_that_takes_a_while_keeps_the_order() {
    let mut steps = vec![Step::Send, Step::OpenWebSocket, Step::Probe, Step::Post(3)];
    steps.extend([Step::Post(3), Step::Upgrade]);
    steps.extend([Step::WebSocketSend, Step::Send, Step::Advance(40), Step::WebSocketSend]);
    run(steps);
    // The handler of 5 runs while the WebSocket takes over.
    let mut steps = vec![Step::Post(3), Step::Post(3), Step::OpenWebSocket, Step::Probe];
    steps.extend([Step::Upgrade, Step::WebSocketSend, Step::Send, Step::Advance(40)]);
    run(steps);
}

#[test]
fn each_message_has_the_whole_time_to_arrive() {
    let config = Config { ping_interval: Duration::from_secs(1000), ..Config::default() };
    with_clock(async {
        let mut client = Client::open(config);
        for step in [Step::OpenWebSocket, Step::Probe, Step::Upgrade] {
            client.step(step).await;
        }
        let mut half = Vec::new();
        for number in ["1", "2", "3", "4"] {
            // The first fragment and the beginning of the last one. The rest comes 20 s later.
            let last = masked(0x80, number.as_bytes());
            half = [masked(0x01, b"4"), last[..3].to_vec()].concat();
            client.write_raw(&half).await;
            client.run_until_idle().await;
            client.step(Step::Advance(20_000)).await;
            client.write_raw(&last[3..]).await;
            client.run_until_idle().await;
        }
        assert_eq!(client.log.lock().unwrap().handled, [1, 2, 3, 4]);
        client.reasons.push(End::ReceiveTimeout);
        client.write_raw(&half).await;
        client.run_until_idle().await;
        client.step(Step::Advance(29_000)).await;
        assert_eq!(client.session.ended(), None);
        client.step(Step::Advance(1_001)).await;
        assert_eq!(client.session.ended(), Some(End::ReceiveTimeout));
    });
}
