//! The Socket.IO implementation of a host, and how long a write to a client may wait.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::task::TaskTracker;

use crate::config::{Config, SocketIo};
use crate::socket::Sockets;
use crate::socketio::{Clients, Server, builtin, library};

use super::StartError;

/// Returns how long one write may wait for its client. With the library, writes have no limit: its
/// adapter cuts a client that does not read, and logs it.
pub(super) fn write_limit(config: &Config) -> Duration {
    if config.server.socketio == SocketIo::Builtin {
        config.limits.stalled_reader_ms
    } else {
        Duration::MAX
    }
}

/// Creates the Socket.IO implementation that the configuration names.
pub(super) fn socketio(
    config: &Config,
    sockets: &Arc<Sockets>,
    tasks: TaskTracker,
) -> Result<Server, StartError> {
    let sockets: Arc<dyn Clients> = Arc::clone(sockets) as _;
    let clients = Arc::downgrade(&sockets);
    match config.server.socketio {
        SocketIo::Builtin => {
            let server = builtin::Server::new(config, &clients)
                .map_err(|error| StartError::Namespace(error.to_string()))?;
            Ok(Server::Builtin(server))
        }
        SocketIo::Socketioxide => {
            Ok(Server::Library(library::Server::new(config, &clients, tasks)))
        }
    }
}
