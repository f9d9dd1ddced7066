//! A host without listeners, which tests plugins: virtual clients take the place of transports,
//! stubs take the place of other services, and the clock stands still until it is moved. All else
//! is the host's own: the loader, the registry, the dispatcher, the mailboxes, the rooms, the state
//! and the limits. So a plugin does here what it does on a host that serves.

mod play;
mod shown;
mod stubs;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Map, Value, json};
use tokio_util::task::TaskTracker;

use crate::auth::{self, Authenticator, Credentials};
use crate::config::{
    AuthConfig, AuthMode, Config, LiveConfig, QUEUE_SHARE, TokenAlgorithm, TokenKey,
};
use crate::deliveries::Deliveries;
use crate::dispatcher::Dispatcher;
use crate::effect::Effect;
use crate::error_chain::ErrorChain;
use crate::event::{Connection, Event};
use crate::host::checking_loader;
use crate::metrics::Metrics;
use crate::outbound::Outbound;
use crate::plugin::Engine;
use crate::registry::{ActivePlugin, Generation, OperatorSettings, Registry};
use crate::reload::Loader;
use crate::rooms::Rooms;
use crate::scenario::{Answered, ClientSpec, Stub};
use crate::socket::Sockets;
use crate::socketio::recorded::{CLOSED, Inbox};
use crate::socketio::{Client, Clients, Incoming, Newcomer};
use crate::timers::Timers;
use crate::wall_clock::WallClock;

pub use play::play;
use stubs::Stubs;

/// Timers and deliveries that one step handles at most. A plugin that sets a timer for now in the
/// handler of each timer would never come to an end.
const MAX_DUE: usize = 10_000;

/// Effects that are kept for one step.
const MAX_EFFECTS: usize = 10_000;

/// When the tokens of virtual clients expire, in seconds since 1970: in the year 2100.
const EXPIRES: u64 = 4_102_444_800;

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

struct VirtualClient {
    client: Arc<dyn Client>,
    connection: Arc<Connection>,
    inbox: Arc<Inbox>,
    acks: u64,
}

/// An event that a virtual client sends.
#[derive(Debug, Clone, Default)]
pub struct Sent {
    /// Its name.
    pub event: String,
    /// Its arguments.
    pub arguments: Vec<Value>,
    /// Its attachments.
    pub attachments: Vec<Vec<u8>>,
    /// Whether the client asks for an ack.
    pub ack: bool,
}

/// What plugins have changed beside their effects: one value for each change.
pub type Changes = Vec<Value>;

/// The state of a plugin at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Snapshot {
    entries: BTreeMap<String, Value>,
    timers: Vec<Value>,
    deliveries: Vec<Value>,
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
        // Virtual time does not debounce: a change of a room is told at once.
        config.limits.room_debounce_ms = Duration::ZERO;
        for plugin in config.plugins.by_name.values_mut() {
            plugin.limits.room_debounce_ms = Duration::ZERO;
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

    /// Connects a client.
    ///
    /// # Errors
    /// Returns why it can't connect.
    pub async fn connect(&mut self, name: &str, spec: &ClientSpec) -> Result<(), String> {
        if self.clients.contains_key(name) {
            return Err(format!("{name} is connected already"));
        }
        let namespace = spec.namespace.as_deref().unwrap_or("/");
        let config = self.config.get().clone();
        if !config.server.namespaces.iter().any(|known| known == namespace) {
            let known = config.server.namespaces.join(", ");
            return Err(format!(
                "the host has no namespace {namespace}, only {known}; add it to `namespaces` in \
                 [server] of a configuration, and name that with --config"
            ));
        }
        let query = spec.query.as_deref().unwrap_or_default();
        let newcomer = Newcomer {
            sid: format!("sid-{name}"),
            namespace: namespace.into(),
            address: None,
            credentials: self.credentials(spec)?,
            query: self.sockets.handshake_bytes().map(|_| query.into()),
            slot: None,
        };
        let client = self.sockets.prepare(newcomer).await;
        let client = client.map_err(|refusal| format!("{name} can't connect: {refusal}"))?;
        let inbox = Inbox::new(config.limits.overflow_bytes.get() / QUEUE_SHARE);
        client.enter(inbox.link(None));
        let connection = self.rooms.connection(Some(namespace), client.id());
        let connection = connection.ok_or("the connection is not known")?;
        Arc::clone(&client).begin();
        let known = VirtualClient { client, connection: Arc::clone(&connection), inbox, acks: 0 };
        self.clients.insert(name.to_owned(), known);
        self.dispatcher.host_events_settled().await;
        for room in &spec.rooms {
            self.join(&connection, room)?;
        }
        Ok(())
    }

    /// Joins a client to a room, as a handler of the room's plugin may.
    fn join(&self, connection: &Connection, room: &str) -> Result<(), String> {
        let generation = self.registry.snapshot();
        let mut refused = None;
        for active in &generation.plugins {
            match generation.may_join(room, &connection.identity(), active.code.name()) {
                Ok(()) => {
                    self.rooms.join(connection, room);
                    return Ok(());
                }
                Err(reason) => refused = Some(reason),
            }
        }
        let reason = refused.map(|reason| format!(": {reason:?}")).unwrap_or_default();
        Err(format!("no plugin may join this client to the room `{room}`{reason}"))
    }

    /// What a client sends to prove who it is.
    fn credentials(&self, spec: &ClientSpec) -> Result<Credentials, String> {
        let mut auth = spec.auth.clone();
        if let Some(user) = &spec.user {
            let mut claims = spec.claims.clone();
            claims.insert("sub".to_owned(), Value::from(user.as_str()));
            claims.insert("roles".to_owned(), json!(spec.roles));
            claims.insert("exp".to_owned(), EXPIRES.into());
            let token = auth::sign(&self.auth, None, &claims).map_err(|error| error.to_string())?;
            auth.insert("token".to_owned(), token.into());
        } else if !spec.roles.is_empty() || !spec.claims.is_empty() {
            return Err("a client with roles or claims needs a `user`".to_owned());
        }
        let auth = Value::Object(auth).to_string();
        Ok(Credentials { auth: Some(auth.into()), bearer: None })
    }

    fn client(&mut self, name: &str) -> Result<&mut VirtualClient, String> {
        self.clients.get_mut(name).ok_or_else(|| format!("{name} is not connected"))
    }

    /// Sends an event, and waits until it is answered and its effects are applied.
    ///
    /// # Errors
    /// The client is not connected.
    pub async fn send(&mut self, name: &str, sent: &Sent) -> Result<Answered, String> {
        let from = self.client(name)?;
        from.acks += 1;
        let ack = sent.ack.then_some(from.acks);
        let arguments: Vec<_> = sent.arguments.iter().map(Value::to_string).collect();
        let arguments = arguments.join(",");
        let attachments = sent.attachments.iter().cloned().map(Bytes::from).collect();
        let incoming = Incoming {
            call: Some((sent.event.as_str().into(), &arguments)),
            bytes: sent.event.len() + arguments.len() + 5,
            attachments,
            ack,
        };
        let answered = TaskTracker::new();
        let link = from.inbox.link(Some(answered.token()));
        Arc::clone(&from.client).event(incoming, link, None);
        answered.close();
        answered.wait().await;
        Ok(match ack {
            Some(id) => from.inbox.take_ack(id).map_or(Answered::Nothing, answer),
            None => Answered::Nothing,
        })
    }

    /// Disconnects a client.
    ///
    /// # Errors
    /// The client is not connected.
    pub async fn disconnect(&mut self, name: &str) -> Result<(), String> {
        let gone = self.clients.remove(name).ok_or_else(|| format!("{name} is not connected"))?;
        gone.client.leave("client namespace disconnect").await;
        Ok(())
    }

    /// Waits until all that is due now is handled: host events, deliveries and timers.
    ///
    /// # Errors
    /// Returns why something can't be handled, or that there is no end.
    pub async fn settle(&self) -> Result<(), String> {
        self.settle_within(&mut 0).await.map(drop)
    }

    /// Handles what is due. Returns when the next timer or delivery is due.
    async fn settle_within(&self, handled: &mut usize) -> Result<Option<u64>, String> {
        loop {
            self.dispatcher.host_events_settled().await;
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

    /// Removes the clients whose connections the host has ended, and tells plugins so. Returns
    /// their names, each with the reason if the host has cut the connection.
    pub async fn remove_ended(&mut self) -> Vec<(String, Option<&'static str>)> {
        let mut ended = Vec::new();
        let names: Vec<_> = self.clients.keys().cloned().collect();
        for name in names {
            let end = self.clients.get(&name).and_then(|client| client.inbox.end());
            if let Some(reason) = end
                && let Some(gone) = self.clients.remove(&name)
            {
                let is_cut = reason != CLOSED;
                let word =
                    if is_cut { "forced server close" } else { "server namespace disconnect" };
                gone.client.leave(word).await;
                ended.push((name, is_cut.then_some(reason)));
            }
        }
        ended
    }

    /// Returns the events that each connected client has received since the last call.
    pub fn take_received(&self) -> BTreeMap<String, Vec<Value>> {
        let received = |(name, client): (&String, &VirtualClient)| {
            let messages = client.inbox.take();
            (name.clone(), messages.iter().filter_map(|message| shown::event(message)).collect())
        };
        self.clients.iter().map(received).collect()
    }

    /// Returns the effects of handlers since the last call.
    pub fn take_effects(&self) -> Vec<Value> {
        std::mem::take(&mut *self.effects.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns the HTTP requests since the last call, and what to say of those without a stub.
    pub fn take_requests(&self) -> (Vec<Value>, Vec<String>) {
        self.stubs.take()
    }

    /// The rooms of a client.
    ///
    /// # Errors
    /// The client is not connected.
    pub fn rooms(&mut self, name: &str) -> Result<Vec<String>, String> {
        let connection = Arc::clone(&self.client(name)?.connection);
        let mut rooms = self.rooms.of(&connection);
        rooms.sort();
        Ok(rooms)
    }

    /// The plugins that are tested, that of the first file first, with their versions.
    pub fn plugins(&self) -> Vec<(String, String)> {
        let generation = self.registry.snapshot();
        let of = |active: &Arc<ActivePlugin>| {
            (active.code.name().to_owned(), active.code.registration.version.clone())
        };
        generation.plugins.iter().map(of).collect()
    }

    /// The value of a key in the state of the first plugin; `$absent` if it is not there.
    ///
    /// # Errors
    /// The state can't be read.
    pub fn state_of(&self, key: &str) -> Result<Value, String> {
        let found = self.first.state.store.content_of(key);
        let found = found.map_err(|error| ErrorChain(&error).to_string())?;
        Ok(found.map_or_else(crate::scenario::absent, |bytes| shown::stored(&bytes)))
    }

    /// The timers of the first plugin that no schedule has set.
    ///
    /// # Errors
    /// The state can't be read.
    pub fn timers(&self) -> Result<Vec<Value>, String> {
        let is_scheduled = |timer: &str| self.first.schedules.contains_key(timer);
        let timers = shown::timers(&self.first.state.store, is_scheduled);
        timers.map_err(|error| ErrorChain(&error).to_string())
    }

    /// The state of the first plugin now. Blocks on disk I/O.
    ///
    /// # Errors
    /// The state can't be read.
    pub fn snapshot(&self) -> Result<Snapshot, String> {
        let store = &self.first.state.store;
        let failed = |error| ErrorChain(&error).to_string();
        Ok(Snapshot {
            entries: shown::entries(store).map_err(failed)?,
            timers: self.timers()?,
            deliveries: shown::deliveries(store).map_err(failed)?,
        })
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

impl Snapshot {
    /// What has changed until `later`.
    pub fn changes(&self, later: &Self) -> Changes {
        let mut changes = Vec::new();
        for (key, value) in &later.entries {
            if self.entries.get(key) != Some(value) {
                changes.push(json!({"set": key, "value": value}));
            }
        }
        let gone = self.entries.keys().filter(|key| !later.entries.contains_key(*key));
        changes.extend(gone.map(|key| json!({"delete": key})));
        changes.extend(later.timers.iter().filter(|timer| !self.timers.contains(timer)).cloned());
        let cancelled = self.timers.iter().filter(|timer| !later.timers.contains(timer));
        changes.extend(cancelled.map(|timer| json!({"cancelled": timer})));
        let new = later.deliveries.iter().filter(|sent| !self.deliveries.contains(sent));
        changes.extend(new.cloned());
        changes
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

/// Virtual clients are known by tokens that the trial itself signs: then their identities take the
/// way of all others.
fn auth_of_clients() -> Result<AuthConfig, TrialError> {
    let mut secret = [0_u8; 32];
    getrandom::fill(&mut secret).map_err(|error| TrialError::Host(error.to_string()))?;
    let secret = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    let key = TokenKey {
        algorithm: TokenAlgorithm::HS256,
        kid: None,
        secret: Some(secret),
        secret_file: None,
        public_key_file: None,
    };
    let mode = AuthMode::Jwt;
    Ok(AuthConfig { mode, anonymous: true, keys: vec![key], ..AuthConfig::default() })
}

fn answer(text: String) -> Answered {
    let mut arguments = shown::arguments(&text);
    let error = arguments.first_mut().and_then(Value::as_object_mut);
    match error.and_then(|first: &mut Map<_, _>| first.remove("error")) {
        Some(error) => Answered::Error(error),
        None => Answered::Ack(arguments),
    }
}
