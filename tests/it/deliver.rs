//! Deliveries of plugins: requests that are sent after the commit of a handler, at least once, in
//! order per key, and signed.

use std::collections::{BTreeMap, BTreeSet};
use std::num::{NonZeroU32, NonZeroUsize};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;
use serde_json::{Value, json};
use sockhop::config::{Config, Limits, ListedOrigin, WebhookSecret};
use sockhop_tests::{
    HostProcess, Service, TestClient, TestHost, another, ask, binary, directory_of, drop_in,
    eventually, guest, moment,
};

const SECOND: i64 = 1_000;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;

/// The secrets of the tests: their bytes, and how they are configured.
const KEYS: [&[u8]; 2] = [b"0123456789abcdefghijklmn", b"nmlkjihgfedcba9876543210"];

fn secret(key: &[u8]) -> String {
    format!("whsec_{}", STANDARD.encode(key))
}

/// Lists origins for the plugin `courier`, with as many secrets.
fn list(config: &mut Config, origins: &[(String, usize)]) {
    let mut settings = config.of_plugin("courier");
    settings.outbound = origins
        .iter()
        .map(|(origin, secrets)| {
            let secrets = KEYS.iter().take(*secrets);
            let secrets = secrets.map(|key| WebhookSecret::parse(&secret(key)).expect("a secret"));
            let listed = ListedOrigin::parse(origin, false).expect("an origin");
            listed.with_webhook_secrets(secrets.collect())
        })
        .collect();
    config.plugins.by_name.insert("courier".to_owned(), settings);
}

fn origin(service: &Service) -> String {
    format!("http://{}", service.address)
}

/// Starts a host whose plugin `courier` may deliver to these services, with other limits.
async fn courier(services: &[&Service], change: impl FnOnce(&mut Limits)) -> TestHost {
    let origins: Vec<_> = services.iter().map(|service| (origin(service), 1)).collect();
    TestHost::with(&[guest("courier")], |config| {
        change(&mut config.limits);
        list(config, &origins);
    })
    .await
}

/// Asks for deliveries, and returns their ids.
async fn deliver(client: &TestClient, order: Value) -> Vec<String> {
    let ids = client.ask("deliver", order).await;
    serde_json::from_value(ids.clone()).unwrap_or_else(|_| panic!("{ids}"))
}

/// The deliveries that operators see.
async fn deliveries(host: &TestHost, dead: bool) -> Vec<Value> {
    let path = format!("/api/plugins/courier/deliveries?dead={dead}&limit=1000");
    let (status, page) = host.http(&path, None).await;
    assert_eq!(status, 200, "{page}");
    page["deliveries"].as_array().expect("a list").clone()
}

/// Waits until no delivery waits.
async fn until_delivered(host: &TestHost) {
    eventually("nothing waits", async || deliveries(host, false).await.is_empty().then_some(()))
        .await;
}

/// Waits until each delivery that waits has so many failed attempts.
async fn until_failed(host: &TestHost, number: usize, attempts: u64) -> Vec<Value> {
    eventually("they have failed", async || {
        let all = deliveries(host, false).await;
        let have_failed = all.iter().filter(|row| row["attempts"] == attempts).count();
        (have_failed == number).then_some(all)
    })
    .await
}

/// A header of a request.
fn header<'request>(request: &'request str, name: &str) -> &'request str {
    let (head, _) = request.split_once("\r\n\r\n").expect("a head");
    let line = |line: &'request str| {
        let (found, value) = line.split_once(": ")?;
        found.eq_ignore_ascii_case(name).then_some(value)
    };
    head.lines().find_map(line).unwrap_or_else(|| panic!("no {name}: {request}"))
}

fn body(request: &str) -> &str {
    request.split_once("\r\n\r\n").expect("a body").1
}

fn bodies(service: &Service) -> Vec<String> {
    service.requests().iter().map(|request| body(request).to_owned()).collect()
}

fn ids(service: &Service) -> Vec<String> {
    service.requests().iter().map(|request| header(request, "webhook-id").to_owned()).collect()
}

/// Checks a signature as a receiver does.
fn is_signed(request: &str, key: &[u8]) -> bool {
    let [id, time, signatures] =
        ["webhook-id", "webhook-timestamp", "webhook-signature"].map(|name| header(request, name));
    let signed = format!("{id}.{time}.{}", body(request));
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    signatures.split(' ').any(|signature| {
        let signature = signature.strip_prefix("v1,").expect("the version");
        let signature = STANDARD.decode(signature).expect("base64");
        hmac::verify(&key, signed.as_bytes(), &signature).is_ok()
    })
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time after 1970");
    since.as_secs()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_committed_delivery_arrives_signed_with_its_id_and_each_secret() {
    let service = Service::start().await;
    let host = TestHost::with(&[guest("courier")], |config| {
        list(config, &[(origin(&service), 2)]);
    })
    .await;
    let client = host.client().await;
    let order = json!({
        "key": "k", "url": service.url("/hook?q=1"), "method": "PUT", "body": "a body",
        "headers": [["x-own", "1"]],
    });
    let [id] = deliver(&client, order).await.try_into().expect("one id");
    service.until_requests(1).await;
    until_delivered(&host).await;
    let [request] = service.requests().try_into().expect("one request");
    assert!(request.starts_with("PUT /hook?q=1 HTTP/1.1\r\n"), "{request}");
    assert_eq!((header(&request, "x-own"), body(&request)), ("1", "a body"));
    assert_eq!(header(&request, "webhook-id"), id);
    let time: u64 = header(&request, "webhook-timestamp").parse().expect("seconds");
    assert!((now() - 60..=now()).contains(&time), "{request}");
    assert!(KEYS.iter().all(|key| is_signed(&request, key)), "{request}");
    assert!(!is_signed(&request, b"another key"), "{request}");
    let (_, text) = host.http("/metrics", None).await;
    let text = text.as_str().unwrap();
    for line in [
        r#"sockhop_delivery_attempts_total{plugin="courier",outcome="delivered"} 1"#,
        r#"sockhop_deliveries{plugin="courier",state="waiting"} 0"#,
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_delivery_of_a_handler_that_fails_or_runs_again_is_sent_once_or_never() {
    const CLIENTS: usize = 8;
    let service = Service::start().await;
    let host = courier(&[&service], |limits| limits.event_wall_ms = Duration::from_secs(60)).await;
    let client = host.client().await;
    for then in ["refuse", "trap"] {
        let order = json!({"key": "k", "url": service.url("/"), "body": "never", "then": then});
        assert!(!client.ask("deliver", order).await["error"].is_null());
    }
    // Each handler reads and writes the same counter, so that they conflict.
    let mut orders = Vec::new();
    for number in 0..CLIENTS {
        let client = host.client().await;
        let order =
            json!({"key": "k", "url": service.url("/"), "body": format!("{number}-"), "times": 3});
        let answer = client.ask_later(&json!(["deliver", order]).to_string()).await;
        orders.push((client, answer));
    }
    for (_client, answer) in orders {
        assert!(answer.await.expect("an answer").is_array());
    }
    until_delivered(&host).await;
    let found: BTreeSet<_> = bodies(&service).into_iter().collect();
    let expected = (0..CLIENTS).flat_map(|one| (0..3).map(move |other| format!("{one}-{other}")));
    assert_eq!(found, expected.collect());
    assert_eq!(service.requests().len(), 3 * CLIENTS, "each was sent once");
}

#[tokio::test(flavor = "multi_thread")]
async fn deliveries_of_a_key_keep_their_order_and_one_that_fails_delays_only_its_key() {
    let (service, other) = (Service::start().await, Service::start().await);
    let host = courier(&[&service, &other], |_| {}).await;
    let client = host.client().await;
    service.answer_with(500);
    let order = |number: u32| json!({"key": "a", "url": service.url("/status"), "body": number.to_string()});
    for number in 0..5 {
        deliver(&client, order(number)).await;
    }
    deliver(&client, json!({"key": "b", "url": other.url("/"), "body": "b"})).await;
    other.until_requests(1).await;
    let waiting = until_failed(&host, 1, 1).await;
    assert_eq!((waiting.len(), bodies(&service)), (5, vec!["0".to_owned()]));
    host.monitor.shift_clock(6 * SECOND);
    until_failed(&host, 1, 2).await;
    service.answer_with(200);
    host.monitor.shift_clock(6 * MINUTE);
    until_delivered(&host).await;
    assert_eq!(bodies(&service), ["0", "0", "0", "1", "2", "3", "4"]);
    let ids = ids(&service);
    assert!(ids[..3].iter().all(|id| *id == ids[0]), "{ids:?}");
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), 5);
    let times: Vec<u64> = service
        .requests()
        .iter()
        .map(|request| header(request, "webhook-timestamp").parse().expect("seconds"))
        .collect();
    assert!(times[1] >= times[0] + 5 && times[2] >= times[1] + 60, "of each attempt: {times:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_class_of_answers_has_what_is_documented() {
    let (service, target) = (Service::start().await, Service::start().await);
    let host = courier(&[&service, &target], |limits| {
        limits.delivery_ms = Duration::from_secs(2);
        limits.deliveries_at_once = NonZeroUsize::new(20).expect("not zero");
    })
    .await;
    let client = host.client().await;
    let redirect = format!("/redirect?{}", target.url("/"));
    let paths = [
        "/status/204",
        "/status/410",
        "/status/404",
        "/status/429",
        "/status/503",
        &redirect,
        "/never",
        "/half_head",
        "/close",
        "/garbage",
        "/endless",
        "/promise",
    ];
    for path in paths {
        deliver(&client, json!({"key": path, "url": service.url(path)})).await;
    }
    // An endless body is dropped, so its delivery is complete. On a busy machine some deliveries
    // have failed twice when the others have failed once.
    let failed = eventually("each has its verdict", async || {
        let waiting = deliveries(&host, false).await;
        let all = waiting.iter().all(|row| row["attempts"].as_u64() >= Some(1));
        (waiting.len() == 9 && all).then_some(waiting)
    })
    .await;
    let failed: BTreeMap<_, _> =
        failed.iter().map(|row| (row["key"].as_str().expect("a key"), row)).collect();
    let dead = deliveries(&host, true).await;
    assert!(matches!(dead.as_slice(), [row] if row["key"] == "/status/410"), "{dead:?}");
    assert_eq!((&dead[0]["status"], &dead[0]["attempts"]), (&json!(410), &json!(1)));
    assert_eq!(target.connections(), 0, "a redirect is not followed");
    let delay = |key: &str| {
        let time = |name: &str| -> jiff::Timestamp {
            failed[key][name].as_str().expect("a time").parse().expect("a time")
        };
        time("next_attempt").as_second() - time("created").as_second()
    };
    for (key, status, said, least, most) in [
        ("/status/404", json!(404), "status 404", 4, 600),
        ("/status/429", json!(429), "status 429", 7_200, 8_000),
        ("/status/503", json!(503), "status 503", 7_200, 8_000),
        (&redirect, json!(302), "redirects are not followed", 4, 600),
        ("/never", json!(null), "in time", 4, 600),
        ("/half_head", json!(null), "in time", 4, 600),
        ("/promise", json!(null), "in time", 4, 600),
        ("/close", json!(null), "server", 4, 600),
        ("/garbage", json!(null), "server", 4, 600),
    ] {
        let row = failed[key];
        assert_eq!(row["status"], status, "{row}");
        assert!(row["error"].as_str().is_some_and(|error| error.contains(said)), "{row}");
        assert!((least..=most).contains(&delay(key)), "{row}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_whose_answer_is_cut_is_sent_again_with_the_same_id() {
    let service = Service::start().await;
    let host = courier(&[&service], |_| {}).await;
    let client = host.client().await;
    let [id] = deliver(&client, json!({"key": "k", "url": service.url("/cut_once")}))
        .await
        .try_into()
        .expect("one id");
    until_failed(&host, 1, 1).await;
    host.monitor.shift_clock(6 * SECOND);
    until_delivered(&host).await;
    assert_eq!(ids(&service), [id.clone(), id]);
    let requests = service.requests();
    assert!(requests.iter().all(|request| is_signed(request, KEYS[0])), "{requests:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_is_away_for_an_hour_gets_everything_in_order() {
    // Nobody else asks for a port of this address.
    let listener = std::net::TcpListener::bind(("127.0.0.2", 0)).expect("a port");
    let address = listener.local_addr().expect("an address");
    drop(listener);
    let host = TestHost::with(&[guest("courier")], |config| {
        list(config, &[(format!("http://{address}"), 1)]);
    })
    .await;
    let client = host.client().await;
    let order = |key: &str| json!({"key": key, "url": format!("http://{address}/"), "body": key, "times": 3, "result": true});
    let mut sent = Vec::new();
    for key in ["a", "b"] {
        sent.extend(deliver(&client, order(key)).await);
    }
    for (attempts, clock) in [(1, 6 * SECOND), (2, 7 * MINUTE), (3, HOUR)] {
        let waiting = until_failed(&host, 2, attempts).await;
        assert_eq!(waiting.len(), 6);
        assert_eq!(waiting[0]["status"], json!(null));
        host.monitor.shift_clock(clock);
    }
    let service = Service::at(address).await;
    host.monitor.shift_clock(4 * HOUR);
    until_delivered(&host).await;
    for key in ["a", "b"] {
        let of_key: Vec<_> =
            bodies(&service).into_iter().filter(|body| body.starts_with(key)).collect();
        assert_eq!(of_key, (0..3).map(|number| format!("{key}{number}")).collect::<Vec<_>>());
    }
    let results = eventually("each has a result", async || {
        let results = client.ask("results", json!(null)).await;
        (results.as_array()?.len() == 6).then_some(results)
    })
    .await;
    for id in sent {
        let result = json!([format!("ended/{id}"), 1]);
        assert!(results.as_array().unwrap().contains(&result), "{id}: {results}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_ten_attempts_a_delivery_is_dead_blocks_nobody_and_waits_for_an_operator() {
    let service = Service::start().await;
    let host = courier(&[&service], |_| {}).await;
    let mut client = host.client().await;
    service.answer_with(500);
    let order = |body: &str, path: &str| json!({"key": "k", "url": service.url(path), "body": body, "result": true});
    let dead_id = deliver(&client, order("secret body", "/status")).await.remove(0);
    let next_id = deliver(&client, order("next", "/next")).await.remove(0);
    let mut clock = 0;
    for attempt in 1..10 {
        until_failed(&host, 1, attempt).await;
        clock += 27 * HOUR;
        host.monitor.shift_clock(clock);
    }
    let told = client.expect("told").await;
    assert_eq!((&told["id"], &told["outcome"]), (&json!(dead_id), &json!("dead")), "{told}");
    assert_eq!((&told["status"], &told["attempts"]), (&json!(500), &json!(10)), "{told}");
    assert_eq!(told["reason"], "status 500");
    let told = client.expect("told").await;
    assert_eq!((&told["id"], &told["outcome"]), (&json!(next_id), &json!("delivered")), "{told}");
    until_delivered(&host).await;
    assert_eq!(service.requests().len(), 11);

    let (_, page) = host.http("/api/plugins/courier/deliveries?dead=true", None).await;
    let text = page.to_string();
    assert!(!text.contains("secret body") && !text.contains("/status"), "{text}");
    let row = page["deliveries"][0].clone();
    assert_eq!((&row["delivery"], &row["origin"]), (&json!(dead_id), &json!(origin(&service))));
    assert!(!row["died"].is_null() && row["next_attempt"].is_null(), "{row}");
    let sockhop = |args: &[&str]| {
        let mut command = Command::new(binary());
        command.args(&args[..2]).arg("courier").args(&args[2..]);
        command.args(["--url", &host.url, "--data"]).arg(host.data());
        let output = command.output().expect("the command runs");
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    };
    assert!(sockhop(&["plugins", "show"]).contains("0 waiting, 1 dead"));
    let listed = sockhop(&["deliveries", "list", "--dead"]);
    assert!(listed.contains(&dead_id) && listed.contains("status 500"), "{listed}");
    let unknown = sockhop(&["deliveries", "drop", "999"]);
    assert!(
        unknown.contains("0 deliveries") && unknown.contains("error: 1 of the ids"),
        "{unknown}"
    );
    let (_, text) = host.http("/metrics", None).await;
    let text = text.as_str().unwrap();
    for line in [
        r#"sockhop_deliveries{plugin="courier",state="dead"} 1"#,
        r#"sockhop_delivery_attempts_total{plugin="courier",outcome="failed"} 9"#,
        r#"sockhop_delivery_attempts_total{plugin="courier",outcome="dead"} 1"#,
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    // Once more, and then it is delivered and has another result.
    service.answer_with(200);
    assert_eq!(sockhop(&["deliveries", "retry", "--all-dead"]).trim(), "1 deliveries");
    let told = client.expect("told").await;
    assert_eq!((&told["id"], &told["outcome"]), (&json!(dead_id), &json!("delivered")), "{told}");
    assert_eq!(ids(&service).last(), Some(&dead_id));

    // One that waits is sent at once, or dropped, if its id is given.
    service.answer_with(500);
    deliver(&client, order("waits", "/status")).await;
    let id = until_failed(&host, 1, 1).await[0]["id"].to_string();
    assert_eq!(sockhop(&["deliveries", "retry", &id]).trim(), "1 deliveries");
    service.until_requests(14).await;
    until_failed(&host, 1, 1).await;
    assert_eq!(sockhop(&["deliveries", "drop", &id]).trim(), "1 deliveries");
    assert_eq!(deliveries(&host, false).await.len() + deliveries(&host, true).await.len(), 0);
    for wrong in [json!({}), json!({"ids": [1], "all_dead": true}), json!({"id": 1})] {
        let path = "/api/plugins/courier/deliveries/retry";
        assert_eq!(host.http(path, Some(wrong.clone())).await.0, 400, "{wrong}");
    }
    assert_eq!(host.http("/api/plugins/nobody/deliveries", None).await.0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_that_breaks_a_rule_is_refused_at_once_and_none_is_stored() {
    let (service, unsigned) = (Service::start().await, Service::start().await);
    let host = TestHost::with(&[guest("courier")], |config| {
        list(config, &[(origin(&service), 1), (origin(&unsigned), 0)]);
    })
    .await;
    let client = host.client().await;
    let url = service.url("/");
    for (order, said) in [
        (json!({"key": "k", "url": url}), "accepted"),
        (
            json!({"key": "k", "url": unsigned.url("/")}),
            "not_allowed: the service may not be called",
        ),
        (
            json!({"key": "k", "url": "https://other.test"}),
            "not_allowed: the service may not be called",
        ),
        (json!({"key": "k", "url": "other.test"}), "invalid_url: the URL"),
        (json!({"key": "", "url": url}), "misuse: a key"),
        (json!({"key": "k", "url": url, "method": "CONNECT"}), "misuse: the method"),
        (
            json!({"key": "k", "url": url, "headers": [["Webhook-Signature", "v1,x"]]}),
            "misuse: the header `webhook-signature`",
        ),
        (json!({"key": "k", "url": url, "headers": [["host", "x"]]}), "misuse: `host` is a header"),
        (json!({"key": "k", "url": url, "wrong_result": true}), "undeclared"),
        (json!({"key": "k".repeat(513), "url": url}), "limit: a key"),
        (json!({"key": "k", "url": url, "bytes": 280_000}), "limit: the request"),
        (json!({"key": "k", "url": url, "times": 257}), "limit: one event"),
        (json!({"key": "k", "url": url, "times": 6, "bytes": 200_000}), "limit: the effects"),
    ] {
        let answer = client.ask("try", order.clone()).await;
        let message = answer["error"]["message"].as_str().unwrap_or_default();
        assert!(message.contains(said), "{said}: {answer}");
    }
    assert_eq!(deliveries(&host, false).await, [] as [Value; 0]);
    assert_eq!((service.connections(), unsigned.connections()), (0, 0));
    let (_, row) = host.http("/api/plugins/courier", None).await;
    assert!(!row.to_string().contains("whsec"), "{row}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_has_so_many_deliveries_as_is_set() {
    let service = Service::start().await;
    let host = courier(&[&service], |limits| {
        limits.deliveries = NonZeroU32::new(3).expect("not zero");
    })
    .await;
    let client = host.client().await;
    service.answer_with(500);
    let order = |times: u32| json!({"key": "k", "url": service.url("/status"), "times": times});
    assert_eq!(client.ask("deliver", order(4)).await["error"]["code"], "too_large");
    deliver(&client, order(3)).await;
    assert_eq!(client.ask("deliver", order(1)).await["error"]["code"], "too_large");
    until_failed(&host, 1, 1).await;
    service.answer_with(200);
    host.monitor.shift_clock(6 * SECOND);
    until_delivered(&host).await;
    deliver(&client, order(3)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_receivers_that_hang_leave_places_for_a_third() {
    let services = [Service::start().await, Service::start().await, Service::start().await];
    let [first, second, good] = &services;
    let host = courier(&[first, second, good], |limits| {
        limits.delivery_ms = Duration::from_secs(1);
    })
    .await;
    let client = host.client().await;
    for (key, slow) in [("a", first), ("b", second)] {
        let order = json!({"key": key, "url": slow.url("/never"), "times": 100, "own_keys": true});
        deliver(&client, order).await;
    }
    first.until_requests(1).await;
    second.until_requests(1).await;
    deliver(&client, json!({"key": "g", "url": good.url("/")})).await;
    good.until_requests(1).await;
    // The others have not had their turns before.
    assert!(first.requests().len() + second.requests().len() < 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_is_received_although_other_responses_take_all_memory() {
    let service = Service::start().await;
    let host = TestHost::with(&[guest("courier")], |config| {
        config.outbound.memory_bytes = NonZeroUsize::MIN;
        config.limits.outbound_response_bytes = NonZeroUsize::MIN;
        list(config, &[(origin(&service), 1)]);
    })
    .await;
    let client = host.client().await;
    deliver(&client, json!({"key": "k", "url": service.url("/bytes/1000")})).await;
    until_delivered(&host).await;
    assert_eq!(service.requests().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_was_ahead_does_not_hold_a_delivery_back() {
    let service = Service::start().await;
    let host = courier(&[&service], |_| {}).await;
    let client = host.client().await;
    // The first attempt fails, so the second one may be later than the clock by far.
    host.monitor.shift_clock(400 * 24 * HOUR);
    service.answer_with(500);
    deliver(&client, json!({"key": "k", "url": service.url("/status")})).await;
    until_failed(&host, 1, 1).await;
    service.answer_with(200);
    host.monitor.shift_clock(0);
    until_delivered(&host).await;
    // One is asked for while the clock is ahead by a day, and is not tried then.
    let disable = async |word: &str| {
        let (status, _) = host.http(&format!("/api/plugins/courier/{word}"), Some(json!({}))).await;
        assert_eq!(status, 200);
    };
    host.monitor.shift_clock(24 * HOUR);
    service.answer_with(500);
    deliver(&client, json!({"key": "k", "url": service.url("/status"), "times": 2})).await;
    until_failed(&host, 1, 1).await;
    disable("disable").await;
    let ids: Vec<_> = deliveries(&host, false).await.iter().map(|row| row["id"].clone()).collect();
    let (status, _) =
        host.http("/api/plugins/courier/deliveries/drop", Some(json!({"ids": [ids[0]]}))).await;
    assert_eq!(status, 200);
    host.monitor.shift_clock(0);
    service.answer_with(200);
    disable("enable").await;
    until_delivered(&host).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_hangs_takes_no_more_places_and_time_than_is_set() {
    let (slow, good) = (Service::start().await, Service::start().await);
    let host = courier(&[&slow, &good], |limits| {
        limits.deliveries_at_once = NonZeroUsize::new(3).expect("not zero");
        limits.delivery_ms = Duration::from_secs(5);
    })
    .await;
    let client = host.client().await;
    let order = json!({"key": "s", "url": slow.url("/never"), "times": 20, "own_keys": true});
    deliver(&client, order).await;
    slow.until_requests(2).await;
    let began = Instant::now();
    let order = json!({"key": "g", "url": good.url("/"), "times": 10, "own_keys": true});
    deliver(&client, order).await;
    good.until_requests(10).await;
    // In the place that is left, and not after the others.
    assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
    assert!(slow.most_open() <= 2, "{}", slow.most_open());
    assert!((1..=3).contains(&host.figure("sockhop_deliveries_open").await));
    assert_eq!(host.figure("sockhop_deliveries_open_limit").await, 64);
    eventually("an attempt ends in time", async || {
        let all = deliveries(&host, false).await;
        let failed = all.iter().find(|row| row["attempts"] == 1)?;
        assert!(failed["error"].as_str()?.contains("in time"), "{failed}");
        Some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deliveries_wait_while_the_plugin_is_disabled_and_not_while_its_breaker_is_open() {
    let service = Service::start().await;
    let host = courier(&[&service], |limits| {
        limits.breaker_failures = NonZeroU32::new(2).expect("not zero");
        limits.breaker_open_ms = Duration::from_secs(600);
        limits.breaker_open_at_most_ms = Duration::from_secs(600);
    })
    .await;
    let client = host.client().await;
    service.answer_with(500);
    let order = |body: &str| json!({"key": body, "url": service.url("/status"), "body": body});
    deliver(&client, order("one")).await;
    until_failed(&host, 1, 1).await;
    for _ in 0..3 {
        let traps = json!({"key": "k", "url": service.url("/"), "then": "trap"});
        client.ask("deliver", traps).await;
    }
    host.until("courier", |row| row["state"] == "quarantined").await;
    service.answer_with(200);
    host.monitor.shift_clock(6 * SECOND);
    until_delivered(&host).await;

    let command = async |command: &str| {
        let path = format!("/api/plugins/courier/{command}");
        assert_eq!(host.http(&path, Some(json!({}))).await.0, 200);
    };
    command("enable").await;
    service.answer_with(500);
    deliver(&client, order("two")).await;
    until_failed(&host, 1, 1).await;
    command("disable").await;
    service.answer_with(200);
    let before = service.requests().len();
    host.monitor.shift_clock(60 * SECOND);
    // The host looks at the clock at least once a second.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!((service.requests().len(), deliveries(&host, false).await.len()), (before, 1));
    command("enable").await;
    until_delivered(&host).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_needs_the_origin_and_the_secrets_of_its_time() {
    let service = Service::start().await;
    let host = courier(&[&service], |_| {}).await;
    let client = host.client().await;
    let reload = async |outbound: &str| {
        let file = host.data().join("sockhop.toml");
        let (dir, origin) = (host.plugins().display(), origin(&service));
        let text =
            format!("[plugins]\ndir = \"{dir}\"\n[plugins.courier]\noutbound = [{outbound}]\n");
        std::fs::write(file, text.replace("ORIGIN", &origin)).expect("a file");
        let (status, answer) = host.http("/api/reload", Some(json!({}))).await;
        assert_eq!(status, 200, "{answer}");
        assert!(!answer.to_string().contains("whsec"), "{answer}");
    };
    service.answer_with(500);
    let order = |body: &str| json!({"key": body, "url": service.url("/status"), "body": body});
    deliver(&client, order("a")).await;
    until_failed(&host, 1, 1).await;
    service.answer_with(200);
    for (outbound, said, attempts, clock) in
        [("", "does not list", 2, 6 * SECOND), ("\"ORIGIN\"", "no secret", 3, 7 * MINUTE)]
    {
        reload(outbound).await;
        host.monitor.shift_clock(clock);
        let failed = until_failed(&host, 1, attempts).await;
        assert!(failed[0]["error"].as_str().unwrap().contains(said), "{failed:?}");
    }
    assert_eq!(service.requests().len(), 1);
    // Signed by the secret of its time.
    let other = secret(KEYS[1]);
    reload(&format!("{{ origin = \"ORIGIN\", webhook_secrets = [\"{other}\"] }}")).await;
    host.monitor.shift_clock(HOUR);
    until_delivered(&host).await;
    let last = service.requests().pop().expect("a request");
    assert!(is_signed(&last, KEYS[1]) && !is_signed(&last, KEYS[0]), "{last}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_ends_an_attempt_that_hangs_and_the_delivery_is_sent_after_the_start() {
    let service = Service::start().await;
    let host = courier(&[&service], |limits| limits.delivery_ms = Duration::from_secs(600)).await;
    let client = host.client().await;
    deliver(&client, json!({"key": "k", "url": service.url("/hold")})).await;
    service.until_requests(1).await;
    drop(client);
    let began = Instant::now();
    let origins = [(origin(&service), 1)];
    let host = host.restart_with(|config| {
        // No other limit ends an attempt meanwhile.
        config.limits.delivery_ms = Duration::from_secs(600);
        list(config, &origins);
    });
    let host = host.await;
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    service.until_requests(2).await;
    // The first attempt is aborted: it can't write to the file that the next host has opened.
    service.until_open(1).await;
    service.release(2);
    until_delivered(&host).await;
    let ids = ids(&service);
    assert_eq!((ids.len(), &ids[0]), (2, &ids[1]));
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_whose_end_can_not_be_stored_is_not_sent_again_meanwhile() {
    let service = Service::start().await;
    let (plugins, data) =
        (directory_of(&[guest("courier")]), tempfile::tempdir().expect("a directory"));
    let host = HostProcess::start_with(plugins.path(), data.path(), &[settings(&service).each()]);
    let client = TestClient::connect(&host.url).await;
    deliver(&client, json!({"key": "k", "url": service.url("/hold")})).await;
    service.until_requests(1).await;
    host.limit_files(Some(1));
    service.release(1);
    eventually("the state can't be written", async || {
        let (_, text) = host.http("/metrics", None);
        let failing = r#"sockhop_plugin_state_failing{plugin="courier",kind="write"} 1"#;
        text.as_str()?.contains(failing).then_some(())
    })
    .await;
    host.limit_files(None);
    eventually("its end is stored", async || {
        let (_, row) = host.http("/api/plugins/courier", None);
        (row["deliveries"]["waiting"] == 0).then_some(())
    })
    .await;
    assert_eq!(service.requests().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_result_of_a_plugin_that_is_disabled_meanwhile_waits() {
    let service = Service::start().await;
    let host = courier(&[&service], |_| {}).await;
    let mut client = host.client().await;
    let order = json!({"key": "k", "url": service.url("/hold"), "result": true});
    let id = deliver(&client, order).await.remove(0);
    service.until_requests(1).await;
    // The attempt has begun, so that it ends while the plugin is disabled.
    assert_eq!(host.http("/api/plugins/courier/disable", Some(json!({}))).await.0, 200);
    service.release(1);
    until_delivered(&host).await;
    let (_, page) = host.http("/api/plugins/courier/timers", None).await;
    let timer = &page["timers"][0];
    assert_eq!((&timer["timer"], &timer["key"]), (&json!("ended"), &json!(id)), "{page}");
    assert_eq!(host.http("/api/plugins/courier/enable", Some(json!({}))).await.0, 200);
    let told = client.expect("told").await;
    assert_eq!(
        (&told["id"], &told["status"], &told["attempts"]),
        (&json!(id), &json!(200), &json!(1))
    );
}

#[test]
fn verify_counts_deliveries_and_finds_missing_bytes() {
    let (plugins, data) =
        (directory_of(&[guest("courier")]), tempfile::tempdir().expect("a directory"));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("one");
    runtime.block_on(async {
        let service = Service::start().await;
        service.answer_with(500);
        let host =
            HostProcess::start_with(plugins.path(), data.path(), &[settings(&service).each()]);
        let client = TestClient::connect(&host.url).await;
        deliver(&client, json!({"key": "k", "url": service.url("/status"), "times": 4})).await;
    });
    let verify = || {
        let mut command = Command::new(binary());
        let output = command.args(["data", "verify", "--json", "--data"]).arg(data.path()).output();
        let output = output.expect("the command runs").stdout;
        serde_json::from_slice::<Value>(&output).expect("JSON")[0].clone()
    };
    let verified = verify();
    assert_eq!(
        (&verified["deliveries"], &verified["problems"]),
        (&json!(4), &json!([])),
        "{verified}"
    );
    let file = data.path().join("state").join("courier.sqlite");
    let connection = rusqlite::Connection::open(file).expect("a file");
    connection.execute("DELETE FROM deliveries WHERE id = 1", []).expect("a row");
    drop(connection);
    let verified = verify();
    let problems = verified["problems"].as_array().expect("a list");
    let says =
        |text: &str| problems.iter().any(|one| one.as_str().is_some_and(|one| one.contains(text)));
    assert!(says("are recorded"), "{verified}");
}

/// The setting that lists a service for the plugin `courier`.
struct Setting(String);

fn settings(service: &Service) -> Setting {
    let (origin, secret) = (origin(service), secret(KEYS[0]));
    Setting(format!("[{{ origin = \"{origin}\", webhook_secrets = [\"{secret}\"] }}]"))
}

impl Setting {
    fn each(&self) -> (&str, &str) {
        ("SOCKHOP_PLUGINS__COURIER__OUTBOUND", &self.0)
    }
}

/// How often a host is killed: `SOCKHOP_TEST_KILLS`, or a few times.
fn kills() -> u32 {
    std::env::var("SOCKHOP_TEST_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(5)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_committed_delivery_arrives_in_order_although_the_host_is_killed() {
    const KEYS_OF_ROUND: usize = 3;
    let service = Service::start().await;
    let setting = settings(&service);
    let (plugins, data) =
        (directory_of(&[guest("courier")]), tempfile::tempdir().expect("a directory"));
    let log = data.path().join("log");
    let start = || {
        HostProcess::with(plugins.path(), data.path(), |command| {
            let (name, value) = setting.each();
            command.env(name, value).env("SOCKHOP_LOG__FILTER", "debug");
            let file = std::fs::OpenOptions::new().create(true).append(true).open(&log);
            command.stderr(file.expect("a file"));
        })
    };
    let mut sent = BTreeMap::<String, Vec<String>>::new();
    for round in 0..kills() {
        let host = start();
        let client = TestClient::connect(&host.url).await;
        for number in 0..6 {
            let key = format!("key{}", number % KEYS_OF_ROUND);
            let body = format!("body{round}.{number}.");
            let order = json!({
                "key": key, "url": service.url("/path/of/requests"), "body": body, "times": 4,
                "result": true,
            });
            let ids = deliver(&client, order).await;
            sent.entry(key.clone()).or_default().extend(ids);
            let failed = json!({
                "key": key, "url": service.url("/"), "body": "never", "then": "refuse",
            });
            client.ask("deliver", failed).await;
        }
        if round % 3 != 0 {
            // Another version, and back to the one before.
            let version = std::fs::read(guest("courier")).expect("a plugin");
            drop_in(plugins.path(), "courier.wasm", &another(version, round));
        }
        // While deliveries are stored, sent, and removed.
        moment(200).await;
        if round % 3 == 2 {
            let path = "/api/plugins/courier/rollback";
            let (url, key) = (host.url.clone(), host.key.clone());
            let roll_back = move || ask(&url, path, Some(json!({})), Some(&key));
            let (status, answer) = tokio::task::spawn_blocking(roll_back).await.expect("an answer");
            assert!([200, 409].contains(&status), "{answer}");
            moment(100).await;
        }
        host.kill();
    }
    let host = start();
    let client = TestClient::connect(&host.url).await;
    let all: BTreeSet<_> = sent.values().flatten().cloned().collect();
    eventually("each has arrived, and has its result", async || {
        let arrived: BTreeSet<_> = ids(&service).into_iter().collect();
        let results = client.ask("results", json!(null)).await;
        (arrived == all && results.as_array()?.len() == all.len()).then_some(())
    })
    .await;
    let results = client.ask("results", json!(null)).await;
    assert!(results.as_array().unwrap().iter().all(|result| result[1] == 1), "{results}");
    assert!(!bodies(&service).iter().any(|body| body == "never"));
    // Only a delivery that was being sent when the host was killed comes twice, at once.
    let arrived = service.requests();
    for ids in sent.values() {
        let of_key = arrived.iter().map(|request| header(request, "webhook-id"));
        let mut of_key: Vec<_> = of_key.filter(|id| ids.iter().any(|own| own == id)).collect();
        of_key.dedup();
        assert_eq!(of_key, *ids);
    }
    drop(host);
    let log = std::fs::read_to_string(log).expect("a log");
    assert!(log.contains("delivered"), "{log}");
    for hidden in ["body0.", "/path/of", "whsec_", &STANDARD.encode(KEYS[0])] {
        assert!(!log.contains(hidden), "the log has {hidden}");
    }
}
