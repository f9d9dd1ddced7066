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
use crate::transport::{Cut, Peer};

use super::connection::Server;
use super::slots::Slots;

/// How long accepting rests when the host can't accept anything, as without file descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves `router` on `listener` until `stop`, then lets what was accepted go on. One write may wait for its client as long as `write_limit`.
pub(crate) async fn accept(
    listener: TcpListener,
    router: Router,
    write_limit: Duration,
    slots: Arc<Slots>,
    limits: Arc<Limits>,
    stop: CancellationToken,
    tasks: TaskTracker,
) {
    let server = Arc::new(Server { router, limits, write_limit, stop: stop.clone() });
    let mut is_failing = false;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        match accepted {
            Ok((stream, peer)) => {
                is_failing = false;
                take(&server, stream, peer, &slots, &tasks);
            }
            Err(error) if is_of_one_connection(&error) => {
                tracing::debug!(%error, "connection not accepted");
                tokio::task::yield_now().await;
            }
            Err(error) => {
                // Said once: until the cause has gone, every attempt fails.
                if !is_failing {
                    say_failing(&error);
                }
                is_failing = true;
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Whether accepting failed for a reason that concerns one connection only, so that the next attempt may succeed: its client has gone, its
/// network failed, a firewall refused it.
fn is_of_one_connection(error: &io::Error) -> bool {
    use Errno as E;
    let gone = matches!(Errno::from_io_error(error), Some(E::CONNABORTED | E::INTR | E::PERM | E::PROTO));
    let network = matches!(
        Errno::from_io_error(error),
        Some(E::NETDOWN | E::NETUNREACH | E::HOSTDOWN | E::HOSTUNREACH | E::NOPROTOOPT | E::OPNOTSUPP)
    );
    gone || network
}

fn say_failing(error: &io::Error) {
    if matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE)) {
        tracing::error!(%error, "no file descriptors left: new clients wait; raise `ulimit -n` (LimitNOFILE in systemd)");
    } else {
        tracing::error!(%error, "can't accept connections: new clients wait until the system allows it again");
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepting_rests_unless_an_error_concerns_one_connection() {
        let goes_on = |errno: Errno| is_of_one_connection(&io::Error::from_raw_os_error(errno.raw_os_error()));
        assert!([Errno::CONNABORTED, Errno::INTR, Errno::PERM, Errno::PROTO, Errno::NETUNREACH, Errno::HOSTDOWN].into_iter().all(goes_on));
        assert!(![Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::NOBUFS, Errno::INVAL, Errno::BADF].into_iter().any(goes_on));
    }
}
