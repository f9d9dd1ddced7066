//! The separate address of operators, if the configuration has one.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;

use crate::config::Config;
use crate::http::proxy::TrustedProxies;
use crate::http::slots::ConnectionSlots;
use crate::metrics::Metrics;

use super::StartError;
use super::listen;

/// The listener of operators.
pub(super) struct Admin {
    pub(super) listener: TcpListener,
    pub(super) address: SocketAddr,
}

/// Binds the address of `[admin] listen`, if it is set.
///
/// # Errors
/// The host can't listen on the address.
pub(super) fn bind(config: &Config) -> Result<Option<Admin>, StartError> {
    let Some(listen) = &config.admin.listen else { return Ok(None) };
    let wrong = |source| StartError::Admin { address: listen.clone(), source };
    let listener = listen::bind(listen).map_err(wrong)?;
    let address = listener.local_addr().map_err(wrong)?;
    Ok(Some(Admin { listener, address }))
}

impl Admin {
    /// The slots of operators' connections: as many as are reserved on the address of clients.
    pub(super) fn slots(&self, config: &Config, metrics: &Arc<Metrics>) -> Arc<ConnectionSlots> {
        let connections = config.limits.reserved_connections.get();
        let proxies = TrustedProxies::new(config);
        ConnectionSlots::new(connections, None, &proxies, 1, Arc::clone(metrics))
    }
}
