//! The periodic work of a host: releases instances and state of idle plugins, and notices that the
//! keys of tokens or the certificate have changed.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::auth::Authenticator;
use crate::registry::Registry;
use crate::reload::Loader;
use crate::tls::Tls;

/// Interval of the work.
const TEND: Duration = Duration::from_secs(1);

/// Releases instances and state that plugins do not need any more, and reads changed keys of tokens
/// and a changed certificate, until `stop`.
pub(super) async fn tend(
    loader: Arc<Loader>,
    registry: Arc<Registry>,
    auth: Arc<Authenticator>,
    tls: Option<Arc<Tls>>,
    stop: CancellationToken,
) {
    while stop.run_until_cancelled(tokio::time::sleep(TEND)).await.is_some() {
        let (loader, auth, tls) = (Arc::clone(&loader), Arc::clone(&auth), tls.clone());
        let generation = registry.snapshot();
        let trim = move || {
            generation.plugins.iter().for_each(|active| active.code.trim());
            loader.tend();
            auth.tend();
            if let Some(tls) = tls {
                tls.refresh();
            }
        };
        let _ = tokio::task::spawn_blocking(trim).await;
    }
}
