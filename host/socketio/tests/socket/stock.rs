//! The stock JavaScript client against the server. `tests/clients/javascript` must have its
//! `node_modules`, or the variable `SOCKHOP_JAVASCRIPT_CLIENT` name a folder that has them.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use sockhop_socketio::Config;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

use crate::raw::PATIENCE;
use crate::server::{Fixture, wait_until};

const TRANSPORTS: [&str; 3] = ["polling", "websocket", "polling,websocket"];

/// A running scenario of `stock.cjs`, and what it prints.
struct Scenario {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Scenario {
    /// `None` if there is no stock client on this machine.
    fn start(fixture: &Fixture, name: &str, transports: &str) -> Option<Self> {
        let crate_directory = Path::new(env!("CARGO_MANIFEST_DIR"));
        let clients = std::env::var_os("SOCKHOP_JAVASCRIPT_CLIENT")
            .map_or_else(|| crate_directory.join("../../tests/clients/javascript"), PathBuf::from);
        let modules = clients.join("node_modules");
        if !modules.join("socket.io-client").exists() {
            skip();
            return None;
        }
        let mut child = Command::new("node")
            .arg(crate_directory.join("tests/socket/stock.cjs"))
            .args([&format!("http://{}", fixture.address), name, transports])
            .env("NODE_PATH", modules)
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Some(Self { child, lines })
    }

    /// Waits until the client prints this line.
    async fn expect(&mut self, expected: &str) {
        let line = timeout(PATIENCE, self.lines.next_line()).await.expect("the client goes on").unwrap();
        assert_eq!(line.as_deref(), Some(expected));
    }

    /// Waits until the client has ended without an error.
    async fn succeed(mut self) {
        let status = timeout(PATIENCE, self.child.wait()).await.expect("the client ends").unwrap();
        assert!(status.success(), "{status}");
    }
}

#[expect(clippy::print_stderr, reason = "a test that does nothing says so")]
fn skip() {
    eprintln!("skipped: no socket.io-client on this machine");
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
async fn a_client_that_is_sent_away_stays_away_and_one_that_is_cut_off_returns() {
    for transports in TRANSPORTS {
        let fixture = Fixture::start(Config::default()).await;
        let Some(mut client) = Scenario::start(&fixture, "away", transports) else { return };
        client.expect("connected").await;
        fixture.app().connection().abort();
        client.expect("disconnected").await;
        client.expect("connected").await;
        fixture.app().connection().disconnect();
        client.expect("sent away").await;
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
        let Some(mut client) = Scenario::start(&fixture, "restart", transports) else { return };
        client.expect("connected").await;
        fixture.server.close();
        fixture.server.wait().await;
        client.expect("disconnected").await;
        let address = fixture.stop_listening().await;
        let fixture = Fixture::start_at(address, Config::default()).await;
        client.expect("connected").await;
        client.succeed().await;
        fixture.expect_empty().await;
    }
}

#[tokio::test]
async fn heartbeats_are_answered() {
    for transports in TRANSPORTS {
        let (ping_interval, ping_timeout) = (Duration::from_millis(200), Duration::from_secs(5));
        let fixture = Fixture::start(Config { ping_interval, ping_timeout, ..Config::default() }).await;
        let Some(mut client) = Scenario::start(&fixture, "idle", transports) else { return };
        client.expect("connected").await;
        client.succeed().await;
        wait_until(|| fixture.app().connections().is_empty(), || "the client is gone".into()).await;
    }
}
