//! The parts of a host that take a changed configuration, besides the reload path.

use std::sync::Arc;

use crate::auth::Authenticator;
use crate::dispatcher::Dispatcher;
use crate::http::keys::Keys;
use crate::outbound::Outbound;
use crate::settings::Prepare;
use crate::tls::Tls;

/// Returns the parts that a reload of the configuration prepares.
pub(super) fn reloadable(
    keys: &Arc<Keys>,
    auth: &Arc<Authenticator>,
    dispatcher: &Arc<Dispatcher>,
    outbound: &Arc<Outbound>,
    tls: Option<&Arc<Tls>>,
) -> Vec<Prepare> {
    let (keys, auth, dispatcher) = (Arc::clone(keys), Arc::clone(auth), Arc::clone(dispatcher));
    let (outbound, tls) = (Arc::clone(outbound), tls.cloned());
    vec![
        Box::new(move |config| {
            let (keys, accepted) = (Arc::clone(&keys), Keys::read(config)?);
            Ok(Box::new(move || keys.replace(accepted)))
        }),
        Box::new(move |config| {
            let (auth, accepted) = (Arc::clone(&auth), Authenticator::read(&config.auth)?);
            Ok(Box::new(move || auth.replace(accepted)))
        }),
        Box::new(move |config| {
            let (dispatcher, rate) = (Arc::clone(&dispatcher), config.rate);
            Ok(Box::new(move || dispatcher.rate().replace(rate)))
        }),
        Box::new(move |config| {
            let (outbound, ready) = (Arc::clone(&outbound), Outbound::prepare(config)?);
            Ok(Box::new(move || outbound.take(ready)))
        }),
        Box::new(move |config| {
            // Only a restart adds or removes the table.
            let ready = match (&tls, &config.server.tls) {
                (Some(tls), Some(config)) => Some((Arc::clone(tls), Tls::prepare(config)?)),
                _ => None,
            };
            Ok(Box::new(move || {
                if let Some((tls, pair)) = ready {
                    tls.take(pair);
                }
            }))
        }),
    ]
}
