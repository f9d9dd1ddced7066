//! A peer in the benchmark: the events of Sockhop's bundled plugins as typed handlers on
//! socketioxide. It is what a team without plugins would write, so the difference to Sockhop is the
//! cost of the plugins.
//!
//! It is tuned as far as the library's documentation and our measurements suggest. It has a buffer
//! that loses nothing, TCP_NODELAY, the host's allocator, and one thread if there is one core.
//! Payloads are checked by their types, and by hand if a type can't express the rule.

#![allow(clippy::print_stdout, reason = "where it listens is what its starter waits for")]

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use axum::Router;
use axum::serve::ListenerExt;
use clap::{Parser, ValueEnum};
use rusqlite::Connection;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Number, Value, json};
use socketioxide::SocketIo;
use socketioxide::extract::{AckSender, SocketRef, TryData};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

/// The allocator of the host, with the same settings.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[allow(unsafe_code, reason = "as the host's")]
#[unsafe(export_name = "_rjem_malloc_conf")]
static ALLOCATOR_SETTINGS: &[u8; 70] =
    b"narenas:1,background_thread:true,dirty_decay_ms:1000,muzzy_decay_ms:0\0";

/// A peer in the benchmark: the bundled plugins' events on socketioxide.
#[derive(Debug, Parser)]
struct Arguments {
    /// Port on 127.0.0.1; 0 takes a free one
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Directory for the records; without it they stay in memory
    #[arg(long)]
    data: Option<PathBuf>,
    /// One thread, or tokio's pool of as many as there are processors
    #[arg(long, value_enum, default_value_t = Runtime::Current)]
    runtime: Runtime,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Runtime {
    Current,
    Multi,
}

#[derive(Serialize)]
struct Connected {
    sid: String,
    connection_id: String,
    user_id: Option<String>,
    server_time: String,
}

#[derive(Deserialize)]
struct Ping {
    timestamp: Number,
}

#[derive(Serialize)]
struct Pong {
    timestamp: Number,
    server_time: String,
}

#[derive(Deserialize)]
struct Subscribe {
    event_type: String,
}

#[derive(Serialize)]
struct Subscribed<'a> {
    status: &'static str,
    event_type: &'a str,
    room: &'a str,
}

#[derive(Deserialize, Serialize)]
#[serde(untagged)]
enum UserId {
    Number(i64),
    Text(String),
}

#[derive(Deserialize)]
struct Create {
    user_id: UserId,
    content: String,
}

#[derive(Serialize)]
struct Record {
    id: i64,
    user_id: UserId,
    content: String,
    created_at: String,
}

/// The record store: one commit per record, without a sync to the disk, like the host's own store.
struct Logs(Mutex<Connection>);

impl Logs {
    fn open(directory: Option<&Path>) -> anyhow::Result<Self> {
        let database = match directory {
            Some(directory) => {
                std::fs::create_dir_all(directory)
                    .with_context(|| format!("can't make {}", directory.display()))?;
                Connection::open(directory.join("records.db"))?
            }
            None => Connection::open_in_memory()?,
        };
        database.execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;
            CREATE TABLE IF NOT EXISTS memory_logs (id INTEGER PRIMARY KEY, user_id TEXT, content \
             TEXT, created_at TEXT)",
        )?;
        Ok(Self(Mutex::new(database)))
    }

    fn create(&self, create: Create) -> rusqlite::Result<Record> {
        let created_at = now();
        let user = user_text(&create.user_id);
        let database = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut insert = database.prepare_cached(
            "INSERT INTO memory_logs (user_id, content, created_at) VALUES (?, ?, ?)",
        )?;
        let id = insert.insert((user, &create.content, &created_at))?;
        Ok(Record { id, user_id: create.user_id, content: create.content, created_at })
    }
}

/// The current time in the format of the contract: RFC 3339 in UTC, with milliseconds.
fn now() -> String {
    format!("{:.3}", jiff::Timestamp::now())
}

fn user_text(user: &UserId) -> String {
    match user {
        UserId::Number(number) => number.to_string(),
        UserId::Text(text) => text.clone(),
    }
}

fn error(code: &str, message: impl ToString, event: &str) -> Value {
    json!({"error": {"code": code, "message": message.to_string(), "event": event}})
}

/// Sends an answer. If the client has disconnected, the error is ignored.
fn answer(ack: AckSender, reply: &impl Serialize) {
    let _ = ack.send(reply);
}

fn ping(socket: &SocketRef, TryData(ping): TryData<Ping>, ack: AckSender) {
    match ping {
        Ok(Ping { timestamp }) => {
            let pong = Pong { timestamp, server_time: now() };
            let _ = socket.emit("pong", &pong);
            answer(ack, &pong);
        }
        Err(invalid) => answer(ack, &error("invalid_payload", invalid, "ping")),
    }
}

fn subscribe(socket: &SocketRef, TryData(subscribe): TryData<Subscribe>, ack: AckSender) {
    match subscribe {
        Ok(Subscribe { event_type }) => {
            socket.join(event_type.clone());
            answer(
                ack,
                &Subscribed { status: "subscribed", event_type: &event_type, room: &event_type },
            );
        }
        Err(invalid) => answer(ack, &error("invalid_payload", invalid, "subscribe_event")),
    }
}

fn echo(TryData(data): TryData<Value>, ack: AckSender) {
    match data {
        Ok(data) => answer(ack, &data),
        Err(invalid) => answer(ack, &error("invalid_payload", invalid, "echo")),
    }
}

async fn create(socket: SocketRef, logs: &Logs, TryData(create): TryData<Create>, ack: AckSender) {
    const EVENT: &str = "memory_log_create";
    let create = match create {
        Ok(create) if (1..=10_000).contains(&create.content.chars().count()) => create,
        Ok(_) => {
            return answer(
                ack,
                &error("invalid_payload", "content: must have 1 to 10000 characters", EVENT),
            );
        }
        Err(invalid) => return answer(ack, &error("invalid_payload", invalid, EVENT)),
    };
    let owner = format!("user_{}", user_text(&create.user_id));
    // The commit runs on this thread, because it takes less time than a handover to another thread.
    match logs.create(create) {
        Ok(record) => {
            // Serialized once for the broadcast and the answer.
            let Ok(record) = serde_json::value::to_raw_value(&record) else { return };
            let record: &RawValue = &record;
            // `within` includes the sender if it has subscribed.
            let _ = socket
                .within(["memory_logs".to_owned(), owner])
                .emit("memory_log_created", record)
                .await;
            answer(ack, &record);
        }
        Err(failed) => answer(ack, &error("plugin_failed", failed, EVENT)),
    }
}

fn serve(socket: &SocketRef, logs: Arc<Logs>) {
    socket.on("ping", async |socket: SocketRef, data: TryData<Ping>, ack: AckSender| {
        ping(&socket, data, ack)
    });
    socket.on(
        "subscribe_event",
        async |socket: SocketRef, data: TryData<Subscribe>, ack: AckSender| {
            subscribe(&socket, data, ack);
        },
    );
    socket.on("echo", async |data: TryData<Value>, ack: AckSender| echo(data, ack));
    socket.on(
        "memory_log_create",
        async move |socket: SocketRef, data: TryData<Create>, ack: AckSender| {
            create(socket, &logs, data, ack).await;
        },
    );
    // `connected` is sent last. A client that has received it may send events, and all handlers are
    // registered.
    let connected = Connected {
        sid: socket.id.to_string(),
        connection_id: ulid::Ulid::new().to_string(),
        user_id: None,
        server_time: now(),
    };
    let _ = socket.emit("connected", &connected);
}

async fn listen(arguments: Arguments) -> anyhow::Result<()> {
    let logs = Arc::new(Logs::open(arguments.data.as_deref())?);
    // The default of 128 packets silently loses acks and broadcasts.
    let (layer, io) = SocketIo::builder().max_buffer_size(4_096).build_layer();
    io.ns("/", async move |socket: SocketRef| serve(&socket, Arc::clone(&logs)));
    let listener =
        TcpListener::bind(("127.0.0.1", arguments.port)).await.context("can't listen")?;
    let mut ends = signal(SignalKind::terminate()).context("can't wait for SIGTERM")?;
    println!("listening on http://{}", listener.local_addr()?);
    // Without TCP_NODELAY, answers wait for the client's next packet.
    let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
    tokio::select! {
        served = axum::serve(listener, Router::new().layer(layer)).into_future() => served.context("can't serve"),
        // Returning from `main` ends the program normally, so that exit handlers run. Committed
        // records are in the file.
        _ = ends.recv() => Ok(()),
    }
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let mut runtime = match arguments.runtime {
        Runtime::Current => {
            let mut builder = tokio::runtime::Builder::new_current_thread();
            // The same value as in the host: tokio's default of 61 polls the system more often.
            builder.event_interval(128);
            builder
        }
        Runtime::Multi => tokio::runtime::Builder::new_multi_thread(),
    };
    runtime.enable_all().build()?.block_on(listen(arguments))
}
