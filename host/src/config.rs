//! What an operator can set: read once, from a file and the environment, into validated types. Every key has a default, and a line in
//! `sockhop.example.toml`.

mod environment;
mod limits;
mod listen;
mod log;
mod message;
mod origins;

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use figment::Figment;
use figment::providers::{Env, Format, Serialized, Toml};
use figment::value::{Dict, Value};
use http::HeaderName;
use serde::{Deserialize, Deserializer, de};

pub use limits::{DEFAULT_CONNECTIONS, Limits};
pub(crate) use limits::{EVENT_BYTES, QUEUE_SHARE};
pub use listen::{InvalidListen, Listen};
pub use log::{Log, LogFilter, LogFormat};
pub use origins::AllowedOrigin;

/// The names in the environment that are read as settings: `SOCKHOP_SERVER__LISTEN` is `server.listen`.
const ENV_PREFIX: &str = "SOCKHOP_";

/// All settings.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where and for whom the host listens.
    pub server: Server,
    /// Which plugins are served, and how.
    pub plugins: Plugins,
    /// Where the host keeps what must survive it.
    pub data: Data,
    /// How much one client, one event and one plugin may take.
    pub limits: Limits,
    /// Who may read the catalogue.
    pub contract: Contract,
    /// What the host tells its operator while it runs.
    pub log: Log,
    /// Who may call `/api`; where there is none, the host makes one with all scopes and keeps it in the data directory.
    pub keys: Vec<Key>,
}

/// `[server]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Server {
    /// The address for clients and `/api`; port 0 takes a free one.
    pub listen: Listen,
    /// The Socket.IO namespaces.
    #[serde(deserialize_with = "namespaces")]
    pub namespaces: Vec<String>,
    /// Origins whose pages may connect, beside those of this machine while the host listens on loopback.
    pub allowed_origins: Vec<AllowedOrigin>,
    /// The request headers that pages may send. Without a value: those that a page asks for.
    #[serde(deserialize_with = "headers")]
    pub allowed_headers: Option<Vec<HeaderName>>,
    /// The implementation of Socket.IO.
    pub socketio: SocketIo,
    /// How long after a pong the next ping is sent.
    #[serde(deserialize_with = "limits::milliseconds")]
    pub ping_interval_ms: Duration,
    /// How long a pong may take before the connection is closed.
    #[serde(deserialize_with = "limits::milliseconds")]
    pub ping_timeout_ms: Duration,
    /// The transports that clients may use.
    pub transports: Vec<Transport>,
    /// Whether a client that polls may go on over a WebSocket.
    pub upgrade: bool,
    /// Connection state recovery: off without the table.
    pub recovery: Option<Recovery>,
}

/// `[server.recovery]`: a client whose transport was lost may return to its connection.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Recovery {
    /// How long a connection is kept after its transport was lost.
    #[serde(deserialize_with = "limits::seconds")]
    pub seconds: Duration,
    /// Memory of the events that are kept for all clients.
    pub bytes: NonZeroUsize,
}

impl Default for Recovery {
    fn default() -> Self {
        Self { seconds: Duration::from_secs(120), bytes: limits::nonzero!(NonZeroUsize, 64 << 20) }
    }
}

/// `socketio`: the implementation of Socket.IO.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SocketIo {
    /// Sockhop's own.
    Builtin,
    /// The library socketioxide.
    Socketioxide,
}

impl SocketIo {
    /// The implementation as the configuration names it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Builtin => "builtin",
            Self::Socketioxide => "socketioxide",
        }
    }
}

/// A transport of Engine.IO.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    /// HTTP long polling.
    Polling,
    /// WebSocket.
    Websocket,
}

impl Server {
    /// What no single key can tell.
    fn check(&self) -> Result<(), String> {
        if self.transports.is_empty() {
            return Err("server.transports: found none, expected \"polling\", \"websocket\" or both".to_owned());
        }
        let can_upgrade = [Transport::Polling, Transport::Websocket].iter().all(|transport| self.transports.contains(transport));
        if self.socketio == SocketIo::Socketioxide && can_upgrade && !self.upgrade {
            return Err("server.upgrade: the library can't refuse an upgrade; set `socketio = \"builtin\"`, or leave one transport in \
                        `transports`"
                .to_owned());
        }
        if self.socketio == SocketIo::Socketioxide && self.recovery.is_some() {
            return Err("server.recovery: the library has no connection state recovery; set `socketio = \"builtin\"`".to_owned());
        }
        Ok(())
    }
}

impl Default for Server {
    fn default() -> Self {
        Self {
            listen: ([127, 0, 0, 1], 4000).into(),
            namespaces: vec!["/".to_owned()],
            allowed_origins: Vec::new(),
            allowed_headers: None,
            socketio: SocketIo::Builtin,
            // As the reference server.
            ping_interval_ms: Duration::from_secs(25),
            ping_timeout_ms: Duration::from_secs(20),
            transports: vec![Transport::Polling, Transport::Websocket],
            upgrade: true,
            recovery: None,
        }
    }
}

/// `[plugins]`, and a table `[plugins.NAME]` for each plugin that differs from the rest.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default)]
pub struct Plugins {
    /// The directory whose `.wasm` files are loaded.
    pub dir: PathBuf,
    /// Plugins without which the host is not ready.
    pub required: Vec<String>,
    /// Seconds after which the directory is looked at again where nothing told of a change.
    #[serde(deserialize_with = "limits::seconds")]
    pub rescan_s: Duration,
    /// Seconds that a directory must stay empty before the plugins that it held are taken out.
    #[serde(deserialize_with = "limits::seconds")]
    pub empty_after_s: Duration,
    /// Seconds after which a plugin whose file is gone is forgotten, with what was decided of it.
    #[serde(deserialize_with = "limits::seconds")]
    pub forget_after_s: Duration,
    /// By name; those that no table names are as the rest.
    #[serde(skip)]
    pub by_name: BTreeMap<String, PluginSettings>,
}

impl Default for Plugins {
    fn default() -> Self {
        Self {
            dir: PathBuf::from("plugins"),
            required: Vec::new(),
            rescan_s: Duration::from_secs(30),
            // Longer than a volume takes to be mounted again, or a deployment to delete a directory and fill it.
            empty_after_s: Duration::from_secs(10),
            // 30 days: longer than anyone leaves a plugin out by mistake.
            forget_after_s: Duration::from_secs(30 * 24 * 60 * 60),
            by_name: BTreeMap::new(),
        }
    }
}

/// Whether a plugin can have this name; it is also the name of a file and of a table in the configuration.
pub fn is_plugin_name(name: &str) -> bool {
    name.len() <= 64
        && name.starts_with(|first: char| first.is_ascii_lowercase())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

/// `[plugins.NAME]`: how one plugin differs from the rest.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PluginSettings {
    /// Whether instances are reused.
    pub instance_policy: InstancePolicy,
    /// What the plugin reads from `wasi:config/store`.
    pub config: BTreeMap<String, String>,
    /// The host's limits with those of this table in their place.
    pub limits: Limits,
}

impl PluginSettings {
    /// Reads a plugin's table over the `[limits]` of all.
    #[allow(clippy::result_large_err, reason = "once at the start, and the library's own error says what is wrong best")]
    fn read(limits: &Dict, table: &Dict) -> Result<Self, figment::Error> {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Own {
            instance_policy: InstancePolicy,
            config: BTreeMap<String, String>,
        }
        let own: Own = Figment::from(Serialized::defaults(table)).extract()?;
        let mut merged = limits.clone();
        for (key, value) in table.iter().filter(|(key, _)| !OWN_KEYS.contains(&key.as_str())) {
            if !limits::KEYS_OF_A_PLUGIN.contains(&key.as_str()) {
                return Err(de::Error::unknown_field(key, limits::KEYS_OF_A_PLUGIN));
            }
            merged.insert(key.clone(), value.clone());
        }
        let limits = Figment::from(Serialized::defaults(&merged)).extract()?;
        Ok(Self { instance_policy: own.instance_policy, config: own.config, limits })
    }
}

/// The keys of `[plugins.NAME]` that are no limits.
const OWN_KEYS: [&str; 2] = ["instance_policy", "config"];

/// Whether an instance of a plugin serves one event or many.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InstancePolicy {
    /// Reused, one event at a time; what a handler keeps in memory is a cache that may go at any time.
    #[default]
    Warm,
    /// A new one for each event: nothing is left of the one before, and each event costs some ten microseconds more.
    Fresh,
}

/// `[data]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Data {
    /// State of the plugins, the host's own key, the lock that keeps a second host away.
    pub dir: PathBuf,
}

impl Default for Data {
    fn default() -> Self {
        Self { dir: PathBuf::from("data") }
    }
}

/// `[contract]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Contract {
    /// Whether anyone may read `GET /api/events`; otherwise a key with scope `operate` is asked for.
    pub public: bool,
}

impl Default for Contract {
    fn default() -> Self {
        Self { public: true }
    }
}

/// `[[keys]]`: who may call what.
#[derive(Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Key {
    /// For the log.
    pub name: String,
    /// The key itself; or see `secret_file`.
    pub secret: Option<String>,
    /// A file whose first line is the key.
    pub secret_file: Option<PathBuf>,
    /// What it allows.
    pub scopes: Vec<Scope>,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("name", &self.name).field("scopes", &self.scopes).finish_non_exhaustive()
    }
}

/// What a key allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// `POST /api/emit`.
    Emit,
    /// `/api/plugins`.
    Operate,
    /// `GET /metrics`.
    Metrics,
}

impl Scope {
    /// All of them: what the host's own key allows.
    pub const ALL: [Self; 3] = [Self::Emit, Self::Operate, Self::Metrics];

    /// The scope as the configuration names it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Emit => "emit",
            Self::Operate => "operate",
            Self::Metrics => "metrics",
        }
    }
}

impl Config {
    /// Reads `file` (where there is one), then the environment over it.
    ///
    /// # Errors
    /// Names the key, the value and what is allowed; or the file that can't be read.
    pub fn load(file: Option<&Path>) -> Result<Self, ConfigError> {
        let mut figment = Figment::new();
        if let Some(file) = file {
            let text = std::fs::read_to_string(file).map_err(|source| ConfigError::Unreadable { file: file.to_owned(), source })?;
            figment = figment.merge(Toml::string(&text));
        }
        let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
        if let Some((name, right)) = environment::misspelt(names, &SECTIONS, allowed_keys, limits::KEYS_OF_A_PLUGIN) {
            let problem = format!("{name}: not read as a setting; write {right}, with two underscores after each table's name");
            return Err(ConfigError::Wrong { file: None, problem });
        }
        let environment = Env::prefixed(ENV_PREFIX).filter(|name| name.as_str().contains("__")).split("__");
        let figment = figment.merge(environment);
        let mut config: Self = figment.extract().map_err(|error| ConfigError::wrong(file, error))?;
        config.plugins.by_name = plugin_tables(&figment).map_err(|error| ConfigError::wrong(file, error))?;
        config.check().map_err(|problem| ConfigError::Wrong { file: file.map(Path::to_owned), problem })?;
        Ok(config)
    }

    /// The settings of the plugin `name`.
    pub fn of_plugin(&self, name: &str) -> PluginSettings {
        let as_the_rest = || PluginSettings { limits: self.limits.clone(), ..PluginSettings::default() };
        self.plugins.by_name.get(name).cloned().unwrap_or_else(as_the_rest)
    }

    /// The most that an instance of any plugin may have, bytes.
    pub fn largest_instance_memory(&self) -> usize {
        let own = self.plugins.by_name.values().map(|settings| settings.limits.instance_memory_bytes);
        own.fold(self.limits.instance_memory_bytes, Ord::max).get()
    }

    /// The tables `[plugins.NAME]` of which no plugin in `names` has the name, each with the name that is most like it.
    pub fn tables_without_plugin<'n>(&self, names: &[&'n str]) -> Vec<(&str, Option<&'n str>)> {
        let nearest = |table: &str| {
            let by_likeness = names.iter().map(|name| (strsim::damerau_levenshtein(table, name), *name));
            by_likeness.min().filter(|(edits, _)| *edits <= MOST_EDITS).map(|(_, name)| name)
        };
        let tables = self.plugins.by_name.keys().map(String::as_str).filter(|table| !names.contains(table));
        tables.map(|table| (table, nearest(table))).collect()
    }

    /// What no single key can tell.
    fn check(&self) -> Result<(), String> {
        match self.keys.iter().find(|key| key.secret.is_some() == key.secret_file.is_some()) {
            Some(key) => Err(format!("keys: `{}` needs exactly one of `secret` and `secret_file`", key.name)),
            None => self.server.check().and_then(|()| self.limits.check()),
        }
    }

    /// The configured keys with their secrets, those in files read.
    ///
    /// # Errors
    /// Where a file can't be read, or a secret is too short to be one.
    pub fn read_secrets(&self) -> Result<Vec<(&Key, String)>, ConfigError> {
        let read = |key: &'_ Key| match (&key.secret, &key.secret_file) {
            (Some(secret), _) => Ok(secret.clone()),
            (None, file) => {
                let file = file.clone().unwrap_or_default();
                let text = std::fs::read_to_string(&file).map_err(|source| ConfigError::Unreadable { file, source })?;
                Ok(text.lines().next().unwrap_or_default().trim().to_owned())
            }
        };
        let secrets = self.keys.iter().map(|key| match read(key)? {
            secret if secret.len() < MIN_SECRET => {
                let problem = format!("keys: the secret of `{}` is shorter than {MIN_SECRET} characters", key.name);
                Err(ConfigError::Wrong { file: None, problem })
            }
            secret => Ok((key, secret)),
        });
        secrets.collect()
    }
}

/// The tables of a configuration whose keys the environment can set.
const SECTIONS: [&str; 6] = ["server", "plugins", "data", "contract", "log", "limits"];

/// The keys that `[section]` may have: what is said of one that it may not.
fn allowed_keys(section: &str) -> Vec<&'static str> {
    if section == "plugins" {
        return KEYS_OF_PLUGINS.to_vec();
    }
    let no_key = BTreeMap::from([(section, BTreeMap::from([("", 0)]))]);
    let error = Figment::from(Serialized::defaults(no_key)).extract::<Config>().err();
    error
        .into_iter()
        .flatten()
        .find_map(|error| match error.kind {
            figment::error::Kind::UnknownField(_, allowed) => Some(allowed.to_vec()),
            _ => None,
        })
        .unwrap_or_default()
}

/// The tables `[plugins.NAME]`, which stand beside `dir` and its like.
#[allow(clippy::result_large_err, reason = "once at the start, and the library's own error says what is wrong best")]
fn plugin_tables(figment: &Figment) -> Result<BTreeMap<String, PluginSettings>, figment::Error> {
    let dict = |path: &str| figment.find_value(path).ok().and_then(Value::into_dict).unwrap_or_default();
    let limits = dict("limits");
    let mut tables = BTreeMap::new();
    for (name, value) in dict("plugins").into_iter().filter(|(name, _)| !KEYS_OF_PLUGINS.contains(&name.as_str())) {
        let table = match value {
            Value::Dict(_, table) if is_plugin_name(&name) => table,
            _ => {
                const ALLOWED: &[&str] =
                    &["dir", "required", "rescan_s", "empty_after_s", "forget_after_s", "NAME ([a-z][a-z0-9_]*, a table)"];
                let error: figment::Error = de::Error::unknown_field(&name, ALLOWED);
                return Err(error.with_path("plugins"));
            }
        };
        let settings = PluginSettings::read(&limits, &table).map_err(|mut error| {
            error.path.splice(0..0, ["plugins".to_owned(), name.clone()]);
            error
        })?;
        tables.insert(name, settings);
    }
    Ok(tables)
}

/// The keys of `[plugins]` that are no plugin's table.
pub const KEYS_OF_PLUGINS: [&str; 5] = ["dir", "required", "rescan_s", "empty_after_s", "forget_after_s"];

/// Letters by which a misspelt name may differ from the one that was meant.
const MOST_EDITS: usize = 3;

/// Characters of a key: fewer could be guessed over the network.
pub const MIN_SECRET: usize = 16;

/// Why a configuration is refused, before anything listens.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file, or one that it names, can't be read.
    #[error("can't read {}, which is the configuration or named by it", file.display())]
    Unreadable {
        /// Which.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A key or a value is wrong.
    #[error("{}{problem}", file.as_ref().map(|file| format!("{}: ", file.display())).unwrap_or_default())]
    Wrong {
        /// The file, where there is one.
        file: Option<PathBuf>,
        /// The key, the value and what is allowed.
        problem: String,
    },
}

impl ConfigError {
    /// One line for each thing that is wrong: the key first, then the value and what is allowed.
    fn wrong(file: Option<&Path>, error: figment::Error) -> Self {
        let lines = error.into_iter().map(|error| {
            let is_environment = error.metadata.as_ref().is_some_and(|metadata| metadata.name.contains("environment"));
            let key = match (is_environment, error.path.join(".")) {
                (true, key) if !key.is_empty() => format!("{ENV_PREFIX}{} ({key})", key.to_uppercase().replace('.', "__")),
                (_, key) => key,
            };
            match &error.kind {
                figment::error::Kind::UnknownField(field, allowed) => {
                    let key = if key.ends_with(field.as_str()) { key } else { join(&key, field) };
                    format!("{key}: unknown key; allowed here: {}", allowed.join(", "))
                }
                kind if key.is_empty() => message::of(kind),
                kind => format!("{key}: {}", message::of(kind)),
            }
        });
        Self::Wrong { file: file.map(Path::to_owned), problem: lines.collect::<Vec<_>>().join("\n") }
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

fn headers<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<HeaderName>>, D::Error> {
    let names = Vec::<String>::deserialize(deserializer)?;
    let parsed = names.iter().map(|name| {
        let expected = "the name of a request header, such as \"x-request-id\"; leave the key out to allow all";
        name.parse().map_err(|_| de::Error::invalid_value(de::Unexpected::Str(name), &expected))
    });
    parsed.collect::<Result<_, _>>().map(Some)
}

fn namespaces<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let names = Vec::<String>::deserialize(deserializer)?;
    match names.iter().find(|name| !name.starts_with('/') || name.contains([',', '{', '}', '?']) || name.contains(char::is_control)) {
        Some(name) => Err(de::Error::invalid_value(de::Unexpected::Str(name), &"a namespace such as \"/\" or \"/chat\"")),
        None if names.iter().enumerate().any(|(at, name)| names.iter().take(at).any(|other| other == name)) => {
            Err(de::Error::custom("the same namespace twice; each may be there once"))
        }
        None if names.is_empty() => Err(de::Error::invalid_length(0, &"at least one namespace, such as \"/\"")),
        None => Ok(names),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Config, String> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("sockhop.toml");
        std::fs::write(&file, text).unwrap();
        Config::load(Some(&file)).map_err(|error| error.to_string().replace(&format!("{}: ", file.display()), ""))
    }

    #[test]
    fn without_a_file_every_key_has_its_default() {
        assert_eq!(Config::load(None).unwrap(), Config::default());
    }

    #[test]
    fn the_example_file_says_what_the_defaults_are() {
        let example = concat!(env!("CARGO_MANIFEST_DIR"), "/sockhop.example.toml");
        assert_eq!(Config::load(Some(Path::new(example))).unwrap(), Config::default());
        let text = std::fs::read_to_string(example).unwrap();
        for section in ["server", "data", "contract", "log", "limits"] {
            let error = load(&format!("[{section}]\nno_such_key = 1")).unwrap_err();
            for key in error.split_once("allowed here: ").unwrap().1.split(", ") {
                let is_there = |line: &str| line.starts_with(&format!("{key} =")) || line == format!("[{section}.{key}]");
                assert!(text.lines().any(|line| is_there(line.trim_start_matches("#:"))), "{section}.{key}");
            }
        }
        let text: String = text.lines().map(|line| line.strip_prefix("#:").unwrap_or(line).to_owned() + "\n").collect();
        load(&text).unwrap();
    }

    #[test]
    fn a_plugin_has_the_limits_of_all_but_its_own() {
        let config = load("[limits]\neffects = 7\nhandles = 9\n[plugins.ping]\neffects = 8\ninstance_policy = \"fresh\"\n[plugins.ping.config]\nurl = \"x\"").unwrap();
        let (ping, other) = (config.of_plugin("ping"), config.of_plugin("other"));
        assert_eq!((ping.limits.effects.get(), ping.limits.handles.get(), ping.instance_policy), (8, 9, InstancePolicy::Fresh));
        assert_eq!(ping.config, BTreeMap::from([("url".to_owned(), "x".to_owned())]));
        assert_eq!((other.limits, other.instance_policy), (config.limits, InstancePolicy::Warm));
    }

    #[test]
    fn a_table_of_no_plugin_is_found_with_the_name_that_is_meant() {
        let config = load("[plugins.wavee]\n[plugins.wave]\n[plugins.billing]\n").unwrap();
        let tables = config.tables_without_plugin(&["connection", "wave"]);
        assert_eq!(tables, [("billing", None), ("wavee", Some("wave"))]);
    }

    #[test]
    fn the_keys_of_every_section_are_known_by_name() {
        for (section, key) in [("server", "listen"), ("plugins", "dir"), ("data", "dir"), ("log", "filter"), ("limits", "event_cpu_ms")] {
            assert!(allowed_keys(section).contains(&key), "{section}: {:?}", allowed_keys(section));
        }
        assert!(SECTIONS.iter().all(|section| !allowed_keys(section).is_empty()));
    }

    #[test]
    fn a_wrong_key_or_value_is_named_with_what_is_allowed() {
        let cases = [
            ("[server]\nlisten = \"nonsense\"", "server.listen", "\"nonsense\", expected an address with a port"),
            ("[server]\nport = 1", "server.port", "listen"),
            ("[serve]\n", "serve", "server"),
            ("[limits]\nevent_cpu_ms = 0", "limits.event_cpu_ms", "found 0, expected a whole number of at least 1"),
            ("[limits]\nevent_cpu_ms = \"fast\"", "limits.event_cpu_ms", "\"fast\""),
            ("[plugins.ping]\ninstance_policy = \"hot\"", "plugins.ping.instance_policy", "warm"),
            ("[plugins.ping]\ncpu = 1", "plugins.ping.cpu", "instance_policy"),
            ("[plugins.ping]\nevent_cpu_ms = 0", "plugins.ping.event_cpu_ms", "at least 1"),
            ("[plugins.ping]\nmailbox_events = 5", "plugins.ping.mailbox_events", "event_cpu_ms"),
            ("[server]\nallowed_origins = [\"app.example.com\"]", "allowed_origins", "https://app.example.com"),
            ("[server]\nallowed_origins = [\"https://x.example/\"]", "allowed_origins", "write \"https://x.example\""),
            ("[server]\nlisten = 4000", "server.listen", "found 4000, expected text in quotes"),
            ("server = 1", "server", "found 1, expected a table"),
            ("[plugins]\nrequired = \"ping\"", "plugins.required", "found \"ping\", expected a list"),
            ("[contract]\npublic = \"yes\"", "contract.public", "found \"yes\", expected true or false"),
            ("[limits]\noverflow_bytes = 16_777_216", "limits.overflow_bytes", "found 16777216, expected at least 16785408: 16 times"),
            ("[limits]\nmailboxes_bytes = 6_000_000", "limits.mailboxes_bytes", "found 6000000, expected at least 6299648: 16 times"),
            ("[limits]\nbreaker_calls = 5_000_000_000", "limits.breaker_calls", "from 1 to 4294967295"),
            ("[[keys]]\nname = \"shop\"\nscopes = [\"emit\"]", "shop", "secret_file"),
            ("[[keys]]\nname = \"shop\"\nsecret = \"0123456789abcdef\"\nscopes = [\"fly\"]", "scopes", "operate"),
            ("[server]\nnamespaces = [\"/\", \"/\"]", "server.namespaces", "twice"),
            ("[plugins]\ndirectory = \"x\"", "plugins.directory", "dir"),
            ("[plugins.Bad-Name]\n", "plugins.Bad-Name", "a table"),
            ("[log]\nfilter = \"a=b=c\"", "log.filter", "\"a=b=c\", expected a level"),
            ("[log]\nfilter = \"verbose\"", "log.filter", "\"verbose\", expected a level (off, error, warn, info, debug or trace)"),
            ("[log]\nqueue_bytes = 100", "log.queue_bytes", "at least 65536"),
            ("[server\n", "TOML", "expected"),
        ];
        for (text, key, allowed) in cases {
            let error = load(text).unwrap_err();
            assert!(error.contains(key) && error.contains(allowed), "{text}: {error}");
        }
    }
}
