//! Listens where the configuration says.

use std::io;
use std::net::SocketAddr;

use socket2::{Domain, Socket, Type};
use tokio::net::TcpListener;

use crate::config::Listen;

/// Connections that the system holds for a host that is busy; it takes its own maximum where that is less.
const BACKLOG: i32 = 1024;

/// A listener on the first address of `listen` that can be listened on.
///
/// # Errors
/// Where there is none; the last one's reason.
pub(super) fn bind(listen: &Listen) -> io::Result<TcpListener> {
    let mut result = Err(io::ErrorKind::AddrNotAvailable.into());
    for address in listen.candidates()? {
        result = bind_to(address, listen.is_all());
        // Only a machine without IPv6 goes on: a port that is taken would be half taken otherwise.
        match &result {
            Err(error) if is_unsupported(error) => {}
            _ => break,
        }
    }
    result
}

fn is_unsupported(error: &io::Error) -> bool {
    use rustix::io::Errno;
    matches!(Errno::from_io_error(error), Some(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL))
}

fn bind_to(address: SocketAddr, is_all: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    // A host that is started again takes its address at once; elsewhere than on Unix this would let two hosts have it.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    if address.is_ipv6() && is_all {
        socket.set_only_v6(false)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}
