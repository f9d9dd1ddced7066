//! Resolves names, as the system does: with its hosts file, its search list and its cache.
//!
//! The system's resolver blocks a thread, which no timeout frees. So at most [`MAX_LOOKUPS`] run at
//! once. Each plugin has a share of them, and deliveries have shares of their own: an attempt that
//! no client waits for does not delay a handler. Requests that need a name whose lookup has just
//! begun wait for the same result. Only names that operators list are looked up.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::SendError;

/// Maximum number of lookups at once, and so of blocked threads.
pub(super) const MAX_LOOKUPS: usize = Purpose::Event.most() + Purpose::Delivery.most();

/// What a name is looked up for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Purpose {
    /// The request of a handler.
    Event,
    /// An attempt to send a delivery.
    Delivery,
}

impl Purpose {
    /// Maximum number of lookups at once, of all plugins.
    const fn most(self) -> usize {
        match self {
            Self::Event => 16,
            Self::Delivery => 8,
        }
    }

    /// The share of one plugin: the names of four plugins must fail before others wait.
    const fn share(self) -> usize {
        self.most() / 4
    }
}

/// The plugin that needs a name, and for what.
pub(super) type Asker = (Arc<str>, Purpose);

/// How long requests join a lookup that runs. It is the time after which most systems ask another
/// server. A later request begins a lookup of its own, so that one lost answer does not delay it.
const JOIN_FOR: Duration = Duration::from_secs(5);

/// Maximum number of addresses of a name that are used.
pub(super) const MAX_ADDRESSES: usize = 16;

/// The result of a lookup; `None` while it runs.
type Lookup = Option<Result<Arc<[IpAddr]>, String>>;

/// Returns the addresses of a name, or why there are none. Blocks.
type LookUp = Arc<dyn Fn(&str) -> Result<Vec<IpAddr>, String> + Send + Sync>;

/// The lookups that run.
pub(super) struct Resolver {
    look_up: LookUp,
    join_for: Duration,
    running: Mutex<HashMap<String, Running>>,
    events: Arc<Semaphore>,
    deliveries: Arc<Semaphore>,
    /// The permits of those plugins that look names up.
    shares: Mutex<HashMap<Asker, Weak<Semaphore>>>,
}

/// The newest lookup of a name.
struct Running {
    began: Instant,
    result: watch::Receiver<Lookup>,
}

impl Default for Resolver {
    fn default() -> Self {
        Self::new(Arc::new(of_system))
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver").field("events", &self.events).finish_non_exhaustive()
    }
}

impl Resolver {
    /// A resolver that asks `look_up` for each name.
    pub(super) fn new(look_up: LookUp) -> Self {
        let permits = |purpose: Purpose| Arc::new(Semaphore::new(purpose.most()));
        let (events, deliveries) = (permits(Purpose::Event), permits(Purpose::Delivery));
        let (running, shares) = (Mutex::default(), Mutex::default());
        Self { look_up, join_for: JOIN_FOR, running, events, deliveries, shares }
    }

    /// Returns the addresses of a name. The caller limits the time.
    ///
    /// # Errors
    /// `Unreachable`: the name has no address, or its servers do not answer.
    pub(super) async fn resolve(
        self: &Arc<Self>,
        asker: &Asker,
        name: &str,
    ) -> Result<Arc<[IpAddr]>, SendError> {
        let mut lookup = match self.join(name) {
            Some(lookup) => lookup,
            None => {
                // The permits are never closed. A plugin waits for its own share first, so that it
                // takes no permit that it can't use.
                let share = self.share(asker).acquire_owned().await.ok();
                let all = match asker.1 {
                    Purpose::Event => &self.events,
                    Purpose::Delivery => &self.deliveries,
                };
                let permit = Arc::clone(all).acquire_owned().await.ok();
                self.begin(name, [share, permit])
            }
        };
        let found = lookup.wait_for(Option::is_some).await;
        let found = found.ok().and_then(|found| found.clone());
        let failed =
            |reason: &str| SendError::Unreachable(format!("{name} is not resolved: {reason}"));
        match found {
            Some(Ok(addresses)) => Ok(addresses),
            Some(Err(reason)) => Err(failed(&reason)),
            None => Err(failed("the lookup has failed")),
        }
    }

    /// The permits of a plugin. They exist as long as it uses one or waits for one.
    fn share(&self, asker: &Asker) -> Arc<Semaphore> {
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        shares.retain(|_, share| share.strong_count() > 0);
        if let Some(share) = shares.get(asker).and_then(Weak::upgrade) {
            return share;
        }
        let share = Arc::new(Semaphore::new(asker.1.share()));
        shares.insert(asker.clone(), Arc::downgrade(&share));
        share
    }

    /// Returns the lookup of a name that has begun a short time ago.
    fn join(&self, name: &str) -> Option<watch::Receiver<Lookup>> {
        self.joined(&self.running(), name)
    }

    fn joined(
        &self,
        running: &HashMap<String, Running>,
        name: &str,
    ) -> Option<watch::Receiver<Lookup>> {
        let lookup = running.get(name)?;
        (lookup.began.elapsed() < self.join_for).then(|| lookup.result.clone())
    }

    /// Begins a lookup, unless another has begun meanwhile. The permits are held until its end.
    fn begin(
        self: &Arc<Self>,
        name: &str,
        permits: [Option<OwnedSemaphorePermit>; 2],
    ) -> watch::Receiver<Lookup> {
        let mut running = self.running();
        if let Some(lookup) = self.joined(&running, name) {
            return lookup;
        }
        let (sender, result) = watch::channel(None);
        let entry = Running { began: Instant::now(), result: result.clone() };
        running.insert(name.to_owned(), entry);
        drop(running);
        let begun =
            Begun { resolver: Arc::clone(self), name: name.to_owned(), result: sender, permits };
        // Not tracked: a stopping host does not wait for the servers of a name.
        drop(tokio::task::spawn_blocking(move || begun.run()));
        result
    }

    /// The lock is held for one operation of a map.
    fn running(&self) -> MutexGuard<'_, HashMap<String, Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A lookup that has begun. When it is dropped, it leaves nothing behind, also if it was never run
/// or has panicked: requests that wait for its result then learn that there is none.
struct Begun {
    resolver: Arc<Resolver>,
    name: String,
    result: watch::Sender<Lookup>,
    #[allow(dead_code, reason = "held until the end")]
    permits: [Option<OwnedSemaphorePermit>; 2],
}

impl Begun {
    /// Blocks.
    fn run(self) {
        let found = (self.resolver.look_up)(&self.name).and_then(distinct);
        // First, so that a later request looks the name up again.
        self.forget();
        self.result.send_replace(Some(found));
    }

    /// Removes the entry, unless it is that of a newer lookup.
    fn forget(&self) {
        let mut running = self.resolver.running();
        let own = self.result.subscribe();
        if running.get(&self.name).is_some_and(|newest| newest.result.same_channel(&own)) {
            running.remove(&self.name);
        }
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        self.forget();
    }
}

/// Asks the system. Blocks.
fn of_system(name: &str) -> Result<Vec<IpAddr>, String> {
    let found = (name, 0).to_socket_addrs().map_err(|error| error.to_string())?;
    Ok(found.map(|found: SocketAddr| found.ip()).collect())
}

fn distinct(found: Vec<IpAddr>) -> Result<Arc<[IpAddr]>, String> {
    let mut addresses: Vec<IpAddr> = Vec::new();
    for address in found {
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
    use std::sync::Condvar;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::future::join_all;
    use tokio_util::task::TaskTracker;

    use super::*;

    const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    /// What a lookup of a name that begins with `dead` waits for.
    #[derive(Default)]
    struct Gate {
        is_open: Mutex<bool>,
        opened: Condvar,
        /// Lookups of such names so far.
        dead: AtomicUsize,
    }

    impl Gate {
        fn pass(&self) {
            self.dead.fetch_add(1, Ordering::SeqCst);
            let is_open = self.is_open.lock().unwrap();
            drop(self.opened.wait_while(is_open, |is_open| !*is_open).unwrap());
        }

        fn open(&self) {
            *self.is_open.lock().unwrap() = true;
            self.opened.notify_all();
        }

        /// Waits until so many lookups of dead names have begun.
        async fn until(&self, dead: usize) {
            while self.dead.load(Ordering::SeqCst) < dead {
                tokio::task::yield_now().await;
            }
        }
    }

    /// Opens the gate when a test ends, so that its runtime can end too.
    struct Opens(Arc<Gate>);

    impl Drop for Opens {
        fn drop(&mut self) {
            self.0.open();
        }
    }

    fn blocking() -> (Arc<Resolver>, Opens) {
        let gate = Arc::<Gate>::default();
        let shared = Arc::clone(&gate);
        let look_up = move |name: &str| {
            if name.starts_with("dead") {
                shared.pass();
            }
            Ok(vec![ADDRESS, ADDRESS])
        };
        (Arc::new(Resolver::new(Arc::new(look_up))), Opens(gate))
    }

    /// Lookups of one plugin for its events.
    const LOOKUPS_OF_PLUGIN: usize = Purpose::Event.share();

    fn plugin(name: &str) -> Asker {
        (Arc::from(name), Purpose::Event)
    }

    #[tokio::test]
    async fn requests_that_need_the_same_name_share_one_lookup() {
        let (resolver, gate) = blocking();
        let plugin = plugin("a");
        let waiting = join_all((0..100).map(|_| resolver.resolve(&plugin, "dead.test")));
        let opened = async {
            gate.0.until(1).await;
            gate.0.open();
        };
        let (found, ()) = tokio::join!(waiting, opened);
        for found in found {
            assert_eq!(found.unwrap().as_ref(), [ADDRESS]);
        }
        assert_eq!(gate.0.dead.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn the_dead_names_of_one_plugin_do_not_stop_the_lookups_of_another() {
        let (resolver, gate) = blocking();
        let waiting = (0..2 * MAX_LOOKUPS).map(|number| {
            let resolver = Arc::clone(&resolver);
            let name = format!("dead{number}.test");
            TaskTracker::new().spawn(async move { resolver.resolve(&plugin("a"), &name).await })
        });
        let waiting: Vec<_> = waiting.collect();
        gate.0.until(LOOKUPS_OF_PLUGIN).await;
        let found = resolver.resolve(&plugin("b"), "api.example.com").await;
        assert_eq!(found.unwrap().as_ref(), [ADDRESS]);
        assert_eq!(gate.0.dead.load(Ordering::SeqCst), LOOKUPS_OF_PLUGIN);
        gate.0.open();
        for found in waiting {
            assert!(found.await.unwrap().is_ok());
        }
        // The share of a plugin that looks nothing up is dropped.
        assert!(resolver.resolve(&plugin("c"), "api.example.com").await.is_ok());
        assert!(!resolver.shares.lock().unwrap().contains_key(&plugin("a")));
    }

    #[tokio::test]
    async fn the_dead_names_of_deliveries_do_not_stop_the_lookups_of_handlers() {
        let (resolver, gate) = blocking();
        // Of more plugins than have a share.
        let waiting = (0..2 * MAX_LOOKUPS).map(|number| {
            let (resolver, asker) = (Arc::clone(&resolver), plugin(&(number % 8).to_string()));
            let (asker, name) = ((asker.0, Purpose::Delivery), format!("dead{number}.test"));
            TaskTracker::new().spawn(async move { resolver.resolve(&asker, &name).await })
        });
        let waiting: Vec<_> = waiting.collect();
        gate.0.until(Purpose::Delivery.most()).await;
        let found = resolver.resolve(&plugin("0"), "api.example.com").await;
        assert_eq!(found.unwrap().as_ref(), [ADDRESS]);
        assert_eq!(gate.0.dead.load(Ordering::SeqCst), Purpose::Delivery.most());
        gate.0.open();
        for found in waiting {
            assert!(found.await.unwrap().is_ok());
        }
    }

    #[tokio::test]
    async fn a_lookup_that_runs_for_long_does_not_delay_a_later_one_of_the_same_name() {
        let (mut resolver, gate) = blocking();
        // Each lookup runs for longer than that.
        Arc::get_mut(&mut resolver).unwrap().join_for = Duration::ZERO;
        let ask = || {
            let resolver = Arc::clone(&resolver);
            TaskTracker::new()
                .spawn(async move { resolver.resolve(&plugin("a"), "dead.test").await })
        };
        let mut asked = Vec::new();
        for begun in 1..=LOOKUPS_OF_PLUGIN {
            asked.push(ask());
            gate.0.until(begun).await;
        }
        // No more than the share of the plugin.
        asked.extend((0..10).map(|_| ask()));
        assert!(resolver.resolve(&plugin("b"), "api.example.com").await.is_ok());
        assert_eq!(gate.0.dead.load(Ordering::SeqCst), LOOKUPS_OF_PLUGIN);
        gate.0.open();
        for found in asked {
            assert!(found.await.unwrap().is_ok());
        }
        assert!(resolver.running().is_empty());
    }

    #[tokio::test]
    async fn a_lookup_leaves_nothing_behind_even_if_it_panics() {
        let resolver = Arc::<Resolver>::default();
        let plugin = plugin("a");
        let found = resolver.resolve(&plugin, "localhost").await.unwrap();
        assert!(found.iter().all(IpAddr::is_loopback), "{found:?}");
        let invalid = resolver.resolve(&plugin, "name.invalid").await.unwrap_err();
        assert_eq!(invalid.code(), "unreachable");
        assert!(resolver.running().is_empty());
        let panics = Resolver::new(Arc::new(|_: &str| panic!("a lookup that panics")));
        let panics = Arc::new(panics);
        for _ in 0..=MAX_LOOKUPS {
            let failed = panics.resolve(&plugin, "api.example.com").await.unwrap_err();
            assert_eq!(failed.code(), "unreachable");
            assert!(panics.running().is_empty());
        }
    }

    #[test]
    fn a_lookup_that_is_never_run_leaves_nothing_behind() {
        let resolver = Arc::<Resolver>::default();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let handle = runtime.handle().clone();
        // A runtime that has ended runs nothing.
        drop(runtime);
        let _entered = handle.enter();
        let lookup = resolver.begin("api.example.com", [None, None]);
        assert!(resolver.running().is_empty());
        assert!(lookup.has_changed().is_err(), "its end is known");
    }
}
