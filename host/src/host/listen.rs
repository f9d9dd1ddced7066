//! Binds the listener to the configured address.

use std::io;
use std::net::SocketAddr;

use socket2::{Domain, Socket, Type};
use tokio::net::TcpListener;

use crate::config::Listen;

/// Connections that the system queues while the host is busy. The system uses its own maximum if
/// that is lower.
const BACKLOG: i32 = 1024;

/// Returns a listener on the first address of `listen` that the system supports.
///
/// # Errors
/// The error of the last address that was tried.
pub(super) fn bind(listen: &Listen) -> io::Result<TcpListener> {
    let mut result = Err(io::ErrorKind::AddrNotAvailable.into());
    for address in listen.candidates()? {
        result = bind_to(address, listen.is_all());
        // Only an address that the machine does not support, such as IPv6, leads to the next one.
        // If a port is in use, the next address would bind it for one IP version only.
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
    // A restarted host can bind its address at once. On other systems than Unix, this option would
    // let two hosts bind the same address.
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
