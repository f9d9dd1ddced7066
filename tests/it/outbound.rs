//! HTTP requests of plugins: where they may go, what they get, and that nobody else waits for them.

use std::num::{NonZeroU32, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sockhop::config::{Config, Limits, ListedOrigin};
use sockhop_tests::{
    HostProcess, Identity, Service, TestClient, TestHost, directory_of, eventually, guest,
};

/// Lists origins for a plugin.
fn list(config: &mut Config, plugin: &str, origins: &[(String, bool)]) {
    let mut settings = config.of_plugin(plugin);
    settings.outbound = origins
        .iter()
        .map(|(origin, is_private)| ListedOrigin::parse(origin, *is_private).expect("an origin"))
        .collect();
    config.plugins.by_name.insert(plugin.to_owned(), settings);
}

fn origin(service: &Service) -> String {
    format!("http://{}", service.address)
}

/// Starts a host whose plugin `caller` may send requests to a service, with other limits.
async fn caller(service: &Service, change: impl FnOnce(&mut Limits)) -> (TestHost, TestClient) {
    let host = TestHost::with(&[guest("caller")], |config| {
        change(&mut config.limits);
        list(config, "caller", &[(origin(service), false)]);
    })
    .await;
    let client = host.client().await;
    (host, client)
}

/// Sends one request, and returns what the handler got.
async fn call(client: &TestClient, url: &str) -> Value {
    client.ask("call", json!({"url": url})).await[0].clone()
}

/// Waits until one event waits for its turn to send.
async fn until_one_waits(host: &TestHost) {
    eventually("one event waits for its turn", async || {
        let (_, row) = host.http("/api/plugins/caller", None).await;
        (row["waiting_requests"] == 1).then_some(())
    })
    .await;
}

fn number(number: usize) -> NonZeroUsize {
    NonZeroUsize::new(number).expect("a number above zero")
}

fn array(event: &str, data: Value) -> String {
    json!([event, data]).to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_sends_a_whole_request_and_gets_the_whole_response() {
    let service = Service::start().await;
    let (host, client) = caller(&service, |_| {}).await;
    let called = client
        .ask(
            "call",
            json!({
                "url": service.url("/echo"),
                "method": "POST",
                "headers": [["X-Key", "1"], ["x-key", "2"]],
                "body": "a body",
            }),
        )
        .await[0]
        .clone();
    assert_eq!((&called["status"], &called["code"]), (&json!(200), &json!(null)), "{called}");
    assert!(called["headers"].as_array().unwrap().contains(&json!(["x-own", "1"])), "{called}");
    let [request] = service.requests().try_into().expect("one request");
    assert!(request.starts_with("POST /echo HTTP/1.1\r\n"), "{request}");
    assert!(request.ends_with("\r\n\r\na body"), "{request}");
    let head = request.to_ascii_lowercase();
    let own = format!("host: {}", service.address);
    for line in [own.as_str(), "connection: close", "content-length: 6", "x-key: 1", "x-key: 2"] {
        assert_eq!(head.lines().filter(|header| *header == line).count(), 1, "{line}: {request}");
    }
    let large = json!({"url": service.url("/echo"), "method": "PUT", "body": "x".repeat(100_000)});
    let called = client.ask("call", large).await[0].clone();
    assert!(called["bytes"].as_u64() > Some(100_000), "{called}");
    // The status and the encoding are the handler's business.
    assert_eq!(call(&client, &service.url("/teapot")).await["status"], 418);
    let gzip = call(&client, &service.url("/gzip")).await;
    assert_eq!((&gzip["status"], &gzip["bytes"]), (&json!(200), &json!(2)), "{gzip}");
    let (_, row) = host.http("/api/plugins/caller", None).await;
    assert_eq!(row["outbound"], json!([origin(&service)]));
    let (_, text) = host.http("/metrics", None).await;
    let line = r#"sockhop_outbound_requests_total{plugin="caller",outcome="answered"} 4"#;
    assert!(text.as_str().unwrap().contains(line), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_method_that_has_a_body_says_that_it_is_empty() {
    let service = Service::start().await;
    let (_host, client) = caller(&service, |_| {}).await;
    for (method, expected) in [("POST", 1), ("PUT", 1), ("PATCH", 1), ("GET", 0), ("DELETE", 0)] {
        let empty = json!({"url": service.url("/echo"), "method": method});
        assert_eq!(client.ask("call", empty).await[0]["status"], 200, "{method}");
        let request = service.requests().pop().expect("a request").to_ascii_lowercase();
        let lines = request.lines().filter(|line| line.starts_with("content-length"));
        assert_eq!(lines.clone().count(), expected, "{request}");
        assert!(lines.into_iter().all(|line| line == "content-length: 0"), "{request}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_go_only_to_listed_origins_and_their_allowed_addresses() {
    let (listed, other) = (Service::start().await, Service::start().await);
    let (of_listed, of_other) = (listed.address.port(), other.address.port());
    let host = TestHost::with(&[guest("caller")], |config| {
        let name = format!("http://localhost:{of_other}");
        list(config, "caller", &[(origin(&listed), false), (name, false)]);
    })
    .await;
    let client = host.client().await;
    for (url, code) in [
        (listed.url("/"), json!(null)),
        (format!("http://127.1:{of_listed}/"), json!(null)),
        (format!("http://2130706433:{of_listed}/"), json!(null)),
        (other.url("/"), json!("not_allowed")),
        (format!("http://localhost:{of_listed}/"), json!("not_allowed")),
        // The origin is listed, but its address is private.
        (format!("http://localhost:{of_other}/"), json!("not_allowed")),
        (format!("http://[::ffff:127.0.0.1]:{of_listed}/"), json!("not_allowed")),
        (format!("https://127.0.0.1:{of_listed}/"), json!("not_allowed")),
        (format!("http://127.0.0.1:{of_listed}@127.0.0.1:{of_other}/"), json!("invalid_url")),
        ("file:///etc/passwd".to_owned(), json!("invalid_url")),
    ] {
        let called = call(&client, &url).await;
        assert_eq!(called["code"], code, "{url}: {called}");
    }
    assert_eq!((listed.connections(), other.connections()), (3, 0));
    // A name is found if the operator allows its private address.
    let host = host.restart_with(|config| {
        list(config, "caller", &[(format!("http://localhost:{of_other}"), true)]);
    });
    let host = host.await;
    let client = host.client().await;
    let called = call(&client, &format!("http://LOCALHOST:{of_other}/")).await;
    assert_eq!((&called["status"], other.connections()), (&json!(200), 1), "{called}");
    // A plugin without the setting sends nothing.
    let host = TestHost::start(&[guest("caller")]).await;
    let client = host.client().await;
    assert_eq!(call(&client, &listed.url("/")).await["code"], "not_allowed");
    // The client of a handler that passes it on learns the code.
    let passed = client.ask("pass", json!({"url": listed.url("/")})).await;
    assert_eq!(passed["error"]["code"], "refused", "{passed}");
    assert_eq!(passed["error"]["reason"], "not_allowed", "{passed}");
    assert_eq!(listed.connections(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_url_is_no_failure_of_the_plugin_and_an_invalid_header_is_one() {
    let service = Service::start().await;
    let (host, client) = caller(&service, |_| {}).await;
    for path in ["/a b", "/../x", "/%2e%2E"] {
        let passed = client.ask("pass", json!({"url": service.url(path)})).await;
        assert_eq!(passed["error"]["code"], "refused", "{passed}");
        assert_eq!(passed["error"]["reason"], "invalid_url", "{passed}");
    }
    assert_eq!(host.row("caller").await["failures"], 0);
    let header = json!({"url": service.url("/"), "headers": [["host", "evil.test"]]});
    let passed = client.ask("pass", header).await;
    assert_eq!(passed["error"]["code"], "plugin_failed", "{passed}");
    assert_eq!(host.row("caller").await["failures"], 1);
    assert_eq!(service.connections(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_tells_operators_what_a_refusal_does_not_tell_clients() {
    let (service, data) = (Service::start().await, tempfile::tempdir().expect("a directory"));
    let (plugins, config) = (directory_of(&[guest("caller")]), data.path().join("sockhop.toml"));
    let origin = format!("http://localhost:{}", service.address.port());
    std::fs::write(&config, format!("[plugins.caller]\noutbound = [\"{origin}\"]\n"))
        .expect("a file");
    let log = data.path().join("log");
    let host = HostProcess::with(plugins.path(), data.path(), |command| {
        command
            .env("SOCKHOP_LOG__FILTER", "info,sockhop::dispatcher=debug")
            .env("SOCKHOP_LOG__FORMAT", "json")
            .arg("--config")
            .arg(&config)
            .stderr(std::fs::File::create(&log).expect("a file"));
    });
    let client = TestClient::connect(&host.url).await;
    let passed = client.ask("pass", json!({"url": origin})).await;
    assert_eq!(passed["error"]["reason"], "not_allowed", "{passed}");
    assert_eq!(passed["error"]["message"], "the service may not be called", "{passed}");
    let record = eventually("a record of the request", async || {
        let text = std::fs::read_to_string(&log).expect("the log");
        let mut records = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        records.find(|record| record.to_string().contains("outbound request"))
    })
    .await
    .to_string();
    for part in
        ["\"error\":", "private = true", "\"outcome\":\"not_allowed\"", &origin, "elapsed_ms"]
    {
        assert!(record.contains(part), "{part}: {record}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_is_not_followed() {
    let (listed, other) = (Service::start().await, Service::start().await);
    let (_host, client) = caller(&listed, |_| {}).await;
    for to in [other.url("/secret"), listed.url("/secret")] {
        let called = call(&client, &listed.url(&format!("/redirect?{to}"))).await;
        assert_eq!(called["status"], 302, "{called}");
        assert!(called["headers"].as_array().unwrap().contains(&json!(["location", to])));
    }
    assert_eq!((listed.requests().len(), other.connections()), (2, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_fails_is_a_refusal_and_no_failure_of_the_plugin() {
    let service = Service::start().await;
    let (host, client) = caller(&service, |limits| {
        limits.outbound_ms = Duration::from_millis(500);
        limits.event_cpu_ms = Duration::from_millis(250);
        limits.breaker_failures = NonZeroU32::MIN;
        limits.breaker_calls = NonZeroU32::MIN;
    })
    .await;
    for (path, code) in [
        ("/never", "timeout"),
        ("/half_head", "timeout"),
        ("/long_head", "response_too_large"),
        ("/promise", "response_too_large"),
        ("/endless", "response_too_large"),
        ("/garbage", "interrupted"),
        ("/cut", "interrupted"),
        ("/close", "interrupted"),
    ] {
        let began = Instant::now();
        let called = call(&client, &service.url(path)).await;
        assert_eq!(called["code"], code, "{path}: {called}");
        assert!(called["message"].as_str().is_some_and(|message| !message.is_empty()), "{path}");
        assert!(began.elapsed() < Duration::from_secs(4), "{path}: {:?}", began.elapsed());
        service.until_open(0).await;
    }
    let (_, row) = host.http("/api/plugins/caller", None).await;
    assert_eq!((&row["failures"], &row["calls"]), (&json!(0), &json!(8)), "{row}");
    let (_, text) = host.http("/metrics", None).await;
    for (outcome, times) in [("timeout", 2), ("response_too_large", 3), ("interrupted", 3)] {
        let line = format!(
            "sockhop_outbound_requests_total{{plugin=\"caller\",outcome=\"{outcome}\"}} {times}"
        );
        assert!(text.as_str().unwrap().contains(&line), "{line}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_ends_before_its_event_so_that_the_handler_can_answer() {
    let service = Service::start().await;
    let (host, client) = caller(&service, |limits| {
        limits.outbound_ms = Duration::from_secs(60);
        limits.event_wall_ms = Duration::from_secs(2);
        limits.breaker_failures = NonZeroU32::MIN;
    })
    .await;
    let began = Instant::now();
    let called = client.ask("call", json!({"url": service.url("/never"), "times": 8})).await;
    let (first, elapsed) = (&called[0], began.elapsed());
    assert_eq!(first["code"], "timeout", "{called}");
    assert!(elapsed > Duration::from_millis(1_500), "{elapsed:?}");
    // The others have no time left.
    assert_eq!(called.as_array().map(Vec::len), Some(8), "{called}");
    assert_eq!(called[7]["code"], "timeout", "{called}");
    // A handler can give a request less time.
    let began = Instant::now();
    let called = client.ask("call", json!({"url": service.url("/never"), "timeout_ms": 50})).await;
    assert_eq!(called[0]["code"], "timeout");
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    service.until_open(0).await;
    let (_, row) = host.http("/api/plugins/caller", None).await;
    assert_eq!((&row["failures"], &row["state"]), (&json!(0), &json!("active")), "{row}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missed_deadline_counts_unless_the_event_has_waited_for_a_service_for_most_of_its_time() {
    let service = Service::start().await;
    let (host, client) = caller(&service, |limits| {
        limits.event_wall_ms = Duration::from_secs(1);
        limits.breaker_failures = NonZeroU32::new(3).expect("not zero");
    })
    .await;
    let end =
        |path: &str, how: &str| json!({"url": service.url(path), "method": "POST", "body": how});
    for _ in 0..3 {
        let answer = client.ask("end", end("/never", "sleep")).await;
        assert_eq!(answer["error"]["code"], "timed_out", "{answer}");
    }
    assert_eq!(host.row("caller").await["failures"], 0);
    // A service that answers at once is not the cause, nor is it if the handler traps.
    for (how, code) in [("trap", "plugin_failed"), ("sleep", "timed_out"), ("sleep", "timed_out")] {
        let answer = client.ask("end", end("/", how)).await;
        assert_eq!(answer["error"]["code"], code, "{answer}");
    }
    assert_eq!(host.row("caller").await["failures"], 3);
    assert_eq!(client.ask("ping", json!(null)).await["error"]["code"], "unavailable");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_waits_for_its_turn_is_called_again_and_nothing_of_the_first_call_counts() {
    let service = Service::start().await;
    let (host, client) = caller(&service, |limits| {
        limits.outbound_at_once = Some(number(1));
        limits.outbound_ms = Duration::from_secs(30);
        limits.event_wall_ms = Duration::from_secs(40);
        limits.event_cpu_ms = Duration::from_millis(500);
        limits.breaker_failures = NonZeroU32::MIN;
        limits.breaker_calls = NonZeroU32::MIN;
    })
    .await;
    let held = client.ask_later(&array("call", json!({"url": service.url("/hold")}))).await;
    service.until_requests(1).await;
    let other = host.client().await;
    // Two such calls need more processor time than an event may use. The handler would trap if its
    // request was refused.
    let call = json!({"url": service.url("/"), "work_ms": 300});
    let waiting = other.ask_later(&array("must", call)).await;
    // It has begun, and given its instance back: the other one belongs to the first event.
    until_one_waits(&host).await;
    service.release(1);
    assert_eq!(held.await.expect("an answer")[0]["status"], 200);
    assert_eq!(waiting.await.expect("an answer"), json!(200));
    let row = host.row("caller").await;
    assert_eq!((&row["failures"], &row["state"]), (&json!(0), &json!("active")), "{row}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_in_single_bytes_uses_no_cpu_time_of_the_guest() {
    let service = Service::start().await;
    let (_host, client) = caller(&service, |limits| {
        limits.event_cpu_ms = Duration::from_millis(20);
        limits.outbound_ms = Duration::from_secs(30);
        limits.event_wall_ms = Duration::from_secs(40);
    })
    .await;
    let called = call(&client, &service.url("/drip")).await;
    assert_eq!((&called["status"], &called["bytes"]), (&json!(200), &json!(2000)), "{called}");
}

/// Bytes of responses that a host holds.
fn in_use(host: &HostProcess) -> u64 {
    let (_, text) = host.http("/metrics", None);
    let mut lines = text.as_str().expect("text").lines();
    let figure = lines.find_map(|line| line.strip_prefix("sockhop_outbound_memory_bytes "));
    figure.and_then(|figure| figure.parse().ok()).expect("a number")
}

/// In its own process, whose memory is that of the host alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_response_in_single_bytes_takes_no_more_memory_than_its_bytes() {
    const MIB: u64 = 1 << 20;
    let (service, data) = (Service::start().await, tempfile::tempdir().expect("a directory"));
    let (plugins, config) = (directory_of(&[guest("caller")]), data.path().join("sockhop.toml"));
    let settings = format!(
        "[limits]\noutbound_ms = 60_000\nevent_wall_ms = 80_000\n[plugins.caller]\n\
         outbound = [\"{}\"]\n",
        origin(&service)
    );
    std::fs::write(&config, settings).expect("a file");
    let host = HostProcess::with(plugins.path(), data.path(), |command| {
        command.arg("--config").arg(&config);
    });
    let client = TestClient::connect(&host.url).await;
    assert_eq!(call(&client, &service.url("/")).await["status"], 200);
    for (sent, (path, bytes)) in
        [("/single_bytes/40000", 40_001_u64), ("/single_chunks/1000000", 1_000_000)]
            .into_iter()
            .enumerate()
    {
        let before = host.allocated();
        let answer = client.ask_later(&array("call", json!({"url": service.url(path)}))).await;
        service.until_waiting(1).await;
        // All of it is read, but for what is sent last.
        eventually("the bytes are read", async || (in_use(&host) >= bytes - 1).then_some(())).await;
        let grown = host.allocated().saturating_sub(before);
        service.release(1);
        let called = answer.await.expect("an answer");
        assert_eq!(called[0]["bytes"], bytes, "{called}");
        assert!(grown < 8 * MIB, "{path}: {grown} bytes for {bytes}");
        assert_eq!(service.requests().len(), sent + 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_sends_as_many_requests_of_such_a_size_in_such_a_time_as_is_set() {
    let service = Service::start().await;
    let (_host, client) = caller(&service, |limits| {
        limits.outbound_requests = NonZeroU32::new(2).expect("not zero");
        limits.outbound_request_bytes = number(1_000);
        limits.outbound_response_bytes = number(2_000);
        limits.outbound_ms = Duration::from_millis(100);
    })
    .await;
    let called = client.ask("call", json!({"url": service.url("/"), "times": 4})).await;
    let codes: Vec<_> = called.as_array().unwrap().iter().map(|one| one["code"].clone()).collect();
    assert_eq!(codes, [json!(null), json!(null), json!("limit"), json!("limit")], "{called}");
    for (path, body, code) in [
        ("/bytes/2000", 10, json!(null)),
        ("/bytes/2001", 10, json!("response_too_large")),
        ("/echo", 1_001, json!("limit")),
        ("/never", 10, json!("timeout")),
    ] {
        let call = json!({"url": service.url(path), "body": "x".repeat(body), "method": "POST"});
        let called = client.ask("call", call).await;
        assert_eq!(called[0]["code"], code, "{path}: {called}");
    }
    assert_eq!(service.requests().len(), 2 + 3, "what is too large is not sent");
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_handlers_leave_an_instance_for_other_events_and_each_gets_its_turn() {
    const CALLERS: usize = 8;
    let service = Service::start().await;
    let (host, client) = caller(&service, |limits| {
        limits.instances = Some(number(3));
        limits.outbound_ms = Duration::from_secs(30);
        limits.event_wall_ms = Duration::from_secs(40);
    })
    .await;
    let mut waiting = Vec::new();
    for _ in 0..CALLERS {
        let client = host.client().await;
        let answer = client.ask_later(&array("call", json!({"url": service.url("/hold")}))).await;
        waiting.push((client, answer));
    }
    service.until_requests(2).await;
    for _ in 0..20 {
        assert_eq!(client.ask("ping", json!(null)).await, json!(null));
    }
    assert_eq!((service.requests().len(), service.most_open()), (2, 2));
    service.release(CALLERS);
    for (_client, answer) in waiting {
        let called = answer.await.expect("an answer");
        assert_eq!(called[0]["status"], 200, "{called}");
    }
    // Each was sent once, although most handlers were called twice.
    assert_eq!(service.requests().len(), CALLERS);
}

#[tokio::test(flavor = "multi_thread")]
async fn as_many_requests_are_sent_at_once_as_is_set_and_others_wait_in_their_time() {
    let service = Service::start().await;
    let (host, client) = caller(&service, |limits| {
        limits.instances = Some(number(4));
        limits.outbound_at_once = Some(number(1));
        limits.outbound_ms = Duration::from_secs(2);
    })
    .await;
    let held = array("call", json!({"url": service.url("/hold")}));
    let first = client.ask_later(&held).await;
    service.until_requests(1).await;
    let other = host.client().await;
    let began = Instant::now();
    let late = json!({"url": service.url("/late"), "timeout_ms": 300});
    let refused = other.ask("call", late).await;
    assert_eq!(refused[0]["code"], "busy", "{refused}");
    assert!(began.elapsed() < Duration::from_millis(1_500), "{:?}", began.elapsed());
    service.release(1);
    assert_eq!(first.await.expect("an answer")[0]["status"], 200);
    assert_eq!(call(&other, &service.url("/now")).await["status"], 200);
    assert_eq!(service.requests().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn all_plugins_together_send_as_many_requests_at_once_as_is_set() {
    let service = Service::start().await;
    let host = TestHost::with(&[guest("caller")], |config| {
        config.outbound.at_once = number(1);
        config.limits.instances = Some(number(4));
        config.limits.outbound_ms = Duration::from_secs(20);
        config.limits.event_wall_ms = Duration::from_secs(30);
        list(config, "caller", &[(origin(&service), false)]);
    })
    .await;
    let (client, other, third) = (host.client().await, host.client().await, host.client().await);
    assert_eq!(host.figure("sockhop_outbound_open_limit").await, 1);
    let first = client.ask_later(&array("call", json!({"url": service.url("/hold")}))).await;
    service.until_requests(1).await;
    assert_eq!(host.figure("sockhop_outbound_open").await, 1);
    let late = json!({"url": service.url("/late"), "timeout_ms": 300});
    let refused = other.ask("call", late.clone()).await;
    assert_eq!(refused[0]["code"], "busy", "{refused}");
    // A handler that passes it on refuses its event.
    let passed = other.ask("pass", late).await;
    assert_eq!(passed["error"]["code"], "busy", "{passed}");
    // Another waits in its own time, and is then sent.
    let waiting = third.ask_later(&array("call", json!({"url": service.url("/now")}))).await;
    service.release(1);
    for answer in [first, waiting] {
        assert_eq!(answer.await.expect("an answer")[0]["status"], 200);
    }
    assert_eq!(service.requests().len(), 2);
    assert_eq!(host.figure("sockhop_outbound_open").await, 0);
    let (_, row) = host.http("/api/plugins/caller", None).await;
    assert_eq!(row["failures"], 0, "{row}");
}

#[tokio::test(flavor = "multi_thread")]
async fn all_responses_together_have_at_most_as_many_bytes_as_is_set() {
    const MEMORY: u64 = 100_000;
    let service = Service::start().await;
    let host = TestHost::with(&[guest("caller")], |config| {
        config.outbound.memory_bytes = number(100_000);
        config.limits.outbound_response_bytes = number(70_000);
        config.limits.event_wall_ms = Duration::from_secs(4);
        list(config, "caller", &[(origin(&service), false)]);
    })
    .await;
    let (client, other) = (host.client().await, host.client().await);
    assert_eq!(host.figure("sockhop_outbound_memory_limit_bytes").await, MEMORY);
    let (reading, url) = ("/single_bytes/50000", service.url("/bytes/60000"));
    // One that is read, and one that is kept until its event ends.
    let first = client.ask_later(&array("call", json!({"url": service.url(reading)}))).await;
    let used = async |bytes: std::ops::Range<u64>| {
        let used = async || {
            bytes.contains(&host.figure("sockhop_outbound_memory_bytes").await).then_some(())
        };
        eventually(&format!("{bytes:?} bytes are in use"), used).await;
    };
    used(50_000..MEMORY).await;
    let refused = call(&other, &url).await;
    assert_eq!(refused["code"], "interrupted", "{refused}");
    service.release(1);
    assert_eq!(first.await.expect("an answer")[0]["bytes"], 50_001);
    used(0..1).await;
    let sleeping = json!({"url": url, "method": "POST", "body": "sleep"});
    let kept = client.ask_later(&array("end", sleeping)).await;
    used(60_000..61_000).await;
    assert_eq!(call(&other, &url).await["code"], "interrupted");
    assert_eq!(call(&other, &service.url("/bytes/30000")).await["status"], 200);
    assert_eq!(kept.await.expect("an answer")["error"]["code"], "timed_out");
    used(0..1).await;
    assert_eq!(call(&other, &url).await["bytes"], 60_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_runs_again_gets_the_recorded_response() {
    let service = Service::start().await;
    let (host, client) = caller(&service, |_| {}).await;
    let other = host.client().await;
    let held = json!({"url": service.url("/hold")});
    // The counter is changed while the handler waits, and after it was read.
    let adding = client.ask_later(&array("add", held.clone())).await;
    service.until_requests(1).await;
    assert_eq!(other.ask("bump", json!(null)).await, json!(1));
    service.release(1);
    assert_eq!(adding.await.expect("an answer"), json!(2));
    assert_eq!(service.requests().len(), 1);
    // A read after the request sees that the one before it is out of date.
    let reading = client.ask_later(&array("read_twice", held)).await;
    service.until_requests(2).await;
    assert_eq!(other.ask("bump", json!(null)).await, json!(3));
    service.release(1);
    assert_eq!(reading.await.expect("an answer"), json!([3, 3]));
    assert_eq!(service.requests().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_never_waits_for_a_response_under_the_commit_lock() {
    let service = Service::start().await;
    let (host, client) = caller(&service, |limits| {
        limits.outbound_ms = Duration::from_secs(30);
        limits.event_wall_ms = Duration::from_secs(40);
    })
    .await;
    let other = host.client().await;
    let held = json!({"url": service.url("/hold")});
    let adding = client.ask_later(&array("add_numbered", held)).await;
    // Each run reads another number, and so sends another request. The later runs would hold the
    // lock if they did not have to send.
    for round in 1..=5 {
        service.until_requests(round).await;
        // The lock is free while the handler waits.
        assert_eq!(other.ask("bump", json!(null)).await, json!(round));
        service.release(1);
    }
    service.until_requests(6).await;
    service.release(1);
    assert_eq!(adding.await.expect("an answer"), json!(6));
    let bodies: Vec<_> = service
        .requests()
        .iter()
        .map(|request| request.rsplit("\r\n").next().unwrap_or_default().to_owned())
        .collect();
    assert_eq!(bodies, ["0", "1", "2", "3", "4", "5"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_ends_with_its_event() {
    let service = Service::start().await;
    let (host, client) = caller(&service, |limits| {
        limits.outbound_ms = Duration::from_secs(60);
        limits.event_wall_ms = Duration::from_secs(60);
        limits.drain_ms = Duration::from_millis(200);
        limits.outbound_at_once = Some(number(1));
    })
    .await;
    // A handler that traps or refuses after its request.
    for how in ["trap", "refuse"] {
        let end = json!({"url": service.url("/"), "method": "POST", "body": how});
        let answer = client.ask("end", end).await;
        assert!(!answer["error"].is_null(), "{answer}");
        service.until_open(0).await;
    }
    // The version is replaced. One event waits for a response, one for its turn.
    let call = array("call", json!({"url": service.url("/never")}));
    let (sent, other) = (client.ask_later(&call).await, host.client().await);
    service.until_open(1).await;
    let waiting = other.ask_later(&call).await;
    until_one_waits(&host).await;
    let settings = format!(
        "[limits]\nregister_cpu_ms = 10_000\n[plugins.caller]\nevent_cpu_ms = 999\n\
         outbound = [\"{}\"]\n",
        origin(&service)
    );
    std::fs::write(host.data().join("sockhop.toml"), settings).expect("a file");
    assert_eq!(host.http("/api/reload", Some(json!({}))).await.0, 200);
    for answer in [sent, waiting] {
        let answer = answer.await.expect("an answer");
        assert_eq!(answer["error"]["code"], "timed_out", "{answer}");
    }
    service.until_open(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_whose_client_has_left_goes_on_and_its_request_ends_with_it() {
    let service = Service::start().await;
    let (host, client) = caller(&service, |limits| {
        limits.outbound_ms = Duration::from_secs(60);
        limits.event_wall_ms = Duration::from_secs(1);
    })
    .await;
    let _answer = client.ask_later(&array("add", json!({"url": service.url("/hold")}))).await;
    service.until_requests(1).await;
    drop(client);
    let client = host.client().await;
    service.release(1);
    // Every received event is handled: both count.
    let mut bumped = 0;
    eventually("the event of the client that has left is counted", async || {
        bumped += 1;
        (client.ask("bump", json!(null)).await == json!(bumped + 1)).then_some(())
    })
    .await;
    service.until_open(0).await;
    // The time of the event ends the request, also without the client.
    let _answer = client.ask_later(&array("add", json!({"url": service.url("/never")}))).await;
    service.until_open(1).await;
    drop(client);
    service.until_open(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_changes_the_listed_origins() {
    let (first, second) = (Service::start().await, Service::start().await);
    let (host, client) = caller(&first, |_| {}).await;
    assert_eq!(call(&client, &first.url("/")).await["status"], 200);
    assert_eq!(call(&client, &second.url("/")).await["code"], "not_allowed");
    let reload = async |settings: String| {
        let settings = format!("[limits]\nregister_cpu_ms = 10_000\n{settings}");
        std::fs::write(host.data().join("sockhop.toml"), settings).expect("a file");
        host.http("/api/reload", Some(json!({}))).await
    };
    let (status, answer) =
        reload(format!("[plugins.caller]\noutbound = [\"{}\"]\n", origin(&second))).await;
    assert_eq!(status, 200, "{answer}");
    eventually("the new list", async || {
        (call(&client, &second.url("/")).await["status"] == 200).then_some(())
    })
    .await;
    assert_eq!(call(&client, &first.url("/")).await["code"], "not_allowed");
    // A wrong list changes nothing.
    let wrong = "[plugins.caller]\noutbound = [\"https://*.example.com\"]\n";
    let (status, answer) = reload(wrong.to_owned()).await;
    assert_eq!(status, 422, "{answer}");
    assert!(answer.to_string().contains("wildcard"), "{answer}");
    let missing = "[outbound]\nca_file = \"/no/such/file.pem\"\n";
    let (status, answer) = reload(missing.to_owned()).await;
    assert!(status == 422 && answer.to_string().contains("outbound.ca_file"), "{answer}");
    assert_eq!(call(&client, &second.url("/")).await["status"], 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_registers_sends_nothing() {
    let host = TestHost::start(&[guest("caller_registers")]).await;
    assert_eq!(host.row("caller_registers").await["events"], json!(["register_misuse"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_is_verified_with_the_configured_authorities() {
    let (trusted, other) = (Identity::default(), Identity::default());
    let directory = tempfile::tempdir().expect("a directory");
    let file = trusted.write(directory.path()).certificate_file;
    let (service, unknown) = (Service::with_tls(&trusted).await, Service::with_tls(&other).await);
    let url = |host: &str, service: &Service| format!("https://{host}:{}", service.address.port());
    let host = TestHost::with(&[guest("caller")], |config| {
        config.outbound.ca_file = Some(file);
        let named = (url("localhost", &service), true);
        let unknown = (url("127.0.0.1", &unknown), false);
        list(config, "caller", &[named, (url("127.0.0.1", &service), false), unknown]);
    })
    .await;
    let client = host.client().await;
    for (url, code) in [
        (url("localhost", &service), json!(null)),
        (url("127.0.0.1", &service), json!(null)),
        (url("127.0.0.1", &unknown), json!("unreachable")),
    ] {
        let called = call(&client, &url).await;
        assert_eq!(called["code"], code, "{url}: {called}");
    }
    assert_eq!((service.requests().len(), unknown.requests().len()), (2, 0));
}

/// `SSL_CERT_FILE` names the store of the machine, as for OpenSSL.
#[tokio::test(flavor = "multi_thread")]
async fn tls_is_verified_with_the_authorities_of_the_machine_if_none_are_configured() {
    let (trusted, other) = (Identity::default(), Identity::default());
    let [store, data] = [(); 2].map(|()| tempfile::tempdir().expect("a directory"));
    let (plugins, store) = (directory_of(&[guest("caller")]), trusted.write(store.path()));
    let (service, unknown) = (Service::with_tls(&trusted).await, Service::with_tls(&other).await);
    let origins = [&service, &unknown].map(|service| format!("https://{}", service.address));
    let config = data.path().join("sockhop.toml");
    let settings = format!("[plugins.caller]\noutbound = {}\n", json!(origins));
    std::fs::write(&config, settings).expect("a file");
    let host = HostProcess::with(plugins.path(), data.path(), |command| {
        command.env("SSL_CERT_FILE", &store.certificate_file).arg("--config").arg(&config);
    });
    let client = TestClient::connect(&host.url).await;
    for (origin, code) in [(&origins[0], json!(null)), (&origins[1], json!("unreachable"))] {
        let called = call(&client, &format!("{origin}/")).await;
        assert_eq!(called["code"], code, "{origin}: {called}");
    }
    assert_eq!((service.requests().len(), unknown.requests().len()), (1, 0));
}

/// Sends the event with each of the payloads by the official JavaScript client, and returns the
/// answers.
async fn ask_by_stock_client(host: &TestHost, event: &str, payloads: &Value) -> Value {
    const SCRIPT: &str = r#"
        import { io } from "socket.io-client";
        const [url, event, payloads] = process.argv.slice(1);
        const socket = io(url, { reconnection: false });
        socket.on("connect_error", (error) => { throw error; });
        const answers = [];
        for (const payload of JSON.parse(payloads)) {
            answers.push(await socket.timeout(30_000).emitWithAck(event, payload));
        }
        console.log(JSON.stringify(answers));
        socket.disconnect();
    "#;
    let packages = std::env::var_os("SOCKHOP_JAVASCRIPT_CLIENT").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/javascript"),
        PathBuf::from,
    );
    let mut node = Command::new("node");
    node.current_dir(packages).args(["--input-type=module", "--eval", SCRIPT, "--"]).args([
        &host.url,
        event,
        &payloads.to_string(),
    ]);
    let output = tokio::task::spawn_blocking(move || node.output());
    let output = output.await.expect("a task that ends").expect("Node.js");
    let (answers, errors) = (&output.stdout, String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(answers).unwrap_or_else(|error| panic!("{error}: {errors}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rust_a_javascript_and_a_python_guest_each_reach_an_allowed_origin_and_no_other() {
    let (listed, other) = (Service::start().await, Service::start().await);
    let plugins = ["caller", "caller_javascript", "caller_python"];
    let host = TestHost::with(&plugins.map(guest), |config| {
        // A Python plugin needs up to 20 s of CPU time by an optimised compiler.
        config.limits.compile_ms = Duration::from_secs(300);
        for plugin in plugins {
            list(config, plugin, &[(origin(&listed), false)]);
        }
    })
    .await;
    let urls = json!([listed.url("/"), other.url("/")]);
    let calls = json!([{"url": listed.url("/")}, {"url": other.url("/")}]);
    let answers = ask_by_stock_client(&host, "call", &calls).await;
    assert_eq!((&answers[0][0]["status"], &answers[0][0]["body"]), (&json!(200), &json!("hello")));
    assert_eq!(answers[1][0]["code"], "not_allowed", "{answers}");
    for event in ["call_javascript", "call_python"] {
        let answers = ask_by_stock_client(&host, event, &urls).await;
        let expected = json!([{"status": 200, "body": "hello"}, {"code": "not_allowed"}]);
        assert_eq!(answers, expected, "{event}");
    }
    assert_eq!((listed.requests().len(), other.connections()), (3, 0));
}
