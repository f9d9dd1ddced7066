//! Emits with an ack: what clients answer, and what becomes of those that do not.

use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sockhop::config::{Recovery, SocketIo};
use sockhop_tests::{
    TestClient, TestHost, drop_in, eventually, guest, socketio, token, with_tokens,
};

async fn me(client: &TestClient) -> String {
    client.ask("me", json!(null)).await.as_str().expect("an id").to_owned()
}

/// Asks the client with this public id.
async fn ask(client: &TestClient, to: &str, number: u64, timeout_ms: u64) -> Value {
    client.ask("ask", json!({"to": to, "number": number, "timeout_ms": timeout_ms})).await
}

async fn log(client: &TestClient) -> Vec<Value> {
    serde_json::from_value(client.ask("log", json!(null)).await).expect("lines")
}

/// Waits until the plugin has recorded so many lines.
async fn lines(client: &TestClient, count: usize) -> Vec<Value> {
    eventually("the lines of the plugin", async || {
        let lines = log(client).await;
        (lines.len() >= count).then_some(lines)
    })
    .await
}

const PENDING: &str = "sockhop_pending_acks{plugin=\"quiz\"}";

/// Waits until the plugin waits for so many acks. An outcome counts until its handler has ended.
async fn pending(host: &TestHost, acks: u64) {
    eventually("the acks that are waited for", async || {
        (host.figure(PENDING).await == acks).then_some(())
    })
    .await;
}

/// Waits until so many acks have had this outcome.
async fn ended(host: &TestHost, outcome: &str, number: u64) {
    let name = format!("sockhop_acks_total{{plugin=\"quiz\",outcome=\"{outcome}\"}}");
    eventually(&name, async || (host.figure(&name).await == number).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_emit_with_an_ack_has_one_outcome() {
    let host = TestHost::start(&[guest("quiz")]).await;
    let (mut asker, mut client) = (host.client().await, host.client().await);
    let (id, own) = (me(&client).await, me(&asker).await);
    let ack = ask(&asker, &id, 7, 60_000).await;
    assert!(ack.as_str().is_some_and(|ack| ack.ends_with("-0")), "{ack}");
    let (question, number) = client.next_asked().await;
    assert_eq!(number, 7);
    pending(&host, 1).await;
    client.ask("enter", json!(null)).await;
    client.answer(question, json!([42])).await;
    let outcome = asker.expect("outcome").await;
    // The caller of the handler is the client that has answered.
    assert_eq!(outcome, json!({"number": 7, "what": 42, "by": id, "rooms": ["board"]}));
    assert_eq!(client.expect("seen").await, "answer 7");
    // A second answer, one to another id and one to an id of another client are ignored.
    for unknown in [question, question + 1, 999_999] {
        client.answer(unknown, json!([43])).await;
    }
    // A client may ask itself.
    ask(&asker, &own, 8, 60_000).await;
    let (question, _) = asker.next_asked().await;
    asker.answer(question, json!([1])).await;
    assert_eq!(asker.expect("seen").await, "answer 8");
    assert_eq!(asker.expect("outcome").await["what"], 1);

    ask(&asker, &id, 9, 20).await;
    let (question, _) = client.next_asked().await;
    let outcome = asker.expect("outcome").await;
    assert_eq!((&outcome["what"], &outcome["by"]), (&json!("timeout"), &json!(id)));
    client.answer(question, json!([1])).await;
    assert_eq!(client.expect("seen").await, "answer 9");

    ask(&asker, "01ARZ3NDEKTSV4RRFFQ69G5FAV", 10, 60_000).await;
    let outcome = asker.expect("outcome").await;
    assert_eq!((&outcome["what"], &outcome["by"]), (&json!("disconnected"), &json!(null)));

    ask(&asker, &id, 11, 60_000).await;
    client.next_asked().await;
    client.ask("note", json!(1)).await;
    drop(client);
    let outcome = asker.expect("outcome").await;
    assert_eq!((&outcome["what"], &outcome["by"]), (&json!("disconnected"), &json!(id)));
    assert_eq!(outcome["rooms"], json!(["board"]), "it is in its rooms until `$disconnect`");
    let lines = lines(&asker, 6).await;
    let last = [
        json!({"number": 11, "what": "disconnected", "by": id, "rooms": ["board"]}),
        json!({"left": id}),
    ];
    assert_eq!(lines[lines.len() - 2..], last, "`$disconnect` is the last event");
    assert_eq!(asker.pending(), []);
    for (outcome, number) in [("answered", 2), ("timeout", 1), ("disconnected", 2)] {
        ended(&host, outcome, number).await;
    }
    pending(&host, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_emit_with_an_ack_is_an_effect_of_a_handler_that_succeeds() {
    let host = TestHost::start(&[guest("quiz")]).await;
    let mut client = host.client().await;
    let id = me(&client).await;
    let refused = json!({"to": id, "number": 1, "timeout_ms": 1_000});
    assert_eq!(client.ask("ask_and_refuse", refused).await["error"]["reason"], "because");
    for timeout in [0, 600_001, u64::MAX] {
        let refused = ask(&client, &id, 1, timeout).await;
        assert_eq!(refused["error"]["code"], "plugin_failed", "{timeout}");
    }
    assert_eq!(client.pending(), []);
    pending(&host, 0).await;
    // A handler that fails is called once.
    for (number, answer) in [(2, 666), (3, 667), (4, 5)] {
        ask(&client, &id, number, 60_000).await;
        let (question, _) = client.next_asked().await;
        client.answer(question, json!([answer])).await;
    }
    assert_eq!(client.expect("seen").await, "answer 4");
    client.expect("outcome").await;
    assert_eq!(log(&client).await.len(), 1);
    ended(&host, "answered", 3).await;
    pending(&host, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_handled_before_what_its_client_sends_afterwards() {
    const TIMES: u64 = 200;
    let host = TestHost::start(&[guest("quiz")]).await;
    let mut client = host.client().await;
    let id = me(&client).await;
    for number in 0..TIMES {
        client.emit("ask", json!({"to": id, "number": number, "timeout_ms": 60_000})).await;
        let (question, _) = client.next_asked().await;
        // Without a pause, so that the host reads both at once.
        client.answer(question, json!([1])).await;
        client.emit("note", json!(number)).await;
        for expected in [format!("answer {number}"), format!("note {number}")] {
            let (name, data) = client.next().await;
            if name == "outcome" {
                assert_eq!(client.expect("seen").await, expected);
            } else {
                assert_eq!((name.as_str(), data), ("seen", json!(expected)));
            }
        }
        client.ask("me", json!(null)).await;
        client.pending();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_answers_is_checked_as_an_event_is() {
    let host = TestHost::start(&[guest("quiz")]).await;
    let mut client = host.client().await;
    let id = me(&client).await;
    let large = "x".repeat(200 << 10);
    let deep = (0..80).fold(json!(1), |inner, _| json!([inner]));
    for (answer, reason) in [
        (json!(["text"]), "must be an integer"),
        (json!([]), "must be an integer"),
        (json!([1, 2]), "at most one argument"),
        (json!([-1]), ""),
        (json!([4_294_967_296_u64]), ""),
        (json!([large]), "131072 bytes"),
        (json!([deep]), "nests deeper"),
    ] {
        ask(&client, &id, 1, 60_000).await;
        let (question, _) = client.next_asked().await;
        client.answer(question, answer).await;
        assert_eq!(client.expect("seen").await, "answer 1");
        let what = client.expect("outcome").await["what"].as_str().unwrap_or_default().to_owned();
        let prefix = "the answer of the client is invalid: ";
        assert!(what.starts_with(prefix) && what.contains(reason), "{what}");
    }
    // The schema of the type does not exclude the number that it can't hold; the SDK does.
    ended(&host, "invalid", 6).await;

    // A list, with bytes both ways.
    client.ask("ask_list", json!([id, 10])).await;
    let (_, picture) = client.next_list().await;
    assert_eq!(picture.attachments, [[1, 2]]);
    pending(&host, 1).await;
    client.ask("ask_list", json!([id, 10])).await;
    let (question, _) = client.next_asked().await;
    let placeholder = json!({"_placeholder": true, "num": 0});
    client.send_raw(format!("461-{question}{}", json!([1, placeholder]))).await;
    client.send_attachment(vec![9; 3]).await;
    let expected = json!({"context": 10, "what": [1, placeholder], "attachments": [3]});
    assert_eq!(lines(&client, 8).await[7], expected);
    // The first one is still waited for.
    client.send_raw(format!("43{}{}", question - 1, json!([]))).await;
    let expected = json!({"context": 10, "what": [], "attachments": []});
    assert_eq!(lines(&client, 9).await[8], expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outcome_waits_for_a_plugin_that_does_not_serve() {
    let host = TestHost::start(&[guest("quiz")]).await;
    let mut client = host.client().await;
    let id = me(&client).await;
    let set = async |what: &str| {
        let path = format!("/api/plugins/quiz/{what}");
        assert_eq!(host.http(&path, Some(json!({}))).await.0, 200);
    };
    ask(&client, &id, 1, 60_000).await;
    ask(&client, &id, 2, 10).await;
    let ((first, _), _) = (client.next_asked().await, client.next_asked().await);
    assert_eq!(client.expect("seen").await, "answer 2");
    client.expect("outcome").await;
    ask(&client, &id, 3, 60_000).await;
    let (third, _) = client.next_asked().await;
    set("disable").await;
    client.answer(first, json!([11])).await;
    // The events of the client do not wait meanwhile.
    assert_eq!(client.ask("me", json!(null)).await["error"]["code"], "unavailable");
    pending(&host, 2).await;
    set("enable").await;
    assert_eq!(client.expect("seen").await, "answer 1");
    assert_eq!(client.expect("outcome").await["what"], 11);
    client.answer(third, json!([13])).await;
    assert_eq!(client.expect("seen").await, "answer 3");
    pending(&host, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outcome_goes_to_the_version_that_serves_and_waits_while_the_file_is_away() {
    let host = TestHost::start(&[guest("quiz")]).await;
    let mut client = host.client().await;
    let id = me(&client).await;
    let mut ask = async |number| {
        ask(&client, &id, number, 60_000).await;
        client.next_asked().await.0
    };
    let (first, second) = (ask(1).await, ask(2).await);
    // Another version, by a custom section at the end.
    let mut bytes = std::fs::read(guest("quiz")).expect("a guest");
    bytes.extend([0, 5, 4, b'n', b'o', b't', b'e']);
    let before = host.row("quiz").await["digest"].clone();
    drop_in(host.plugins(), "quiz.wasm", &bytes);
    host.until("quiz", |row| row["state"] == "active" && row["digest"] != before).await;
    client.answer(first, json!([1])).await;
    assert_eq!(client.expect("seen").await, "answer 1");
    assert_eq!(client.expect("outcome").await["what"], 1);
    pending(&host, 1).await;
    assert_eq!(host.http("/api/plugins/quiz", None).await.1["pending_acks"], 1);
    std::fs::remove_file(host.plugins().join("quiz.wasm")).expect("a file");
    eventually("a plugin that is gone", async || {
        (client.ask("me", json!(null)).await["error"]["code"] == "unknown_event").then_some(())
    })
    .await;
    client.answer(second, json!([2])).await;
    assert_eq!(client.ask("me", json!(null)).await["error"]["code"], "unknown_event");
    drop_in(host.plugins(), "quiz.wasm", &bytes);
    assert_eq!(client.expect("seen").await, "answer 2");
    assert_eq!(client.expect("outcome").await["what"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_has_lost_its_transport_does_not_answer_any_more() {
    if socketio() != SocketIo::Builtin {
        // The library has no recovery of connections.
        return;
    }
    let host = TestHost::with(&[guest("quiz")], |config| {
        let (seconds, bytes) = (Duration::from_secs(60), (1 << 20).try_into().expect("not zero"));
        config.server.recovery = Some(Recovery { seconds, bytes });
    })
    .await;
    let (mut asker, mut client) = (host.client().await, host.client().await);
    let id = me(&client).await;
    ask(&asker, &id, 1, 60_000).await;
    client.next_asked().await;
    drop(client);
    let outcome = asker.expect("outcome").await;
    assert_eq!((&outcome["what"], &outcome["by"]), (&json!("disconnected"), &json!(id)));
    // The connection exists still, but nothing is sent to it.
    assert_eq!(host.figure("sockhop_detached_connections").await, 1);
    ask(&asker, &id, 2, 60_000).await;
    let outcome = asker.expect("outcome").await;
    assert_eq!((&outcome["number"], &outcome["what"]), (&json!(2), &json!("disconnected")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_and_a_connection_wait_for_so_many_acks_as_is_set() {
    let number = |number| NonZeroUsize::new(number).expect("not zero");
    let host = TestHost::with(&[guest("quiz")], |config| {
        config.limits.pending_acks = number(5);
        config.limits.pending_acks_bytes = number(5_000);
        config.limits.connection_acks = number(3);
        config.limits.ack_timeout_ms = Duration::from_secs(5);
    })
    .await;
    let (mut asker, mut client) = (host.client().await, host.client().await);
    let id = me(&client).await;
    let code = |answer: &Value| answer["error"]["code"].as_str().map(str::to_owned);
    assert_eq!(code(&ask(&asker, &id, 0, 5_001).await).as_deref(), Some("plugin_failed"));
    let mut questions = Vec::new();
    for asked in 0..3 {
        assert_eq!(code(&ask(&asker, &id, asked, 5_000).await), None);
        questions.push(client.next_asked().await.0);
    }
    // The connection has no room: nothing is sent.
    ask(&asker, &id, 3, 5_000).await;
    let outcome = asker.expect("outcome").await;
    let busy = outcome["what"].as_str().unwrap_or_default();
    assert!(busy.contains("busy") && busy.contains("of this connection"), "{outcome}");
    pending(&host, 3).await;
    let own = me(&asker).await;
    for asked in 4..6 {
        assert_eq!(code(&ask(&asker, &own, asked, 5_000).await), None);
    }
    assert_eq!(code(&ask(&asker, &own, 6, 5_000).await).as_deref(), Some("too_large"));
    pending(&host, 5).await;
    assert_eq!(client.expect("seen").await, "answer 3");
    // An answer makes room.
    client.answer(questions[0], json!([1])).await;
    assert_eq!(client.expect("seen").await, "answer 0");
    pending(&host, 4).await;
    assert_eq!(code(&ask(&asker, &id, 7, 5_000).await), None);
    // The contexts have a limit of their own.
    for question in questions.into_iter().skip(1) {
        client.answer(question, json!([1])).await;
        client.ask("me", json!(null)).await;
    }
    let sized = async |bytes: usize| code(&asker.ask("ask_list", json!([id, bytes])).await);
    assert_eq!(sized(4_000).await.as_deref(), Some("too_large"));
    assert_eq!(sized(1_000).await, None);
    // All of them end in time.
    pending(&host, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_takes_the_room_of_an_event_in_the_mailbox_of_its_connection() {
    let host = TestHost::with(&[guest("quiz")], |config| {
        config.limits.mailbox_events = NonZeroUsize::new(2).expect("not zero");
    })
    .await;
    let mut client = host.client().await;
    let id = me(&client).await;
    ask(&client, &id, 1, 60_000).await;
    let (question, _) = client.next_asked().await;
    // One is handled and one waits.
    let slow = [client.ask_later(r#"["doze",500]"#).await, client.ask_later(r#"["doze",1]"#).await];
    client.answer(question, json!([1])).await;
    assert_eq!(client.expect("seen").await, "answer 1");
    let what = client.expect("outcome").await["what"].clone();
    assert!(what.as_str().is_some_and(|what| what.contains("of this connection")), "{what}");
    for answer in slow {
        sockhop_tests::answered("doze", answer).await;
    }
    assert_eq!(host.figure("sockhop_mailbox_bytes").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_answer_of_a_client_whose_token_has_expired_is_not_taken() {
    let host = TestHost::with(&[guest("quiz")], |config| config.auth = with_tokens()).await;
    let connect = async |seconds| {
        let token = token("7", &[], seconds);
        TestClient::connect_with(&host.url, &token).await.unwrap_or_else(|no| panic!("{no}"))
    };
    let (mut asker, mut client) = (connect(3_600).await, connect(2).await);
    let id = me(&client).await;
    ask(&asker, &id, 1, 60_000).await;
    let (question, _) = client.next_asked().await;
    assert_eq!(client.expect("error").await["code"], "unauthorized");
    client.answer(question, json!([1])).await;
    let what = asker.expect("outcome").await["what"].clone();
    assert!(what.as_str().is_some_and(|what| what.contains("expired")), "{what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_outcomes_of_a_busy_plugin_hold_up_no_event_to_another_plugin() {
    const BUSY: Duration = Duration::from_secs(3);
    let host = TestHost::with(&[guest("quiz"), guest("mover")], |config| {
        config.limits.instances = NonZeroUsize::new(1);
        config.limits.mailbox_events = NonZeroUsize::new(2).expect("not zero");
    })
    .await;
    let (mut client, other) = (host.client().await, host.client().await);
    let id = me(&client).await;
    for number in 0..5 {
        ask(&client, &id, number, 500).await;
        client.next_asked().await;
    }
    let busy = other.ask_later(&json!(["doze", BUSY.as_millis() as u64]).to_string()).await;
    let began = Instant::now();
    // All of them end meanwhile.
    tokio::time::sleep(Duration::from_millis(700)).await;
    let answer = client.ask("mood", json!("key")).await;
    assert_eq!(answer["error"]["code"], json!(null), "{answer}");
    assert!(began.elapsed() < BUSY - Duration::from_secs(1), "{:?}", began.elapsed());
    sockhop_tests::answered("doze", busy).await;
    pending(&host, 0).await;
    ended(&host, "timeout", 5).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_answers_that_wait_for_their_plugin_take_is_counted_and_bounded() {
    const BYTES: usize = 100 << 10;
    let host = TestHost::with(&[guest("quiz")], |config| {
        config.limits.mailbox_bytes = NonZeroUsize::new(400 << 10).expect("not zero");
    })
    .await;
    let mut client = host.client().await;
    let id = me(&client).await;
    let mut questions = Vec::new();
    for _ in 0..6 {
        client.ask("ask_list", json!([id, 10])).await;
        let (_, picture) = client.next_list().await;
        assert_eq!(picture.attachments, [[1, 2]]);
    }
    ask(&client, &id, 1, 60_000).await;
    let (last, _) = client.next_asked().await;
    questions.extend((1..=6).map(|before| last - before));
    let set = async |what: &str| {
        let path = format!("/api/plugins/quiz/{what}");
        assert_eq!(host.http(&path, Some(json!({}))).await.0, 200);
    };
    set("disable").await;
    for question in questions {
        client.send_raw(format!("43{question}{}", json!(["x".repeat(BYTES)]))).await;
    }
    // The events of the client are handled after its answers.
    assert_eq!(client.ask("me", json!(null)).await["error"]["code"], "unavailable");
    let held = host.figure("sockhop_mailbox_bytes").await as usize;
    assert!((3 * BYTES..5 * BYTES).contains(&held), "{held}");
    set("enable").await;
    pending(&host, 1).await;
    ended(&host, "answered", 3).await;
    ended(&host, "busy", 3).await;
    eventually("no bytes", async || {
        (host.figure("sockhop_mailbox_bytes").await == 0).then_some(())
    })
    .await;
    client.answer(last, json!([1])).await;
    assert_eq!(client.expect("seen").await, "answer 1");
    pending(&host, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outcome_that_no_version_declares_holds_up_no_other() {
    let host = TestHost::start(&[guest("quiz")]).await;
    let mut client = host.client().await;
    let id = me(&client).await;
    client.ask("ask_list", json!([id, 10])).await;
    client.next_list().await;
    ask(&client, &id, 2, 60_000).await;
    let (second, _) = client.next_asked().await;
    // A version with another ack in the place of `listed`.
    let mut bytes = std::fs::read(guest("quiz")).expect("a guest");
    while let Some(at) = bytes.windows(6).position(|text| text == b"listed") {
        bytes[at..at + 6].copy_from_slice(b"lister");
    }
    assert_eq!(host.http("/api/plugins/quiz/disable", Some(json!({}))).await.0, 200);
    client.answer(second - 1, json!([1])).await;
    client.answer(second, json!([12])).await;
    client.ask("me", json!(null)).await;
    let before = host.row("quiz").await["digest"].clone();
    drop_in(host.plugins(), "quiz.wasm", &bytes);
    host.until("quiz", |row| row["digest"] != before).await;
    assert_eq!(host.http("/api/plugins/quiz/enable", Some(json!({}))).await.0, 200);
    assert_eq!(client.expect("seen").await, "answer 2");
    assert_eq!(client.expect("outcome").await["what"], 12);
    pending(&host, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_of_an_outcome_that_has_waited_can_end_the_connection() {
    let host = TestHost::start(&[guest("quiz")]).await;
    let mut client = host.client().await;
    let id = me(&client).await;
    ask(&client, &id, 1, 60_000).await;
    let (question, _) = client.next_asked().await;
    assert_eq!(host.http("/api/plugins/quiz/disable", Some(json!({}))).await.0, 200);
    client.answer(question, json!([668])).await;
    client.ask("me", json!(null)).await;
    assert_eq!(host.http("/api/plugins/quiz/enable", Some(json!({}))).await.0, 200);
    eventually("the end of the connection", async || {
        (host.figure("sockhop_connections").await == 0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outcome_of_a_connection_that_ends_is_handled_in_its_order() {
    let host = TestHost::start(&[guest("quiz")]).await;
    let mut client = host.client().await;
    let id = me(&client).await;
    ask(&client, &id, 1, 500).await;
    client.next_asked().await;
    client.emit("nap", json!(1_200)).await;
    // The host ends the connection while it handles that event, and the time of the ack is over.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let host = host.restart().await;
    let lines = log(&host.client().await).await;
    let expected = [
        json!({"slept": 1_200}),
        json!({"number": 1, "what": "timeout", "by": id, "rooms": []}),
        json!({"left": id}),
    ];
    assert_eq!(lines, expected);
}
