//! The periodic work of a host: releases instances and state of idle plugins.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::registry::Registry;
use crate::reload::Loader;

/// Interval at which instances and state of idle plugins are released.
const TEND: Duration = Duration::from_secs(1);

/// Releases instances and state that plugins do not need any more, until `stop`.
pub(super) async fn tend(loader: Arc<Loader>, registry: Arc<Registry>, stop: CancellationToken) {
    while stop.run_until_cancelled(tokio::time::sleep(TEND)).await.is_some() {
        let (loader, generation) = (Arc::clone(&loader), registry.snapshot());
        let trim = move || {
            generation.plugins.iter().for_each(|active| active.code.trim());
            loader.tend();
        };
        let _ = tokio::task::spawn_blocking(trim).await;
    }
}
