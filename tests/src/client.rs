//! A Socket.IO client over WebSocket that can send anything, also packets that an official client
//! would not send. `tests/clients` tests what official clients see.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use sockhop::config::SocketIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{Mutex as AsyncMutex, Notify, mpsc, oneshot};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use crate::PATIENCE;

type Socket = WebSocketStream<Box<dyn Stream>>;
type Acks = Arc<Mutex<HashMap<u64, Expected>>>;

/// What waits for an ack.
enum Expected {
    /// An ack with exactly one argument and no attachments.
    One(oneshot::Sender<Value>),
    /// Any ack.
    Any(oneshot::Sender<Arguments>),
}

/// The arguments of an event or an ack, with their attachments.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Arguments {
    /// As JSON, with placeholders.
    pub values: Vec<Value>,
    /// In the order in which they came.
    pub attachments: Vec<Vec<u8>>,
}

impl Arguments {
    /// Arguments without attachments.
    pub fn of<const N: usize>(values: [Value; N]) -> Self {
        Self { values: values.into(), attachments: Vec::new() }
    }
}

/// A received event, and the id of the ack that the host has asked for.
type Received = (String, Arguments, Option<u64>);

/// How many received events may wait until a test reads them.
const EVENTS: usize = 100_000;

/// A connection to a host: TCP, or TLS on TCP.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Stream for S {}

async fn reach(url: &str) -> TcpStream {
    TcpStream::connect(url.trim_start_matches("http://")).await.expect("a host to connect to")
}

/// A connected client.
pub struct TestClient {
    /// The `socket.id` of the client.
    pub sid: String,
    /// The namespace as packets write it.
    namespace: String,
    writer: Arc<AsyncMutex<SplitSink<Socket, Message>>>,
    acks: Acks,
    /// Ids of the acks in the order of their arrival.
    acked: Arc<Mutex<Vec<u64>>>,
    next_ack: AtomicU64,
    events: mpsc::Receiver<Received>,
    pinged: Arc<Notify>,
    reader: tokio::task::JoinHandle<()>,
}

impl TestClient {
    /// Connects to the namespace `/` of the host at `url`.
    pub async fn connect(url: &str) -> Self {
        Self::connect_to(url, "/").await
    }

    /// Connects to the namespace `/` from another address of this machine, such as 127.0.0.2.
    pub async fn connect_from(url: &str, address: IpAddr) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind((address, 0).into()).expect("an address of this machine");
        let host = url.trim_start_matches("http://").parse().expect("the host's address");
        Self::over(socket.connect(host).await.expect("a host to connect to"), url, "/").await
    }

    /// Connects to one namespace of the host at `url`.
    pub async fn connect_to(url: &str, namespace: &str) -> Self {
        Self::over(reach(url).await, url, namespace).await
    }

    /// Connects to the namespace `/` with a token.
    ///
    /// # Errors
    /// Returns the data of CONNECT_ERROR.
    pub async fn connect_with(url: &str, token: &str) -> Result<Self, Value> {
        Self::try_over(reach(url).await, url, "/", &json!({"token": token}).to_string()).await
    }

    /// Connects to one namespace with a token, or without one.
    ///
    /// # Errors
    /// Returns the data of CONNECT_ERROR.
    pub async fn connect_as(
        url: &str,
        namespace: &str,
        token: Option<&str>,
    ) -> Result<Self, Value> {
        let auth = token.map(|token| json!({"token": token}).to_string()).unwrap_or_default();
        Self::try_over(reach(url).await, url, namespace, &auth).await
    }

    /// Connects to the namespace `/` with this `auth`, as text, and more parameters in the query of
    /// the URL, such as `&lang=de`.
    pub async fn connect_saying(url: &str, auth: &str, query: &str) -> Self {
        let stream = reach(url).await;
        let connected = Self::try_saying(Box::new(stream), url, "/", auth, query).await;
        connected.unwrap_or_else(|refused| panic!("a connect packet, not {refused}"))
    }

    /// Connects to the namespace `/` over a connection to the host at `url`.
    pub async fn connect_over(stream: impl Stream, url: &str) -> Self {
        let connected = Self::try_on(Box::new(stream), url, "/", "").await;
        connected.unwrap_or_else(|refused| panic!("a connect packet, not {refused}"))
    }

    async fn over(stream: TcpStream, url: &str, namespace: &str) -> Self {
        let connected = Self::try_over(stream, url, namespace, "").await;
        connected.unwrap_or_else(|refused| panic!("a connect packet, not {refused}"))
    }

    async fn try_over(
        stream: TcpStream,
        url: &str,
        namespace: &str,
        auth: &str,
    ) -> Result<Self, Value> {
        stream.set_nodelay(true).expect("a tunable socket");
        Self::try_on(Box::new(stream), url, namespace, auth).await
    }

    async fn try_on(
        stream: Box<dyn Stream>,
        url: &str,
        namespace: &str,
        auth: &str,
    ) -> Result<Self, Value> {
        Self::try_saying(stream, url, namespace, auth, "").await
    }

    async fn try_saying(
        stream: Box<dyn Stream>,
        url: &str,
        namespace: &str,
        auth: &str,
        query: &str,
    ) -> Result<Self, Value> {
        // Packets of the main namespace do not name it.
        let namespace = if namespace == "/" { String::new() } else { format!("{namespace},") };
        let address = url.trim_start_matches("https://").trim_start_matches("http://");
        let request = format!("ws://{address}/socket.io/?EIO=4&transport=websocket{query}");
        let (socket, _) =
            tokio_tungstenite::client_async(request, stream).await.expect("a WebSocket");
        let (mut writer, mut reader) = socket.split();
        let pinged = Arc::<Notify>::default();
        assert!(text(&mut reader).await.expect("an open packet").starts_with('0'));
        let connect = format!("40{namespace}{auth}");
        writer.send(Message::text(connect)).await.expect("a socket to write to");
        let mut packet = text(&mut reader).await.expect("a connect packet");
        // The host's first ping may arrive before.
        while packet == "2" {
            pinged.notify_one();
            writer.send(Message::text("3")).await.expect("a socket to write to");
            packet = text(&mut reader).await.expect("a connect packet");
        }
        if let Some(refused) = packet.strip_prefix(&format!("44{namespace}")) {
            return Err(serde_json::from_str(refused).expect("JSON"));
        }
        let connected = packet
            .strip_prefix(&format!("40{namespace}"))
            .unwrap_or_else(|| panic!("a connect packet, not {packet}"));
        let connected: Value = serde_json::from_str(connected).expect("JSON");
        let sid = connected["sid"].as_str().expect("a sid").to_owned();
        let writer = Arc::new(AsyncMutex::new(writer));
        let acks = Acks::default();
        let (events, receiver) = mpsc::channel(EVENTS);
        let acked = Arc::<Mutex<Vec<u64>>>::default();
        let reader = tokio::spawn(read(
            reader,
            Arc::clone(&writer),
            Arc::clone(&acks),
            Arc::clone(&acked),
            events,
            namespace.clone(),
            Arc::clone(&pinged),
        ));
        Ok(Self {
            sid,
            namespace,
            writer,
            acks,
            acked,
            next_ack: AtomicU64::new(0),
            events: receiver,
            pinged,
            reader,
        })
    }

    /// Sends an Engine.IO packet unchanged.
    pub async fn send_raw(&self, packet: impl Into<String>) {
        // Ignores errors, because some tests are about connections that the host has closed.
        let _ = self.writer.lock().await.send(Message::text(packet.into())).await;
    }

    /// Sends an attachment alone, without its event.
    pub async fn send_attachment(&self, bytes: Vec<u8>) {
        let _ = self.writer.lock().await.send(Message::binary(bytes)).await;
    }

    /// Sends an event without asking for an ack.
    pub async fn emit(&self, event: &str, data: Value) {
        self.send_raw(format!("42{}{}", self.namespace, json!([event, data]))).await;
    }

    /// Sends an event, waits for its ack, and returns the argument of the ack.
    pub async fn ask(&self, event: &str, data: Value) -> Value {
        self.ask_raw(&json!([event, data]).to_string()).await
    }

    /// Does the same as [`TestClient::ask`] with any array as text.
    pub async fn ask_raw(&self, array: &str) -> Value {
        let answer = self.ask_later(array).await;
        answered(array, answer).await
    }

    /// Does the same with attachments. The array names them by placeholders.
    pub async fn ask_with(&self, array: &str, attachments: &[Vec<u8>]) -> Value {
        let (id, answer) = self.expect_ack();
        self.send_with(id, array, attachments).await;
        answered(array, answer).await
    }

    /// Does the same, with or without attachments, and returns all arguments of the ack with its
    /// attachments.
    pub async fn ask_any(&self, array: &str, attachments: &[Vec<u8>]) -> Arguments {
        let (sender, answer) = oneshot::channel();
        let id = self.expect_as(Expected::Any(sender));
        self.send_with(id, array, attachments).await;
        answered(array, answer).await
    }

    async fn send_with(&self, id: u64, array: &str, attachments: &[Vec<u8>]) {
        let kind = match attachments.len() {
            0 => "42".to_owned(),
            count => format!("45{count}-"),
        };
        let mut writer = self.writer.lock().await;
        let packet = format!("{kind}{}{id}{array}", self.namespace);
        let _ = writer.send(Message::text(packet)).await;
        for bytes in attachments {
            let _ = writer.send(Message::binary(bytes.clone())).await;
        }
    }

    /// Sends an event. The returned receiver resolves to the argument of its ack.
    pub async fn ask_later(&self, array: &str) -> oneshot::Receiver<Value> {
        let (id, answer) = self.expect_ack();
        self.send_raw(format!("42{}{id}{array}", self.namespace)).await;
        answer
    }

    /// Returns the id of a new ack, and the receiver of its argument.
    fn expect_ack(&self) -> (u64, oneshot::Receiver<Value>) {
        let (sender, receiver) = oneshot::channel();
        (self.expect_as(Expected::One(sender)), receiver)
    }

    fn expect_as(&self, expected: Expected) -> u64 {
        let id = self.next_ack.fetch_add(1, Ordering::Relaxed);
        self.acks.lock().expect("no panic under the lock").insert(id, expected);
        id
    }

    /// Waits for the next event, which must have this name, and returns its data.
    pub async fn expect(&mut self, event: &str) -> Value {
        let (name, data) = self.next().await;
        assert_eq!(name, event, "with {data}");
        data
    }

    /// Waits for the next event, and returns its name and its first argument.
    pub async fn next(&mut self) -> (String, Value) {
        first(self.next_list().await)
    }

    /// Waits for the next event, and returns its name and all arguments.
    pub async fn next_list(&mut self) -> (String, Arguments) {
        let (name, arguments, _) = self.receive().await;
        (name, arguments)
    }

    /// Waits for the next event, which the host must have emitted with an ack. Returns the id of
    /// the ack, and the first argument.
    pub async fn next_asked(&mut self) -> (u64, Value) {
        let (name, arguments, id) = self.receive().await;
        let id = id.unwrap_or_else(|| panic!("no ack is asked for by {name}"));
        (id, first((name, arguments)).1)
    }

    /// Answers an event of the host. `arguments` is an array.
    pub async fn answer(&self, id: u64, arguments: Value) {
        self.send_raw(format!("43{}{id}{arguments}", self.namespace)).await;
    }

    async fn receive(&mut self) -> Received {
        let next = tokio::time::timeout(PATIENCE, self.events.recv()).await;
        next.expect("an event in time").expect("an event before the end of the connection")
    }

    /// Returns the received events that the test has not read. If an event's ack has arrived, the
    /// emits of that event have arrived too.
    pub fn pending(&mut self) -> Vec<(String, Value)> {
        let received = std::iter::from_fn(|| self.events.try_recv().ok());
        received.map(|(name, arguments, _)| first((name, arguments))).collect()
    }

    /// Whether all acks have arrived in the order in which their events were sent.
    pub fn was_acked_in_order(&self) -> bool {
        self.acked.lock().expect("no panic under the lock").is_sorted()
    }

    /// Waits for a ping of the library socketioxide, which sends the first one at once. The host's
    /// own implementation sends no such ping, so this returns immediately.
    pub async fn pinged(&self) {
        if crate::socketio() == SocketIo::Builtin {
            return;
        }
        tokio::time::timeout(PATIENCE, self.pinged.notified()).await.expect("a ping");
    }

    /// Whether the host has closed the connection.
    pub fn is_closed(&self) -> bool {
        self.reader.is_finished()
    }

    /// Waits until the host has closed the connection.
    pub async fn closed(mut self) {
        tokio::time::timeout(PATIENCE, &mut self.reader)
            .await
            .expect("a connection that is closed")
            .expect("a reader that ends");
    }
}

/// The connection is dropped without a close or disconnect packet.
impl Drop for TestClient {
    fn drop(&mut self) {
        // The reader panics on faults that every test must report, such as a second ack.
        self.reader.abort();
        let is_well = self.acked.lock().is_ok() && self.acks.lock().is_ok();
        assert!(is_well || std::thread::panicking(), "the reader of a client has panicked");
    }
}

/// Waits for the answer to `array`, which [`TestClient::ask_later`] has sent.
pub async fn answered<T>(array: &str, answer: oneshot::Receiver<T>) -> T {
    tokio::time::timeout(PATIENCE, answer)
        .await
        .unwrap_or_else(|_| panic!("no ack for {array:.100}"))
        .expect("an ack before the end")
}

async fn text(reader: &mut SplitStream<Socket>) -> Option<String> {
    loop {
        match reader.next().await? {
            Ok(Message::Text(text)) => return Some(text.to_string()),
            Ok(Message::Close(_)) | Err(_) => return None,
            Ok(_) => {}
        }
    }
}

/// An event with its first argument.
fn first((name, arguments): (String, Arguments)) -> (String, Value) {
    (name, arguments.values.into_iter().next().unwrap_or_default())
}

/// The next attachments of a packet.
async fn attachments(reader: &mut SplitStream<Socket>, count: usize) -> Vec<Vec<u8>> {
    let mut attachments = Vec::new();
    while attachments.len() < count {
        match reader.next().await {
            Some(Ok(Message::Binary(bytes))) => attachments.push(bytes.to_vec()),
            Some(Ok(Message::Text(text))) => panic!("{text} in the place of an attachment"),
            Some(Ok(_)) => {}
            Some(Err(_)) | None => break,
        }
    }
    attachments
}

/// Splits the text of a packet with attachments into their number and the rest, without the
/// namespace.
fn binary<'packet>(
    packet: &'packet str,
    kind: &str,
    namespace: &str,
) -> Option<(usize, &'packet str)> {
    let (count, rest) = packet.strip_prefix(kind)?.split_once('-')?;
    Some((count.parse().ok()?, rest.strip_prefix(namespace)?))
}

/// Passes an ack to what waits for it.
fn acknowledge(acks: &Acks, acked: &Mutex<Vec<u64>>, ack: &str, attachments: Vec<Vec<u8>>) {
    let (id, arguments) = ack.split_at(ack.find('[').expect("arguments"));
    let values: Vec<Value> = serde_json::from_str(arguments).expect("JSON");
    let id = id.parse().expect("an ack's id");
    acked.lock().expect("no panic under the lock").push(id);
    // The panics happen under the lock on purpose: they poison the lock, which `drop` detects.
    let mut waiting = acks.lock().expect("no panic under the lock");
    match waiting.remove(&id).unwrap_or_else(|| panic!("a second ack: {ack}")) {
        Expected::One(sender) => {
            assert_eq!((values.len(), attachments.len()), (1, 0), "an ack of one argument: {ack}");
            let _ = sender.send(values[0].clone());
        }
        Expected::Any(sender) => {
            let _ = sender.send(Arguments { values, attachments });
        }
    }
}

async fn read(
    mut reader: SplitStream<Socket>,
    writer: Arc<AsyncMutex<SplitSink<Socket, Message>>>,
    acks: Acks,
    acked: Arc<Mutex<Vec<u64>>>,
    events: mpsc::Sender<Received>,
    namespace: String,
    pinged: Arc<Notify>,
) {
    let (ack_prefix, event_prefix) = (format!("43{namespace}"), format!("42{namespace}"));
    while let Some(packet) = text(&mut reader).await {
        if packet == "2" {
            pinged.notify_one();
            let _ = writer.lock().await.send(Message::text("3")).await;
        } else if let Some(ack) = packet.strip_prefix(&ack_prefix) {
            acknowledge(&acks, &acked, ack, Vec::new());
        } else if let Some((count, ack)) = binary(&packet, "46", &namespace) {
            acknowledge(&acks, &acked, ack, attachments(&mut reader, count).await);
        } else if let Some((count, event)) = packet
            .strip_prefix(&event_prefix)
            .map(|event| (0, event))
            .or_else(|| binary(&packet, "45", &namespace))
        {
            let (id, event) = event.split_at(event.find('[').expect("arguments"));
            let id = (!id.is_empty()).then(|| id.parse().expect("an ack's id"));
            let mut values: Vec<Value> = serde_json::from_str(event).expect("JSON");
            let name = values.remove(0).as_str().expect("a name").to_owned();
            let attachments = attachments(&mut reader, count).await;
            if events.send((name, Arguments { values, attachments }, id)).await.is_err() {
                return;
            }
        } else if packet == "41" || packet == "1" {
            return;
        }
    }
}
