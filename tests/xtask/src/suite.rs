//! Runs the official test suites of Engine.IO and Socket.IO, from a checkout, against the crate's
//! example servers and against the host.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{fs, thread};

use crate::artifacts::{Workspace, cannot, create};
use crate::report::Steps;
use crate::{Failure, tools};

/// The address at which the suites expect a server. It is fixed in the suites.
const ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 3000);

/// How long a server may take until it serves. The host may have to compile a plugin.
const PATIENCE: Duration = Duration::from_secs(120);

/// Settings of the host for which the suite expects other values than the defaults.
const SETTINGS: [(&str, &str); 6] = [
    ("SOCKHOP_SERVER__NAMESPACES", r#"["/", "/custom"]"#),
    ("SOCKHOP_SERVER__PING_INTERVAL_MS", "300"),
    ("SOCKHOP_SERVER__PING_TIMEOUT_MS", "200"),
    ("SOCKHOP_LIMITS__CONNECT_MS", "1000"),
    // The `maxPayload` of a session is twice this value.
    ("SOCKHOP_LIMITS__MESSAGE_BYTES", "500000"),
    ("SOCKHOP_LIMITS__ATTACHMENT_BYTES", "500000"),
];

/// Runs the suite whose `package.json` is in `directory`.
///
/// # Errors
///
/// Returns an error if a case fails, or if `directory` contains no official suite.
pub(crate) fn run(workspace: &Workspace, directory: &Path) -> Result<(), Failure> {
    let manifest = directory.join("package.json");
    let text = fs::read_to_string(&manifest).map_err(|error| cannot("read", &manifest, &error))?;
    let is_engine = text.contains("\"engine.io-protocol");
    if !is_engine && !text.contains("\"socket.io-protocol") {
        return Err(Failure(format!(
            "{} is no official suite: expected `test-suite` of \
             github.com/socketio/socket.io-protocol, or \
             `docs/engine.io-protocol/v4-test-suite` of github.com/socketio/socket.io",
            directory.display()
        )));
    }
    if TcpStream::connect(ADDRESS).is_ok() {
        return Err(Failure(format!(
            "something listens on {ADDRESS} already, where the suite expects its server: stop it \
             first"
        )));
    }
    let mut steps = Steps::of(if is_engine { 3 } else { 6 });
    steps.step("the suite's packages", || npm(directory, &["ci", "--no-audit", "--no-fund"]))?;
    let example = if is_engine { "echo" } else { "conformance" };
    steps.step("the crate's example server", || {
        tools::run(workspace.cargo().args([
            "build",
            "--package",
            "sockhop-socketio",
            "--example",
            example,
        ]))
    })?;
    steps.step("the suite on the crate's example server", || {
        let _server = Server::start(&mut Command::new(workspace.example(example)), || {
            TcpStream::connect(ADDRESS).is_ok()
        })?;
        npm(directory, &["test"])
    })?;
    if is_engine {
        return Ok(());
    }
    steps.step("the plugin that the suite's events go to", || {
        tools::wasm_target()?;
        workspace.build_guests()
    })?;
    steps.step("host (the first time takes some minutes)", || workspace.build_host())?;
    steps.step("the suite on the host", || {
        let _server = Server::start(&mut host(workspace)?, is_ready)?;
        npm(directory, &["test"])
    })
}

/// Returns the command that starts the host with only the plugin of the suite. The library
/// socketioxide can't pass: its first ping comes when the suite waits for another packet.
fn host(workspace: &Workspace) -> Result<Command, Failure> {
    let directory = workspace.target.join("suite");
    let (plugins, data) = (directory.join("plugins"), directory.join("data"));
    create(&plugins)?;
    let (from, to) =
        (workspace.guests_dir().join("conformance.wasm"), plugins.join("conformance.wasm"));
    fs::copy(&from, &to).map_err(|error| cannot("copy", &from, &error))?;
    let mut command = Command::new(workspace.host_binary());
    command
        .args(["serve", "--listen", &ADDRESS.to_string(), "--plugins"])
        .arg(plugins)
        .arg("--data")
        .arg(data)
        .envs(SETTINGS);
    Ok(command)
}

/// Returns whether the host has loaded its plugin. Before that, it answers clients with 503.
fn is_ready() -> bool {
    let ask = || {
        let mut stream = TcpStream::connect(ADDRESS)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream
            .write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).map(|_| answer)
    };
    ask().is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
}

fn npm(directory: &Path, arguments: &[&str]) -> Result<(), Failure> {
    tools::run(Command::new(tools::NPM_PROGRAM).current_dir(directory).args(arguments))
}

/// A server process that is killed when this value is dropped.
struct Server(Child);

impl Server {
    /// Starts the server and waits until it serves.
    fn start(command: &mut Command, serves: impl Fn() -> bool) -> Result<Self, Failure> {
        let program = PathBuf::from(command.get_program());
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .map_err(|error| cannot("run", &program, &error))?;
        let mut server = Self(child);
        let until = Instant::now() + PATIENCE;
        while !serves() {
            if let Ok(Some(status)) = server.0.try_wait() {
                return Err(Failure(format!(
                    "{} ended before it served: {status}",
                    program.display()
                )));
            }
            if Instant::now() > until {
                return Err(Failure(format!("{} does not serve on {ADDRESS}", program.display())));
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
