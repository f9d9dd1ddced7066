//! A chat with rooms: `cargo run -p sockhop-socketio --example chat`, then connect a client to
//! `http://127.0.0.1:3000` with an `auth` such as `{ name: "ada" }`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::request::Parts;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Deserialize;
use sockhop_socketio::{
    Config, ConnectError, ConnectRequest, Connection, Context, DisconnectReason, Event, Handler,
    Refused, Server,
};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::TaskTracker;

/// The rooms, each with its members. The crate leaves rooms to the application.
#[derive(Default)]
struct Chat {
    rooms: Mutex<HashMap<String, Vec<Arc<Connection<Chat>>>>>,
}

/// In how many rooms a client can be.
const MAX_ROOMS: usize = 10;

/// How long the name of a room can be, in bytes of JSON.
const MAX_NAME: usize = 100;

#[derive(Deserialize)]
struct Auth {
    name: String,
}

impl Handler for Chat {
    /// Of a session, the chat keeps nothing.
    type Session = ();
    /// Of a connection, it keeps the name of the user.
    type Data = String;

    fn open(&self, _request: &Parts) -> Result<(), Refused> {
        Ok(())
    }

    async fn connect(&self, request: &ConnectRequest<'_, Self>) -> Result<String, ConnectError> {
        let auth: Result<Auth, _> = serde_json::from_str(request.auth);
        auth.map(|auth| auth.name).map_err(|_| ConnectError::new("a name is needed"))
    }

    async fn event(&self, cx: &Context<'_, Self>, event: &Event<'_>) {
        match (event.name, event.arguments) {
            ("join", [room]) => {
                let has_joined = self.join(room, cx.connection());
                cx.ack(event, if has_joined { "true" } else { "false" }, &[]);
            }
            ("say", [room, text]) => {
                let name = serde_json::json!(cx.connection().data());
                let receivers = self.say(cx, room, &format!("{name},{text}"));
                cx.ack(event, &receivers.to_string(), &[]);
            }
            _ => {
                cx.emit("problem", r#""there is no such event""#, &[]);
            }
        }
    }

    async fn disconnected(&self, cx: &Context<'_, Self>, _reason: DisconnectReason) {
        let mut rooms = self.rooms.lock().unwrap_or_else(PoisonError::into_inner);
        rooms.retain(|_, members| {
            members.retain(|member| member.id() != cx.connection().id());
            !members.is_empty()
        });
    }
}

impl Chat {
    /// Returns false if the client is in too many rooms or the name is too long.
    fn join(&self, room: &str, connection: &Arc<Connection<Self>>) -> bool {
        let mut rooms = self.rooms.lock().unwrap_or_else(PoisonError::into_inner);
        let is_in = |members: &[Arc<Connection<Self>>]| {
            members.iter().any(|member| member.id() == connection.id())
        };
        if rooms.get(room).is_some_and(|members| is_in(members)) {
            return true;
        }
        let is_allowed = room.len() <= MAX_NAME
            && rooms.values().filter(|members| is_in(members)).count() < MAX_ROOMS;
        if is_allowed {
            rooms.entry(room.to_owned()).or_default().push(Arc::clone(connection));
        }
        is_allowed
    }

    /// Sends an event to all members of a room, encoded once.
    fn say(&self, cx: &Context<'_, Self>, room: &str, arguments: &str) -> usize {
        let event = cx.connection().encode("said", arguments, &[]);
        let rooms = self.rooms.lock().unwrap_or_else(PoisonError::into_inner);
        let members = rooms.get(room).map(Vec::as_slice).unwrap_or_default();
        members.iter().filter(|member| cx.send(member, &event)).count()
    }
}

async fn serve(server: Server<Chat>, stream: TcpStream) {
    let service = service_fn(|request: http::Request<Incoming>| {
        let server = server.clone();
        // A server with other paths asks `server.serves(path)` first, and adds CORS headers here.
        async move { server.handle::<TokioIo<TcpStream>, _>(request).await }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(10));
    // A client that disconnects is not an error of the server.
    let _ = http.serve_connection(TokioIo::new(stream), service).with_upgrades().await;
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let config = Config { max_queued: 1 << 20, ..Config::default() };
    let server = Server::new(config, Chat::default(), ["/"])?;
    let listener = TcpListener::bind("127.0.0.1:3000").await?;
    let connections = TaskTracker::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted?;
                stream.set_nodelay(true)?;
                connections.spawn(serve(server.clone(), stream));
            }
            stopped = tokio::signal::ctrl_c() => break stopped?,
        }
    }
    server.close();
    server.wait().await;
    Ok(())
}
