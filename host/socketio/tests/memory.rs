//! The memory of a connection and of a message.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::future::{Future, ready};
use std::io::{Read, Write};
use std::net::TcpStream as Client;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use http::request::Parts;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use sockhop_socketio::engineio::{Batch, Config, End, Engine};
use sockhop_socketio::engineio::{Protocol, Refused, Service, Session};
use sockhop_socketio::{
    Abort, Answer, ConnectError, ConnectRequest, Context, Event, Handler, Server,
};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::TaskTracker;

/// The most that an idle WebSocket connection may cost, in bytes, with tokio's part of the TCP
/// connection and without the application's. It costs 2.4 to 4.2 KiB: the share of the buffers that
/// the thread keeps varies. One that held a buffer would cost 16 KiB more.
const MAX: u64 = 8 << 10;

const CONNECTIONS: u64 = 100;

struct Echo(Arc<Session>);

impl Protocol for Echo {
    async fn text(&mut self, text: &str, _batch: &Batch) -> Result<(), End> {
        self.0.text(&[text.as_bytes()], &[]);
        Ok(())
    }

    async fn binary(&mut self, _data: &[u8], _batch: &Batch) -> Result<(), End> {
        Ok(())
    }

    async fn closed(&mut self, _end: End, _batch: &Batch) {}
}

struct EchoService;

impl Service for EchoService {
    type Protocol = Echo;

    fn open(self: &Arc<Self>, session: &Arc<Session>, _request: &Parts) -> Result<Echo, Refused> {
        session.connected();
        Ok(Echo(Arc::clone(session)))
    }
}

/// Answers an event of Socket.IO.
struct EchoHandler;

impl Handler for EchoHandler {
    type Session = u64;
    type Data = u64;

    fn open(&self, _request: &Parts) -> Result<u64, Refused> {
        Ok(0)
    }

    async fn connect(&self, _request: &ConnectRequest<'_, Self>) -> Result<u64, ConnectError> {
        ready(Ok(0)).await
    }

    async fn event(&self, cx: &Context<'_, Self>, event: &Event<'_>) {
        cx.emit(event.name, event.text, event.attachments);
        ready(()).await;
    }
}

/// The bytes that a client sends, and the last bytes that it then receives.
type Talk = (&'static [u8], &'static [u8]);

const ECHO: Talk = (b"\x81\x85\0\0\0\x004echo", b"\x81\x054echo");

/// CONNECT and an event.
const SOCKETIO: Talk =
    (b"\x81\x82\0\0\0\x0040\x81\x8a\0\0\0\x0042[\"echo\"]", b"\x81\x0a42[\"echo\"]");

/// Opens a WebSocket, and sends something whose echo it waits for.
fn connect(port: u16, (sent, echo): Talk) -> Client {
    let mut client = Client::connect(("127.0.0.1", port)).unwrap();
    let request = "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: x\r\n\
        Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    client.write_all(request.as_bytes()).unwrap();
    client.write_all(sent).unwrap();
    let mut received = Vec::new();
    while !received.ends_with(echo) {
        let mut buf = [0; 1024];
        let read = client.read(&mut buf).unwrap();
        assert!(read > 0);
        received.extend_from_slice(&buf[..read]);
    }
    client
}

/// Serves an echo. Returns its port.
async fn serve_echo() -> u16 {
    let engine = Engine::new(Config::default(), Arc::new(EchoService));
    let handle = move |request| {
        let engine = Arc::clone(&engine);
        async move { engine.handle::<TokioIo<TcpStream>, _>(request).await }
    };
    serve(handle).await
}

/// Serves an echo over Socket.IO. Returns its port.
async fn serve_socketio() -> u16 {
    let server = Server::new(Config::default(), EchoHandler, ["/"]).unwrap();
    let handle = move |request| {
        let server = server.clone();
        async move { server.handle::<TokioIo<TcpStream>, _>(request).await }
    };
    serve(handle).await
}

async fn serve<R>(handle: impl Fn(Request<Incoming>) -> R + Clone + Send + 'static) -> u16
where
    R: Future<Output = Result<Answer, Abort>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let connections = TaskTracker::new();
    connections.clone().spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let service = service_fn(handle.clone());
            connections.spawn(async move {
                let http = http1::Builder::new();
                let served = http.serve_connection(TokioIo::new(stream), service);
                let _ = served.with_upgrades().await;
            });
        }
    });
    port
}

/// Opens connections from another thread, whose memory is not counted.
async fn clients(port: u16, talk: Talk, count: u64) -> Vec<Client> {
    let connect = move || (0..count).map(|_| connect(port, talk)).collect();
    let clients = tokio::task::spawn_blocking(connect).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    clients
}

fn assert_idle_costs_little(serve: impl Future<Output = u16>, talk: Talk) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let port = runtime.block_on(serve);
    let warm = runtime.block_on(clients(port, talk, CONNECTIONS));
    let mut measured = Vec::new();
    let counted = allocation_counter::measure(|| {
        measured = runtime.block_on(clients(port, talk, CONNECTIONS))
    });
    let each = counted.bytes_current.max(0).unsigned_abs() / CONNECTIONS;
    assert!((500..=MAX).contains(&each), "{each} bytes for each connection: {counted:?}");
    drop((warm, measured));
}

#[test]
fn an_idle_connection_holds_no_buffers() {
    assert_idle_costs_little(serve_echo(), ECHO);
}

#[test]
fn an_idle_connection_in_a_namespace_holds_no_buffers() {
    assert_idle_costs_little(serve_socketio(), SOCKETIO);
}

#[test]
fn a_message_needs_no_allocation() {
    const MESSAGES: u64 = 200;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let port = runtime.block_on(serve_echo());
    let mut client = runtime.block_on(clients(port, ECHO, 1)).remove(0);
    let talk = move || {
        let mut echo = [0; 7];
        for _ in 0..MESSAGES {
            client.write_all(b"\x81\x85\0\0\0\x004echo").unwrap();
            client.read_exact(&mut echo).unwrap();
            assert_eq!(&echo, b"\x81\x054echo");
        }
        client
    };
    let counted = allocation_counter::measure(|| {
        runtime.block_on(async { tokio::task::spawn_blocking(talk).await.unwrap() });
    });
    assert!(counted.count_total < 10, "{counted:?}");
}
