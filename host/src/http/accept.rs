//! Accepts TCP connections. Each connection gets a slot or is closed at once.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::TaskTracker;

use crate::transport::{AbortHandle, Peer};

use super::connection::HttpServer;
use super::slots::ConnectionSlots;

/// Pause after a failed accept that concerns the whole host: no file descriptors or memory are
/// left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts connections for `server` on `listener` until it stops; accepted connections continue
/// after that.
pub(crate) async fn accept(
    listener: TcpListener,
    server: HttpServer,
    slots: Arc<ConnectionSlots>,
    tasks: TaskTracker,
) {
    let server = Arc::new(server);
    let mut is_failing = false;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = server.stop.cancelled() => return,
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
                // Logged once: until the cause is removed, every attempt fails.
                if !is_failing {
                    log_failed_accept(&error);
                }
                is_failing = true;
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Whether accepting failed for a reason of one connection only: the client disconnected, its
/// network failed, or a firewall refused it. The next attempt may then succeed.
fn is_of_one_connection(error: &io::Error) -> bool {
    use Errno as E;
    let gone =
        matches!(Errno::from_io_error(error), Some(E::CONNABORTED | E::INTR | E::PERM | E::PROTO));
    let network = matches!(
        Errno::from_io_error(error),
        Some(
            E::NETDOWN
                | E::NETUNREACH
                | E::HOSTDOWN
                | E::HOSTUNREACH
                | E::NOPROTOOPT
                | E::OPNOTSUPP
        )
    );
    gone || network
}

fn log_failed_accept(error: &io::Error) {
    if matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE)) {
        tracing::error!(%error, "no file descriptors left: new clients wait; raise `ulimit -n` \
                                 (LimitNOFILE in systemd)");
    } else {
        tracing::error!(%error, "can't accept connections: new clients wait until the system \
                                 allows it again");
    }
}

fn take(
    server: &Arc<HttpServer>,
    stream: TcpStream,
    peer: SocketAddr,
    slots: &Arc<ConnectionSlots>,
    tasks: &TaskTracker,
) {
    let abort_handle = AbortHandle::default();
    // If there is no slot, dropping the stream closes the connection.
    let Some(slot) = slots.admit(peer.ip(), &abort_handle) else { return };
    let stalled = own_limit(server.config.get().limits.stalled_reader_ms, peer.port());
    if let Err(error) = tune(&stream, stalled) {
        tracing::debug!(%error, "connection not tuned");
    }
    tasks.spawn(Arc::clone(server).serve(stream, Peer(peer.ip()), slot, abort_handle));
}

/// Returns the limit for one connection, up to a tenth shorter than `stalled`. Clients that one
/// message makes stall together are then not all dropped together, which would delay the others.
fn own_limit(stalled: Duration, port: u16) -> Duration {
    // Clients have consecutive ports.
    const PARTS: u32 = 64;
    stalled - stalled / 10 * (u32::from(port) % PARTS) / PARTS
}

/// Sets `TCP_NODELAY`. On Linux, also makes the kernel drop a peer that acknowledges nothing for
/// `stalled`.
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
        let goes_on = |errno: Errno| {
            is_of_one_connection(&io::Error::from_raw_os_error(errno.raw_os_error()))
        };
        assert!(
            [
                Errno::CONNABORTED,
                Errno::INTR,
                Errno::PERM,
                Errno::PROTO,
                Errno::NETUNREACH,
                Errno::HOSTDOWN
            ]
            .into_iter()
            .all(goes_on)
        );
        assert!(
            ![Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::NOBUFS, Errno::INVAL, Errno::BADF]
                .into_iter()
                .any(goes_on)
        );
    }
}
