//! The bundled plugin `reminders`, on a real host.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::json;
use sockhop::config::{ListedOrigin, WebhookSecret};
use sockhop_tests::{Service, TestClient, TestHost, eventually, guest, token, with_tokens};

#[tokio::test(flavor = "multi_thread")]
async fn a_reminder_returns_to_all_devices_of_its_owner_and_to_the_webhook() {
    let hooks = Service::start().await;
    let host = TestHost::with(&[guest("reminders")], |config| {
        config.auth = with_tokens();
        let mut settings = config.of_plugin("reminders");
        let origin = format!("http://{}", hooks.address);
        let secret = WebhookSecret::parse("whsec_MDEyMzQ1Njc4OWFiY2RlZmdoaWprbG1u");
        let listed = ListedOrigin::parse(&origin, false).expect("an origin");
        settings.outbound = vec![listed.with_webhook_secrets(vec![secret.expect("a secret")])];
        settings.config.insert("webhook".to_owned(), hooks.url("/reminders"));
        config.plugins.by_name.insert("reminders".to_owned(), settings);
    })
    .await;
    let client = async |user: &str| {
        TestClient::connect_with(&host.url, &token(user, &[], 600)).await.expect("a connection")
    };
    let (mut phone, mut desk, mut other) =
        (client("7").await, client("7").await, client("8").await);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock that is set");
    let at = now.as_millis() + 300;
    let set = json!({"user_id": 7, "text": "tea", "at": at, "webhook": true});
    assert_eq!(phone.ask("reminder_set", set).await["webhook"], "wanted");
    for device in [&mut phone, &mut desk] {
        let fired = device.expect("reminder_fired").await;
        assert_eq!((&fired["text"], &fired["webhook"]), (&json!("tea"), &json!("sent")));
    }
    eventually("the receiver has accepted it", async || {
        let page = desk.ask("reminder_list", json!({"user_id": 7})).await;
        (page["items"][0]["webhook"] == "delivered").then_some(())
    })
    .await;
    let requests = hooks.requests();
    assert_eq!(requests.len(), 1, "{requests:?}");
    assert!(requests[0].contains("webhook-signature: v1,"), "{requests:?}");
    assert!(requests[0].contains(r#""type":"reminder.fired""#), "{requests:?}");
    assert_eq!(other.pending(), []);
}
