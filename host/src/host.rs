//! The composition root: puts the parts together, starts them, and stops them in order.

mod address;
mod descriptors;
mod listen;
mod lock;
mod priority;

use std::io;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use axum::Router;
use axum::middleware::from_fn_with_state;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::{Config, DEFAULT_CONNECTIONS, Listen, SocketIo};
use crate::dispatcher::Dispatcher;
use crate::http::accept::accept;
use crate::http::keys::{KeyError, Keys, own_key_file};
use crate::http::origin::{self, Origins};
use crate::http::slots::{self, Slots};
use crate::http::{self, Api, body, problem};
use crate::metrics::Metrics;
use crate::plugin::{Compiler, Engine, EngineError, this_program};
use crate::registry::{Registry, Routes};
use crate::reload::{Loader, Operator, Reloader, Row, ScanError, scan};
use crate::rooms::Rooms;
use crate::socket::Sockets;
use crate::socketio::{Clients, Server, builtin, library};

use address::AddressFile;
use descriptors::TooFew;
use priority::stand_back;

pub use lock::DataLock;
pub use priority::wake_promptly;

/// Keeps hosts away from a data directory for as long as the lock lives.
///
/// # Errors
/// [`StartError::DataInUse`] while a host runs.
pub fn lock_data(dir: &Path) -> Result<DataLock, StartError> {
    DataLock::take(dir)
}

/// A host that listens, and has loaded what it serves.
pub struct Host {
    config: Arc<Config>,
    /// As many as clients may have, by the configuration and the file descriptors.
    connections: NonZeroUsize,
    address: SocketAddr,
    /// Ends accepting.
    accepting: CancellationToken,
    accepted: JoinHandle<()>,
    /// Ends following the plugin directory.
    reloading: CancellationToken,
    loader: Arc<Loader>,
    registry: Arc<Registry>,
    operator: Arc<Operator>,
    rooms: Arc<Rooms>,
    sockets: Arc<Sockets>,
    socketio: Server,
    dispatcher: Arc<Dispatcher>,
    ready: Arc<AtomicBool>,
    tasks: TaskTracker,
    /// Tells commands on this machine where the host listens; before the lock, so that the next host's file is not removed.
    _said: Option<AddressFile>,
    /// Keeps a second host away from the data directory for as long as this one lives.
    _lock: DataLock,
}

/// Why a host does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Another host has the data directory.
    #[error("the data directory {} is in use by another host (pid {pid}); stop it, or give this one another with --data", dir.display())]
    DataInUse {
        /// Which.
        dir: PathBuf,
        /// The other's.
        pid: String,
    },
    /// The data directory can't be used.
    #[error("can't use the data directory {}", dir.display())]
    Data {
        /// Which.
        dir: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The plugin directory can't be read.
    #[error("can't read the plugin directory {}; create it, or name another with --plugins", dir.display())]
    Plugins {
        /// Which.
        dir: PathBuf,
        /// Why.
        source: ScanError,
    },
    /// The address can't be listened on.
    #[error("can't listen on {address}; choose another address with --listen")]
    Listen {
        /// Which.
        address: Listen,
        /// Why.
        source: io::Error,
    },
    /// No client could ask for a namespace.
    #[error("server.namespaces: {0}")]
    Namespace(String),
    /// The process may not have enough file descriptors.
    #[error(transparent)]
    Descriptors(#[from] TooFew),
    /// The thread that follows the plugin directory.
    #[error("can't start the thread that follows the plugin directory")]
    Thread(#[source] io::Error),
    /// The host's own program can't be found.
    #[error("can't find this program, which compiles plugins in a process of its own")]
    Compiler(#[source] io::Error),
    /// The engine.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A key.
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// How long closing the transports may take: one that nobody reads would take for ever.
const CLOSE: Duration = Duration::from_secs(5);

/// How often instances and state of idle plugins are given back.
const TEND: Duration = Duration::from_secs(1);

impl Host {
    /// Locks the data directory, listens, loads the plugins, and tells them `$start`.
    ///
    /// # Errors
    /// Where the data directory, the plugin directory or the address can't be used.
    pub async fn bind(config: Config) -> Result<Self, StartError> {
        let compiler = this_program().map_err(StartError::Compiler)?;
        Self::bind_with(config, compiler).await
    }

    /// The same with another program that compiles plugins: a build of this very host's command, where the host runs in a program of its own.
    ///
    /// # Errors
    /// As [`Host::bind`].
    pub async fn bind_with(config: Config, compiler: PathBuf) -> Result<Self, StartError> {
        let config = Arc::new(config);
        let lock = DataLock::take(&config.data.dir)?;
        let keys = Keys::load(&config)?;
        let allowed = allowed(&config)?;
        let listen = |source| StartError::Listen { address: config.server.listen.clone(), source };
        let listener = listen::bind(&config.server.listen).map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        let said = AddressFile::write(&config.data.dir, address);
        if let Err(error) = &said {
            tracing::warn!(%error, "the address is not written to the data directory: commands need --url");
        }

        let limits = Arc::new(config.limits.clone());
        let tasks = TaskTracker::new();
        let workers = thread::available_parallelism().map_or(1, usize::from);
        let engine = Arc::new(Engine::new(config.largest_instance_memory(), workers)?);
        let (registry, metrics) = (Arc::new(Registry::default()), Arc::new(Metrics::default()));
        let rooms = Arc::new(Rooms::default());
        let dispatcher = Arc::new(Dispatcher::new(Arc::clone(&registry), Arc::clone(&rooms), Arc::clone(&limits), Arc::clone(&metrics)));
        let alarm = Arc::new(Notify::new());
        let loader = Arc::new(loader(&config, &compiler, engine, Arc::clone(&alarm), Arc::clone(&metrics)));
        let kept = config.data.dir.join("plugins");
        let reloader =
            Reloader::new(&config, Arc::clone(&loader), Arc::clone(&registry), Arc::clone(&rooms), Arc::clone(&metrics), kept, alarm)
                .yielding_by(stand_back);
        let operator = reloader.operator();
        let (loaded, ready) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let slots = Slots::new(allowed.connections.get(), config.limits.reserved_connections.get(), Arc::clone(&metrics));
        let sockets = Sockets::new(Arc::clone(&dispatcher), Arc::clone(&rooms), Arc::clone(&limits), Arc::clone(&metrics), tasks.clone());
        let socketio = socketio(&config, &sockets, tasks.clone())?;
        let api = Api {
            config: Arc::clone(&config),
            registry: Arc::clone(&registry),
            dispatcher: Arc::clone(&dispatcher),
            operator: Arc::clone(&operator),
            rooms: Arc::clone(&rooms),
            metrics: Arc::clone(&metrics),
            keys,
            slots: Arc::clone(&slots),
            sockets: Arc::clone(&sockets),
            socketio: socketio.clone(),
            ready: Arc::clone(&ready),
        };
        let origins = Arc::new(Origins::new(&config.server.allowed_origins, address));
        let router = with_socketio(http::router(api), &socketio)
            .layer(from_fn_with_state(Arc::clone(&loaded), http::wait_until_loaded))
            .layer(axum::middleware::from_fn(problem::unify))
            .layer(from_fn_with_state(Arc::clone(&limits), body::pace))
            .layer(from_fn_with_state(Arc::clone(&slots), slots::admit))
            .layer(origin::cors(&origins, config.server.allowed_headers.as_deref()))
            .layer(from_fn_with_state(origins, origin::check))
            // Outside of everything that answers by itself: a reserved slot is free again after any answer.
            .layer(axum::middleware::from_fn(slots::close_reserved));
        // Accepting before loading: whoever asks whether the host lives or is ready gets an answer, clients are asked to come back.
        // The library cuts a client that does not read by itself, and says so.
        let write_limit = if config.server.socketio == SocketIo::Builtin { limits.stalled_reader_ms } else { Duration::MAX };
        let accepting = CancellationToken::new();
        let gives_up = accepting.clone().drop_guard();
        let accept = accept(listener, router, write_limit, Arc::clone(&slots), limits, accepting.clone(), tasks.clone());
        let accepted = tasks.spawn(accept);

        let plugins = |source: ScanError| StartError::Plugins { dir: config.plugins.dir.clone(), source };
        let reloading = CancellationToken::new();
        tasks.spawn(tend(Arc::clone(&loader), Arc::clone(&registry), reloading.clone()));
        let adapting = adapt_to_plugins(Arc::clone(&slots), Arc::clone(&registry), config.limits.reserved_connections, allowed);
        tasks.spawn(reloading.clone().run_until_cancelled_owned(adapting));
        let (begun, go_on) = follow(reloader, reloading.clone(), &tasks).map_err(StartError::Thread)?;
        let ended = |_| Err(ScanError::from(io::Error::other("the thread that follows it has ended")));
        begun.await.unwrap_or_else(ended).map_err(plugins)?;
        warn_of_tables_without_plugin(&config, &operator.rows());
        dispatcher.start().await;
        // Nobody is there to be told only where the thread has ended already.
        let _ = go_on.send(());
        loaded.store(true, Ordering::Release);
        ready.store(true, Ordering::Release);
        gives_up.disarm();
        Ok(Self {
            config,
            connections: allowed.connections,
            address,
            accepting,
            accepted,
            reloading,
            loader,
            registry,
            operator,
            rooms,
            sockets,
            socketio,
            dispatcher,
            ready,
            tasks,
            _said: said.ok(),
            _lock: lock,
        })
    }

    /// Where the host listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// How many TCP connections clients may have: as many as are configured, or as the file descriptors allow.
    pub fn connections(&self) -> NonZeroUsize {
        self.connections
    }

    /// What operators see.
    pub fn rows(&self) -> Arc<Vec<Row>> {
        self.operator.rows()
    }

    /// What a process may ask of its host while it runs.
    pub fn monitor(&self) -> Monitor {
        Monitor { operator: Arc::clone(&self.operator), registry: Arc::clone(&self.registry), rooms: Arc::clone(&self.rooms) }
    }

    /// What it serves.
    pub fn routes(&self) -> Arc<Routes> {
        self.registry.snapshot()
    }

    /// Serves until `stop`, and then stops: not ready first, then no new clients, then what was received is handled and every connection
    /// told to plugins as gone, then transports are closed. `at_once` skips the waiting.
    pub async fn run(self, stop: CancellationToken, at_once: CancellationToken) {
        stop.cancelled().await;
        self.ready.store(false, Ordering::Release);
        // What is served stays as it is until the end.
        self.reloading.cancel();
        tracing::info!(connections = self.rooms.connections(), "stopping: not ready any more");
        if self.rooms.connections() > 0 {
            within(self.config.limits.shutdown_unready_ms, &at_once, std::future::pending()).await;
        }
        self.accepting.cancel();
        let _ = self.accepted.await;
        tracing::info!("stopping: ending what was begun");
        if !within(self.config.limits.shutdown_drain_ms, &at_once, self.sockets.stop()).await {
            tracing::warn!("some events were not ended in time");
        }
        if !within(CLOSE, &at_once, self.dispatcher.stop()).await {
            tracing::warn!("some host events were not handled in time");
        }
        tracing::info!("stopping: closing connections");
        if !within(CLOSE, &at_once, self.socketio.close()).await {
            tracing::warn!("some transports did not close in time");
        }
        self.tasks.close();
        within(CLOSE, &at_once, self.tasks.wait()).await;
        self.loader.close();
        tracing::info!("stopped");
    }
}

/// What the file descriptors of the process allow.
#[derive(Debug, Clone, Copy)]
struct Allowed {
    /// Connections of clients.
    connections: NonZeroUsize,
    /// Plugins beside so many connections.
    plugins: usize,
    /// All descriptors; `None` if the system has no limit.
    descriptors: Option<u64>,
}

/// How many connections clients may have at the start, by the configuration and the file descriptors.
fn allowed(config: &Config) -> Result<Allowed, TooFew> {
    // A directory that can't be read is an error of its own, later.
    let plugins = scan::scan(&config.plugins.dir).map_or(0, |files| files.len()) + descriptors::MORE_PLUGINS;
    let descriptors = descriptors::raise_limit();
    let needed = descriptors::needed(plugins, config.limits.reserved_connections);
    let connections = descriptors::connections(descriptors, needed, config.limits.connections)?;
    if config.limits.connections.is_none() && connections < DEFAULT_CONNECTIONS {
        tracing::warn!(
            connections,
            descriptors,
            "few file descriptors: clients may have fewer connections; for more, raise the hard limit (`ulimit -n`, LimitNOFILE in systemd)"
        );
    }
    Ok(Allowed { connections, plugins, descriptors })
}

/// Allows clients fewer connections while there are more plugins than were reckoned with at the start: each plugin needs file descriptors, and
/// only new clients may be refused if none are left.
async fn adapt_to_plugins(slots: Arc<Slots>, registry: Arc<Registry>, reserved: NonZeroUsize, allowed: Allowed) {
    let (mut changes, mut before) = (registry.changes(), allowed.connections.get());
    loop {
        let now = registry.snapshot().plugins.len();
        let needed = descriptors::needed(now.max(allowed.plugins), reserved);
        let connections = descriptors::left(allowed.descriptors, needed, allowed.connections);
        if connections < before {
            tracing::warn!(connections, plugins = now, "clients may have fewer connections: more plugins need file descriptors");
        }
        if connections != before {
            slots.set_limit(connections);
            before = connections;
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// Says which tables of the configuration concern no plugin: a misspelt name would otherwise pass silently.
fn warn_of_tables_without_plugin(config: &Config, rows: &[Row]) {
    let stems = rows.iter().filter_map(|row| row.file.file_stem()?.to_str());
    let names: Vec<_> = rows.iter().map(|row| row.name.as_str()).chain(stems).collect();
    for (table, nearest) in config.tables_without_plugin(&names) {
        match nearest {
            Some(nearest) => {
                tracing::warn!(plugin = table, nearest, "a table `[plugins.NAME]` has the name of no plugin; is the nearest meant?")
            }
            None => tracing::warn!(plugin = table, "a table `[plugins.NAME]` has the name of no plugin in the plugin directory"),
        }
    }
}

/// What a process may ask of its host while it runs.
pub struct Monitor {
    operator: Arc<Operator>,
    registry: Arc<Registry>,
    rooms: Arc<Rooms>,
}

impl Monitor {
    /// Looks at the plugin directory now, and tries again what failed for its surroundings.
    pub fn look_again(&self) {
        self.operator.look_again();
    }

    /// Logs what is served now.
    pub fn log_status(&self) {
        tracing::info!(connections = self.rooms.connections(), generation = self.registry.snapshot().generation, "host status");
        for row in self.operator.rows().iter() {
            let served = row.served.as_ref().map(|served| &served.plugin);
            let (calls, failures) = served.map_or((0, 0), |plugin| plugin.counts());
            let version = served.map(|plugin| plugin.registration.version.as_str());
            let reason = row.error().map(|error| error.reason);
            tracing::info!(plugin = row.name, state = row.state().name(), version, calls, failures, reason, "plugin status");
        }
    }
}

/// Follows the plugin directory on a thread of its own until `stop`: what is read, hashed, linked and written there keeps no event waiting.
/// What comes first is what became of the first look, after which it waits for the word to go on.
#[allow(clippy::type_complexity, reason = "the two ends of one conversation, used once")]
fn follow(
    mut reloader: Reloader,
    stop: CancellationToken,
    tasks: &TaskTracker,
) -> io::Result<(oneshot::Receiver<Result<(), ScanError>>, oneshot::Sender<()>)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (begun, has_begun) = oneshot::channel();
    let (go_on, may_go_on) = oneshot::channel();
    let (ended, has_ended) = oneshot::channel::<()>();
    let work = async move {
        let result = reloader.begin().await;
        let is_good = result.is_ok();
        if begun.send(result).is_ok() && is_good && may_go_on.await.is_ok() {
            reloader.run(stop).await;
        }
    };
    thread::Builder::new().name("sockhop-reload".to_owned()).spawn(move || {
        runtime.block_on(work);
        drop(ended);
    })?;
    // So that the end of the host waits for the thread's.
    tasks.spawn(async { has_ended.await.unwrap_or_default() });
    Ok((has_begun, go_on))
}

/// Gives back what plugins do not need any more, instances and state, until `stop`.
async fn tend(loader: Arc<Loader>, registry: Arc<Registry>, stop: CancellationToken) {
    while stop.run_until_cancelled(tokio::time::sleep(TEND)).await.is_some() {
        let (loader, routes) = (Arc::clone(&loader), registry.snapshot());
        let trim = move || {
            routes.plugins.iter().for_each(|served| served.plugin.trim());
            loader.tend();
        };
        let _ = tokio::task::spawn_blocking(trim).await;
    }
}

/// Waits for `end`, for as long as `limit` and until `at_once`; whether it came.
async fn within(limit: Duration, at_once: &CancellationToken, end: impl Future<Output = ()>) -> bool {
    tokio::select! {
        () = end => true,
        () = tokio::time::sleep(limit) => false,
        () = at_once.cancelled() => false,
    }
}

/// What loads plugins for the data directory of `config`: where their state is, a file for each, and what was compiled.
pub fn loader(config: &Arc<Config>, compiler: &Path, engine: Arc<Engine>, alarm: Arc<Notify>, metrics: Arc<Metrics>) -> Loader {
    let data = &config.data.dir;
    let compiler = Compiler::new(compiler.to_owned(), cache_dir(data));
    Loader::new(engine, Arc::clone(config), compiler, alarm, metrics)
}

/// What loads plugins to look at them: like [`loader`], with compiled code in `cache`, which may be that of a host that serves events.
pub fn checking_loader(config: &Arc<Config>, compiler: &Path, engine: Arc<Engine>, cache: PathBuf) -> Loader {
    let compiler = Compiler::new(compiler.to_owned(), cache);
    compiler.yield_to_events();
    Loader::new(engine, Arc::clone(config), compiler, Arc::default(), Arc::default())
}

/// Where a host keeps compiled code. Another process of the same user may use it as well.
pub fn cache_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("cache")
}

/// Where a host keeps the key that it made for itself.
pub fn key_file(data_dir: &Path) -> PathBuf {
    own_key_file(data_dir)
}

/// Where a running host says its address.
pub fn address_file(data_dir: &Path) -> PathBuf {
    address::address_file(data_dir)
}

/// Whether a directory holds no plugin at all.
pub fn is_empty(plugins_dir: &Path) -> bool {
    scan::scan(plugins_dir).is_ok_and(|files| files.is_empty())
}

/// Whatever implementation of Socket.IO the configuration names.
fn socketio(config: &Config, sockets: &Arc<Sockets>, tasks: TaskTracker) -> Result<Server, StartError> {
    let sockets: Arc<dyn Clients> = Arc::clone(sockets) as _;
    let clients = Arc::downgrade(&sockets);
    match config.server.socketio {
        SocketIo::Builtin => {
            let server = builtin::Server::new(config, &clients).map_err(|error| StartError::Namespace(error.to_string()))?;
            Ok(Server::Builtin(server))
        }
        SocketIo::Socketioxide => Ok(Server::Library(library::Server::new(config, &clients, tasks))),
    }
}

/// Puts Socket.IO before the other endpoints.
fn with_socketio(router: Router, server: &Server) -> Router {
    match server {
        Server::Builtin(server) => router.layer(from_fn_with_state(server.clone(), http::socketio::serve)),
        Server::Library(server) => router.layer(server.layer()).layer(from_fn_with_state(server.clone(), http::socketio::note)),
    }
}
