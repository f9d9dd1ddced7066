//! The promises of the interface, for each implementation.

use std::convert::Infallible;
use std::sync::Weak;

use http::Request;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio_util::task::TaskTracker;
use tower::{Layer, ServiceExt};

use super::*;
use crate::config::Config;
use crate::tls::ClientStream;
use crate::transport::Abortable;

/// A host that waits before it refuses each client.
struct Refusing;

impl Clients for Refusing {
    fn handshake_bytes(&self) -> Option<usize> {
        None
    }

    fn prepare(&self, _: Newcomer) -> BoxFuture<'_, Result<Arc<dyn Client>, ConnectRefusal>> {
        Box::pin(async {
            tokio::task::yield_now().await;
            Err(ConnectRefusal { code: "unauthorized", data: Some(json!({"why": "expired"})) })
        })
    }
}

/// Connects to the namespace `/` by long-polling, as a stock client does. Returns the JSON of
/// CONNECT_ERROR.
async fn connect_error(send: impl AsyncFn(Request<Full<Bytes>>) -> Bytes) -> Value {
    let ask = async |query: &str, body: Option<&'static str>| {
        let request = Request::builder()
            .method(if body.is_some() { "POST" } else { "GET" })
            .uri(format!("http://host/socket.io/?EIO=4&transport=polling{query}"));
        let body = Full::new(Bytes::from(body.unwrap_or_default()));
        String::from_utf8(send(request.body(body).unwrap()).await.to_vec()).unwrap()
    };
    let open = ask("", None).await;
    let session = format!("&sid={}", open.split('"').nth(3).unwrap());
    ask(&session, Some("40")).await;
    // A ping may come first.
    for _ in 0..10 {
        let packets = ask(&session, None).await;
        if let Some(error) = packets.split('\x1e').find_map(|packet| packet.strip_prefix("44")) {
            return serde_json::from_str(error).unwrap();
        }
    }
    panic!("no CONNECT_ERROR");
}

async fn builtin_connect_error(clients: &Weak<dyn Clients>) -> Value {
    let server = builtin::Server::new(&Config::default(), clients).unwrap();
    connect_error(async |request| {
        let answer =
            server.handle::<TokioIo<Abortable<ClientStream, ()>>, _>(request).await.unwrap();
        answer.into_body().collect().await.unwrap().to_bytes()
    })
    .await
}

async fn library_connect_error(clients: &Weak<dyn Clients>) -> Value {
    let server = library::Server::new(&Config::default(), clients, TaskTracker::new());
    let service = server.layer().layer(tower::service_fn(async |_| {
        Ok::<_, Infallible>(http::Response::new(Full::<Bytes>::default()))
    }));
    connect_error(async |request| {
        let response = service.clone().oneshot(request).await.unwrap();
        response.into_body().collect().await.unwrap().to_bytes()
    })
    .await
}

#[tokio::test]
async fn a_refused_client_receives_the_code_and_from_the_builtin_implementation_the_data() {
    let host: Arc<dyn Clients> = Arc::new(Refusing);
    let clients = Arc::downgrade(&host);
    assert_eq!(
        builtin_connect_error(&clients).await,
        json!({"message": "unauthorized", "data": {"why": "expired"}})
    );
    assert_eq!(library_connect_error(&clients).await, json!({"message": "unauthorized"}));
}

#[tokio::test]
async fn a_client_of_a_host_that_has_ended_is_refused() {
    let clients: Weak<dyn Clients> = Weak::<Refusing>::new();
    let expected = json!({"message": "unavailable"});
    assert_eq!(builtin_connect_error(&clients).await, expected);
    assert_eq!(library_connect_error(&clients).await, expected);
}
