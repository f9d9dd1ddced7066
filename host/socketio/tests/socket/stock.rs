//! The stock clients against the server.
//!
//! The JavaScript client is taken from the folder in `SOCKHOP_JAVASCRIPT_CLIENT`, by default
//! `tests/clients/javascript`, which must have its `node_modules`. The Python clients are tested if
//! `SOCKHOP_PYTHON` names an interpreter that has python-socketio with requests, websocket-client
//! and aiohttp. A client that is not there is skipped, but a test fails if a variable is set and
//! its client can't be used.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use sockhop_socketio::{Batch, Config, Recovery};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::proxy::Proxy;
use crate::server::{Fixture, wait_until};

/// How long a test waits for a client, which has a process to start.
const PATIENCE: Duration = Duration::from_secs(30);

const TRANSPORTS: [&str; 3] = ["polling", "websocket", "polling,websocket"];

/// The two kinds of Python client.
const PYTHON: [&str; 2] = ["sync", "async"];

/// A running scenario of `stock.cjs` or `stock.py`, and its output.
struct Scenario {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Drop for Scenario {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Scenario {
    /// `None` if there is no JavaScript client on this machine.
    fn start(fixture: &Fixture, name: &str, transports: &str) -> Option<Self> {
        let Some(modules) =
            javascript_modules(std::env::var_os("SOCKHOP_JAVASCRIPT_CLIENT").map(PathBuf::from))
        else {
            skip("socket.io-client");
            return None;
        };
        let mut node = Command::new("node");
        node.arg(crate_directory().join("tests/socket/stock.cjs")).env("NODE_PATH", modules);
        Some(Self::spawn(node, fixture.address, &[name, transports]))
    }

    /// `None` if there is no Python client on this machine.
    fn start_python(fixture: &Fixture, name: &str, transports: &str, kind: &str) -> Option<Self> {
        Self::start_python_at(fixture.address, name, transports, kind)
    }

    fn start_python_at(
        address: SocketAddr,
        name: &str,
        transports: &str,
        kind: &str,
    ) -> Option<Self> {
        let Some(interpreter) = std::env::var_os("SOCKHOP_PYTHON") else {
            skip("python-socketio");
            return None;
        };
        let mut python = Command::new(interpreter);
        python.arg(crate_directory().join("tests/socket/stock.py"));
        Some(Self::spawn(python, address, &[name, transports, kind]))
    }

    fn spawn(mut command: Command, address: SocketAddr, arguments: &[&str]) -> Self {
        let url = format!("http://{address}");
        let mut child = command.arg(url).args(arguments).stdout(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (line, lines) = mpsc::channel(16);
        std::thread::spawn(move || {
            output.lines().map_while(Result::ok).try_for_each(|read| line.blocking_send(read))
        });
        Self { child, lines }
    }

    /// Waits until the client prints this line.
    async fn expect(&mut self, expected: &str) {
        let line = timeout(PATIENCE, self.lines.recv()).await.expect("a line in time");
        assert_eq!(line.as_deref(), Some(expected));
    }

    /// Waits until the client has ended without an error.
    async fn succeed(mut self) {
        let ended = async { while self.lines.recv().await.is_some() {} };
        timeout(PATIENCE, ended).await.expect("the client ends");
        // Its output has ended, which it does by ending.
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}");
    }
}

/// The modules of the JavaScript client in the folder that the developer has named, or in that of
/// this repository. A folder that is named must have the client.
fn javascript_modules(named: Option<PathBuf>) -> Option<PathBuf> {
    let is_named = named.is_some();
    let clients = named.unwrap_or_else(|| crate_directory().join("../../tests/clients/javascript"));
    let modules = clients.join("node_modules");
    let has_client = modules.join("socket.io-client/package.json").exists();
    assert!(has_client || !is_named, "no socket.io-client in {}", modules.display());
    has_client.then_some(modules)
}

#[test]
#[should_panic(expected = "no socket.io-client in")]
fn a_javascript_client_that_is_named_must_be_there() {
    javascript_modules(Some(crate_directory().join("src")));
}

fn crate_directory() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[expect(clippy::print_stderr, reason = "a test that does nothing says so")]
fn skip(client: &str) {
    eprintln!("skipped: no {client} on this machine");
}

#[tokio::test]
async fn events_and_answers_over_every_transport() {
    for transports in TRANSPORTS {
        let fixture = Fixture::start(Config::default()).await;
        let Some(mut client) = Scenario::start(&fixture, "talk", transports) else { return };
        client.expect("connected").await;
        let asked = fixture.app().connection().emit_with_ack("ask", "1,\"two\"", &[]).unwrap();
        assert_eq!(asked.await.unwrap().arguments, "[1,\"two\"],\"yes\"");
        client.succeed().await;
        fixture.expect_empty().await;
    }
}

#[tokio::test]
async fn a_namespace_is_left_and_entered_again_with_events_in_flight() {
    for transports in TRANSPORTS {
        let fixture = Fixture::start(Config::default()).await;
        let Some(client) = Scenario::start(&fixture, "leave", transports) else { return };
        client.succeed().await;
        fixture.expect_empty().await;
    }
}

#[tokio::test]
async fn a_client_that_is_disconnected_stays_away_and_one_that_is_aborted_returns() {
    for transports in TRANSPORTS {
        let fixture = Fixture::start(Config::default()).await;
        let Some(mut client) = Scenario::start(&fixture, "away", transports) else { return };
        client.expect("connected").await;
        fixture.app().connection().abort();
        client.expect("disconnected").await;
        client.expect("connected").await;
        fixture.app().connection().disconnect();
        client.expect("stays away").await;
        client.succeed().await;
        fixture.expect_empty().await;
    }
}

fn disconnect_from_a(fixture: &Fixture) {
    let connections = fixture.app().connections();
    connections.iter().find(|connection| connection.namespace() == "/a").unwrap().disconnect();
}

#[tokio::test]
async fn a_client_that_is_disconnected_from_one_namespace_stays_in_the_other() {
    for transports in TRANSPORTS {
        let fixture = Fixture::start(Config::default()).await;
        let Some(mut client) = Scenario::start(&fixture, "namespaces", transports) else { return };
        client.expect("connected").await;
        disconnect_from_a(&fixture);
        client.succeed().await;
        fixture.expect_empty().await;
    }
}

#[tokio::test]
async fn a_client_whose_session_is_closed_stays_away_from_all_its_namespaces() {
    for transports in TRANSPORTS {
        let fixture = Fixture::start(Config::default()).await;
        let Some(mut client) = Scenario::start(&fixture, "closed", transports) else { return };
        client.expect("connected").await;
        fixture.app().connection().close_session();
        client.succeed().await;
        fixture.expect_empty().await;
    }
}

#[tokio::test]
async fn python_clients_that_are_disconnected_from_one_namespace_stay_in_the_other() {
    for (transports, kind) in
        TRANSPORTS.into_iter().flat_map(|transports| PYTHON.map(|kind| (transports, kind)))
    {
        let (ping_interval, ping_timeout) = (Duration::from_secs(2), Duration::from_secs(3));
        let fixture =
            Fixture::start(Config { ping_interval, ping_timeout, ..Config::default() }).await;
        let Some(mut client) = Scenario::start_python(&fixture, "namespaces", transports, kind)
        else {
            return;
        };
        client.expect("connected").await;
        wait_until(|| fixture.app().connections().len() == 2, || "both are entered".into()).await;
        disconnect_from_a(&fixture);
        client.succeed().await;
        fixture.expect_empty().await;
    }
}

#[tokio::test]
async fn a_client_learns_why_it_is_refused() {
    for transports in TRANSPORTS {
        let fixture = Fixture::start(Config::default()).await;
        let Some(client) = Scenario::start(&fixture, "refused", transports) else { return };
        client.succeed().await;
        fixture.expect_empty().await;
    }
}

#[tokio::test]
async fn a_client_returns_after_the_server_was_restarted() {
    for transports in TRANSPORTS {
        let fixture = Fixture::start(Config::default()).await;
        let Some(client) = Scenario::start(&fixture, "restart", transports) else { return };
        restart(fixture, client).await;
    }
}

async fn restart(fixture: Fixture, mut client: Scenario) {
    client.expect("connected").await;
    fixture.server.close();
    fixture.server.wait().await;
    client.expect("disconnected").await;
    let address = fixture.stop_listening().await;
    // A Python client that polls may end without a packet: the server must detect this itself.
    let (ping_interval, ping_timeout) = (Duration::from_secs(2), Duration::from_secs(3));
    let config = Config { ping_interval, ping_timeout, ..Config::default() };
    let fixture = Fixture::start_at(address, config).await;
    client.expect("connected").await;
    client.succeed().await;
    fixture.expect_empty().await;
}

#[tokio::test]
async fn python_clients_talk_over_every_transport() {
    for (transports, kind) in
        TRANSPORTS.into_iter().flat_map(|transports| PYTHON.map(|kind| (transports, kind)))
    {
        let fixture = Fixture::start(Config::default()).await;
        let Some(mut client) = Scenario::start_python(&fixture, "talk", transports, kind) else {
            return;
        };
        client.expect("connected").await;
        let asked = fixture.app().connection().emit_with_ack("ask", "1,\"two\"", &[]).unwrap();
        assert_eq!(asked.await.unwrap().arguments, "[1,\"two\"],\"yes\"");
        client.succeed().await;
        fixture.expect_empty().await;
    }
}

#[tokio::test]
async fn python_clients_return_after_the_server_was_restarted() {
    for (transports, kind) in
        TRANSPORTS.into_iter().flat_map(|transports| PYTHON.map(|kind| (transports, kind)))
    {
        let fixture = Fixture::start(Config::default()).await;
        let Some(client) = Scenario::start_python(&fixture, "restart", transports, kind) else {
            return;
        };
        restart(fixture, client).await;
    }
}

#[tokio::test]
async fn python_clients_which_know_no_recovery_work_with_a_server_that_has_it() {
    let (ping_interval, ping_timeout) = (Duration::from_secs(2), Duration::from_secs(3));
    let duration = Duration::from_millis(500);
    let recovery = Some(Recovery { duration, ..Recovery::default() });
    let config = || Config { ping_interval, ping_timeout, recovery, ..Config::default() };
    for (transports, kind) in
        TRANSPORTS.into_iter().flat_map(|transports| PYTHON.map(|kind| (transports, kind)))
    {
        let fixture = Fixture::start(config()).await;
        let Some(mut client) = Scenario::start_python(&fixture, "talk", transports, kind) else {
            return;
        };
        client.expect("connected").await;
        let connection = fixture.app().connection();
        let asked = connection.emit_with_ack("ask", "1,\"two\"", &[]).unwrap();
        assert_eq!(asked.await.unwrap().arguments, "[1,\"two\"],\"yes\"");
        drop(connection);
        client.succeed().await;
        fixture.expect_empty().await;
    }
}

#[tokio::test]
async fn python_clients_return_while_their_old_connections_are_kept() {
    // A client that polls may have no request under way when it is cut off. Then the server notices
    // it by a missing pong.
    let (ping_interval, ping_timeout) = (Duration::from_millis(500), Duration::from_secs(10));
    let recovery = Some(Recovery { duration: Duration::from_secs(3600), ..Recovery::default() });
    for (transports, kind) in
        TRANSPORTS.into_iter().flat_map(|transports| PYTHON.map(|kind| (transports, kind)))
    {
        let config = Config { ping_interval, ping_timeout, recovery, ..Config::default() };
        let fixture = Fixture::start(config).await;
        let proxy = Proxy::start(fixture.address).await;
        let start = Scenario::start_python_at;
        let Some(mut client) = start(proxy.address, "news", transports, kind) else { return };
        client.expect("connected").await;
        let first = fixture.app().connection();
        first.emit("news", "1", &[]);
        // Its listeners get the offset, as a last argument that they do not know.
        client.expect("1 and an offset").await;
        // Nothing passes until both sides know that they have lost each other: a Python client that
        // is cut off while it connects may go on as if it were connected.
        proxy.cut();
        client.expect("disconnected").await;
        let is_detached = || fixture.server.usage().detached > 0;
        wait_until(is_detached, || "the server knows it".into()).await;
        assert!(first.emit("news", "2", &[]), "for a client that will not ask for it");
        proxy.restore();
        client.expect("connected").await;
        let second = fixture.app().connection();
        assert!(second.id() != first.id() && !first.has_ended());
        second.emit("news", "3", &[]);
        client.expect("3 and an offset").await;
        client.succeed().await;
        drop((first, second));
        fixture.server.close();
        fixture.expect_empty().await;
    }
}

/// Sends the numbers from 0 on to all connections, each number in one of three ways, until dropped.
async fn send_numbers(fixture: &Fixture) {
    let mut pace = tokio::time::interval(Duration::from_millis(1));
    for number in 0u64.. {
        if number % 4 == 0 {
            pace.tick().await;
        }
        let (text, connections) = (number.to_string(), fixture.app().connections());
        let event = fixture.server.encode("/", "number", &text, &[]).unwrap();
        let batch = Batch::default();
        for connection in connections {
            match number % 3 {
                0 => drop(connection.emit("number", &text, &[])),
                1 => drop(connection.send(&event)),
                _ => drop(connection.send_in(&batch, &event)),
            }
        }
    }
}

/// Sends other events meanwhile, until dropped.
async fn send_noise(fixture: &Fixture) {
    let mut pace = tokio::time::interval(Duration::from_micros(700));
    loop {
        pace.tick().await;
        for connection in fixture.app().connections() {
            connection.emit("noise", "", &[]);
        }
    }
}

async fn cut_off(max_bytes: usize, expected: &str) {
    for transports in TRANSPORTS {
        let recovery = Recovery { max_bytes, ..Recovery::default() };
        let fixture =
            Fixture::start(Config { recovery: Some(recovery), ..Config::default() }).await;
        let Some(mut client) = Scenario::start(&fixture, "cut", transports) else { return };
        let talk = async {
            client.expect(expected).await;
            client.succeed().await;
        };
        tokio::select! {
            () = talk => {}
            () = send_numbers(&fixture) => {}
            () = send_noise(&fixture) => {}
        }
        fixture.expect_empty().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_client_that_is_cut_off_again_and_again_gets_everything_once_and_in_order() {
    cut_off(64 << 20, "missed none").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_client_that_is_cut_off_for_too_many_events_learns_that_it_missed_some() {
    // Space for a few events.
    cut_off(16 << 10, "missed some").await;
}

#[tokio::test]
async fn heartbeats_are_answered() {
    for transports in TRANSPORTS {
        let (ping_interval, ping_timeout) = (Duration::from_millis(200), Duration::from_secs(5));
        let fixture =
            Fixture::start(Config { ping_interval, ping_timeout, ..Config::default() }).await;
        let Some(mut client) = Scenario::start(&fixture, "idle", transports) else { return };
        client.expect("connected").await;
        client.succeed().await;
        wait_until(|| fixture.app().connections().is_empty(), || "the client is gone".into()).await;
    }
}
