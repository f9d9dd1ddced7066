//! The server of the tests: it records the calls of its handler.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{self, Poll};
use std::time::{Duration, Instant};

use http::request::Parts;
use http::{Request, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use sockhop_socketio::{
    Config, ConnectError, ConnectRequest, Connection, Context, DisconnectReason, Event, Handler,
    Refused, ReturnRequest, Server,
};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::task::TaskTracker;

use crate::raw::PATIENCE;

/// The application: its calls in order, and its connections.
pub(crate) struct App {
    log: Mutex<Vec<String>>,
    connections: Mutex<Vec<Arc<Connection<App>>>>,
    /// Each event `wait` takes a permit, and so does each `disconnected` if `hold_disconnects`.
    pub(crate) gate: Semaphore,
    hold_disconnects: bool,
}

impl App {
    pub(crate) fn new() -> Self {
        let (log, connections) = (Mutex::default(), Mutex::default());
        Self { log, connections, gate: Semaphore::new(0), hold_disconnects: false }
    }

    pub(crate) fn holding_disconnects() -> Self {
        Self { hold_disconnects: true, ..Self::new() }
    }

    fn log(&self, entry: String) {
        self.log.lock().unwrap().push(entry);
    }

    async fn pass_gate(&self) {
        self.gate.acquire().await.unwrap().forget();
    }

    /// Waits until the application has done exactly this.
    pub(crate) async fn expect(&self, entries: &[&str]) {
        let matches = || *self.log.lock().unwrap() == entries;
        wait_until(matches, || {
            format!("expected {entries:#?}, found {:#?}", self.log.lock().unwrap())
        })
        .await;
    }

    /// The connection that came last.
    pub(crate) fn connection(&self) -> Arc<Connection<App>> {
        Arc::clone(self.connections.lock().unwrap().last().unwrap())
    }

    /// All connections that the application still has.
    pub(crate) fn connections(&self) -> Vec<Arc<Connection<App>>> {
        self.connections.lock().unwrap().clone()
    }
}

impl Handler for App {
    /// The query of the handshake.
    type Session = String;
    type Data = String;

    fn open(&self, request: &Parts) -> Result<String, Refused> {
        let query = request.uri.query().unwrap_or_default().to_owned();
        if query.contains("refuse") {
            return Err(Refused { status: StatusCode::UNAUTHORIZED, message: "refused".into() });
        }
        Ok(query)
    }

    async fn connect(&self, request: &ConnectRequest<'_, Self>) -> Result<String, ConnectError> {
        self.log(format!("connect {} {}", request.namespace, request.auth));
        if request.auth.contains("slow") {
            self.pass_gate().await;
        }
        if request.auth.contains("refuse") {
            return Err(ConnectError::with_data("refused", r#"{"code":7}"#));
        }
        Ok(request.auth.to_owned())
    }

    async fn connected(&self, cx: &Context<'_, Self>) {
        self.log(format!("connected {}", cx.connection().namespace()));
        self.connections.lock().unwrap().push(Arc::clone(cx.connection()));
        if cx.connection().data().contains("greet") {
            cx.emit("welcome", "", &[]);
        }
    }

    async fn may_recover(&self, _: &Connection<Self>, request: &ReturnRequest<'_, Self>) -> bool {
        std::future::ready(!request.auth.contains("stranger")).await
    }

    async fn recovered(&self, cx: &Context<'_, Self>) {
        self.log(format!("recovered {}", cx.connection().namespace()));
        std::future::ready(()).await;
    }

    /// Not `async`, to panic before there is a future, or when it is dropped.
    fn event(&self, cx: &Context<'_, Self>, event: &Event<'_>) -> impl Future<Output = ()> + Send {
        assert!(event.name != "eager panic", "as the test wants");
        let panics_late = event.name == "late panic";
        Handling { future: Box::pin(self.handle(cx, event)), panics_late }
    }

    fn log_name<'a>(&'a self, connection: &'a Connection<Self>) -> Option<&'a str> {
        Some(connection.namespace())
    }

    async fn disconnected(&self, cx: &Context<'_, Self>, reason: DisconnectReason) {
        assert!(!cx.emit("too late", "", &[]), "nothing can be sent any more");
        let event = cx.connection().encode("gone", "", &[]);
        let others = self.connections();
        for watcher in others.iter().filter(|other| other.data().contains("watch")) {
            cx.send(watcher, &event);
        }
        if self.hold_disconnects {
            self.pass_gate().await;
        }
        self.connections
            .lock()
            .unwrap()
            .retain(|connection| connection.id() != cx.connection().id());
        self.log(format!("disconnected {} {reason:?}", cx.connection().namespace()));
        assert!(!cx.connection().data().contains("panic"), "as the test wants");
    }
}

/// The future of an event, which may panic when it is dropped.
struct Handling<F> {
    future: Pin<Box<F>>,
    panics_late: bool,
}

impl<F: Future> Future for Handling<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<F::Output> {
        self.future.as_mut().poll(cx)
    }
}

impl<F> Drop for Handling<F> {
    fn drop(&mut self) {
        assert!(!self.panics_late, "as the test wants");
    }
}

impl App {
    async fn handle(&self, cx: &Context<'_, Self>, event: &Event<'_>) {
        match event.name {
            "echo" => {
                cx.emit("echo", event.text, event.attachments);
            }
            "answer" => {
                cx.ack(event, event.text, event.attachments);
            }
            "wait" => {
                self.log("wait begins".into());
                self.pass_gate().await;
                self.log("wait ends".into());
                cx.ack(event, event.text, &[]);
            }
            "panic" => panic!("as the test wants"),
            "abort" => cx.connection().abort(),
            "close" => cx.connection().close_session(),
            "bye" => {
                cx.emit("last", "1", &[]);
                cx.connection().disconnect();
                assert!(!cx.emit("too late", "", &[]));
            }
            name => {
                let attachments: Vec<_> = event.attachments.iter().map(|data| data.len()).collect();
                let validity = if event.placeholders_are_valid() { "" } else { " forged" };
                self.log(format!(
                    "{name}({}) {attachments:?}{validity}",
                    event.arguments.join("|")
                ));
            }
        }
    }
}

/// A server on a port of its own.
pub(crate) struct Fixture {
    pub(crate) server: Server<App>,
    pub(crate) address: SocketAddr,
    accepting: JoinHandle<()>,
}

impl Fixture {
    pub(crate) async fn start(config: Config) -> Self {
        Self::start_app(config, App::new()).await
    }

    pub(crate) async fn start_app(config: Config, app: App) -> Self {
        Self::start_on(TcpListener::bind("127.0.0.1:0").await.unwrap(), config, app)
    }

    /// Starts at the address of a server that has stopped.
    pub(crate) async fn start_at(address: SocketAddr, config: Config) -> Self {
        Self::start_on(TcpListener::bind(address).await.unwrap(), config, App::new())
    }

    fn start_on(listener: TcpListener, config: Config, app: App) -> Self {
        let server = Server::new(config, app, ["/", "/a", "/b"]).unwrap();
        let address = listener.local_addr().unwrap();
        let (tasks, accepting) = (TaskTracker::new(), server.clone());
        let accepting = tasks.clone().spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(accepting.clone(), stream));
            }
        });
        Self { server, address, accepting }
    }

    /// Ends the listener and its HTTP connections, and returns the address for another server.
    pub(crate) async fn stop_listening(self) -> SocketAddr {
        self.accepting.abort();
        let _ = self.accepting.await;
        self.address
    }

    pub(crate) fn app(&self) -> &App {
        self.server.handler()
    }

    /// Waits until nothing of any session is left.
    pub(crate) async fn expect_empty(&self) {
        let is_empty = || self.server.usage() == Default::default();
        wait_until(is_empty, || format!("left over: {:?}", self.server.usage())).await;
    }
}

async fn serve(server: Server<App>, stream: TcpStream) {
    let service = service_fn(|request: Request<Incoming>| {
        let server = server.clone();
        async move { server.handle::<TokioIo<TcpStream>, _>(request).await }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new());
    let _ = http.serve_connection(TokioIo::new(stream), service).with_upgrades().await;
}

/// Waits until `condition` holds; otherwise fails with `message`.
pub(crate) async fn wait_until(condition: impl Fn() -> bool, message: impl Fn() -> String) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < PATIENCE, "{}", message());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
