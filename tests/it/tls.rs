//! TLS on the address of clients: handshakes, the swap of certificates, and the commands that reach
//! such a host.

use std::fs::File;
use std::num::NonZeroUsize;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use sockhop::config::{Limits, SocketIo};
use sockhop::host::address_file;
use sockhop_tests::{
    HostProcess, Identity, PATIENCE, Stream, TestClient, TestHost, TlsClient, binary,
    bundled_plugin, directory_of, eventually, guest, serve, socketio,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

fn directory() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

/// The certificate that the host has shown.
fn shown(stream: &TlsStream<TcpStream>) -> Vec<u8> {
    let (_, connection) = stream.get_ref();
    connection.peer_certificates().expect("a certificate")[0].to_vec()
}

async fn raw(host: &TestHost) -> TcpStream {
    TcpStream::connect(host.url.trim_start_matches("https://")).await.expect("a host")
}

/// Reads until the host closes the connection.
async fn rest(stream: &mut (impl Stream + ?Sized)) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut bytes))
        .await
        .expect("a connection that is closed");
    bytes
}

/// Sends a request on its own connection, and returns the answer.
async fn ask(stream: &mut (impl Stream + ?Sized), path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("a connection to write to");
    String::from_utf8(rest(stream).await).expect("UTF-8")
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_swaps_of_the_certificate_close_no_connection_and_lose_no_ack() {
    const CLIENTS: usize = 500;
    const SWAPS: usize = 50;
    let directory = directory();
    let identities: Vec<Identity> = (0..=SWAPS).map(|_| Identity::default()).collect();
    // Reloads read this file. It names other files each time.
    let file = directory.path().join("sockhop.toml");
    let configure = |identity: &Identity, name: usize| {
        let of_swap = directory.path().join(name.to_string());
        std::fs::create_dir_all(&of_swap).expect("a directory");
        let files = identity.write(&of_swap);
        let text = format!(
            "[server.tls]\ncertificate_file = {:?}\nkey_file = {:?}\n[admin]\nlisten = \"127.0.0.1:0\"",
            files.certificate_file, files.key_file
        );
        std::fs::write(&file, text).expect("a file");
    };
    configure(&identities[0], 0);
    let plugins = directory_of(&[guest("lab")]);
    let host = HostProcess::with(plugins.path(), &directory.path().join("data"), |command| {
        command.arg("--config").arg(&file);
    });
    let trusting = TlsClient::trusting(&identities);
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let stream = trusting.connect(&host.url).await.expect("a handshake");
        assert_eq!(shown(&stream), identities[0].der);
        clients.push(Arc::new(TestClient::connect_over(stream, &host.url).await));
    }
    let is_over = Arc::new(AtomicBool::new(false));
    let acks = Arc::new(AtomicUsize::new(0));
    let asking: Vec<_> = clients
        .iter()
        .map(|client| {
            let (client, is_over, acks) =
                (Arc::clone(client), Arc::clone(&is_over), Arc::clone(&acks));
            tokio::spawn(async move {
                let mut number = 0;
                while !is_over.load(Ordering::Relaxed) {
                    // Panics if no ack comes.
                    assert_eq!(client.ask("echo", json!(number)).await, json!(number));
                    acks.fetch_add(1, Ordering::Relaxed);
                    number += 1;
                }
            })
        })
        .collect();
    let mut name = 0;
    for (swap, identity) in identities.iter().enumerate().skip(1) {
        let before = acks.load(Ordering::Relaxed);
        // Every tenth swap has the file names of before, and is found by the host itself.
        if swap % 10 == 0 {
            configure(identity, name);
        } else {
            name = swap;
            configure(identity, name);
            host.signal(Signal::SIGHUP);
        }
        eventually("the new certificate", async || {
            let stream = trusting.connect(&host.url).await.expect("a handshake");
            (shown(&stream) == identity.der).then_some(())
        })
        .await;
        // Events are in flight during each swap.
        eventually("an ack", async || (acks.load(Ordering::Relaxed) > before).then_some(())).await;
    }
    is_over.store(true, Ordering::Relaxed);
    for asking in asking {
        timeout(PATIENCE, asking).await.expect("the last ack").expect("every ack");
    }
    assert!(clients.iter().all(|client| !client.is_closed()));
    let data = directory.path().join("data");
    let operators = std::fs::read_to_string(address_file(&data)).expect("an address");
    let (_, text) = sockhop_tests::ask(operators.trim(), "/metrics", None, Some(&host.key));
    let text = text.as_str().expect("text");
    assert!(!text.contains(r#"sockhop_tls_handshakes_total{result="failed"}"#), "{text}");
    assert!(text.contains("sockhop_tls_certificate_expiry_timestamp_seconds{} 64060588800"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pair_that_does_not_fit_changes_nothing_and_is_logged_once() {
    let (directory, plugins, data) = (directory(), directory_of(&[]), directory_of(&[]));
    let (identity, other) = (Identity::default(), Identity::default());
    let files = identity.write(directory.path());
    let log = data.path().join("log");
    let file = File::create(&log).expect("a file");
    let host = HostProcess::with(plugins.path(), data.path(), |command| {
        command
            .env("SOCKHOP_SERVER__TLS__CERTIFICATE_FILE", &files.certificate_file)
            .env("SOCKHOP_SERVER__TLS__KEY_FILE", &files.key_file)
            .env("SOCKHOP_LOG__FILTER", "info")
            .stderr(file);
    });
    assert!(host.url.starts_with("https://"), "{}", host.url);
    let trusting = TlsClient::trusting([&identity, &other]);
    let logged = |what: &str| {
        let log = std::fs::read_to_string(&log).expect("a log");
        log.lines().filter(|line| line.contains(what)).count()
    };
    let refused = "the certificate and its key can't be read again";
    // In one step: the host must not read half of it, which would be another error.
    let replace = |file: &Path, text: &str| {
        sockhop::files::replace(file, &[text.as_bytes()]).expect("a file");
    };
    replace(&files.key_file, &other.key);
    eventually("a line of the log", async || (logged(refused) > 0).then_some(())).await;
    // The host looks again every second.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(logged(refused), 1);
    let stream = trusting.connect(&host.url).await.expect("a handshake");
    assert_eq!(shown(&stream), identity.der);
    replace(&files.certificate_file, &other.certificate);
    eventually("the new certificate", async || {
        let stream = trusting.connect(&host.url).await.expect("a handshake");
        (shown(&stream) == other.der).then_some(())
    })
    .await;
    assert_eq!((logged(refused), logged("a new certificate is used")), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn both_versions_of_tls_are_served_with_http_1_only() {
    let (directory, identity) = (directory(), Identity::default());
    let host = TestHost::with(&[], |config| identity.set(directory.path(), config)).await;
    for client in [TlsClient::trusting([&identity]), TlsClient::old(&identity)] {
        let mut stream = client.connect(&host.url).await.expect("a handshake");
        let answer = ask(&mut stream, "/healthz").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    }
    let stream = TlsClient::speaking(&identity, &["h2", "http/1.1"]).connect(&host.url).await;
    let stream = stream.expect("a handshake");
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    let refused = TlsClient::speaking(&identity, &["h2"]).connect(&host.url).await;
    assert!(refused.expect_err("no protocol").to_string().contains("NoApplicationProtocol"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_is_closed_with_close_notify() {
    let (directory, identity) = (directory(), Identity::default());
    let host =
        TestHost::with(&[guest("lab")], |config| identity.set(directory.path(), config)).await;
    let trusting = TlsClient::trusting([&identity]);
    // Without it, reading ends with an error.
    let mut stream = trusting.connect(&host.url).await.expect("a handshake");
    let request = "GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await.expect("a connection");
    let mut answer = String::new();
    let read = timeout(PATIENCE, stream.read_to_string(&mut answer)).await.expect("an end");
    read.expect("an end with close_notify");
    assert!(answer.ends_with("alive\n"), "{answer}");
    if socketio() != SocketIo::Builtin {
        return;
    }
    // A WebSocket that the client closes.
    let mut stream = trusting.connect(&host.url).await.expect("a handshake");
    let request = "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nhost: \
                   x\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-version: \
                   13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    stream.write_all(request.as_bytes()).await.expect("a connection");
    // A close frame without a status.
    stream.write_all(&[0x88, 0x80, 0, 0, 0, 0]).await.expect("a connection");
    let mut answer = Vec::new();
    let read = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("an end");
    read.expect("an end with close_notify");
    assert!(answer.ends_with(&[0x88, 0]), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_that_is_not_completed_is_closed_at_its_deadline_and_frees_its_slot() {
    let (directory, identity) = (directory(), Identity::default());
    let default = Limits::default();
    for (begun, is_first_byte) in [(&b""[..], true), (&[22, 3, 1, 2, 0, 1][..], false)] {
        let host = TestHost::with(&[], |config| {
            identity.set(directory.path(), config);
            let soon = Duration::from_secs(1);
            let limits = &mut config.limits;
            // The other one would come too late.
            (limits.first_byte_ms, limits.head_ms) =
                if is_first_byte { (soon, PATIENCE) } else { (PATIENCE, soon) };
            limits.connections = NonZeroUsize::new(2);
        })
        .await;
        let began = Instant::now();
        let mut held = [raw(&host).await, raw(&host).await];
        for stream in &mut held {
            stream.write_all(begun).await.expect("a connection");
        }
        let used = async || host.figure("sockhop_tcp_connections").await;
        eventually("two slots", async || (used().await == 2).then_some(())).await;
        for stream in &mut held {
            rest(stream).await;
        }
        assert!(began.elapsed() < default.head_ms, "{:?}", began.elapsed());
        eventually("free slots", async || (used().await == 0).then_some(())).await;
        let (_, text) = host.http("/metrics", None).await;
        let counted = r#"sockhop_tls_handshakes_total{result="timed_out"} 2"#;
        assert!(text.as_str().expect("text").contains(counted), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn handshakes_in_reserved_slots_do_not_keep_an_operator_out() {
    let (directory, identity) = (directory(), Identity::default());
    let host = TestHost::with(&[], |config| {
        config.server.tls = Some(identity.write(directory.path()));
        config.limits.connections = NonZeroUsize::new(1);
        config.limits.reserved_connections = NonZeroUsize::new(2).expect("not zero");
        (config.limits.first_byte_ms, config.limits.head_ms) = (PATIENCE, PATIENCE);
    })
    .await;
    // In the client's slot, a handshake has its whole time.
    let _client = raw(&host).await;
    let began = Instant::now();
    let mut held = [raw(&host).await, raw(&host).await];
    // One network has half of the reserve: the first one is aborted.
    rest(&mut held[0]).await;
    assert!(began.elapsed() < Duration::from_millis(1_900), "{:?}", began.elapsed());
    // The second one has two seconds.
    rest(&mut held[1]).await;
    assert!(began.elapsed() < PATIENCE / 2, "{:?}", began.elapsed());
    let mut stream = TlsClient::trusting([&identity]).connect(&host.url).await.expect("a slot");
    let answer = ask(&mut stream, "/readyz").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_http_on_the_port_of_tls_is_closed() {
    let (directory, identity) = (directory(), Identity::default());
    let host = TestHost::with(&[], |config| identity.set(directory.path(), config)).await;
    let answer = {
        let mut stream = raw(&host).await;
        stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("a host");
        rest(&mut stream).await
    };
    // An alert of TLS, or nothing.
    assert!(answer.len() <= 7 && !answer.starts_with(b"HTTP"), "{answer:?}");
    let (_, text) = host.http("/metrics", None).await;
    let counted = r#"sockhop_tls_handshakes_total{result="failed"} 1"#;
    assert!(text.as_str().expect("text").contains(counted), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_late_gets_everything_in_order_over_tls() {
    /// More than the system buffers for a connection, and than one record of TLS.
    const EVENTS: usize = 60;
    const BYTES: usize = 100_000;
    // The library cuts a client for which so many acks wait, also without TLS.
    if socketio() != SocketIo::Builtin {
        return;
    }
    let (directory, identity) = (directory(), Identity::default());
    let host = TestHost::with(&[guest("lab")], |config| {
        identity.set(directory.path(), config);
        config.limits.overflow_bytes = NonZeroUsize::new(256 << 20).expect("not zero");
    })
    .await;
    let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(8 << 10).expect("a small buffer");
    let address = host.url.trim_start_matches("https://").parse().expect("an address");
    let stream = socket.connect(address).await.expect("a connection");
    let mut stream = TlsClient::trusting([&identity]).on(stream).await.expect("a handshake");
    let request = "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nhost: \
                   x\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-version: \
                   13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    stream.write_all(request.as_bytes()).await.expect("a connection");
    // A masked frame whose mask is zero.
    let frame = |text: &str| {
        let length = match u8::try_from(text.len()) {
            Ok(short @ ..126) => vec![0x80 | short],
            _ => [&[0xff], &(text.len() as u64).to_be_bytes()[..]].concat(),
        };
        [&[0x81], &*length, &[0; 4], text.as_bytes()].concat()
    };
    stream.write_all(&frame("40")).await.expect("a connection");
    let (mut read, mut buffer) = (Vec::new(), vec![0; 64 << 10]);
    while !read.windows(4).any(|text| text == b"40{\"") {
        let got = timeout(PATIENCE, stream.read(&mut buffer)).await.expect("an answer in time");
        read.extend_from_slice(&buffer[..got.expect("a connection")]);
    }
    let payload = |number: usize| format!("{number:05}{}", "x".repeat(BYTES));
    for number in 0..EVENTS {
        let event = frame(&format!(r#"42{number}["echo","{}"]"#, payload(number)));
        stream.write_all(&event).await.expect("a connection");
    }
    // The acks wait.
    let waits = async || host.figure("sockhop_overflow_bytes").await;
    eventually("acks that wait", async || (waits().await > 0).then_some(())).await;
    let expected: Vec<_> =
        (0..EVENTS).map(|number| format!(r#"43{number}["{}"]"#, payload(number))).collect();
    let mut at = 0;
    for ack in expected {
        loop {
            let found = read[at..]
                .windows(ack.len().min(40))
                .position(|text| text == &ack.as_bytes()[..ack.len().min(40)]);
            if let Some(found) = found.map(|found| at + found)
                && read.len() >= found + ack.len()
            {
                assert_eq!(&read[found..found + ack.len()], ack.as_bytes());
                at = found + ack.len();
                break;
            }
            let got = timeout(PATIENCE, stream.read(&mut buffer)).await.expect("more in time");
            let got = got.expect("a connection that lives");
            assert!(got > 0, "the end after {} bytes", read.len());
            read.extend_from_slice(&buffer[..got]);
        }
    }
    eventually("an empty queue", async || (waits().await == 0).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_nothing_is_disconnected_over_tls() {
    let (directory, identity) = (directory(), Identity::default());
    let host = TestHost::with(&[guest("lab")], |config| {
        identity.set(directory.path(), config);
        config.limits.stalled_reader_ms = Duration::from_secs(1);
        config.limits.overflow_bytes = NonZeroUsize::new(256 << 20).expect("not zero");
    })
    .await;
    // The answer to a poll, which the HTTP server writes.
    let trusting = TlsClient::trusting([&identity]);
    let mut stream = trusting.connect(&host.url).await.expect("a handshake");
    let path = "/socket.io/?EIO=4&transport=polling";
    let open = ask(&mut stream, path).await;
    let sid = open.split('"').skip_while(|part| *part != "sid").nth(2).expect("a sid").to_owned();
    let path = format!("{path}&sid={sid}");
    let echo = format!(r#"420["echo","{}"]"#, "x".repeat(100_000));
    for packet in ["40"].into_iter().chain(std::iter::repeat_n(&*echo, 60)) {
        let mut stream = trusting.connect(&host.url).await.expect("a handshake");
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: \
             {}\r\n\r\n{packet}",
            packet.len()
        );
        stream.write_all(request.as_bytes()).await.expect("a connection");
        let answer = rest(&mut stream).await;
        assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    }
    let mut stream = trusting.connect(&host.url).await.expect("a handshake");
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("a connection");
    let used = async || host.figure("sockhop_tcp_connections").await;
    eventually("the end of the connection", async || (used().await == 0).then_some(())).await;
}

/// Runs the command, and returns its exit status and its whole output.
fn run(arguments: &[&str], environment: &[(&str, &Path)]) -> (i32, String) {
    let mut command = Command::new(binary());
    command.args(arguments).env_remove("SOCKHOP_KEY");
    environment.iter().for_each(|(name, value)| {
        command.env(name, value);
    });
    let output = command.output().expect("the command runs");
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().expect("an exit status"), String::from_utf8(text).expect("UTF-8"))
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_reach_a_host_with_tls_if_they_trust_its_certificate() {
    let (directory, identity) = (directory(), Identity::default());
    let host = TestHost::with(&[bundled_plugin("connection")], |config| {
        config.server.tls = Some(identity.write(directory.path()));
    })
    .await;
    let files = Identity::files(directory.path());
    let ca = files.certificate_file.to_str().expect("UTF-8").to_owned();
    let data = host.data().to_str().expect("UTF-8").to_owned();
    let named = host.url.replace("127.0.0.1", "localhost");
    let key = files.key_file.to_str().expect("UTF-8").to_owned();
    let commands = tokio::task::spawn_blocking(move || {
        // The address is that of the data directory.
        let list = ["plugins", "--data", &data];
        let reached = run(&[&list[..], &["--ca-file", &ca]].concat(), &[]);
        assert!(reached.0 == 0 && reached.1.contains("connection"), "{reached:?}");
        let reached =
            run(&[&list[..], &["--url", &named]].concat(), &[("SOCKHOP_CA_FILE", Path::new(&ca))]);
        assert!(reached.0 == 0, "{reached:?}");
        let (status, said) = run(&list, &[]);
        assert_eq!(status, 1, "{said}");
        assert!(said.contains("--ca-file") && said.contains("--url https://NAME:PORT"), "{said}");
        let (status, said) = run(&[&list[..], &["--ca-file", &key]].concat(), &[]);
        assert!(status == 1 && said.contains("has no certificate"), "{said}");
        let (status, said) = run(&[&list[..], &["--ca-file", "/no/such"]].concat(), &[]);
        assert!(status == 1 && said.contains("can't read /no/such (--ca-file)"), "{said}");
    });
    commands.await.expect("commands that do this");
}

/// Writes a configuration, and returns its path.
fn configuration(directory: &Path) -> String {
    let files = Identity::files(directory);
    let file = directory.join("sockhop.toml");
    let text = format!(
        "[server.tls]\ncertificate_file = \"{}\"\nkey_file = \"{}\"\n",
        files.certificate_file.display(),
        files.key_file.display()
    );
    std::fs::write(&file, text).expect("a file");
    file.to_str().expect("UTF-8").to_owned()
}

#[test]
fn a_pair_that_can_not_be_used_is_named_by_check_and_at_the_start() {
    let directory = directory();
    let (identity, other) = (Identity::default(), Identity::default());
    let files = identity.write(directory.path());
    let config = configuration(directory.path());
    let check = |json: bool| {
        let arguments = ["check", "--config", &config, "--json"];
        run(&arguments[..if json { 4 } else { 3 }], &[])
    };
    assert_eq!(check(false).0, 0, "{:?}", check(false));
    let old = Identity::expiring(2020);
    old.write(directory.path());
    let (status, said) = check(true);
    let document: Value = serde_json::from_str(&said).expect("JSON");
    let warning = "the certificate has expired at 2020-01-01T00:00:00Z: clients refuse it";
    assert_eq!((status, &document["config"]["warnings"]), (0, &json!([warning])), "{said}");
    std::fs::write(&files.key_file, &other.key).expect("a file");
    let (status, said) = check(false);
    assert!(status == 1 && said.contains("is not that of the first certificate"), "{said}");
    std::fs::remove_file(&files.certificate_file).expect("a file");
    let missing =
        format!("server.tls.certificate_file: can't read {}", files.certificate_file.display());
    let (status, said) = check(false);
    assert!(status == 1 && said.contains(&missing), "{said}");
    // A host ends before it listens.
    let (plugins, data) = (directory_of(&[]), directory_of(&[]));
    let mut command = serve(plugins.path(), data.path());
    let output = command.arg("--config").arg(&config).output().expect("the command runs");
    let said = String::from_utf8([output.stdout, output.stderr].concat()).expect("UTF-8");
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(&missing) && !said.contains("listening on"), "{said}");
}

#[test]
fn a_key_that_every_user_can_read_is_warned_of() {
    let (directory, plugins, data) = (directory(), directory_of(&[]), directory_of(&[]));
    let files = Identity::default().write(directory.path());
    let config = configuration(directory.path());
    use std::os::unix::fs::PermissionsExt;
    let open = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(&files.key_file, open).expect("a mode");
    let log = data.path().join("log");
    let file = File::create(&log).expect("a file");
    let mut host = HostProcess::with(plugins.path(), data.path(), |command| {
        command.arg("--config").arg(&config).stderr(file);
    });
    host.terminate();
    let log = std::fs::read_to_string(&log).expect("a log");
    let warned = |line: &&str| line.contains("chmod o=") && line.contains("key.pem");
    assert_eq!(log.lines().filter(warned).count(), 1, "{log}");
}
