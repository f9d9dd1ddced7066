//! Accepts TCP connections and serves HTTP on them: with a limit on how long a request's head may take, and a hold on each connection.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::http::header;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use crate::config::Limits;
use crate::rooms::Rooms;
use crate::transport::{Cut, Cuttable, Peer};

/// How long the head of a request may take: longer than any honest client, shorter than a hoard of half-sent ones can stay.
const HEADER_READ: Duration = Duration::from_secs(10);

/// How long accepting rests when the host has no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves `router` on `listener` until `stop`, then lets what was accepted go on.
pub(crate) async fn accept(
    listener: TcpListener,
    router: Router,
    rooms: Arc<Rooms>,
    limits: Arc<Limits>,
    stop: CancellationToken,
    tasks: TaskTracker,
) {
    let (stalled, places) = (limits.stalled_reader_ms, Arc::new(Semaphore::new(limits.connections.get())));
    loop {
        // Beyond the limit the system's own backlog waits.
        let place = tokio::select! {
            place = Arc::clone(&places).acquire_owned() => place,
            () = stop.cancelled() => return,
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        match accepted {
            Ok((stream, peer)) => {
                if let Err(error) = tune(&stream, stalled) {
                    tracing::debug!(%error, "connection not tuned");
                }
                let serving = serve(stream, Peer(peer.ip()), place.ok(), router.clone(), Arc::clone(&rooms), stop.clone());
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

async fn serve(
    stream: TcpStream,
    peer: Peer,
    place: Option<OwnedSemaphorePermit>,
    router: Router,
    rooms: Arc<Rooms>,
    stop: CancellationToken,
) {
    let cut = Cut::default();
    let io = TokioIo::new(Cuttable::new(stream, &cut, place));
    let is_upgraded = Arc::new(AtomicBool::new(false));
    let service = ServiceExt::<Request<Incoming>>::map_request(router, move |mut request: Request<Incoming>| {
        if let Some(sid) = upgrading_sid(&request)
            // A TCP connection goes on as one client's: whoever names more only wants to be remembered.
            && !is_upgraded.swap(true, Ordering::Relaxed)
        {
            rooms.upgrades.remember(sid, &cut);
        }
        request.extensions_mut().insert(cut.clone());
        request.extensions_mut().insert(peer);
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

/// The client that asks by this request to go on over a WebSocket.
fn upgrading_sid<B>(request: &Request<B>) -> Option<&str> {
    let asks = request.uri().path().trim_end_matches('/') == "/socket.io" && request.headers().contains_key(header::UPGRADE);
    let query = request.uri().query().filter(|_| asks)?;
    let value = |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
    (value("transport")? == "websocket").then(|| value("sid")).flatten().filter(|sid| sid.len() <= MAX_SID)
}

/// Characters of a Socket.IO id, with room for those of a later library.
const MAX_SID: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_upgrade_names_its_client() {
        let sid = |uri: &str, upgrade: bool| {
            let request = Request::builder().uri(uri);
            let request = if upgrade { request.header(header::UPGRADE, "websocket") } else { request };
            upgrading_sid(&request.body(()).unwrap()).map(str::to_owned)
        };
        assert_eq!(sid("/socket.io/?EIO=4&transport=websocket&sid=abc", true), Some("abc".to_owned()));
        assert_eq!(sid("/socket.io/?EIO=4&transport=websocket&sid=abc", false), None);
        assert_eq!(sid("/elsewhere?EIO=4&transport=websocket&sid=abc", true), None);
        assert_eq!(sid("/socket.io/?EIO=4&transport=websocket", true), None);
        assert_eq!(sid("/socket.io/?EIO=4&transport=polling&sid=abc", true), None);
        assert_eq!(sid(&format!("/socket.io/?transport=websocket&sid={}", "x".repeat(65)), true), None);
    }
}
