//! Binary attachments that a stock client would not send: forged placeholders, attachments that no
//! placeholder names, and attachments that do not come.

use serde_json::json;
use sockhop_tests::{TestHost, eventually, guest};

fn placeholder(number: &str) -> String {
    format!(r#"{{"_placeholder":true,"num":{number}}}"#)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_placeholder_and_an_attachment_without_one_are_answered() {
    let host = TestHost::start(&[guest("lab")]).await;
    let (client, honest) = (host.client().await, host.client().await);
    let one = vec![7; 10];
    for (payload, attachments, is_valid) in [
        (placeholder("0"), vec![one.clone()], true),
        (placeholder("1"), vec![one.clone()], false),
        (placeholder("-1"), vec![one.clone()], false),
        (placeholder("0.5"), vec![one.clone()], false),
        (placeholder("\"splice\""), vec![one.clone()], false),
        // The second attachment is never named, and the first one twice.
        (placeholder("0"), vec![one.clone(), one.clone()], false),
        (format!("[{0},{0}]", placeholder("0")), vec![one.clone(), one.clone()], false),
        ("null".to_owned(), vec![one], false),
        // A placeholder in an event without attachments.
        (placeholder("0"), vec![], false),
    ] {
        let array = format!(r#"["echo",{payload}]"#);
        let answer = if attachments.is_empty() {
            client.ask_raw(&array).await
        } else {
            client.ask_with(&array, &attachments).await
        };
        let code = &answer["error"]["code"];
        let expected = if is_valid { json!(null) } else { json!("invalid_payload") };
        assert_eq!(*code, expected, "{payload} with {}: {answer}", attachments.len());
        for client in [&client, &honest] {
            assert_eq!(client.ask("echo", json!(1)).await, json!(1), "after {payload}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_whose_attachment_does_not_come_is_not_handled_and_its_client_is_closed() {
    let host = TestHost::start(&[guest("lab")]).await;
    let honest = host.client().await;
    let waiting = host.client().await;
    let announced = format!(r#"["echo",{}]"#, placeholder("0"));
    waiting.send_raw(format!("451-0{announced}")).await;
    assert_eq!(honest.ask("echo", json!(1)).await, json!(1));
    assert!(!waiting.is_closed(), "the attachment may still come");
    // A text in its place.
    waiting.send_raw(r#"420["echo",1]"#).await;
    waiting.closed().await;
    let polling = host.polling_session().await;
    polling.send(&format!("451-0{announced}")).await;
    // The answer depends on the implementation.
    polling.try_send(r#"420["echo",1]"#).await;
    eventually("the end of the session", async || {
        let packets = polling.poll().await;
        assert!(packets.as_ref().is_none_or(|packets| !packets.contains("43")), "{packets:?}");
        packets.is_none_or(|packets| packets.ends_with("41")).then_some(())
    })
    .await;
    assert_eq!(honest.ask("echo", json!(2)).await, json!(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_sends_an_attachment_without_an_event_is_closed() {
    let host = TestHost::start(&[guest("lab")]).await;
    let honest = host.client().await;
    let client = host.client().await;
    client.send_attachment(vec![1, 2, 3]).await;
    client.closed().await;
    // One more than the event has announced.
    let client = host.client().await;
    let array = format!(r#"["echo",{}]"#, placeholder("0"));
    client.ask_with(&array, &[vec![7; 10]]).await;
    client.send_attachment(vec![7; 10]).await;
    client.closed().await;
    assert_eq!(honest.ask("echo", json!(1)).await, json!(1));
}
