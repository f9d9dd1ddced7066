//! The server that the official Socket.IO test suite expects; see the crate docs for the command.
//!
//! `PORT` is the port on 127.0.0.1, 3000 if it is not set.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use http::request::Parts;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use sockhop_socketio::{
    Config, ConnectError, ConnectRequest, Context, Event, Handler, Refused, Server,
};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::task::TaskTracker;

/// Sends every event of the suite back.
struct Conformance;

impl Handler for Conformance {
    type Session = ();
    /// The `auth` of the client.
    type Data = String;

    fn open(&self, _request: &Parts) -> Result<(), Refused> {
        Ok(())
    }

    async fn connect(&self, request: &ConnectRequest<'_, Self>) -> Result<String, ConnectError> {
        Ok(request.auth.to_owned())
    }

    async fn connected(&self, cx: &Context<'_, Self>) {
        // The suite loses a message that it reads together with the one before, here the answer to
        // CONNECT. While a handler waits, queued packets are sent.
        tokio::time::sleep(Duration::from_millis(50)).await;
        cx.emit("auth", cx.connection().data(), &[]);
    }

    async fn event(&self, cx: &Context<'_, Self>, event: &Event<'_>) {
        match event.name {
            "message" => cx.emit("message-back", event.text, event.attachments),
            "message-with-ack" => cx.ack(event, event.text, event.attachments),
            _ => false,
        };
    }
}

async fn serve(server: Arc<Server<Conformance>>, stream: TcpStream) {
    let service = service_fn(|request: hyper::Request<Incoming>| {
        let server = Arc::clone(&server);
        async move { server.handle::<TokioIo<TcpStream>, _>(request).await }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(10));
    // A client that disconnects is not an error of the server.
    let _ = http.serve_connection(TokioIo::new(stream), service).with_upgrades().await;
}

// On one thread: the suite expects that a request is handled before another that it sends later.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let config = Config {
        ping_interval: Duration::from_millis(300),
        ping_timeout: Duration::from_millis(200),
        // The suite waits at most two seconds for the end of a session that connects to nothing.
        connect_timeout: Duration::from_secs(1),
        ..Config::default()
    };
    let server = Arc::new(Server::new(config, Conformance, ["/", "/custom"])?);
    let port = std::env::var("PORT")
        .map_or(Ok(3000), |port| port.parse())
        .context("PORT must be a number")?;
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    let mut stop = signal(SignalKind::terminate())?;
    let connections = TaskTracker::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted?;
                stream.set_nodelay(true)?;
                connections.spawn(serve(Arc::clone(&server), stream));
            }
            _ = stop.recv() => break,
        }
    }
    server.close();
    server.wait().await;
    Ok(())
}
