//! The host's log: a log that can't be written does not affect the host, and any other log is
//! complete, short and safe against forged text.

use std::fs::File;
use std::io::{BufRead, BufReader, PipeReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sockhop_tests::{
    HostProcess, PATIENCE, TestClient, binary, bundled_plugin, chameleon, directory_of, drop_in,
    eventually, guest,
};

/// Capacity of a pipe on Linux, in bytes.
const PIPE: usize = 64 << 10;

/// Returns a full pipe that is not read. The reader must live as long as the host, because without
/// it writing fails instead.
fn full_pipe() -> (PipeReader, Stdio) {
    let (reader, mut writer) = std::io::pipe().expect("a pipe");
    writer.write_all(&vec![b'x'; PIPE]).expect("room for what a pipe holds");
    (reader, writer.into())
}

/// Returns a pipe whose reader is closed.
fn closed_pipe() -> Stdio {
    std::io::pipe().expect("a pipe").1.into()
}

fn full_disk() -> Stdio {
    File::options().write(true).open("/dev/full").expect("a device that is always full").into()
}

/// Starts a host with the plugin `lab`, whose circuit breaker never opens.
fn lab(data: &Path, settings: &[(&str, &str)], stderr: Stdio) -> (tempfile::TempDir, HostProcess) {
    let plugins = directory_of(&[guest("lab")]);
    let host = HostProcess::with(plugins.path(), data, |command| {
        command
            .stderr(stderr)
            .env("SOCKHOP_LIMITS__BREAKER_FAILURES", "1000000")
            .env("SOCKHOP_LIMITS__BREAKER_CALLS", "1000000");
        for (key, value) in settings {
            command.env(format!("SOCKHOP_LOG__{key}"), value);
        }
    });
    (plugins, host)
}

/// Checks that clients and operators are served although the log can't be written. Returns how many
/// log lines were dropped.
async fn serves_as_ever(what: &str, plugins: &Path, mut host: HostProcess) -> f64 {
    let client = TestClient::connect(&host.url).await;
    for _ in 0..3 {
        assert_eq!(
            client.ask("trap", json!(null)).await["error"]["code"],
            "plugin_failed",
            "{what}"
        );
    }
    assert_eq!(client.ask("echo", json!("still here")).await, json!("still here"), "{what}");
    drop_in(plugins, "later.wasm", &chameleon("version=1 name=later claims=later"));
    host.until("later", |row| row["state"] == "active");
    assert_eq!(client.ask("later", json!(null)).await["version"], "1", "{what}");
    assert_eq!(host.http("/api/plugins/later/disable", Some(json!({}))).0, 200, "{what}");
    assert_eq!(client.ask("later", json!(null)).await["error"]["code"], "unavailable", "{what}");
    // The next host uses the same data.
    assert_eq!(host.http("/api/plugins/later/enable", Some(json!({}))).0, 200, "{what}");
    assert_eq!(host.http("/healthz", None).0, 200, "{what}");
    let dropped = dropped(&host);
    let (status, took) = host.terminate();
    assert_eq!(status.code(), Some(0), "{what}");
    assert!(took < Duration::from_secs(20), "{what}: {took:?}");
    dropped
}

/// Returns the metric of dropped log lines.
fn dropped(host: &HostProcess) -> f64 {
    let (_, metrics) = host.http("/metrics", None);
    let line = metrics
        .as_str()
        .expect("text")
        .lines()
        .find_map(|line| line.strip_prefix("sockhop_log_lines_dropped_total "));
    line.expect("the figure").parse().expect("a number")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_whose_log_can_not_be_written_serves_reloads_and_stops_as_ever() {
    // All hosts share one data directory, so that the plugins are compiled only once.
    let data = tempfile::tempdir().expect("a directory");
    for format in ["text", "json"] {
        let settings = [("FORMAT", format), ("FILTER", "info")];
        for (what, stderr) in [("a closed pipe", closed_pipe()), ("a full disk", full_disk())] {
            let (plugins, host) = lab(data.path(), &settings, stderr);
            let dropped = serves_as_ever(what, plugins.path(), host).await;
            assert!(dropped >= 1.0, "{what}: lines that are lost are counted: {dropped}");
        }
        let (reader, stderr) = full_pipe();
        let (plugins, host) = lab(data.path(), &settings, stderr);
        serves_as_ever("a full pipe", plugins.path(), host).await;
        drop(reader);
    }
}

#[test]
fn a_start_that_fails_ends_the_process_although_nobody_reads_its_log() {
    let (plugins, data) = (directory_of(&[]), tempfile::tempdir().expect("a directory"));
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("its address").to_string();
    let serve = |arguments: &[&str], format: &str, stderr: Stdio| {
        let mut command = Command::new(binary());
        command.args(arguments).arg("--plugins").arg(plugins.path()).arg("--data").arg(data.path());
        command.env("SOCKHOP_LOG__FORMAT", format).stdout(Stdio::null()).stderr(stderr);
        ended(command.spawn().expect("it starts"))
    };
    for format in ["text", "json"] {
        for (listen, code) in [(&*address, 1), ("no address", 2)] {
            let arguments = ["serve", "--listen", listen];
            let (_reader, full) = full_pipe();
            assert_eq!(serve(&arguments, format, full), Some(code), "{format}, {listen}");
            let (mut reader, read) = std::io::pipe().expect("a pipe");
            assert_eq!(serve(&arguments, format, read.into()), Some(code), "{format}, {listen}");
            let mut said = String::new();
            reader.read_to_string(&mut said).expect("UTF-8");
            assert!(said.contains(listen), "the reason is told to a reader: {said}");
        }
    }
}

/// Waits until a process has ended. Returns its exit code.
fn ended(mut child: Child) -> Option<i32> {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().expect("a process to wait for") {
            return status.code();
        }
        if Instant::now() > until {
            child.kill().expect("a process to kill");
            panic!("the process does not end");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_for_which_there_is_no_room_are_counted_and_told_when_somebody_reads_again() {
    let data = tempfile::tempdir().expect("a directory");
    let (mut reader, stderr) = full_pipe();
    let settings = [("FILTER", "debug"), ("COLLAPSE", "false"), ("QUEUE_BYTES", "65536")];
    let (_plugins, mut host) = lab(data.path(), &settings, stderr);
    let client = TestClient::connect(&host.url).await;
    for _ in 0..1_000 {
        assert_eq!(client.ask("refuse", json!(null)).await["error"]["code"], "refused");
    }
    assert!(dropped(&host) > 0.0);
    let reading = std::thread::spawn(move || {
        let mut text = String::new();
        reader.read_to_string(&mut text).map(|_| text)
    });
    assert_eq!(host.terminate().0.code(), Some(0));
    let text = reading.join().expect("a reader").expect("text");
    assert!(text.contains("WARN sockhop::log: log lines were dropped"), "{text:.2000}");
}

#[test]
fn a_host_starts_whether_anybody_reads_its_output() {
    let (data, plugins) =
        (tempfile::tempdir().expect("a directory"), directory_of(&[bundled_plugin("connection")]));
    let (_reader, full) = full_pipe();
    for (what, stdout) in
        [("closed", closed_pipe()), ("full", full), ("on a full disk", full_disk())]
    {
        let change = |command: &mut Command| {
            command.stdout(stdout).stderr(Stdio::piped()).env("SOCKHOP_LOG__FILTER", "info");
        };
        let mut host = HostProcess::unheard(plugins.path(), data.path(), change, |child| {
            let log = BufReader::new(child.stderr.take().expect("a pipe"));
            let mut lines = log.lines().map_while(Result::ok);
            let address = lines
                .find_map(|line| {
                    line.split_once("listening listen=")?.1.split(' ').next().map(str::to_owned)
                })
                .expect("where it listens");
            // The log is read to its end, so that the pipe never breaks.
            std::thread::spawn(move || lines.count());
            format!("http://{address}")
        });
        assert_eq!(
            ureq::get(format!("{}/healthz", host.url)).call().expect("an answer").status(),
            200,
            "{what}"
        );
        assert_eq!(host.terminate().0.code(), Some(0), "{what}");
    }
}

#[test]
fn a_command_whose_reader_has_gone_ends_quietly_and_one_on_a_full_disk_says_so() {
    let file = bundled_plugin("connection");
    let check = |stdout: Stdio| {
        let output = Command::new(binary())
            .arg("check")
            .arg(&file)
            .stdout(stdout)
            .stderr(Stdio::piped())
            .output()
            .expect("it runs");
        (output.status.code(), String::from_utf8(output.stderr).expect("UTF-8"))
    };
    assert_eq!(check(closed_pipe()), (Some(0), String::new()));
    let (status, errors) = check(full_disk());
    assert_eq!(status, Some(1));
    assert!(
        errors.starts_with("error: can't write to standard output") && !errors.contains("panicked"),
        "{errors}"
    );
    let closed_too = Command::new(binary())
        .arg("check")
        .arg("missing.wasm")
        .stdout(closed_pipe())
        .stderr(closed_pipe())
        .status();
    assert_eq!(closed_too.expect("it runs").code(), Some(1));
}

/// Stops the host and returns all lines of its log.
fn stopped(mut host: HostProcess) -> Vec<String> {
    let mut log = host.take_stderr();
    let reading = std::thread::spawn(move || {
        let mut text = String::new();
        log.read_to_string(&mut text).map(|_| text)
    });
    assert_eq!(host.terminate().0.code(), Some(0));
    reading.join().expect("a reader").expect("UTF-8").lines().map(str::to_owned).collect()
}

/// Returns the value of a field in a line of a text log.
fn field<'line>(line: &'line str, name: &str) -> Option<&'line str> {
    let rest = line.split_once(&format!(" {name}="))?.1;
    match rest.strip_prefix('"') {
        Some(quoted) => quoted.split_once('"').map(|(value, _)| value),
        None => rest.split(' ').next(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn repeats_become_one_line_a_second_with_their_number_and_the_last_id() {
    const TIMES: usize = 200;
    let data = tempfile::tempdir().expect("a directory");
    let (_plugins, host) = lab(data.path(), &[("FILTER", "error")], Stdio::piped());
    let client = TestClient::connect(&host.url).await;
    let (began, mut ids) = (Instant::now(), Vec::new());
    for _ in 0..TIMES {
        let answer = client.ask("trap", json!(null)).await;
        ids.push(answer["error"]["id"].as_str().expect("an id").to_owned());
    }
    let seconds = began.elapsed().as_secs() as usize;
    let lines: Vec<_> =
        stopped(host).into_iter().filter(|line| field(line, "event") == Some("trap")).collect();
    let stands_for =
        |line: &String| field(line, "repeated").map_or(1, |times| times.parse().expect("a number"));
    assert_eq!(lines.iter().map(stands_for).sum::<usize>(), TIMES, "{lines:#?}");
    assert!(lines.len() <= seconds + 3, "{} lines in {seconds} s", lines.len());
    assert_eq!(field(&lines[0], "id"), Some(ids[0].as_str()), "the first is written at once");
    assert_eq!(lines.last().and_then(|line| field(line, "id")), ids.last().map(String::as_str));
}

/// Text that would form a line, a field or a terminal control sequence if it were written
/// unescaped.
const FORGED: &str = "all well plugin=bank event=pay code=\"ok\"\u{202e}\u{2028}\u{1b}[2J";

#[tokio::test(flavor = "multi_thread")]
async fn text_of_plugins_and_clients_can_not_look_like_the_hosts_own() {
    let data = tempfile::tempdir().expect("a directory");
    for format in ["text", "json"] {
        let (_plugins, host) =
            lab(data.path(), &[("FILTER", "debug"), ("FORMAT", format)], Stdio::piped());
        let client = TestClient::connect(&host.url).await;
        client.ask("say", json!(FORGED)).await;
        client.ask_raw(&json!(["x\u{202e} plugin=bank", FORGED]).to_string()).await;
        let lines = stopped(host);
        assert!(lines.iter().any(|line| line.contains("all well")), "{lines:#?}");
        for line in &lines {
            assert!(
                !line.contains(|c: char| c.is_control() || "\u{202e}\u{2028}".contains(c)),
                "{line:?}"
            );
            match format {
                "text" => assert!(!outside_of_quotes(line).contains("=bank"), "{line}"),
                _ => drop(serde_json::from_str::<Value>(line).expect("JSON")),
            }
        }
    }
}

/// Returns a line of a text log without its quoted values.
fn outside_of_quotes(line: &str) -> String {
    let escapes_gone = line.replace("\\\\", "").replace("\\\"", "");
    escapes_gone.split('"').step_by(2).collect()
}

#[test]
fn commands_escape_what_plugins_say() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("forged.wasm");
    std::fs::write(&file, chameleon("version=1 name=x\nother.wasm:ok\u{7f}")).expect("a file");
    let output = Command::new(binary()).arg("check").arg(&file).output().expect("it runs");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    assert_eq!((output.status.code(), text.lines().count()), (Some(1), 1), "{text}");
    assert!(text.contains("x\\nother.wasm:") && text.contains("ok\\u{7f}"), "{text}");
    let output =
        Command::new(binary()).args(["check", "--json"]).arg(&file).output().expect("it runs");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(!text.contains('\u{7f}'), "{text}");
    let document: Value = serde_json::from_str(&text).expect("JSON");
    assert!(
        document["plugins"][0]["reason"].as_str().expect("a reason").contains("x\nother.wasm:"),
        "{document}"
    );
    let data = tempfile::tempdir().expect("a directory");
    let host = HostProcess::start(dir.path(), data.path());
    let list = Command::new(binary())
        .args(["plugins", "--url", &host.url, "--data"])
        .arg(data.path())
        .output()
        .expect("it runs");
    let table = String::from_utf8(list.stdout).expect("UTF-8");
    assert_eq!(table.lines().count(), 2, "a header and a row: {table}");
}

#[test]
fn every_line_of_a_json_log_is_one_object() {
    let (plugins, data) =
        (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    let json = |command: &mut Command| {
        command
            .stderr(Stdio::piped())
            .env("SOCKHOP_LOG__FORMAT", "json")
            .env("SOCKHOP_LOG__FILTER", "debug");
    };
    let first = HostProcess::with(plugins.path(), data.path(), json);
    assert_eq!(first.said, Vec::<String>::new(), "also none on the standard output");
    // A second host on the same data, which can't start.
    let mut second = Command::new(binary());
    second
        .args(["serve", "--listen", "127.0.0.1:0", "--plugins"])
        .arg(plugins.path())
        .arg("--data")
        .arg(data.path());
    json(&mut second);
    let output = second.stdout(Stdio::null()).output().expect("it runs");
    assert_eq!(output.status.code(), Some(1));
    let mut lines: Vec<_> =
        String::from_utf8(output.stderr).expect("UTF-8").lines().map(str::to_owned).collect();
    lines.extend(stopped(first));
    let messages: Vec<_> = lines
        .iter()
        .map(|line| {
            serde_json::from_str::<Value>(line).unwrap_or_else(|_| panic!("no JSON: {line}"))
        })
        .map(|document| document["fields"]["message"].as_str().expect("a message").to_owned())
        .collect();
    for message in [
        "starting",
        "the plugin directory holds no .wasm; put one there",
        "the host can't start",
        "stopped",
    ] {
        assert!(messages.iter().any(|said| said == message), "{message}: {messages:#?}");
    }
}

#[test]
fn an_error_of_the_configuration_has_the_format_of_the_log() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("sockhop.toml");
    for (text, variable) in [
        ("[log]\nformat = \"json\"\n[limits]\nno_such = 1", None),
        ("[limits]\nno_such = 1", Some("json")),
        ("this is no TOML", Some("json")),
    ] {
        std::fs::write(&file, text).expect("a file");
        let mut command = Command::new(binary());
        command.arg("serve").arg("--config").arg(&file);
        command.envs(variable.map(|format| ("SOCKHOP_LOG__FORMAT", format)));
        let output = command.output().expect("it runs");
        assert_eq!(output.status.code(), Some(1), "{text}");
        let said = String::from_utf8(output.stderr).expect("UTF-8");
        let record: Value = serde_json::from_str(&said).expect("one object");
        let error = record["fields"]["error"].as_str().expect("an error");
        assert!(error.contains("sockhop.toml"), "{error}");
    }
}

#[test]
fn the_first_line_says_what_runs_and_a_pipe_gets_no_colours() {
    let (plugins, data) =
        (directory_of(&[bundled_plugin("connection")]), tempfile::tempdir().expect("a directory"));
    let host = HostProcess::with(plugins.path(), data.path(), |command| {
        command
            .stderr(Stdio::piped())
            .env("SOCKHOP_LOG__FILTER", "info")
            .env("SOCKHOP_LIMITS__CONNECTIONS", "77")
            .env("SOCKHOP_LIMITS__HEAD_MS", "5000");
    });
    let lines = stopped(host);
    assert!(lines[0].contains("INFO sockhop::command::serve: starting"), "{}", lines[0]);
    for part in [
        "version=0.1.0",
        "commit=",
        "config=none",
        "connections=77",
        "event_cpu_ms=250",
        "listen=127.0.0.1:0",
    ] {
        assert!(lines[0].contains(&format!(" {part}")), "{part}: {}", lines[0]);
    }
    let changed = field(&lines[0], "changed_limits");
    assert_eq!(
        changed,
        Some("connections=77 head_ms=5000 shutdown_close_ms=1 shutdown_unready_ms=1")
    );
    assert!(!lines.iter().any(|line| line.contains('\x1b')), "{lines:#?}");
    let output =
        Command::new(binary()).arg("check").arg(guest("register_traps")).output().expect("it runs");
    let errors = String::from_utf8(output.stderr).expect("UTF-8");
    assert!(errors.contains("no plugin today") && !errors.contains('\x1b'), "{errors:?}");
}

#[cfg(unix)]
#[test]
fn a_start_warns_of_each_file_of_secrets_that_every_user_can_read() {
    use std::os::unix::fs::PermissionsExt;
    let (plugins, dir) = (directory_of(&[]), tempfile::tempdir().expect("a directory"));
    let write = |name: &str, text: &str, mode: u32| {
        let file = dir.path().join(name);
        std::fs::write(&file, text).expect("a file");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).expect("a mode");
        file
    };
    let secret = "0123456789abcdef";
    let (open, closed) = (write("open", secret, 0o644), write("closed", secret, 0o640));
    let keys = [
        format!("secret_file = \"{}\"", open.display()),
        format!("secret_file = \"{}\"", open.display()),
        format!("secret_file = \"{}\"", closed.display()),
        "secret = \"fedcba9876543210\"".to_owned(),
    ];
    let text = |keys: &[String]| {
        let key = |(number, secret)| {
            format!("[[keys]]\nname = \"key{number}\"\n{secret}\nscopes = [\"metrics\"]\n")
        };
        keys.iter().enumerate().map(key).collect::<String>()
    };
    let with_secret = write("with_secret.toml", &text(&keys), 0o644);
    let without_secret = write("without_secret.toml", &text(&keys[..3]), 0o644);
    for (config, expected) in
        [(&with_secret, vec![&open, &with_secret]), (&without_secret, vec![&open])]
    {
        let host = HostProcess::with(plugins.path(), &dir.path().join("data"), |command| {
            command.arg("--config").arg(config).stderr(Stdio::piped());
        });
        let lines = stopped(host);
        let warned =
            lines.iter().filter(|line| line.contains("the secret of a key: run `chmod o=`"));
        let files: Vec<_> = warned.filter_map(|line| field(line, "file")).collect();
        let expected: Vec<_> = expected.iter().map(|file| file.display().to_string()).collect();
        assert_eq!(files, expected, "{lines:#?}");
    }
}

/// Returns the records of a JSON log, as `(target, fields)`.
fn records(lines: &[String]) -> Vec<(String, Value)> {
    let parse = |line: &String| {
        let mut document: Value = serde_json::from_str(line).expect("JSON");
        (document["target"].as_str().expect("a target").to_owned(), document["fields"].take())
    };
    lines.iter().map(parse).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_rejection_is_one_record_under_its_id() {
    let data = tempfile::tempdir().expect("a directory");
    let settings = [("FORMAT", "json"), ("FILTER", "info"), ("COLLAPSE", "false")];
    let (_plugins, host) = lab(data.path(), &settings, Stdio::piped());
    let client = TestClient::connect(&host.url).await;
    let me = client.ask("me", json!(null)).await;
    let mut rejected = Vec::new();
    for (event, payload, code) in [
        ("small", json!({"number": 1_000}), "invalid_payload"),
        ("refuse", json!(null), "refused"),
        ("nobody", json!(null), "unknown_event"),
        ("for_users", json!(null), "unauthorized"),
        ("undeclared", json!(null), "plugin_failed"),
        ("trap", json!(null), "plugin_failed"),
    ] {
        let error = client.ask(event, payload).await["error"].take();
        assert_eq!(error["code"], code, "{event}: {error}");
        rejected.push(error);
    }
    // The state has not been read yet, so no connection to its file is open for readers.
    let state = data.path().join("state").join("lab.sqlite");
    std::fs::rename(&state, state.with_extension("away")).expect("its file");
    let error = client.ask("counter", json!(null)).await["error"].take();
    assert_eq!(error["code"], "unavailable", "{error}");
    rejected.push(error);
    for (path, body, key, status) in [
        ("/api/plugins", None, None, 401),
        ("/api/plugins/nobody/disable", Some(json!({})), Some(()), 404),
        ("/metrics", None, None, 401),
    ] {
        let (answered, problem) = match key {
            Some(()) => host.http(path, body),
            None => sockhop_tests::ask(&host.url, path, body, None),
        };
        assert_eq!(answered, status, "{path}: {problem}");
        rejected.push(problem);
    }
    let emitted = host.http("/api/emit", Some(json!({"event": "nobody", "data": 1}))).1;
    assert_eq!(emitted["code"], "unknown_event");
    rejected.push(emitted);
    let lines = stopped(host);
    let records = records(&lines);
    for error in &rejected {
        let of_this: Vec<_> = records
            .iter()
            .filter(|(_, fields)| fields["id"] == error["id"])
            .map(|(_, fields)| fields)
            .collect();
        assert_eq!(of_this.len(), 1, "{error}: {of_this:#?}");
        for member in ["code", "event", "reason"] {
            assert_eq!(of_this[0][member], error[member], "{member} of {error}: {}", of_this[0]);
        }
        assert_eq!(of_this[0]["detail"], error["message"], "{}", of_this[0]);
    }
    for (method, path) in
        [("GET", "/api/plugins"), ("POST", "/api/plugins/nobody/disable"), ("GET", "/metrics")]
    {
        let record = records.iter().map(|(_, fields)| fields).find(|fields| fields["path"] == path);
        let record = record.expect("a record of the request");
        let known = (&record["method"], &record["address"]);
        assert_eq!(known, (&json!(method), &json!("127.0.0.1")), "{record}");
    }
    let of = |event: &str| {
        records
            .iter()
            .map(|(_, fields)| fields)
            .find(|fields| fields["event"] == event)
            .expect("a record")
    };
    for event in ["small", "refuse", "trap", "counter"] {
        let (record, known) = (
            of(event),
            json!({"plugin": "lab", "version": "1.0.0", "generation": 1, "client": me}),
        );
        for (name, value) in known.as_object().expect("an object") {
            assert_eq!(&record[name], value, "{name}: {record}");
        }
    }
    let trap = of("trap");
    assert!(
        trap["output"].as_str().expect("what it printed").contains("secret path: /etc/shadow"),
        "{trap}"
    );
    assert!(trap["location"].as_str().expect("a place").contains("examples/lab.rs:"), "{trap}");
    assert!(trap["error"].as_str().expect("a reason").contains("trapped: "), "{trap}");
    let counter = of("counter");
    assert!(counter["error"].as_str().expect("a reason").contains("state not read: "), "{counter}");
    assert!(lines.iter().any(|line| line.contains("ERROR") && line.contains("\"counter\"")));
    assert!(
        of("undeclared")["error"].as_str().expect("a reason").contains("secret"),
        "{}",
        of("undeclared")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_plugin_says_carries_its_code_and_the_events_id() {
    let data = tempfile::tempdir().expect("a directory");
    let (_plugins, host) =
        lab(data.path(), &[("FORMAT", "json"), ("FILTER", "info")], Stdio::piped());
    let client = TestClient::connect(&host.url).await;
    let id = client.ask("say", json!("to the log")).await["error"]["id"].take();
    let lines = stopped(host);
    let said: Vec<_> = records(&lines)
        .into_iter()
        .filter(|(target, _)| target == "plugin")
        .map(|(_, fields)| fields)
        .collect();
    let expected = json!({"message": "to the log", "plugin": "lab", "version": "1.0.0", "generation": 1, "id": id});
    assert_eq!(said, vec![expected; 3], "its log, its standard output and its standard error");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_that_an_event_leaves_unfinished_is_logged_under_its_own_id() {
    let data = tempfile::tempdir().expect("a directory");
    let settings = [("FORMAT", "json"), ("FILTER", "info"), ("COLLAPSE", "false")];
    let (_plugins, host) = lab(data.path(), &settings, Stdio::piped());
    let client = TestClient::connect(&host.url).await;
    assert_eq!(client.ask("mutter", json!("unfinished")).await, json!(null));
    let said = client.ask("say", json!("next")).await["error"]["id"].take();
    assert_eq!(client.ask("mutter", json!("unfinished")).await, json!(null));
    let trapped = client.ask("trap", json!(null)).await["error"]["id"].take();
    let lines = stopped(host);
    let records = records(&lines);
    let of_plugin = records.iter().filter(|(target, _)| target == "plugin");
    let messages: Vec<_> = of_plugin
        .map(|(_, fields)| (fields["message"].as_str().expect("text"), fields["id"] == said))
        .filter(|(message, _)| message.contains("unfinished") || message.contains("next"))
        .collect();
    let (unfinished, next) = (("unfinished", false), ("next", true));
    assert_eq!(messages, [unfinished, unfinished, next, next, next, unfinished, unfinished]);
    let failure = records.iter().find(|(_, fields)| fields["id"] == trapped).expect("a record");
    assert!(!failure.1["output"].as_str().expect("text").contains("unfinished"), "{failure:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_logs_no_more_and_no_longer_lines_than_is_set() {
    const LINES: usize = 5;
    const BYTES: usize = 16;
    let (data, plugins) =
        (tempfile::tempdir().expect("a directory"), directory_of(&[guest("lab")]));
    let host = HostProcess::with(plugins.path(), data.path(), |command| {
        command
            .stderr(Stdio::piped())
            .env("SOCKHOP_LOG__FORMAT", "json")
            .env("SOCKHOP_LOG__FILTER", "info")
            .env("SOCKHOP_LIMITS__LOG_LINES_PER_SECOND", LINES.to_string())
            .env("SOCKHOP_LIMITS__LOG_LINE_BYTES", BYTES.to_string());
    });
    let client = TestClient::connect(&host.url).await;
    let began = Instant::now();
    // Three lines, then a thousand.
    client.ask("say", json!("0123456789abcdef, and more than fits")).await;
    assert_eq!(client.ask("print", json!(null)).await, json!(null));
    let seconds = usize::try_from(began.elapsed().as_secs()).expect("some seconds");
    let lines = stopped(host);
    let said: Vec<_> = records(&lines)
        .into_iter()
        .filter(|(target, fields)| target == "plugin" && fields["dropped"].is_null())
        .map(|(_, fields)| fields["message"].as_str().expect("text").to_owned())
        .collect();
    assert!((3..=LINES * (seconds + 2)).contains(&said.len()), "{seconds} s: {said:?}");
    assert!(said.iter().all(|line| line.len() <= BYTES), "{said:?}");
    assert_eq!(said[0], "0123456789abcdef");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_and_operators_are_logged_with_their_names() {
    let data = tempfile::tempdir().expect("a directory");
    let (_plugins, host) =
        lab(data.path(), &[("FORMAT", "json"), ("FILTER", "debug")], Stdio::piped());
    let client = TestClient::connect(&host.url).await;
    let me = client.ask("me", json!(null)).await;
    let ended = TestClient::connect(&host.url).await;
    let its_id = ended.ask("me", json!(null)).await;
    ended.ask("goodbye", json!(null)).await;
    drop(client);
    let watcher = TestClient::connect(&host.url).await;
    // Each question is counted as well.
    let mut asked = 0;
    eventually("both clients have gone", async || {
        let gone = watcher.ask("gone", json!(null)).await.as_u64().expect("a number");
        asked += 1;
        (gone + 1 == asked + 2).then_some(())
    })
    .await;
    assert_eq!(host.http("/api/plugins/lab/disable", Some(json!({}))).0, 200);
    let all_dead = json!({"all_dead": true});
    for path in ["timers/retry", "deliveries/drop"] {
        let path = format!("/api/plugins/lab/{path}");
        assert_eq!(host.http(&path, Some(all_dead.clone())).0, 200);
    }
    let lines = stopped(host);
    let records = records(&lines);
    let of = |message: &str| {
        records
            .iter()
            .map(|(_, fields)| fields)
            .find(|fields| fields["message"] == message)
            .expect("a record")
    };
    let connected = of("client connected");
    assert_eq!(
        (&connected["client"], &connected["address"]),
        (&me, &json!("127.0.0.1")),
        "{connected}"
    );
    for (client, reason) in [(&me, "transport close"), (&its_id, "server namespace disconnect")] {
        let gone = records
            .iter()
            .map(|(_, fields)| fields)
            .find(|fields| {
                fields["message"] == "client disconnected" && fields["client"] == *client
            })
            .expect("a record");
        assert_eq!((&gone["address"], &gone["reason"]), (&json!("127.0.0.1"), &json!(reason)));
    }
    let by_handler = of("connection ended by its handler");
    assert_eq!(
        (&by_handler["client"], &by_handler["detail"], &by_handler["reason"]),
        (&its_id, &json!("asked for it"), &Value::Null)
    );
    let command = of("operator command");
    assert_eq!(
        (&command["key"], &command["command"], &command["plugin"]),
        (&json!("host"), &json!("disable"), &json!("lab")),
        "{command}"
    );
    for command in ["timers retry", "deliveries drop"] {
        let logged = records.iter().map(|(_, fields)| fields);
        let mut logged = logged.filter(|fields| fields["command"] == command);
        let fields = logged.next().expect("a record");
        assert_eq!(
            (&fields["key"], &fields["plugin"], &fields["rows"]),
            (&json!("host"), &json!("lab"), &json!(0)),
            "{fields}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_and_payloads_never_appear_in_the_log() {
    let (plugins, data) =
        (directory_of(&[guest("lab")]), tempfile::tempdir().expect("a directory"));
    let secret = "a secret that has more than thirty-two bytes";
    let keys = format!(r#"[{{algorithm="HS256",secret="{secret}"}}]"#);
    let settings: [(&str, &str); 4] = [
        ("SOCKHOP_AUTH__MODE", "jwt"),
        ("SOCKHOP_AUTH__KEYS", &keys),
        ("SOCKHOP_LOG__FILTER", "trace"),
        ("SOCKHOP_LOG__COLLAPSE", "false"),
    ];
    let host = HostProcess::with(plugins.path(), data.path(), |command| {
        command.stderr(Stdio::piped()).envs(settings);
    });
    let made = |user: &str, ttl: &str| {
        let arguments = ["token", "--sub", user, "--ttl", ttl];
        let output = Command::new(binary()).args(arguments).envs(settings).output();
        let output = output.expect("the command runs").stdout;
        String::from_utf8(output).expect("UTF-8").trim().to_owned()
    };
    let (new, of_another) = (made("7", "1h"), made("8", "1h"));
    let forged = format!("{}x", made("9", "1h"));
    let good = made("7", "5s");
    let mut client = TestClient::connect_with(&host.url, &good).await.expect("a connection");
    assert!(TestClient::connect_with(&host.url, &forged).await.is_err());
    client.expect("error").await;
    let marked = |token: &str| json!({"token": token, "note": "the-payload"});
    for (token, is_accepted) in [(&of_another, false), (&forged, false), (&new, true)] {
        let answer = client.ask("authenticate", marked(token)).await;
        assert_eq!(answer["error"].is_null(), is_accepted, "{answer}");
    }
    for event in ["echo", "for_admins", "small", "trap", "nobody"] {
        client.ask(event, json!("the-payload")).await;
    }
    client.send_raw(format!("42[\"authenticate\",{{\"token\":\"{new}\"}}")).await;
    client.closed().await;
    // As the key of an operator, over HTTP.
    assert_eq!(sockhop_tests::ask(&host.url, "/api/plugins", None, Some(&new)).0, 401);
    let lines = stopped(host).join("\n");
    assert!(lines.contains("token refused") && lines.contains("for_admins"), "{lines}");
    for token in [&good, &new, &of_another, &forged] {
        // Also none of its parts, but for the header, which all tokens share.
        for part in token.split('.').skip(1) {
            assert!(!lines.contains(part), "{part} in\n{lines}");
        }
    }
    for hidden in ["the-payload", secret] {
        assert!(!lines.contains(hidden), "{hidden} in\n{lines}");
    }
}
