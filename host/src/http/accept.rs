//! Accepts TCP connections: each gets a slot, or is closed at once.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use rustix::io::Errno;
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Limits;
use crate::rooms::Rooms;
use crate::transport::{Cut, Peer};

use super::connection::Server;
use super::slots::Slots;

/// How long accepting rests when the host has no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves `router` on `listener` until `stop`, then lets what was accepted go on.
pub(crate) async fn accept(
    listener: TcpListener,
    router: Router,
    rooms: Arc<Rooms>,
    slots: Arc<Slots>,
    limits: Arc<Limits>,
    stop: CancellationToken,
    tasks: TaskTracker,
) {
    let server = Arc::new(Server { router, rooms, limits, stop: stop.clone() });
    let mut is_exhausted = false;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        match accepted {
            Ok((stream, peer)) => {
                is_exhausted = false;
                take(&server, stream, peer, &slots, &tasks);
            }
            Err(error) if matches!(Errno::from_io_error(&error), Some(Errno::MFILE | Errno::NFILE)) => {
                // Said once: until a descriptor is free, every attempt fails.
                if !is_exhausted {
                    tracing::error!(%error, "no file descriptors left: new clients wait; raise `ulimit -n` (LimitNOFILE in systemd)");
                }
                is_exhausted = true;
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
            // The client has gone already, as a rule.
            Err(error) => {
                tracing::debug!(%error, "connection not accepted");
                tokio::task::yield_now().await;
            }
        }
    }
}

fn take(server: &Arc<Server>, stream: TcpStream, peer: SocketAddr, slots: &Arc<Slots>, tasks: &TaskTracker) {
    let cut = Cut::default();
    // Where there is no slot, dropping the stream closes it.
    let Some(slot) = slots.admit(peer.ip(), &cut) else { return };
    if let Err(error) = tune(&stream, server.limits.stalled_reader_ms) {
        tracing::debug!(%error, "connection not tuned");
    }
    tasks.spawn(Arc::clone(server).serve(stream, Peer(peer.ip()), slot, cut));
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
