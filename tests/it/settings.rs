//! The configuration of a running host changes without closing a connection: all of it or nothing.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use sockhop_tests::{
    HostProcess, PATIENCE, TestClient, another, ask, binary, bundled_plugin, drop_in, guest, row_of,
};
use tempfile::TempDir;

/// A host in its own process, with a configuration file.
struct Configured {
    host: HostProcess,
    dir: TempDir,
    /// A key of the configuration.
    key: String,
    plugins: TempDir,
}

const KEY: &str = "operator-key-0123";

const SHOP: &str = "shop-key-01234567";

/// The settings with this key of an operator.
fn with_key(secret: &str, settings: &str) -> String {
    let scopes = r#"["emit", "operate", "metrics", "route"]"#;
    format!("[[keys]]\nname = \"operator\"\nsecret = \"{secret}\"\nscopes = {scopes}\n{settings}")
}

impl Configured {
    fn start(settings: &str) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let plugins = sockhop_tests::directory_of(&[bundled_plugin("connection"), guest("lab")]);
        let file = dir.path().join("sockhop.toml");
        std::fs::write(&file, with_key(KEY, settings)).expect("a file");
        let log = std::fs::File::create(dir.path().join("log")).expect("a file");
        let host = HostProcess::with(plugins.path(), &dir.path().join("data"), |command| {
            command.arg("--config").arg(&file).env_remove("SOCKHOP_LOG__FILTER").stderr(log);
        });
        Self { host, dir, key: KEY.to_owned(), plugins }
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("sockhop.toml")
    }

    /// Writes the configuration file, and makes the host read it.
    fn reload(&mut self, secret: &str, settings: &str) -> (u16, Value) {
        std::fs::write(self.file(), with_key(secret, settings)).expect("a file");
        let (status, answer) = self.post("/api/reload");
        if status == 200 {
            secret.clone_into(&mut self.key);
        }
        (status, answer)
    }

    fn post(&self, path: &str) -> (u16, Value) {
        ask(&self.host.url, path, Some(json!({})), Some(&self.key))
    }

    /// The row of a plugin in the operators' list.
    fn row(&self, plugin: &str) -> Value {
        row_of(&ask(&self.host.url, "/api/plugins", None, Some(&self.key)).1, plugin)
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).expect("the log")
    }

    /// Waits until the log has this text, behind `after` bytes of it.
    fn until_logged(&self, text: &str, after: usize) {
        let until = Instant::now() + PATIENCE;
        while !self.log()[after..].contains(text) {
            assert!(Instant::now() < until, "no {text:?} in {}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn code(answer: &Value) -> &Value {
    &answer["error"]["code"]
}

/// The keys that have changed, and those that need a restart.
fn keys(answer: &Value) -> (Vec<&str>, Vec<&str>) {
    let changes = answer["changes"].as_array().expect("a list");
    let of = |needs_restart: bool| {
        let changes = changes.iter().filter(|change| change["needs_restart"] == needs_restart);
        changes.filter_map(|change| change["key"].as_str()).collect()
    };
    (of(false), of(true))
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_limits_rates_and_access_change_for_connections_that_exist() {
    let mut host = Configured::start("");
    let client = TestClient::connect(&host.host.url).await;
    assert_eq!(client.ask("echo", json!([[[1]]])).await, json!([[[1]]]));
    let tightened = "[[rules]]\nevent = \"echo\"\naccess = \"role:admin\"\n\
                     [contract]\npublic = false\n[limits]\njson_depth = 3\n";
    let (status, answer) = host.reload(KEY, tightened);
    assert_eq!(status, 200, "{answer}");
    assert_eq!(keys(&answer).0, ["contract.public", "limits.json_depth", "rules"]);
    assert_eq!(code(&client.ask("echo", json!(1)).await), "unauthorized");
    let deep = client.ask("ping", json!({"timestamp": 1, "more": [[[1]]]})).await;
    assert_eq!(code(&deep), "too_large");
    assert_eq!(ask(&host.host.url, "/api/events", None, None).0, 401);

    let (_, answer) = host.reload(KEY, "[rate.connection]\nper_second = 1\nburst = 2\n");
    let changed = ["contract.public", "limits.json_depth", "rate.connection.burst"];
    assert!(keys(&answer).0.starts_with(&changed), "{answer}");
    let mut codes = Vec::new();
    for _ in 0..5 {
        codes.push(code(&client.ask("echo", json!([[[1]]])).await).clone());
    }
    assert_eq!(codes[0], json!(null), "the rule is gone");
    assert_eq!(codes[4], json!("rate_limited"));
    host.reload(KEY, "");
    assert_eq!(client.ask("echo", json!(1)).await, json!(1), "new buckets, or none");
    assert_eq!(host.post("/api/reload").1, json!({"changes": []}));
    assert!(!client.is_closed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_that_a_reload_tightens_removes_members_of_the_room() {
    let mut host = Configured::start("");
    let client = TestClient::connect(&host.host.url).await;
    client.ask("enter", json!(null)).await;
    let members = async || client.ask("traces", json!(null)).await["in_lab"].clone();
    assert_eq!(members().await, json!(1));
    host.reload(KEY, "[[rules]]\nroom = \"lab\"\naccess = \"authenticated\"\n");
    assert_eq!(members().await, json!(0));
    assert_eq!(code(&client.ask("enter", json!(null)).await), "forbidden");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_runs_under_its_new_settings_and_keeps_its_state() {
    let mut host = Configured::start("[plugins.lab]\nevent_wall_ms = 5_000\n");
    let client = TestClient::connect(&host.host.url).await;
    assert_eq!(client.ask("increment", json!(null)).await, json!(1));
    let before = host.row("lab");
    let (status, answer) = host.reload(KEY, "[plugins.lab]\nevent_wall_ms = 100\n");
    assert_eq!((status, keys(&answer).0), (200, vec!["plugins.lab.event_wall_ms"]));
    assert_eq!(code(&client.ask("sleep", json!(1_000)).await), "timed_out");
    assert_eq!(client.ask("increment", json!(null)).await, json!(2));
    let after = host.row("lab");
    assert_eq!((&after["digest"], &after["state"]), (&before["digest"], &json!("active")));
    // Plugins whose settings are the same continue with their instances.
    let calls = host.row("connection")["calls"].clone();
    host.reload(KEY, "[plugins.lab]\nevent_wall_ms = 200\n");
    assert_eq!(host.row("connection")["calls"], calls);
    assert!(calls.as_u64() > Some(0), "{calls}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_serves_while_its_settings_change_and_another_version_loads() {
    let mut host = Configured::start("");
    let client = TestClient::connect(&host.host.url).await;
    let digest = |host: &Configured| host.row("lab")["digest"].as_str().map(ToOwned::to_owned);
    let oldest = digest(&host).expect("a digest");
    let component = std::fs::read(guest("lab")).expect("a guest");
    for number in 0..2 {
        let before = digest(&host);
        drop_in(host.plugins.path(), "lab.wasm", &another(component.clone(), number));
        let until = Instant::now() + PATIENCE;
        while digest(&host) == before {
            assert!(Instant::now() < until, "{}", host.row("lab"));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    // It must be compiled again, which takes much longer than a reload.
    for entry in std::fs::read_dir(host.dir.path().join("data/cache")).expect("a directory") {
        let _ = std::fs::remove_file(entry.expect("an entry").path());
    }
    let (url, to) = (host.host.url.clone(), json!({"to": oldest}));
    let rollback =
        std::thread::spawn(move || ask(&url, "/api/plugins/lab/rollback", Some(to), Some(KEY)));
    let mut reloads = 0;
    while !rollback.is_finished() {
        let settings = format!("[plugins.lab]\nevent_wall_ms = {}\n", 5_000 + reloads);
        assert_eq!(host.reload(KEY, &settings).0, 200);
        assert_eq!(client.ask("echo", json!(1)).await, json!(1), "after {reloads} reloads");
        reloads += 1;
    }
    let (status, answer) = rollback.join().expect("an answer");
    assert_eq!((status, digest(&host)), (200, Some(oldest)), "{answer}");
    assert!(reloads > 2, "the settings have changed before it was loaded");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_a_limit_has_refused_is_tried_again() {
    let mut host = Configured::start("[plugins.lab]\ndeclarations = 3\n");
    let refused = host.row("lab");
    assert_eq!(refused["state"], json!("failed"), "{refused}");
    host.reload(KEY, "");
    let until = Instant::now() + PATIENCE;
    while host.row("lab")["state"] != "active" {
        assert!(Instant::now() < until, "{}", host.row("lab"));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[test]
fn keys_are_replaced_and_the_old_ones_are_refused() {
    let mut host = Configured::start("");
    let rows = |key: &str| ask(&host.host.url, "/api/plugins", None, Some(key)).0;
    assert_eq!((rows(KEY), rows(SHOP)), (200, 401));
    let (status, answer) = host.reload(SHOP, "");
    assert_eq!((status, keys(&answer).0), (200, vec!["keys"]));
    assert!(!answer.to_string().contains(KEY) && !answer.to_string().contains(SHOP), "{answer}");
    let rows = |key: &str| ask(&host.host.url, "/api/plugins", None, Some(key)).0;
    assert_eq!((rows(KEY), rows(SHOP)), (401, 200));
    assert!(!host.log().contains(SHOP), "{}", host.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_tokens_are_replaced_and_connections_stay() {
    let settings = |name: &str| {
        let secret = format!("{name} that has more than thirty-two bytes");
        format!(
            "[auth]\nmode = \"jwt\"\n[[auth.keys]]\nalgorithm = \"HS256\"\nsecret = \"{secret}\"\n"
        )
    };
    let mut host = Configured::start(&settings("a secret"));
    let old = sockhop_tests::token("7", &[], 3_600);
    let connect = async |url: &str, token: &str| TestClient::connect_with(url, token).await;
    let client = connect(&host.host.url, &old).await.expect("a client");
    let (status, answer) = host.reload(KEY, &settings("another secret"));
    assert_eq!((status, keys(&answer).0), (200, vec!["auth.keys"]));
    assert_eq!(client.ask("echo", json!(1)).await, json!(1));
    assert!(connect(&host.host.url, &old).await.is_err());
    host.reload(KEY, &settings("a secret"));
    assert!(connect(&host.host.url, &old).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_with_one_wrong_key_changes_nothing_and_names_it() {
    let mut host = Configured::start("");
    let client = TestClient::connect(&host.host.url).await;
    let rule = "[[rules]]\nevent = \"echo\"\naccess = \"role:admin\"\n";
    let missing = host.dir.path().join("missing");
    let missing = missing.to_str().expect("UTF-8");
    for (wrong, named) in [
        ("[limits]\njson_dept = 3\n".to_owned(), "limits.json_dept"),
        ("[limits]\njson_depth = \"deep\"\n".to_owned(), "limits.json_depth"),
        (format!("[[keys]]\nname = \"b\"\nsecret_file = {missing:?}\nscopes = []\n"), "missing"),
        (format!("[[events]]\nevent = \"e\"\nschema_file = {missing:?}\n"), "events"),
        ("no toml".to_owned(), "sockhop.toml"),
    ] {
        let before = host.log().len();
        let (status, answer) = host.reload(SHOP, &format!("{wrong}{rule}"));
        assert_eq!(status, 422, "{wrong}: {answer}");
        assert!(answer["message"].as_str().is_some_and(|text| text.contains(named)), "{answer}");
        host.until_logged("nothing has changed", before);
        assert_eq!(client.ask("echo", json!(1)).await, json!(1));
        assert_eq!(ask(&host.host.url, "/api/plugins", None, Some(SHOP)).0, 401);
    }
}

#[test]
fn a_deadline_of_requests_that_a_reload_shortens_is_that_of_the_next_connection() {
    use std::io::{Read, Write};
    let mut host = Configured::start("[limits]\nhead_ms = 600_000\n");
    let (status, answer) = host.reload(KEY, "[limits]\nhead_ms = 200\n");
    assert_eq!((status, keys(&answer)), (200, (vec!["limits.head_ms"], vec![])));
    let address = host.host.url.trim_start_matches("http://");
    let mut stream = std::net::TcpStream::connect(address).expect("a host");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.write_all(b"GET /healthz HTTP/1.1\r\n").expect("a connection");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer in time");
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
}

#[test]
fn a_reload_warns_of_what_has_no_effect_and_of_secrets_that_all_can_read() {
    let mut host = Configured::start("");
    let before = host.log().len();
    host.reload(
        KEY,
        "[plugins.labb]\nevent_wall_ms = 9\n[[rules]]\nevent = \"ecko\"\naccess = \"anyone\"\n",
    );
    host.until_logged("names no plugin; did you mean", before);
    host.until_logged("a rule in `[[rules]]` has no effect", before);
    #[cfg(unix)]
    host.until_logged("every user of this machine can access this file", before);
}

#[test]
fn settings_that_need_a_restart_are_named_until_they_are_in_force() {
    let mut host = Configured::start("[limits]\nmailbox_events = 100\n");
    let settings =
        "[server]\nping_interval_ms = 9_000\n[limits]\nmailbox_events = 90\nconnections = 7\n";
    let expected = ["limits.connections", "server.ping_interval_ms"];
    for changed in [vec!["limits.mailbox_events"], vec![]] {
        let (_, answer) = host.reload(KEY, settings);
        assert_eq!(keys(&answer), (changed, expected.to_vec()));
    }
    assert!(host.log().contains("limits.connections server.ping_interval_ms"), "{}", host.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn sighup_and_the_command_reload_and_the_log_shows_the_new_level() {
    let host = Configured::start("");
    let write = |settings: &str| {
        std::fs::write(host.file(), with_key(KEY, settings)).expect("a file");
    };
    write("[log]\nfilter = \"debug\"\n");
    host.host.signal(Signal::SIGHUP);
    host.until_logged("configuration reloaded", 0);
    TestClient::connect(&host.host.url).await;
    host.until_logged("client connected", 0);
    write("[limits]\nmailbox_events = 100\n");
    let (status, output) = command(&host, &["reload"]);
    assert_eq!(status, 0, "{output}");
    for text in ["reloaded\n", "KEY", "limits.mailbox_events", "256", "100", "applied"] {
        assert!(output.contains(text), "no {text:?} in {output}");
    }
    write("[limits]\nmailbox_event = 100\n");
    let (status, output) = command(&host, &["reload", "--json"]);
    assert!(status == 1 && output.contains("limits.mailbox_event"), "{output}");
}

/// Runs a command about the host. Returns its status and what it printed.
fn command(host: &Configured, arguments: &[&str]) -> (i32, String) {
    let mut command = Command::new(binary());
    command.args(arguments).args(["--url", &host.host.url]).env("SOCKHOP_KEY", &host.key);
    let output = command.current_dir(host.dir.path()).output().expect("the command runs");
    let text =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    (output.status.code().unwrap_or(-1), text.concat())
}

#[test]
fn a_check_against_the_running_host_shows_the_difference_and_changes_nothing() {
    let host = Configured::start("");
    let file = host.dir.path().join("next.toml");
    let check = |settings: &str, more: &[&str]| {
        std::fs::write(&file, with_key(SHOP, settings)).expect("a file");
        let file = file.to_str().expect("UTF-8");
        command(&host, &[&["check", "--config", file, "--against-running"], more].concat())
    };
    let settings = "[limits]\nmailbox_events = 100\nconnections = 7\n";
    let (status, output) = check(settings, &[]);
    assert_eq!(status, 0, "{output}");
    let line = |key: &str| output.lines().find(|line| line.starts_with(key)).unwrap_or_default();
    assert!(line("limits.mailbox_events").ends_with("with a reload"), "{output}");
    assert!(line("limits.connections").ends_with("needs a restart"), "{output}");
    assert!(line("keys").ends_with("with a reload") && !output.contains(SHOP), "{output}");
    let (_, output) = check(settings, &["--json"]);
    let document: Value = serde_json::from_str(&output).expect("JSON");
    assert_eq!(document["config"]["changes"].as_array().map(Vec::len), Some(3), "{output}");
    let (status, output) = check("[limits]\nmailbox_bytes = 1\n", &[]);
    assert!(status == 1 && output.contains("limits.mailbox_bytes"), "{output}");
    assert_eq!(ask(&host.host.url, "/api/plugins", None, Some(SHOP)).0, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn thirty_reloads_and_rotated_keys_close_no_connection_and_lose_no_ack() {
    const CLIENTS: usize = 500;
    let mut host = Configured::start("");
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(TestClient::connect(&host.host.url).await);
    }
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let asking: Vec<_> = clients
        .into_iter()
        .map(|client| {
            let stopped = stopped.clone();
            tokio::spawn(async move {
                let mut asked = 0;
                while !*stopped.borrow() {
                    assert_eq!(client.ask("echo", json!(asked)).await, json!(asked));
                    asked += 1;
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                assert!(!client.is_closed() && client.was_acked_in_order());
                asked
            })
        })
        .collect();
    for number in 0..30_u32 {
        let secret = if number % 2 == 0 { SHOP } else { KEY };
        let settings = format!(
            "[limits]\nmailbox_events = {}\n[plugins.lab]\nevent_wall_ms = {}\n\
             [[rules]]\nroom = \"lab\"\naccess = \"role:r{number}\"\n",
            100 + number,
            4_000 + number
        );
        let (status, answer) = tokio::task::block_in_place(|| host.reload(secret, &settings));
        assert_eq!(status, 200, "{answer}");
    }
    stop.send(true).expect("clients");
    let mut asked = 0;
    for task in asking {
        asked += task.await.expect("a client that lost nothing");
    }
    assert!(asked > 2 * CLIENTS, "{asked} events");
}

#[test]
fn a_host_without_a_file_reads_the_one_that_was_added() {
    let dir = tempfile::tempdir().expect("a directory");
    let plugins = sockhop_tests::directory_of(&[guest("lab")]);
    let data = dir.path().join("data");
    let host = HostProcess::with(plugins.path(), &data, |command| {
        command.current_dir(dir.path());
    });
    let key = std::fs::read_to_string(Path::new(&data).join("key")).expect("the host's key");
    let reload = || ask(&host.url, "/api/reload", Some(json!({})), Some(key.trim()));
    assert_eq!(reload(), (200, json!({"changes": []})));
    std::fs::write(dir.path().join("sockhop.toml"), "[contract]\npublic = false\n")
        .expect("a file");
    assert_eq!(keys(&reload().1).0, ["contract.public"]);
    assert_eq!(ask(&host.url, "/api/events", None, None).0, 401);
}
