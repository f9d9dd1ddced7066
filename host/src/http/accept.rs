//! Accepts TCP connections and serves HTTP on them: with a limit on how long a request's head may take, and a hold on each connection.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use crate::rooms::Rooms;
use crate::transport::{Cut, Cuttable};

/// How long the head of a request may take: longer than any honest client, shorter than a hoard of half-sent ones can stay.
const HEADER_READ: Duration = Duration::from_secs(10);

/// How long accepting rests when the host has no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves `router` on `listener` until `stop`, then lets what was accepted go on.
pub(crate) async fn accept(
    listener: TcpListener,
    router: Router,
    rooms: Arc<Rooms>,
    stalled: Duration,
    stop: CancellationToken,
    tasks: TaskTracker,
) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        match accepted {
            Ok((stream, _)) => {
                if let Err(error) = tune(&stream, stalled) {
                    tracing::debug!(%error, "connection not tuned");
                }
                let serving = serve(stream, router.clone(), Arc::clone(&rooms), stop.clone());
                tasks.spawn(serving);
            }
            Err(error) => {
                tracing::warn!(%error, "connection not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Small packets go at once; a peer that acknowledges nothing for `stalled` is gone.
fn tune(stream: &TcpStream, stalled: Duration) -> io::Result<()> {
    stream.set_nodelay(true)?;
    #[cfg(target_os = "linux")]
    SockRef::from(stream).set_tcp_user_timeout(Some(stalled))?;
    #[cfg(not(target_os = "linux"))]
    let _ = (SockRef::from(stream), stalled);
    Ok(())
}

async fn serve(stream: TcpStream, router: Router, rooms: Arc<Rooms>, stop: CancellationToken) {
    let cut = Cut::default();
    let io = TokioIo::new(Cuttable::new(stream, &cut));
    let service = ServiceExt::<Request<Incoming>>::map_request(router, move |mut request: Request<Incoming>| {
        if let Some(sid) = upgrading_sid(request.uri().query().unwrap_or_default()) {
            rooms.upgrades.remember(sid, &cut);
        }
        request.extensions_mut().insert(cut.clone());
        request
    });
    let mut builder = auto::Builder::new(TokioExecutor::new()).http1_only();
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_READ);
    let connection = builder.serve_connection_with_upgrades(io, TowerToHyperService::new(service));
    let mut connection = std::pin::pin!(connection);
    let served = tokio::select! {
        served = connection.as_mut() => served,
        () = stop.cancelled() => {
            // Answers the request that it is at, and takes no other.
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = served {
        tracing::debug!(%error, "connection ended");
    }
}

/// The client that asks, in this request's query, to go on over a WebSocket.
fn upgrading_sid(query: &str) -> Option<&str> {
    let value = |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
    (value("transport")? == "websocket").then(|| value("sid")).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_upgrade_names_its_client() {
        assert_eq!(upgrading_sid("EIO=4&transport=websocket&sid=abc"), Some("abc"));
        assert_eq!(upgrading_sid("EIO=4&transport=websocket"), None);
        assert_eq!(upgrading_sid("EIO=4&transport=polling&sid=abc"), None);
        assert_eq!(upgrading_sid(""), None);
    }
}
