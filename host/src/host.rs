//! The composition root: creates the parts of the host, connects them and starts them.

mod address;
mod admin;
mod connection_limit;
mod descriptors;
mod directories;
mod error;
mod listen;
mod loaders;
mod lock;
mod monitor;
mod priority;
mod reload_thread;
mod reloadable;
mod shutdown;
mod state_check;
mod tending;
mod transports;
mod warnings;

use std::io;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use axum::Router;
use axum::middleware::from_fn_with_state;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::auth::Authenticator;
use crate::config::{Config, ConfigSource, LiveConfig, ProxyHeader, WrittenSettings};
use crate::deliveries::Deliveries;
use crate::dispatcher::Dispatcher;
use crate::http::accept::accept;
use crate::http::connection::HttpServer;
use crate::http::drain::Drain;
use crate::http::keys::Keys;
use crate::http::opening::Opening;
use crate::http::origin::{self, Origins};
use crate::http::proxy::TrustedProxies;
use crate::http::slots::ConnectionSlots;
use crate::http::{self, Api, admission, body, problem, proxy, routes};
use crate::load_events::LoadEvents;
use crate::metrics::Metrics;
use crate::outbound::Outbound;
use crate::plugin::{Engine, this_program};
use crate::registry::{Generation, OperatorSettings, Registry};
use crate::reload::{Loader, Operator, PluginStatus, Reloader, ScanError};
use crate::rooms::Rooms;
use crate::settings::Settings;
use crate::socket::Sockets;
use crate::socketio::Server;
use crate::store::Answers;
use crate::timers::Timers;
use crate::tls::Tls;
use crate::{files, store};

use address::AddressFile;
use connection_limit::{adapt_to_plugins, allowed};
use priority::lower_priority;
use reload_thread::follow;
use reloadable::reloadable;
use tending::tend;
use transports::{socketio, write_limit};
use warnings::{warn_of_rules_without_subject, warn_of_tables_without_plugin};

pub use warnings::warn_of_open_secrets;

pub use directories::{
    address_file, cache_dir, is_empty, key_file, lock_data, plugin_files, share_data,
};
pub use error::StartError;
pub use loaders::{checking_loader, loader};
pub use lock::DataLock;
pub use monitor::Monitor;
pub use priority::shorten_time_slice;
pub use state_check::{CheckStep, LoadOutcome, RecordsOutcome, StateOutcome, check_state};

/// A host that listens and has loaded its plugins.
pub struct Host {
    config: Arc<LiveConfig>,
    settings: Arc<Settings>,
    /// An operator's request to stop.
    drain: Arc<Drain>,
    /// Limit of client connections, from the configuration and the file descriptors.
    connections: NonZeroUsize,
    address: SocketAddr,
    /// Where operators reach the host.
    of_operators: SocketAddr,
    /// Stops accepting connections.
    slots: Arc<ConnectionSlots>,
    /// The same for the address of operators, if they have one.
    admin_slots: Option<Arc<ConnectionSlots>>,
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
    timers: Arc<Timers>,
    deliveries: Arc<Deliveries>,
    load_events: Arc<LoadEvents>,
    ready: Arc<AtomicBool>,
    tasks: TaskTracker,
    /// The file that tells commands on this machine where the host listens. It is declared before
    /// the lock, so that it is dropped first and the next host's file is not removed.
    _said: Option<AddressFile>,
    /// Keeps other hosts away from the data directory while this host lives.
    _lock: DataLock,
}

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
        Self::bind_to(config, WrittenSettings::default(), None, compiler).await
    }

    /// Like [`Host::bind`], with the configuration that `source` has given: the host reads it again
    /// when an operator or [`Monitor::reload`] asks for it. `compiler` is that of
    /// [`Host::bind_with`], or `None` for this program.
    ///
    /// # Errors
    /// Same as [`Host::bind`].
    pub async fn bind_reloadable(
        (config, written): (Config, WrittenSettings),
        source: ConfigSource,
        compiler: Option<PathBuf>,
    ) -> Result<Self, StartError> {
        let compiler = compiler.map_or_else(this_program, Ok).map_err(StartError::Compiler)?;
        Self::bind_to(config, written, Some(source), compiler).await
    }

    async fn bind_to(
        config: Config,
        written: WrittenSettings,
        source: Option<ConfigSource>,
        compiler: PathBuf,
    ) -> Result<Self, StartError> {
        let config = Arc::new(config);
        let live = LiveConfig::new(Arc::clone(&config));
        let lock = DataLock::take(&config.data.dir)?;
        files::remove_unfinished(&config.data.dir);
        files::remove_scratch(&config.data.dir);
        store::remove_unfinished_records(&config.data.dir);
        let keys = Arc::new(Keys::load(&config)?);
        let answers = Answers::open(
            &config.data.dir.join("answers.sqlite"),
            config.limits.idempotency_bytes.get() as u64,
        )
        .map_err(StartError::Answers)?;
        let auth = Authenticator::load(&config.auth)?.with_revocations(&config.data.dir)?;
        let auth = Arc::new(auth);
        let registry = Arc::new(Registry::under(OperatorSettings::load(&config)?));
        let tls = config.server.tls.as_ref().map(Tls::load).transpose()?.map(Arc::new);
        let allowed = allowed(&config)?;
        let listen = |source| StartError::Listen { address: config.server.listen.clone(), source };
        let listener = listen::bind(&config.server.listen).map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        let admin = admin::bind(&config)?;
        let of_operators = admin.as_ref().map_or(address, |admin| admin.address);
        let said = AddressFile::write(&config.data.dir, config.operators_scheme(), of_operators);
        if let Err(error) = &said {
            tracing::warn!(%error, "the address is not written to the data directory: commands \
                                    need --url");
        }

        let tasks = TaskTracker::new();
        let workers = thread::available_parallelism().map_or(1, usize::from);
        let engine = Arc::new(Engine::new(config.largest_instance_memory(), workers)?);
        let metrics = Arc::new(Metrics::default());
        let rooms = Arc::new(Rooms::default());
        let dispatcher = Dispatcher::new(
            Arc::clone(&registry),
            Arc::clone(&rooms),
            Arc::clone(&live),
            Arc::clone(&metrics),
        );
        let outbound = Arc::new(Outbound::load(&config, tasks.clone())?);
        let dispatcher = Arc::new(dispatcher.sending_by(Arc::clone(&outbound)));
        let timers =
            Timers::new(Arc::clone(&dispatcher), Arc::clone(&registry), Arc::clone(&metrics));
        let load_events =
            LoadEvents::new(Arc::clone(&dispatcher), Arc::clone(&registry), Arc::clone(&metrics));
        let deliveries = Deliveries::new(
            Arc::clone(&registry),
            Arc::clone(&outbound),
            dispatcher.clock().clone(),
            Arc::clone(&metrics),
        );
        let alarm = Arc::new(Notify::new());
        let loader =
            Arc::new(loader(&live, &compiler, engine, Arc::clone(&alarm), Arc::clone(&metrics)));
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
        let proxies = TrustedProxies::new(&config);
        let slots = ConnectionSlots::new(
            allowed.connections.get(),
            config.limits.connections_per_network.map(NonZeroUsize::get),
            &proxies,
            config.limits.reserved_connections.get(),
            Arc::clone(&metrics),
        );
        let sockets = Sockets::new(
            Arc::clone(&dispatcher),
            Arc::clone(&rooms),
            Arc::clone(&live),
            Arc::clone(&metrics),
            tasks.clone(),
            Arc::clone(&auth),
        );
        let socketio = socketio(&config, &sockets, tasks.clone())?;
        let drain = Arc::<Drain>::default();
        let reloading = CancellationToken::new();
        let (warned, of_warned) = (Arc::clone(&registry), Arc::clone(&operator));
        let warnings = move |config: &Config, file: Option<&Path>| {
            warn_of_open_secrets(config, file);
            warn_of_tables_without_plugin(config, &of_warned.statuses());
            warn_of_rules_without_subject(&warned.snapshot());
        };
        let parts = reloadable(&keys, &auth, &dispatcher, &outbound, tls.as_ref());
        let settings = Settings::new(
            source,
            written,
            Arc::clone(&live),
            parts,
            Arc::clone(&operator),
            Box::new(warnings),
            (tasks.clone(), reloading.clone()),
        );
        let api = Arc::new(Api {
            config: Arc::clone(&live),
            registry: Arc::clone(&registry),
            dispatcher: Arc::clone(&dispatcher),
            operator: Arc::clone(&operator),
            rooms: Arc::clone(&rooms),
            tasks: tasks.clone(),
            metrics: Arc::clone(&metrics),
            keys,
            answers: Arc::new(answers),
            slots: Arc::clone(&slots),
            sockets: Arc::clone(&sockets),
            auth: Arc::clone(&auth),
            socketio: socketio.clone(),
            settings: Arc::clone(&settings),
            drain: Arc::clone(&drain),
            tls: tls.clone(),
            ready: Arc::clone(&ready),
        });
        let endpoints = http::clients(&api, admin.is_none());
        let router = layered(
            with_socketio(endpoints, &socketio),
            Origins::new(&live, address, tls.is_some()),
            Layers { api: &api, slots: &slots, loaded: &loaded },
        );
        // Accepts connections before loading: health requests get an answer, and clients are asked
        // to retry.
        let accepting = CancellationToken::new();
        let gives_up = accepting.clone().drop_guard();
        let mut admin_slots = None;
        if let Some(admin) = admin {
            let slots = admin.slots(&config, &metrics);
            admin_slots = Some(Arc::clone(&slots));
            let router = layered(
                http::operators(&api),
                Origins::new(&live, of_operators, false),
                Layers { api: &api, slots: &slots, loaded: &loaded },
            );
            let server = HttpServer {
                router,
                opening: Opening::new(None, None, Arc::clone(&metrics)),
                config: Arc::clone(&live),
                write_limit: config.limits.stalled_reader_ms,
                stop: accepting.clone(),
            };
            tasks.spawn(accept(admin.listener, server, slots, tasks.clone()));
        }
        let proxies =
            Some(proxies).filter(|_| config.server.proxy_header == ProxyHeader::ProxyProtocol);
        let server = HttpServer {
            router,
            opening: Opening::new(proxies, tls.clone(), metrics),
            config: Arc::clone(&live),
            write_limit: write_limit(&config),
            stop: accepting.clone(),
        };
        let accepted = tasks.spawn(accept(listener, server, Arc::clone(&slots), tasks.clone()));

        let plugins =
            |source: ScanError| StartError::Plugins { dir: config.plugins.dir.clone(), source };
        // Tokens also expire, and certificates change, while the host stops.
        let (tended, stop) = (Arc::clone(&loader), accepting.clone());
        let tending = tend(tended, Arc::clone(&registry), auth, tls, stop);
        tasks.spawn(tending);
        let tokens = Arc::clone(&sockets).watch_tokens();
        tasks.spawn(accepting.clone().run_until_cancelled_owned(tokens));
        let acks = Arc::clone(&sockets).watch_acks();
        tasks.spawn(accepting.clone().run_until_cancelled_owned(acks));
        let adapting = adapt_to_plugins(
            Arc::clone(&slots),
            Arc::clone(&registry),
            config.operator_connections(),
            allowed,
        );
        tasks.spawn(reloading.clone().run_until_cancelled_owned(adapting));
        let (begun, go_on) =
            follow(reloader, reloading.clone(), &tasks).map_err(StartError::Thread)?;
        let ended =
            |_| Err(ScanError::from(io::Error::other("the thread that watches it has ended")));
        begun.await.unwrap_or_else(ended).map_err(plugins)?;
        warn_of_tables_without_plugin(&config, &operator.statuses());
        warn_of_rules_without_subject(&registry.snapshot());
        dispatcher.start().await;
        timers.start();
        deliveries.start();
        load_events.start();
        // Sending fails only if the thread has already ended.
        let _ = go_on.send(());
        loaded.store(true, Ordering::Release);
        ready.store(true, Ordering::Release);
        gives_up.disarm();
        Ok(Self {
            config: live,
            settings,
            drain,
            connections: allowed.connections,
            address,
            of_operators,
            slots,
            admin_slots,
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
            timers,
            deliveries,
            load_events,
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

    /// Returns the address of `/api` and `/metrics`: the same, unless `[admin] listen` is set.
    pub fn operator_addr(&self) -> SocketAddr {
        self.of_operators
    }

    /// Returns how many TCP connections clients may have: the configured number, or as many as the
    /// file descriptors allow.
    pub fn connections(&self) -> NonZeroUsize {
        self.connections
    }

    /// Returns the status of each plugin, as operators see it.
    pub fn statuses(&self) -> Arc<Vec<PluginStatus>> {
        self.operator.statuses()
    }

    /// Returns a handle for use while [`Host::run`] runs.
    pub fn monitor(&self) -> Monitor {
        Monitor {
            operator: Arc::clone(&self.operator),
            registry: Arc::clone(&self.registry),
            rooms: Arc::clone(&self.rooms),
            settings: Arc::clone(&self.settings),
            config: Arc::clone(&self.config),
            drain: Arc::clone(&self.drain),
            clock: self.dispatcher.clock().clone(),
        }
    }

    /// Returns the plugins, events and rooms that are served now.
    pub fn generation(&self) -> Arc<Generation> {
        self.registry.snapshot()
    }
}

/// What the layers around the endpoints of one listener need.
struct Layers<'host> {
    api: &'host Arc<Api>,
    slots: &'host Arc<ConnectionSlots>,
    loaded: &'host Arc<AtomicBool>,
}

/// Returns `endpoints` with all layers around them. Until `loaded` is set, only health requests
/// reach them.
fn layered(endpoints: Router, origins: Origins, layers: Layers<'_>) -> Router {
    let Layers { api, slots, loaded } = layers;
    let (slots, loaded) = (Arc::clone(slots), Arc::clone(loaded));
    let origins = Arc::new(origins);
    endpoints
        .layer(from_fn_with_state(loaded, http::wait_until_loaded))
        .layer(axum::middleware::from_fn(problem::unify))
        .layer(from_fn_with_state(Arc::clone(&api.config), body::pace))
        .layer(from_fn_with_state(slots, admission::admit))
        .layer(origin::cors(&origins, api.config.get().server.allowed_headers.as_deref()))
        .layer(from_fn_with_state(Arc::clone(api), routes::options))
        .layer(from_fn_with_state(origins, origin::check))
        // Outside of all layers that answer requests: a reserved slot must be free after any
        // answer.
        .layer(axum::middleware::from_fn(admission::close_reserved))
        .layer(axum::middleware::from_fn(problem::record))
        .layer(from_fn_with_state(TrustedProxies::new(&api.config.get()), proxy::resolve))
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
