//! A dispatcher with plugins and without sockets, to measure the cost of an event in the host and
//! in the guest alone.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use sockhop::config::{Config, InstancePolicy, LiveConfig};
use sockhop::dispatcher::{Dispatcher, EventResult};
use sockhop::event::{Caller, Connection, Event, Identity, Payload};
use sockhop::host;
use sockhop::metrics::Metrics;
use sockhop::plugin::Engine;
use sockhop::registry::{ActivePlugin, Generation, Registry};
use sockhop::rooms::Rooms;
use tempfile::TempDir;

/// A dispatcher of some plugins, with a client that has no connection: messages to it are dropped.
pub struct TestDispatcher {
    dispatcher: Dispatcher,
    client: Arc<Connection>,
    /// The plugins, in the order of their files.
    pub active: Vec<Arc<ActivePlugin>>,
    _data: TempDir,
}

impl TestDispatcher {
    /// Creates a dispatcher of these plugins, compiled by the built command, with instances of this
    /// policy.
    pub async fn new(plugins: &[PathBuf], policy: InstancePolicy) -> Self {
        let data = tempfile::tempdir().expect("a temporary directory");
        let mut config = Config::default();
        data.path().clone_into(&mut config.data.dir);
        for plugin in plugins {
            let mut settings = config.of_plugin(&stem(plugin));
            settings.instance_policy = policy;
            config.plugins.by_name.insert(stem(plugin), settings);
        }
        let (config, metrics, registry) =
            (Arc::new(config), Arc::new(Metrics::default()), Arc::new(Registry::default()));
        let live = LiveConfig::new(Arc::clone(&config));
        let engine = Arc::new(Engine::new(config.largest_instance_memory(), 1).expect("an engine"));
        let loader =
            host::loader(&live, &crate::binary(), engine, Arc::default(), Arc::clone(&metrics));
        let (mut generation, mut active) = (Generation::after(&Generation::default()), Vec::new());
        for plugin in plugins {
            let name = stem(plugin);
            let source =
                loader.read(plugin, &name).unwrap_or_else(|failure| panic!("{}", failure.reason));
            let version = loader
                .load(source, &name)
                .await
                .unwrap_or_else(|failure| panic!("{}", failure.reason));
            generation.admit(&version, false).expect("plugins that go together");
            active.push(version);
        }
        registry.publish(generation);
        let rooms = Arc::new(Rooms::default());
        let dispatcher = Dispatcher::new(registry, rooms, live, metrics);
        let (sid, public_id) =
            ("AAAAAAAAAAAAAAAAAAAAAA".to_owned(), "01ARZ3NDEKTSV4RRFFQ69G5FAV".to_owned());
        let address = Some([127, 0, 0, 1].into());
        let client = Arc::new(Connection::new(
            sid,
            public_id,
            "/".into(),
            Arc::new(Identity::default()),
            address,
        ));
        Self { dispatcher, client, active, _data: data }
    }

    /// Handles one event of the client and returns the answer.
    pub async fn ask(&self, event: &str, payload: &str) -> EventResult {
        let payload = Payload { text: payload.into(), attachments: Vec::new() };
        let caller = Caller::Connection(Arc::clone(&self.client));
        self.dispatcher.handle(Arc::new(Event::now(event, payload, caller))).await
    }
}

fn stem(file: &Path) -> String {
    file.file_stem().expect("a file's name").to_string_lossy().into_owned()
}
