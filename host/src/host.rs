//! The composition root: puts the parts together, starts them, and stops them in order.

use std::fs::{File, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use axum::Router;
use socketioxide::{ParserConfig, SocketIo};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Config;
use crate::dispatcher::Dispatcher;
use crate::http::accept::accept;
use crate::http::keys::{KeyError, Keys, own_key_file};
use crate::http::origin::{self, Origins};
use crate::http::{self, Api};
use crate::plugin::{Engine, EngineError};
use crate::registry::{Registry, Routes};
use crate::reload::{Loader, scan};
use crate::rooms::Rooms;
use crate::socket::Sockets;

/// A host that listens, and has loaded what it serves.
pub struct Host {
    config: Arc<Config>,
    listener: TcpListener,
    address: SocketAddr,
    router: Router,
    registry: Arc<Registry>,
    rooms: Arc<Rooms>,
    ready: Arc<AtomicBool>,
    tasks: TaskTracker,
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
        source: io::Error,
    },
    /// The address can't be listened on.
    #[error("can't listen on {address}; choose another address with --listen")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The engine.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A key.
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// Before a stopping host refuses new clients: time for a load balancer to see that it is not ready.
const UNREADY_BEFORE_STOP: Duration = Duration::from_secs(5);

/// How long closing the transports may take: one that nobody reads would take for ever.
const CLOSE: Duration = Duration::from_secs(5);

/// The library's own limits stand at this many times the host's, so that a client learns that its message was too large.
const LIBRARY_LIMIT: usize = 2;

impl Host {
    /// Locks the data directory, loads the plugins, tells them `$start`, and listens.
    ///
    /// # Errors
    /// Where the data directory, the plugin directory or the address can't be used.
    pub async fn bind(config: Config) -> Result<Self, StartError> {
        let config = Arc::new(config);
        let lock = DataLock::take(&config.data.dir)?;
        let keys = Keys::load(&config)?;
        // Listening before loading: an address that is taken is known at once. Nobody is accepted before `run`.
        let wanted = config.server.listen;
        let listen = |source| StartError::Listen { address: wanted, source };
        let listener = TcpListener::bind(wanted).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;

        let limits = Arc::new(config.limits.clone());
        let tasks = TaskTracker::new();
        let workers = thread::available_parallelism().map_or(1, usize::from);
        let engine = Arc::new(Engine::new(Arc::clone(&limits), workers)?);
        let registry = Arc::new(Registry::default());
        let loader = Loader::new(engine, Arc::clone(&config), state_dir(&config.data.dir));
        let plugins = |source| StartError::Plugins { dir: config.plugins.dir.clone(), source };
        loader.load_all(&config.plugins.dir, &registry).await.map_err(plugins)?;

        let rooms = Arc::new(Rooms::new(config.limits.stalled_reader_ms, tasks.clone()));
        let dispatcher = Arc::new(Dispatcher::new(Arc::clone(&registry), Arc::clone(&rooms), Arc::clone(&limits)));
        dispatcher.start().await;

        let ready = Arc::new(AtomicBool::new(false));
        let api = Api {
            config: Arc::clone(&config),
            registry: Arc::clone(&registry),
            dispatcher: Arc::clone(&dispatcher),
            keys,
            ready: Arc::clone(&ready),
        };
        let (layer, io) = socketio(&config);
        rooms.attach(io.clone());
        let sockets = Sockets { dispatcher, rooms: Arc::clone(&rooms), limits, tasks: tasks.clone() };
        sockets.serve(&io, &config.server.namespaces);
        let origins = Arc::new(Origins::new(&config.server.allowed_origins, address));
        let router = http::router(api)
            .layer(layer)
            .layer(origin::cors(&origins))
            .layer(axum::middleware::from_fn_with_state(origins, origin::check));
        ready.store(true, Ordering::Release);
        Ok(Self { config, listener, address, router, registry, rooms, ready, tasks, _lock: lock })
    }

    /// Where the host listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// What it serves.
    pub fn routes(&self) -> Arc<Routes> {
        self.registry.snapshot()
    }

    /// Serves until `stop`, and then stops: not ready first, then no new clients, then what was begun is ended, then transports are closed.
    /// A second `stop` skips the waiting.
    pub async fn run(self, stop: CancellationToken, at_once: CancellationToken) {
        let accepting = CancellationToken::new();
        let accepted = self.tasks.spawn(accept(
            self.listener,
            self.router,
            Arc::clone(&self.rooms),
            self.config.limits.stalled_reader_ms,
            accepting.clone(),
            self.tasks.clone(),
        ));
        stop.cancelled().await;
        self.ready.store(false, Ordering::Release);
        tracing::info!(connections = self.rooms.connections(), "stopping: not ready any more");
        if self.rooms.connections() > 0 {
            tokio::select! {
                () = tokio::time::sleep(UNREADY_BEFORE_STOP) => {}
                () = at_once.cancelled() => {}
            }
        }
        accepting.cancel();
        let _ = accepted.await;
        tracing::info!("stopping: closing connections");
        // Closing a transport makes its connection's mailbox end: what was received is handled, then `$disconnect`.
        if tokio::time::timeout(CLOSE, self.rooms.close()).await.is_err() {
            tracing::warn!("some transports did not close in time");
        }
        self.tasks.close();
        tokio::select! {
            () = self.tasks.wait() => {}
            () = at_once.cancelled() => {}
            () = tokio::time::sleep(self.config.limits.shutdown_drain_ms) => {
                tracing::warn!(tasks = self.tasks.len(), "some events were not ended in time");
            }
        }
        for served in &self.registry.snapshot().plugins {
            if let Err(error) = served.state.store.close() {
                tracing::warn!(plugin = served.plugin.name(), %error, "state not closed cleanly; it is read again at the next start");
            }
        }
        tracing::info!("stopped");
    }
}

/// Where plugins keep their state: a file for each.
fn state_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("state")
}

/// Where a host keeps the key that it made for itself.
pub fn key_file(data_dir: &Path) -> PathBuf {
    own_key_file(data_dir)
}

/// Whether a directory holds no plugin at all.
pub fn is_empty(plugins_dir: &Path) -> bool {
    scan::scan(plugins_dir).is_ok_and(|files| files.is_empty())
}

fn socketio(config: &Config) -> (socketioxide::layer::SocketIoLayer, SocketIo) {
    let limits = &config.limits;
    let largest = LIBRARY_LIMIT * limits.message_bytes.get().max(limits.attachment_bytes.get());
    let parser = ParserConfig::common()
        .max_incoming_binaries(LIBRARY_LIMIT * limits.attachments)
        .max_incoming_binary_buf_size(LIBRARY_LIMIT * limits.attachment_bytes.get());
    SocketIo::builder()
        .with_parser(parser)
        .max_payload(largest as u64)
        .ws_max_message_size(largest)
        .ws_max_frame_size(largest)
        .max_buffer_size(limits.outgoing_packets.get())
        .connect_timeout(limits.connect_ms)
        .build_layer()
}

/// The lock on a data directory: one host for each.
#[derive(Debug)]
struct DataLock {
    _file: File,
}

impl DataLock {
    fn take(dir: &Path) -> Result<Self, StartError> {
        let wrong = |source| StartError::Data { dir: dir.to_owned(), source };
        std::fs::create_dir_all(dir).map_err(wrong)?;
        #[cfg(unix)]
        std::fs::set_permissions(dir, std::os::unix::fs::PermissionsExt::from_mode(0o700)).map_err(wrong)?;
        let mut options = File::options();
        let mut file = options.read(true).write(true).create(true).truncate(false).open(dir.join("host.lock")).map_err(wrong)?;
        match file.try_lock() {
            Ok(()) => {
                file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(wrong)?;
                Ok(Self { _file: file })
            }
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                let _ = file.read_to_string(&mut pid);
                Err(StartError::DataInUse { dir: dir.to_owned(), pid: pid.trim().to_owned() })
            }
            Err(TryLockError::Error(source)) => Err(wrong(source)),
        }
    }
}
