//! What an operator can set: read once, from a file and the environment, into validated types. Every key has a default, and a line in
//! `sockhop.example.toml`.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroU64, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::time::Duration;

use figment::Figment;
use figment::providers::{Env, Format, Toml};
use serde::{Deserialize, Deserializer, de};

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
    #[serde(deserialize_with = "address")]
    pub listen: SocketAddr,
    /// The Socket.IO namespaces.
    #[serde(deserialize_with = "namespaces")]
    pub namespaces: Vec<String>,
    /// Origins whose pages may connect, beside those of this machine while the host listens on loopback.
    #[serde(deserialize_with = "origins")]
    pub allowed_origins: Vec<String>,
}

impl Default for Server {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 4000)), namespaces: vec!["/".to_owned()], allowed_origins: Vec::new() }
    }
}

/// `[plugins]`, and a table `[plugins.NAME]` for each plugin that differs from the rest.
#[derive(Debug, Clone, PartialEq)]
pub struct Plugins {
    /// The directory whose `.wasm` files are loaded.
    pub dir: PathBuf,
    /// Plugins without which the host is not ready.
    pub required: Vec<String>,
    /// By name.
    pub by_name: BTreeMap<String, PluginSettings>,
}

impl Default for Plugins {
    fn default() -> Self {
        Self { dir: PathBuf::from("plugins"), required: Vec::new(), by_name: BTreeMap::new() }
    }
}

/// Whether a plugin can have this name; it is also the name of a file and of a table in the configuration.
pub fn is_plugin_name(name: &str) -> bool {
    name.len() <= 64
        && name.starts_with(|first: char| first.is_ascii_lowercase())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

/// `[plugins.NAME]`
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PluginSettings {
    /// Whether instances are reused.
    pub instance_policy: InstancePolicy,
}

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

/// `[log]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// What is shown: a level (`info`), or directives such as `info,sockhop=debug`.
    #[serde(deserialize_with = "log_filter")]
    pub filter: String,
    /// How lines look.
    pub format: LogFormat,
}

impl Default for Log {
    fn default() -> Self {
        Self { filter: "info".to_owned(), format: LogFormat::Text }
    }
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
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
}

impl Scope {
    /// All of them: what the host's own key allows.
    pub const ALL: [Self; 2] = [Self::Emit, Self::Operate];

    /// The scope as the configuration names it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Emit => "emit",
            Self::Operate => "operate",
        }
    }
}

/// `[limits]`: how much one client, one event and one plugin may take. Units are in the names.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// A plugin's file. Larger ones are not read.
    pub plugin_file_bytes: NonZeroU64,
    /// All memories and tables of one instance.
    pub instance_memory_bytes: NonZeroUsize,
    /// All instances of one plugin.
    pub plugin_memory_bytes: NonZeroUsize,
    /// Instances of one plugin that run at once; twice the host's worker threads where it is not set.
    pub instances: Option<NonZeroUsize>,
    /// Running time of one event's handler, reruns included.
    #[serde(deserialize_with = "milliseconds")]
    pub event_cpu_ms: Duration,
    /// All the time of one event, waiting and reruns included.
    #[serde(deserialize_with = "milliseconds")]
    pub event_wall_ms: Duration,
    /// Running time of `register`.
    #[serde(deserialize_with = "milliseconds")]
    pub register_cpu_ms: Duration,
    /// Calls of `registry` that one `register` may make.
    pub declarations: NonZeroUsize,
    /// One schema.
    pub schema_bytes: NonZeroUsize,
    /// Effects of one event.
    pub effects: NonZeroUsize,
    /// All data of one event's effects.
    pub effects_bytes: NonZeroUsize,
    /// Data that one host call may carry, either way.
    pub host_call_bytes: NonZeroUsize,
    /// Component-model handles of one instance.
    pub handles: NonZeroUsize,
    /// Random bytes that one call may ask for.
    pub random_bytes: NonZeroU64,
    /// One key of a plugin's state.
    pub state_key_bytes: NonZeroUsize,
    /// One value.
    pub state_value_bytes: NonZeroUsize,
    /// All keys and values of one plugin.
    pub state_bytes: NonZeroU64,
    /// Log lines of one plugin in a second; the rest is counted.
    pub log_lines_per_second: NonZeroU32,
    /// One log line of a plugin; the rest is cut.
    pub log_line_bytes: NonZeroUsize,
    /// TCP connections at once; more wait until one ends.
    pub connections: NonZeroUsize,
    /// Events of one connection that wait for their turn; beyond, `busy`.
    pub mailbox_events: NonZeroUsize,
    /// The same in bytes.
    pub mailbox_bytes: NonZeroUsize,
    /// One message of a client. The connection is closed only beyond twice as much.
    pub message_bytes: NonZeroUsize,
    /// Attachments of one message.
    pub attachments: usize,
    /// All attachments of one message.
    pub attachment_bytes: NonZeroUsize,
    /// Nesting of a payload.
    pub json_depth: NonZeroUsize,
    /// Rooms of one connection.
    pub rooms: NonZeroUsize,
    /// From a connection's handshake to its CONNECT packet.
    #[serde(deserialize_with = "milliseconds")]
    pub connect_ms: Duration,
    /// How long a client may not read before it is cut.
    #[serde(deserialize_with = "milliseconds")]
    pub stalled_reader_ms: Duration,
    /// Packets that wait for a client to read them; one that would miss an emit is cut.
    pub outgoing_packets: NonZeroUsize,
    /// How long a stopping host is not ready before it refuses new clients: time for a load balancer to see it.
    #[serde(deserialize_with = "milliseconds")]
    pub shutdown_unready_ms: Duration,
    /// How long a stopping host waits for what it has begun.
    #[serde(deserialize_with = "milliseconds")]
    pub shutdown_drain_ms: Duration,
}

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// A non-zero constant; zero would not compile.
macro_rules! nonzero {
    ($kind:ty, $value:expr) => {
        const {
            match <$kind>::new($value) {
                Some(value) => value,
                None => unreachable!(),
            }
        }
    };
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            plugin_file_bytes: nonzero!(NonZeroU64, 32 * MIB as u64),
            instance_memory_bytes: nonzero!(NonZeroUsize, 128 * MIB),
            plugin_memory_bytes: nonzero!(NonZeroUsize, 512 * MIB),
            instances: None,
            event_cpu_ms: Duration::from_millis(250),
            event_wall_ms: Duration::from_secs(5),
            register_cpu_ms: Duration::from_secs(1),
            declarations: nonzero!(NonZeroUsize, 1000),
            schema_bytes: nonzero!(NonZeroUsize, 256 * KIB),
            effects: nonzero!(NonZeroUsize, 256),
            effects_bytes: nonzero!(NonZeroUsize, MIB),
            host_call_bytes: nonzero!(NonZeroUsize, 2 * MIB),
            handles: nonzero!(NonZeroUsize, 1000),
            random_bytes: nonzero!(NonZeroU64, 64 * KIB as u64),
            state_key_bytes: nonzero!(NonZeroUsize, 512),
            state_value_bytes: nonzero!(NonZeroUsize, 256 * KIB),
            state_bytes: nonzero!(NonZeroU64, 256 * MIB as u64),
            log_lines_per_second: nonzero!(NonZeroU32, 100),
            log_line_bytes: nonzero!(NonZeroUsize, 8 * KIB),
            connections: nonzero!(NonZeroUsize, 50_000),
            mailbox_events: nonzero!(NonZeroUsize, 256),
            mailbox_bytes: nonzero!(NonZeroUsize, 2 * MIB),
            message_bytes: nonzero!(NonZeroUsize, 128 * KIB),
            attachments: 4,
            attachment_bytes: nonzero!(NonZeroUsize, 256 * KIB),
            json_depth: nonzero!(NonZeroUsize, 64),
            rooms: nonzero!(NonZeroUsize, 100),
            connect_ms: Duration::from_secs(10),
            stalled_reader_ms: Duration::from_secs(20),
            outgoing_packets: nonzero!(NonZeroUsize, 4096),
            shutdown_unready_ms: Duration::from_secs(5),
            shutdown_drain_ms: Duration::from_secs(10),
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
        let environment = Env::prefixed(ENV_PREFIX).filter(|name| name.as_str().contains("__")).split("__");
        let config: Self = figment.merge(environment).extract().map_err(|error| ConfigError::wrong(file, error))?;
        config.check().map_err(|problem| ConfigError::Wrong { file: file.map(Path::to_owned), problem })?;
        Ok(config)
    }

    /// What no single key can tell.
    fn check(&self) -> Result<(), String> {
        match self.keys.iter().find(|key| key.secret.is_some() == key.secret_file.is_some()) {
            Some(key) => Err(format!("keys: `{}` needs exactly one of `secret` and `secret_file`", key.name)),
            None => Ok(()),
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

/// Characters of a key: fewer could be guessed over the network.
const MIN_SECRET: usize = 16;

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
                kind if key.is_empty() => kind.to_string(),
                kind => format!("{key}: {kind}"),
            }
        });
        Self::Wrong { file: file.map(Path::to_owned), problem: lines.collect::<Vec<_>>().join("\n") }
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

fn milliseconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let number = NonZeroU64::deserialize(deserializer)?;
    Ok(Duration::from_millis(number.get()))
}

fn address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(|_| de::Error::invalid_value(de::Unexpected::Str(&text), &"an IP address with a port, such as \"127.0.0.1:4000\""))
}

fn log_filter<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    match tracing_subscriber::EnvFilter::try_new(&text) {
        Ok(_) => Ok(text),
        Err(_) => {
            let expected = "a level such as \"info\", or directives such as \"info,sockhop=debug\"";
            Err(de::Error::invalid_value(de::Unexpected::Str(&text), &expected))
        }
    }
}

fn namespaces<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let names = Vec::<String>::deserialize(deserializer)?;
    match names.iter().find(|name| !name.starts_with('/') || name.contains([',', '{', '}', '?'])) {
        Some(name) => Err(de::Error::invalid_value(de::Unexpected::Str(name), &"a namespace such as \"/\" or \"/chat\"")),
        None if names.iter().enumerate().any(|(at, name)| names.iter().take(at).any(|other| other == name)) => {
            Err(de::Error::custom("the same namespace twice; each may be there once"))
        }
        None if names.is_empty() => Err(de::Error::invalid_length(0, &"at least one namespace, such as \"/\"")),
        None => Ok(names),
    }
}

fn origins<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let origins = Vec::<String>::deserialize(deserializer)?;
    let good = |origin: &String| {
        origin.split_once("://").is_some_and(|(scheme, rest)| !scheme.is_empty() && !rest.is_empty() && !rest.contains('/'))
    };
    match origins.iter().find(|origin| !good(origin)) {
        Some(origin) => {
            Err(de::Error::invalid_value(de::Unexpected::Str(origin), &"an origin such as \"https://app.example.com\", without a path"))
        }
        None => Ok(origins),
    }
}

/// `dir` and `required` stand beside the tables of single plugins, which no derive can tell apart with unknown keys refused.
impl<'de> Deserialize<'de> for Plugins {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Table;

        impl<'de> de::Visitor<'de> for Table {
            type Value = Plugins;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table with `dir`, `required` and a table for each plugin that has settings of its own")
            }

            fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Plugins, A::Error> {
                let mut plugins = Plugins::default();
                while let Some(key) = map.next_key::<String>()? {
                    match key.as_str() {
                        "dir" => plugins.dir = map.next_value()?,
                        "required" => plugins.required = map.next_value()?,
                        name if is_plugin_name(name) => {
                            plugins.by_name.insert(key, map.next_value()?);
                        }
                        _ => return Err(de::Error::unknown_field(&key, &["dir", "required", "NAME ([a-z][a-z0-9_]*, of a plugin)"])),
                    }
                }
                Ok(plugins)
            }
        }

        deserializer.deserialize_map(Table)
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
                assert!(text.lines().any(|line| line.trim_start_matches("#:").starts_with(&format!("{key} ="))), "{section}.{key}");
            }
        }
        let text: String = text.lines().map(|line| line.strip_prefix("#:").unwrap_or(line).to_owned() + "\n").collect();
        load(&text).unwrap();
    }

    #[test]
    fn a_wrong_key_or_value_is_named_with_what_is_allowed() {
        let cases = [
            ("[server]\nlisten = \"nonsense\"", "server.listen", "\"nonsense\", expected an IP address with a port"),
            ("[server]\nport = 1", "server.port", "listen"),
            ("[serve]\n", "serve", "server"),
            ("[limits]\nevent_cpu_ms = 0", "limits.event_cpu_ms", "nonzero"),
            ("[limits]\nevent_cpu_ms = \"fast\"", "limits.event_cpu_ms", "\"fast\""),
            ("[plugins.ping]\ninstance_policy = \"hot\"", "plugins.ping.instance_policy", "warm"),
            ("[plugins.ping]\ncpu = 1", "plugins.ping.cpu", "instance_policy"),
            ("[server]\nallowed_origins = [\"app.example.com\"]", "allowed_origins", "https://app.example.com"),
            ("[[keys]]\nname = \"shop\"\nscopes = [\"emit\"]", "shop", "secret_file"),
            ("[[keys]]\nname = \"shop\"\nsecret = \"0123456789abcdef\"\nscopes = [\"fly\"]", "scopes", "operate"),
            ("[server]\nnamespaces = [\"/\", \"/\"]", "server.namespaces", "twice"),
            ("[plugins]\ndirectory = \"x\"", "plugins.directory", "dir"),
            ("[plugins.Bad-Name]\n", "plugins.Bad-Name", "of a plugin"),
            ("[log]\nfilter = \"a=b=c\"", "log.filter", "\"a=b=c\", expected a level"),
            ("[server\n", "TOML", "expected"),
        ];
        for (text, key, allowed) in cases {
            let error = load(text).unwrap_err();
            assert!(error.contains(key) && error.contains(allowed), "{text}: {error}");
        }
    }
}
