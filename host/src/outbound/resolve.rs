//! Resolves names, as the system does: with its hosts file, its search list and its cache.
//!
//! The system's resolver blocks a thread, which no timeout frees. So at most [`MAX_LOOKUPS`] run at
//! once, and at most one for each name: requests that need a name whose lookup runs wait for the
//! same result. Names are those that operators list.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Semaphore, watch};

use super::SendError;

/// Maximum number of lookups at once, and so of blocked threads: a few names whose servers do not
/// answer leave threads for the others.
pub(super) const MAX_LOOKUPS: usize = 16;

/// Maximum number of addresses of a name that are used.
pub(super) const MAX_ADDRESSES: usize = 16;

/// The result of a lookup; `None` while it runs.
type Lookup = Option<Result<Arc<[IpAddr]>, String>>;

/// The lookups that run.
#[derive(Debug)]
pub(super) struct Resolver {
    running: Mutex<HashMap<String, watch::Receiver<Lookup>>>,
    permits: Arc<Semaphore>,
}

impl Default for Resolver {
    fn default() -> Self {
        Self { running: Mutex::default(), permits: Arc::new(Semaphore::new(MAX_LOOKUPS)) }
    }
}

impl Resolver {
    /// Returns the addresses of a name. The caller limits the time.
    ///
    /// # Errors
    /// `Unreachable`: the name has no address, or its servers do not answer.
    pub(super) async fn resolve(self: &Arc<Self>, name: &str) -> Result<Arc<[IpAddr]>, SendError> {
        let mut lookup = match self.join(name) {
            Some(lookup) => lookup,
            None => {
                // The permits are never closed.
                let permit = Arc::clone(&self.permits).acquire_owned().await.ok();
                match self.join(name) {
                    Some(lookup) => lookup,
                    None => self.begin(name, permit),
                }
            }
        };
        let found = lookup.wait_for(Option::is_some).await;
        let found = found.ok().and_then(|found| found.clone());
        let failed =
            |reason: &str| SendError::Unreachable(format!("{name} is not resolved: {reason}"));
        match found {
            Some(Ok(addresses)) => Ok(addresses),
            Some(Err(reason)) => Err(failed(&reason)),
            None => Err(failed("the lookup has ended")),
        }
    }

    fn join(&self, name: &str) -> Option<watch::Receiver<Lookup>> {
        self.running().get(name).cloned()
    }

    /// Begins a lookup, unless another has begun meanwhile. `permit` is held until its end.
    fn begin<P: Send + 'static>(
        self: &Arc<Self>,
        name: &str,
        permit: P,
    ) -> watch::Receiver<Lookup> {
        let mut running = self.running();
        if let Some(lookup) = running.get(name) {
            return lookup.clone();
        }
        let (result, lookup) = watch::channel(None);
        running.insert(name.to_owned(), lookup.clone());
        drop(running);
        let (resolver, name) = (Arc::clone(self), name.to_owned());
        // Not tracked: a stopping host does not wait for the servers of a name.
        drop(tokio::task::spawn_blocking(move || {
            let found = look_up(&name);
            // First, so that a later request looks the name up again.
            resolver.running().remove(&name);
            result.send_replace(Some(found));
            drop(permit);
        }));
        lookup
    }

    /// The lock is held for one operation of a map.
    fn running(&self) -> MutexGuard<'_, HashMap<String, watch::Receiver<Lookup>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Blocks.
fn look_up(name: &str) -> Result<Arc<[IpAddr]>, String> {
    let found = (name, 0).to_socket_addrs().map_err(|error| error.to_string())?;
    let mut addresses: Vec<IpAddr> = Vec::new();
    for address in found.map(|found: SocketAddr| found.ip()) {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    if addresses.is_empty() {
        return Err("it has no address".to_owned());
    }
    Ok(addresses.into())
}

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;

    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn requests_that_need_the_same_name_share_one_lookup() {
        let resolver = Arc::<Resolver>::default();
        let (result, lookup) = watch::channel(None);
        resolver.running().insert("api.example.com".to_owned(), lookup);
        let waiting = join_all((0..100).map(|_| resolver.resolve("api.example.com")));
        let address: IpAddr = [192, 0, 2, 1].into();
        let answered = async { result.send_replace(Some(Ok([address].into()))) };
        let (found, _) = tokio::join!(waiting, answered);
        for found in found {
            assert_eq!(found.unwrap().as_ref(), [address]);
        }
        assert_eq!(resolver.permits.available_permits(), MAX_LOOKUPS);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_lookup_leaves_nothing_behind() {
        let resolver = Arc::<Resolver>::default();
        let found = resolver.resolve("localhost").await.unwrap();
        assert!(found.iter().all(IpAddr::is_loopback), "{found:?}");
        let invalid = resolver.resolve("name.invalid").await.unwrap_err();
        assert_eq!(invalid.code(), "unreachable");
        assert!(resolver.running().is_empty());
    }
}
