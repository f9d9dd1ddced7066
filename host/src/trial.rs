//! A host without listeners, which tests plugins: virtual clients take the place of transports,
//! stubs take the place of other services, and the clock stands still until it is moved. All else
//! is the host's own: the loader, the registry, the dispatcher, the mailboxes, the rooms, the state
//! and the limits. So a plugin does here what it does on a host that serves.

mod clients;
mod load;
mod play;
mod shown;
mod state;
mod stubs;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use tokio_util::task::TaskTracker;

use crate::auth::Authenticator;
use crate::config::{AuthConfig, Config, LiveConfig};
use crate::deliveries::Deliveries;
use crate::dispatcher::Dispatcher;
use crate::effect::Effect;
use crate::error_chain::ErrorChain;
use crate::event::Event;
use crate::host::checking_loader;
use crate::metrics::Metrics;
use crate::outbound::Outbound;
use crate::plugin::Engine;
use crate::registry::{ActivePlugin, Generation, OperatorSettings, Registry};
use crate::reload::Loader;
use crate::rooms::Rooms;
use crate::scenario::Stub;
use crate::socket::Sockets;
use crate::timers::Timers;
use crate::wall_clock::WallClock;

pub use clients::Sent;
pub use play::play;
pub use state::{Changes, Snapshot};

use clients::{VirtualClient, auth_of_clients};
use stubs::Stubs;

/// Timers and deliveries that one step handles at most. A plugin that sets a timer for now in the
/// handler of each timer would never come to an end.
const MAX_DUE: usize = 10_000;

/// The debounce of changes of rooms. It is no virtual time: a change is told in its step.
const ROOM_DEBOUNCE: Duration = Duration::from_millis(1);

/// How long a step waits for the handlers of host events. Each has the time limit of an event, and
/// one that fails for a reason of the host is called again.
const HOST_EVENTS: Duration = Duration::from_secs(60);

/// Effects that are kept for one step.
const MAX_EFFECTS: usize = 10_000;

/// Why no trial is possible.
#[derive(Debug, thiserror::Error)]
pub enum TrialError {
    /// A plugin is refused.
    #[error("{} is refused: {reason}", file.display())]
    Refused {
        /// Its file.
        file: PathBuf,
        /// The reason.
        reason: String,
    },
    /// A plugin has failed to prepare its state.
    #[error("the plugin `{plugin}` has failed to handle `$load`: {reason}")]
    Load {
        /// The plugin.
        plugin: String,
        /// The reason.
        reason: String,
    },
    /// Another part of the host can't start.
    #[error("the host can't start: {0}")]
    Host(String),
}

impl TrialError {
    fn host(error: impl std::error::Error) -> Self {
        Self::Host(ErrorChain(&error).to_string())
    }
}

/// Where a trial keeps its files, and what compiles plugins for it.
#[derive(Debug, Clone)]
pub struct TrialFiles {
    /// The data directory. It must be empty, and outlive the trial.
    pub data: PathBuf,
    /// Where compiled code is kept. Several trials may share it.
    pub cache: PathBuf,
    /// A build of this host's own command, which compiles plugins.
    pub compiler: PathBuf,
}

/// A host without listeners.
pub struct Trial {
    clock: WallClock,
    auth: AuthConfig,
    config: Arc<LiveConfig>,
    registry: Arc<Registry>,
    rooms: Arc<Rooms>,
    dispatcher: Arc<Dispatcher>,
    sockets: Arc<Sockets>,
    timers: Arc<Timers>,
    deliveries: Arc<Deliveries>,
    loader: Loader,
    stubs: Arc<Stubs>,
    effects: Arc<Mutex<Vec<Value>>>,
    clients: BTreeMap<String, VirtualClient>,
    /// The plugin of the first file.
    first: Arc<ActivePlugin>,
}

impl Trial {
    /// Loads `files` together, as a host loads a directory, and sends them `$start`. The clock
    /// stands at `time`, in milliseconds since 1970.
    ///
    /// # Errors
    /// A plugin is refused, or a part of the host can't start.
    pub async fn start(
        mut config: Config,
        files: &[PathBuf],
        place: &TrialFiles,
        time: u64,
    ) -> Result<Self, TrialError> {
        config.data.dir.clone_from(&place.data);
        config.auth = auth_of_clients()?;
        config.limits.room_debounce_ms = ROOM_DEBOUNCE;
        for plugin in config.plugins.by_name.values_mut() {
            plugin.limits.room_debounce_ms = ROOM_DEBOUNCE;
        }
        let (clock, metrics) = (WallClock::default(), Arc::new(Metrics::default()));
        clock.stop_at(time);
        let operator = OperatorSettings::load(&config).map_err(TrialError::host)?;
        let registry = Arc::new(Registry::under(operator));
        let stubs = Arc::new(Stubs::default());
        let outbound = Outbound::stubbed(&config, stubs.clone()).map_err(TrialError::host)?;
        let outbound = Arc::new(outbound);
        let auth = Authenticator::load(&config.auth).map_err(TrialError::host)?;
        let auth_config = config.auth.clone();
        let workers = thread::available_parallelism().map_or(1, usize::from);
        let engine = Engine::new(config.largest_instance_memory(), workers);
        let engine = engine.map_err(TrialError::host)?.with_clock(clock.clone());
        let live = LiveConfig::new(Arc::new(config));
        let cache = place.cache.clone();
        let loader = checking_loader(&live, &place.compiler, Arc::new(engine), cache);
        let first = load(&loader, &registry, files).await?;
        let (rooms, effects) = (Arc::new(Rooms::default()), Arc::<Mutex<Vec<Value>>>::default());
        let seen = Arc::clone(&effects);
        let observer = Box::new(move |_: &Event, _: &str, done: &[Effect]| {
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            let space = MAX_EFFECTS.saturating_sub(seen.len());
            seen.extend(done.iter().take(space).map(shown::effect));
        });
        let dispatcher = Dispatcher::new(
            Arc::clone(&registry),
            Arc::clone(&rooms),
            Arc::clone(&live),
            Arc::clone(&metrics),
        );
        let dispatcher = dispatcher.sending_by(Arc::clone(&outbound));
        let dispatcher = Arc::new(dispatcher.observed_by(clock.clone(), observer));
        let timers =
            Timers::new(Arc::clone(&dispatcher), Arc::clone(&registry), Arc::clone(&metrics));
        let deliveries =
            Deliveries::new(Arc::clone(&registry), outbound, clock.clone(), Arc::clone(&metrics));
        let sockets = Sockets::new(
            Arc::clone(&dispatcher),
            Arc::clone(&rooms),
            Arc::clone(&live),
            metrics,
            TaskTracker::new(),
            Arc::new(auth),
        );
        dispatcher.start().await;
        for active in &registry.snapshot().plugins {
            if active.listens_for_load() {
                let plugin = active.code.name().to_owned();
                load::load(&dispatcher, active)
                    .await
                    .map_err(|reason| TrialError::Load { plugin, reason })?;
            }
        }
        timers.set_schedules().await.map_err(TrialError::host)?;
        Ok(Self {
            clock,
            auth: auth_config,
            config: live,
            registry,
            rooms,
            dispatcher,
            sockets,
            timers,
            deliveries,
            loader,
            stubs,
            effects,
            clients: BTreeMap::new(),
            first,
        })
    }

    /// Answers HTTP requests by these stubs, before the earlier ones.
    pub fn add_stubs(&self, stubs: &[Stub]) {
        self.stubs.add(stubs);
    }

    /// Waits until all that is due now is handled: host events, deliveries and timers.
    ///
    /// # Errors
    /// Returns why something can't be handled, or that there is no end.
    pub async fn settle(&self) -> Result<(), String> {
        self.settle_within(&mut 0).await.map(drop)
    }

    async fn host_events_settled(&self) -> Result<(), String> {
        let settled = self.dispatcher.host_events_settled();
        let settled = tokio::time::timeout(HOST_EVENTS, settled).await;
        settled.map_err(|_| "the handlers of host events do not come to an end".to_owned())
    }

    /// Handles what is due. Returns when the next timer or delivery is due.
    async fn settle_within(&self, handled: &mut usize) -> Result<Option<u64>, String> {
        loop {
            self.host_events_settled().await?;
            let sent = self.deliveries.send_due().await;
            let (sent, next_delivery) = sent.map_err(|error| ErrorChain(&error).to_string())?;
            let fired = self.timers.fire_first().await.map_err(|error| error.to_string())?;
            *handled += sent + usize::from(fired.is_none());
            if *handled > MAX_DUE {
                return Err(format!(
                    "more than {MAX_DUE} timers and deliveries were due in one step; does a timer \
                     set itself for now?"
                ));
            }
            match fired {
                Some(next) if sent == 0 => {
                    return Ok(next.0.into_iter().chain(next_delivery).min());
                }
                _ => {}
            }
        }
    }

    /// Moves the clock by this time. All that is due meanwhile is handled at its time.
    ///
    /// # Errors
    /// Same as [`Trial::settle`].
    pub async fn advance(&self, by: Duration) -> Result<(), String> {
        let by = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
        let end = self.clock.now_ms().saturating_add(by);
        let mut handled = 0;
        loop {
            let next = self.settle_within(&mut handled).await?;
            let now = self.clock.now_ms();
            if now >= end {
                return Ok(());
            }
            self.clock.stop_at(next.unwrap_or(end).clamp(now, end));
        }
    }

    /// Returns the effects of handlers since the last call.
    pub fn take_effects(&self) -> Vec<Value> {
        std::mem::take(&mut *self.effects.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns the HTTP requests since the last call, and what to say of those without a stub.
    pub fn take_requests(&self) -> (Vec<Value>, Vec<String>) {
        self.stubs.take()
    }

    /// The plugins that are tested, that of the first file first, with their versions.
    pub fn plugins(&self) -> Vec<(String, String)> {
        let generation = self.registry.snapshot();
        let of = |active: &Arc<ActivePlugin>| {
            (active.code.name().to_owned(), active.code.registration.version.clone())
        };
        generation.plugins.iter().map(of).collect()
    }

    /// Ends the trial. The data directory can then be removed.
    pub async fn end(mut self) {
        self.clients.clear();
        self.timers.stop().await;
        self.deliveries.stop().await;
        self.dispatcher.stop().await;
        self.loader.close();
    }
}

/// Loads the files as one generation, and publishes it. Returns the plugin of the first.
async fn load(
    loader: &Loader,
    registry: &Registry,
    files: &[PathBuf],
) -> Result<Arc<ActivePlugin>, TrialError> {
    let mut generation = Generation::after(&registry.snapshot());
    let mut first = None;
    for file in files {
        let refused = |reason| TrialError::Refused { file: file.clone(), reason };
        let name = file.file_stem().unwrap_or_default().to_string_lossy();
        let source = loader.read(file, &name).map_err(|failure| refused(failure.reason))?;
        let active = loader.load(source, &name).await;
        let active = active.map_err(|failure| refused(failure.reason))?;
        generation.admit(&active, false).map_err(|error| refused(error.to_string()))?;
        first.get_or_insert(active);
    }
    registry.publish(generation);
    first.ok_or_else(|| TrialError::Host("there is no plugin to test".to_owned()))
}
