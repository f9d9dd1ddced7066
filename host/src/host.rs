//! The composition root: creates the parts of the host, starts them, and stops them in order.

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
use crate::registry::{Generation, Registry};
use crate::reload::{Loader, Operator, PluginStatus, Reloader, ScanError, scan};
use crate::rooms::Rooms;
use crate::socket::Sockets;
use crate::socketio::{Clients, Server, builtin, library};

use address::AddressFile;
use descriptors::TooFew;
use priority::lower_priority;

pub use lock::DataLock;
pub use priority::shorten_time_slice;

/// Locks a data directory: no host can use it until the lock is dropped.
///
/// # Errors
/// [`StartError::DataInUse`] while a host runs; [`StartError::Data`] if the directory can't be
/// used.
pub fn lock_data(dir: &Path) -> Result<DataLock, StartError> {
    DataLock::take(dir)
}

/// A host that listens and has loaded its plugins.
pub struct Host {
    config: Arc<Config>,
    /// Limit of client connections, from the configuration and the file descriptors.
    connections: NonZeroUsize,
    address: SocketAddr,
    /// Stops accepting connections.
    accepting: CancellationToken,
    accepted: JoinHandle<()>,
    /// Stops following the plugin directory.
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
    /// The file that tells commands on this machine where the host listens. It is declared before
    /// the lock, so that it is dropped first and the next host's file is not removed.
    _said: Option<AddressFile>,
    /// Keeps other hosts away from the data directory while this host lives.
    _lock: DataLock,
}

/// Why a host can't start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Another host uses the data directory.
    #[error("the data directory {} is in use by another host (pid {pid}); stop it, or give this one another with --data", dir.display())]
    DataInUse {
        /// The data directory.
        dir: PathBuf,
        /// The other host's process id.
        pid: String,
    },
    /// The data directory can't be used.
    #[error("can't use the data directory {}", dir.display())]
    Data {
        /// The data directory.
        dir: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The plugin directory can't be read.
    #[error("can't read the plugin directory {}; create it, or name another with --plugins", dir.display())]
    Plugins {
        /// The plugin directory.
        dir: PathBuf,
        /// The cause.
        source: ScanError,
    },
    /// The host can't listen on the address.
    #[error("can't listen on {address}; choose another address with --listen")]
    Listen {
        /// The address.
        address: Listen,
        /// The cause.
        source: io::Error,
    },
    /// A configured namespace is invalid: no client could connect to it.
    #[error("server.namespaces: {0}")]
    Namespace(String),
    /// The process has too few file descriptors.
    #[error(transparent)]
    Descriptors(#[from] TooFew),
    /// The thread that follows the plugin directory can't be started.
    #[error("can't start the thread that follows the plugin directory")]
    Thread(#[source] io::Error),
    /// The path of the host's own program can't be found.
    #[error("can't find this program, which compiles plugins in a process of its own")]
    Compiler(#[source] io::Error),
    /// The engine can't be created.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The access keys can't be used.
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// Time limit for each of the last steps of a stop. A transport that no client reads would never
/// close.
const CLOSE: Duration = Duration::from_secs(5);

/// Interval at which instances and state of idle plugins are released.
const TEND: Duration = Duration::from_secs(1);

impl Host {
    /// Locks the data directory, listens, loads the plugins, and sends them `$start`.
    ///
    /// # Errors
    /// If the data directory, the plugin directory or the address can't be used, or if another part
    /// of the host can't start; see [`StartError`].
    pub async fn bind(config: Config) -> Result<Self, StartError> {
        let compiler = this_program().map_err(StartError::Compiler)?;
        Self::bind_with(config, compiler).await
    }

    /// Like [`Host::bind`], with another program that compiles plugins. If the host runs inside
    /// another program, `compiler` must be a build of this host's own command.
    ///
    /// # Errors
    /// Same as [`Host::bind`].
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
        let dispatcher = Arc::new(Dispatcher::new(
            Arc::clone(&registry),
            Arc::clone(&rooms),
            Arc::clone(&limits),
            Arc::clone(&metrics),
        ));
        let alarm = Arc::new(Notify::new());
        let loader =
            Arc::new(loader(&config, &compiler, engine, Arc::clone(&alarm), Arc::clone(&metrics)));
        let kept = config.data.dir.join("plugins");
        let reloader = Reloader::new(
            &config,
            Arc::clone(&loader),
            Arc::clone(&registry),
            Arc::clone(&rooms),
            Arc::clone(&metrics),
            kept,
            alarm,
        )
        .yielding_by(lower_priority);
        let operator = reloader.operator();
        let (loaded, ready) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let slots = Slots::new(
            allowed.connections.get(),
            config.limits.reserved_connections.get(),
            Arc::clone(&metrics),
        );
        let sockets = Sockets::new(
            Arc::clone(&dispatcher),
            Arc::clone(&rooms),
            Arc::clone(&limits),
            Arc::clone(&metrics),
            tasks.clone(),
        );
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
            // Outside of all layers that answer requests: a reserved slot must be free after any
            // answer.
            .layer(axum::middleware::from_fn(slots::close_reserved));
        // Accepts connections before loading: health requests get an answer, and clients are asked
        // to retry. With the library, writes have no limit: its adapter cuts a client that does not
        // read, and logs it.
        let write_limit = if config.server.socketio == SocketIo::Builtin {
            limits.stalled_reader_ms
        } else {
            Duration::MAX
        };
        let accepting = CancellationToken::new();
        let gives_up = accepting.clone().drop_guard();
        let accept = accept(
            listener,
            router,
            write_limit,
            Arc::clone(&slots),
            limits,
            accepting.clone(),
            tasks.clone(),
        );
        let accepted = tasks.spawn(accept);

        let plugins =
            |source: ScanError| StartError::Plugins { dir: config.plugins.dir.clone(), source };
        let reloading = CancellationToken::new();
        tasks.spawn(tend(Arc::clone(&loader), Arc::clone(&registry), reloading.clone()));
        let adapting = adapt_to_plugins(
            Arc::clone(&slots),
            Arc::clone(&registry),
            config.limits.reserved_connections,
            allowed,
        );
        tasks.spawn(reloading.clone().run_until_cancelled_owned(adapting));
        let (begun, go_on) =
            follow(reloader, reloading.clone(), &tasks).map_err(StartError::Thread)?;
        let ended =
            |_| Err(ScanError::from(io::Error::other("the thread that follows it has ended")));
        begun.await.unwrap_or_else(ended).map_err(plugins)?;
        warn_of_tables_without_plugin(&config, &operator.rows());
        dispatcher.start().await;
        // Sending fails only if the thread has already ended.
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

    /// Returns the address that the host listens on.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Returns how many TCP connections clients may have: the configured number, or as many as the
    /// file descriptors allow.
    pub fn connections(&self) -> NonZeroUsize {
        self.connections
    }

    /// Returns one row for each plugin, as operators see it.
    pub fn rows(&self) -> Arc<Vec<PluginStatus>> {
        self.operator.rows()
    }

    /// Returns a handle for use while [`Host::run`] runs.
    pub fn monitor(&self) -> Monitor {
        Monitor {
            operator: Arc::clone(&self.operator),
            registry: Arc::clone(&self.registry),
            rooms: Arc::clone(&self.rooms),
        }
    }

    /// Returns the plugins, events and rooms that are served now.
    pub fn generation(&self) -> Arc<Generation> {
        self.registry.snapshot()
    }

    /// Serves until `stop`, and then stops in steps. The host reports that it is not ready, and
    /// then accepts no new clients. It handles the received events and tells plugins about every
    /// disconnect. At the end, it closes the transports. `at_once` skips the waiting.
    pub async fn run(self, stop: CancellationToken, at_once: CancellationToken) {
        stop.cancelled().await;
        self.ready.store(false, Ordering::Release);
        // The served plugins stay the same until the end.
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

/// The limits that follow from the file descriptors of the process.
#[derive(Debug, Clone, Copy)]
struct Allowed {
    /// Client connections.
    connections: NonZeroUsize,
    /// Plugins that fit in addition to these connections.
    plugins: usize,
    /// All descriptors; `None` if the system has no limit.
    descriptors: Option<u64>,
}

/// Computes how many connections clients may have at the start, from the configuration and the file
/// descriptors.
fn allowed(config: &Config) -> Result<Allowed, TooFew> {
    // An unreadable directory is reported later, as an error of its own.
    let plugins =
        scan::scan(&config.plugins.dir).map_or(0, |files| files.len()) + descriptors::MORE_PLUGINS;
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

/// Lowers the limit of client connections while there are more plugins than expected at the start:
/// each plugin needs file descriptors. If none are left, only new clients may be refused.
async fn adapt_to_plugins(
    slots: Arc<Slots>,
    registry: Arc<Registry>,
    reserved: NonZeroUsize,
    allowed: Allowed,
) {
    let (mut changes, mut before) = (registry.changes(), allowed.connections.get());
    loop {
        let now = registry.snapshot().plugins.len();
        let needed = descriptors::needed(now.max(allowed.plugins), reserved);
        let connections = descriptors::left(allowed.descriptors, needed, allowed.connections);
        if connections < before {
            tracing::warn!(
                connections,
                plugins = now,
                "clients may have fewer connections: more plugins need file descriptors"
            );
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

/// Warns of configuration tables for plugins that do not exist: a misspelt name would otherwise be
/// ignored silently.
fn warn_of_tables_without_plugin(config: &Config, rows: &[PluginStatus]) {
    let stems = rows.iter().filter_map(|row| row.file.file_stem()?.to_str());
    let names: Vec<_> = rows.iter().map(|row| row.name.as_str()).chain(stems).collect();
    for (table, nearest) in config.tables_without_plugin(&names) {
        match nearest {
            Some(nearest) => {
                tracing::warn!(
                    plugin = table,
                    nearest,
                    "a table `[plugins.NAME]` has the name of no plugin; is the nearest meant?"
                )
            }
            None => tracing::warn!(
                plugin = table,
                "a table `[plugins.NAME]` has the name of no plugin in the plugin directory"
            ),
        }
    }
}

/// Operations on a running host, for the process in which it runs.
pub struct Monitor {
    operator: Arc<Operator>,
    registry: Arc<Registry>,
    rooms: Arc<Rooms>,
}

impl Monitor {
    /// Scans the plugin directory now, and retries loads that failed because of their environment.
    pub fn request_scan(&self) {
        self.operator.request_scan();
    }

    /// Logs the status of the host and of each plugin.
    pub fn log_status(&self) {
        tracing::info!(
            connections = self.rooms.connections(),
            generation = self.registry.snapshot().number,
            "host status"
        );
        for row in self.operator.rows().iter() {
            let active = row.active.as_ref().map(|active| &active.code);
            let (calls, failures) = active.map_or((0, 0), |plugin| plugin.counts());
            let version = active.map(|plugin| plugin.registration.version.as_str());
            let reason = row.error().map(|error| error.reason);
            tracing::info!(
                plugin = row.name,
                state = row.state().name(),
                version,
                calls,
                failures,
                reason,
                "plugin status"
            );
        }
    }
}

/// Starts a thread that follows the plugin directory until `stop`: reading, hashing, linking and
/// writing there delay no event. The receiver gets the result of the first scan. The thread then
/// waits for the sender before it continues.
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
    // Makes the host's stop wait for the end of the thread.
    tasks.spawn(async { has_ended.await.unwrap_or_default() });
    Ok((has_begun, go_on))
}

/// Releases instances and state that plugins do not need any more, until `stop`.
async fn tend(loader: Arc<Loader>, registry: Arc<Registry>, stop: CancellationToken) {
    while stop.run_until_cancelled(tokio::time::sleep(TEND)).await.is_some() {
        let (loader, generation) = (Arc::clone(&loader), registry.snapshot());
        let trim = move || {
            generation.plugins.iter().for_each(|active| active.code.trim());
            loader.tend();
        };
        let _ = tokio::task::spawn_blocking(trim).await;
    }
}

/// Waits for `end` until `limit` has passed or `at_once` is cancelled. Returns whether `end`
/// completed.
async fn within(
    limit: Duration,
    at_once: &CancellationToken,
    end: impl Future<Output = ()>,
) -> bool {
    tokio::select! {
        () = end => true,
        () = tokio::time::sleep(limit) => false,
        () = at_once.cancelled() => false,
    }
}

/// Returns a loader that keeps the plugins' state and compiled code in the data directory of
/// `config`.
pub fn loader(
    config: &Arc<Config>,
    compiler: &Path,
    engine: Arc<Engine>,
    alarm: Arc<Notify>,
    metrics: Arc<Metrics>,
) -> Loader {
    let data = &config.data.dir;
    let compiler = Compiler::new(compiler.to_owned(), cache_dir(data));
    Loader::new(engine, Arc::clone(config), compiler, alarm, metrics)
}

/// Returns a loader for checking plugins: like [`loader`], with compiled code in `cache`. The cache
/// may be that of a host that serves events.
pub fn checking_loader(
    config: &Arc<Config>,
    compiler: &Path,
    engine: Arc<Engine>,
    cache: PathBuf,
) -> Loader {
    let compiler = Compiler::new(compiler.to_owned(), cache);
    compiler.yield_to_events();
    Loader::new(engine, Arc::clone(config), compiler, Arc::default(), Arc::default())
}

/// Returns the directory in which a host keeps compiled code. Another process of the same user may
/// use it too.
pub fn cache_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("cache")
}

/// Returns the file of the key that a host creates for itself.
pub fn key_file(data_dir: &Path) -> PathBuf {
    own_key_file(data_dir)
}

/// Returns the file in which a running host publishes its address.
pub fn address_file(data_dir: &Path) -> PathBuf {
    address::address_file(data_dir)
}

/// Whether a directory can be read and holds no plugin files.
pub fn is_empty(plugins_dir: &Path) -> bool {
    scan::scan(plugins_dir).is_ok_and(|files| files.is_empty())
}

/// Creates the Socket.IO implementation that the configuration names.
fn socketio(
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

/// Adds Socket.IO in front of the other endpoints.
fn with_socketio(router: Router, server: &Server) -> Router {
    match server {
        Server::Builtin(server) => {
            router.layer(from_fn_with_state(server.clone(), http::socketio::serve))
        }
        Server::Library(server) => router
            .layer(server.layer())
            .layer(from_fn_with_state(server.clone(), http::socketio::note)),
    }
}
