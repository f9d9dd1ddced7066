//! The settings of the host, from a file and the environment, in validated types. They are read at
//! the start, and again when an operator asks for it. Every key has a default, and a line in
//! `sockhop.example.toml`.

mod auth;
mod changes;
mod environment;
mod event;
pub(crate) mod fuzzing;
mod key;
mod limits;
mod listen;
mod live;
mod log;
mod message;
mod origins;
mod outbound;
mod overlay;
mod plugins;
mod rate;
mod rule;
mod server;
mod source;
mod tls;
mod webhook;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use figment2::Figment;
use figment2::error::Kind;
use figment2::providers::{Format, Serialized, Toml};
use serde::Deserialize;
use sockhop_core::rule::OperatorRules;

pub use auth::{AuthConfig, AuthMode, ClaimPath, JwksConfig, TokenAlgorithm, TokenKey};
pub use changes::{Change, WrittenSettings};
use environment::Environment;
pub use event::DeclaredEvent;
pub use key::{Key, Scope};
pub use limits::{DEFAULT_CONNECTIONS, Limits};
pub(crate) use limits::{EVENT_BYTES, QUEUE_SHARE};
pub use listen::{InvalidListen, Listen};
pub use live::LiveConfig;
pub use log::{LogConfig, LogFilter, LogFormat};
pub use origins::AllowedOrigin;
pub use outbound::{ListedOrigin, OutboundConfig};
use plugins::KEYS_OF_PLUGINS;
use plugins::plugin_tables;
pub use plugins::{InstancePolicy, PluginSettings, PluginsConfig};
pub use rate::{BucketConfig, RateConfig};
pub use rule::Rule;
pub use server::{ProxyHeader, Recovery, ServerConfig, SocketIo, Transport};
pub use source::ConfigSource;
pub use tls::TlsConfig;
pub use webhook::WebhookSecret;

/// All settings.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The address, the origins and the Socket.IO settings.
    pub server: ServerConfig,
    /// Which plugins are served, and with which settings.
    pub plugins: PluginsConfig,
    /// Where operators reach the host.
    pub admin: AdminConfig,
    /// Where the host stores durable files.
    pub data: DataConfig,
    /// The limits of one client, one event and one plugin.
    pub limits: Limits,
    /// How many events a connection and a user may send.
    pub rate: RateConfig,
    /// Who clients are.
    pub auth: AuthConfig,
    /// Who may read the contract.
    pub contract: ContractAccess,
    /// The HTTP requests of plugins.
    pub outbound: OutboundConfig,
    /// What the log contains, and its format.
    pub log: LogConfig,
    /// The keys for `/api`, `/metrics` and the routes of plugins. If there is none, the host makes
    /// one with all scopes and keeps it in the data directory.
    pub keys: Vec<Key>,
    /// The rules of events and rooms that replace those of plugins.
    pub rules: Vec<Rule>,
    /// The events that business systems may emit, beside those that plugins declare.
    pub events: Vec<DeclaredEvent>,
}

/// `[admin]`: a separate address for operators.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdminConfig {
    /// The address of `/api` and `/metrics`. They are not served on the address of clients then.
    pub listen: Option<Listen>,
}

/// `[data]`: the data directory.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DataConfig {
    /// Directory for the state of plugins, the host's own key, and the lock that excludes a second
    /// host.
    pub dir: PathBuf,
}

impl Default for DataConfig {
    fn default() -> Self {
        Self { dir: PathBuf::from("data") }
    }
}

/// `[contract]`: access to the contract, which lists the events and their schemas.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ContractAccess {
    /// Whether `GET /api/events` needs no key. If `false`, it needs a key with the scope `operate`.
    pub public: bool,
}

impl Default for ContractAccess {
    fn default() -> Self {
        Self { public: true }
    }
}

impl Config {
    /// Reads `file`, if there is one, then the environment, which overrides it.
    ///
    /// # Errors
    /// The file can't be read, or a setting is wrong. The error names the key, the value and what
    /// is allowed.
    pub fn load(file: Option<&Path>) -> Result<Self, ConfigError> {
        Self::load_written(file).map(|(config, _)| config)
    }

    /// Same as [`Config::load`], with the settings as they are written, to compare them.
    ///
    /// # Errors
    /// Same as [`Config::load`].
    pub fn load_written(file: Option<&Path>) -> Result<(Self, WrittenSettings), ConfigError> {
        let text = file.map(|file| {
            std::fs::read_to_string(file)
                .map_err(|source| ConfigError::Unreadable { file: file.to_owned(), source })
        });
        Self::read_written(file, text.transpose()?.as_deref(), variables()?)
    }

    /// Reads `text`, which is the content of `file`, and then the environment `variables`.
    fn read_written(
        file: Option<&Path>,
        text: Option<&str>,
        variables: Vec<(String, String)>,
    ) -> Result<(Self, WrittenSettings), ConfigError> {
        let names = variables.iter().map(|(name, _)| name.clone());
        if let Some((name, right)) =
            environment::misspelt(names, &SECTIONS, allowed_keys, limits::KEYS_OF_A_PLUGIN)
        {
            let problem = format!(
                "{name}: not read as a setting; write {right}, with two underscores after each \
                 table's name"
            );
            return Err(ConfigError::Wrong { file: None, problem });
        }
        let figment =
            Figment::from(Toml::string(text.unwrap_or_default())).merge(Environment::of(variables));
        let mut config: Self =
            figment.extract().map_err(|error| ConfigError::wrong(file, error))?;
        config.plugins.by_name =
            plugin_tables(&figment).map_err(|error| ConfigError::wrong(file, error))?;
        config
            .check()
            .map_err(|problem| ConfigError::Wrong { file: file.map(Path::to_owned), problem })?;
        Ok((config, WrittenSettings::of(&figment)))
    }

    /// The settings of the plugin `name`: those of its table, else the defaults and `[limits]`.
    pub fn of_plugin(&self, name: &str) -> PluginSettings {
        let as_the_rest =
            || PluginSettings { limits: self.limits.clone(), ..PluginSettings::default() };
        self.plugins.by_name.get(name).cloned().unwrap_or_else(as_the_rest)
    }

    /// The format that the log was to have, of a configuration that can't be loaded: that of the
    /// environment, else of `file` if it is TOML, else text.
    pub fn log_format(file: Option<&Path>) -> LogFormat {
        let of = |settings: Figment| settings.extract_inner("log.format").ok();
        let variables = std::env::vars_os()
            .filter_map(|(name, text)| Some((name.into_string().ok()?, text.into_string().ok()?)));
        let of_environment = of(Figment::from(Environment::of(variables)));
        let text = file.and_then(|file| std::fs::read_to_string(file).ok());
        let of_file = || text.and_then(|text| of(Figment::from(Toml::string(&text))));
        of_environment.or_else(of_file).unwrap_or(LogFormat::Text)
    }

    /// The limits that differ from their defaults, and `PLUGIN.limit` for those of one plugin that
    /// differ from the others', as `name=value` with spaces between them.
    pub fn changed_limits(&self) -> String {
        let mut changed = self.limits.differences(&Limits::default());
        for (plugin, settings) in &self.plugins.by_name {
            let own = settings.limits.differences(&self.limits);
            changed.extend(own.into_iter().map(|limit| format!("{plugin}.{limit}")));
        }
        changed.join(" ")
    }

    /// The largest `instance_memory_bytes` of all plugins, in bytes.
    pub fn largest_instance_memory(&self) -> usize {
        let own =
            self.plugins.by_name.values().map(|settings| settings.limits.instance_memory_bytes);
        own.fold(self.limits.instance_memory_bytes, Ord::max).get()
    }

    /// The tables `[plugins.NAME]` whose name is not in `names`, each with the most similar name,
    /// if one is similar enough.
    pub fn tables_without_plugin<'n>(&self, names: &[&'n str]) -> Vec<(&str, Option<&'n str>)> {
        let nearest = |table: &str| {
            let by_likeness =
                names.iter().map(|name| (strsim::damerau_levenshtein(table, name), *name));
            by_likeness.min().filter(|(edits, _)| *edits <= MOST_EDITS).map(|(_, name)| name)
        };
        let tables =
            self.plugins.by_name.keys().map(String::as_str).filter(|table| !names.contains(table));
        tables.map(|table| (table, nearest(table))).collect()
    }

    /// Checks the settings that depend on each other.
    fn check(&self) -> Result<(), String> {
        if let Some(key) =
            self.keys.iter().find(|key| key.secret.is_some() == key.secret_file.is_some())
        {
            let name = &key.name;
            return Err(format!("keys: `{name}` needs exactly one of `secret` and `secret_file`"));
        }
        self.keys.iter().try_for_each(Key::check_identity)?;
        for (index, key) in self.keys.iter().enumerate() {
            if self.keys.iter().take(index).any(|other| other.name == key.name) {
                return Err(format!("keys: two keys have the name `{}`", key.name));
            }
        }
        rule::operator_rules(&self.rules)?;
        event::check(&self.events)?;
        self.server.check()?;
        self.auth.check()?;
        self.limits.check("limits")?;
        self.outbound.check("limits", self.limits.outbound_response_bytes)?;
        let mut tables = self.plugins.by_name.iter();
        tables.try_for_each(|(name, own)| {
            let table = format!("plugins.{name}");
            own.limits.check(&table)?;
            outbound::check_list(&table, &own.outbound)?;
            self.outbound.check(&table, own.limits.outbound_response_bytes)
        })
    }

    /// How many connections operators may have, beyond those of clients: the reserved ones, and as
    /// many on a separate address.
    pub(crate) fn operator_connections(&self) -> NonZeroUsize {
        let reserved = self.limits.reserved_connections;
        match self.admin.listen {
            Some(_) => reserved.saturating_add(reserved.get()),
            None => reserved,
        }
    }

    /// Returns the rules of the operator. Those of a loaded configuration are valid.
    pub fn operator_rules(&self) -> OperatorRules {
        rule::operator_rules(&self.rules).unwrap_or_default()
    }

    /// The scheme of the URLs of clients.
    pub fn scheme(&self) -> &'static str {
        if self.server.tls.is_some() { "https" } else { "http" }
    }

    /// The scheme of the URLs of operators. Their separate address has no TLS.
    pub fn operators_scheme(&self) -> &'static str {
        if self.admin.listen.is_some() { "http" } else { self.scheme() }
    }

    /// Returns the files with secrets of keys and of deliveries, and that of the key of TLS. `file`
    /// is the configuration file: it is one of them if it has a secret itself. The settings name
    /// the other files.
    pub fn secret_files<'a>(&'a self, file: Option<&'a Path>) -> BTreeSet<&'a Path> {
        let tokens = &self.auth.keys;
        let named = self.keys.iter().filter_map(|key| key.secret_file.as_deref());
        let of_tokens = tokens.iter().filter_map(|key| key.secret_file.as_deref());
        let origins = || self.plugins.by_name.values().flat_map(|plugin| &plugin.outbound);
        let is_own = self.keys.iter().any(|key| key.secret.is_some())
            || tokens.iter().any(|key| key.secret.is_some())
            || origins().any(|origin| !origin.webhook_secrets().is_empty());
        let of_tls = self.server.tls.iter().map(|tls| tls.key_file.as_path());
        let of_origins = origins().filter_map(ListedOrigin::webhook_secrets_file);
        let files = named.chain(of_tokens).chain(of_tls).chain(of_origins);
        files.chain(file.filter(|_| is_own)).collect()
    }

    /// Returns the configured keys with their secrets. Secrets in files are read now.
    ///
    /// # Errors
    /// A file can't be read, or a secret is shorter than [`MIN_SECRET`].
    pub fn read_secrets(&self) -> Result<Vec<(&Key, String)>, ConfigError> {
        let read = |key: &'_ Key| match (&key.secret, &key.secret_file) {
            (Some(secret), _) => Ok(secret.clone()),
            (None, file) => {
                let file = file.clone().unwrap_or_default();
                let text = std::fs::read_to_string(&file)
                    .map_err(|source| ConfigError::Unreadable { file, source })?;
                Ok(text.lines().next().unwrap_or_default().trim().to_owned())
            }
        };
        let secrets = self.keys.iter().map(|key| match read(key)? {
            secret if secret.len() < MIN_SECRET => {
                let problem = format!(
                    "keys: the secret of `{}` is shorter than {MIN_SECRET} characters",
                    key.name
                );
                Err(ConfigError::Wrong { file: None, problem })
            }
            secret => Ok((key, secret)),
        });
        secrets.collect()
    }
}

/// The tables of a configuration whose keys the environment can set.
const SECTIONS: [&str; 10] =
    ["server", "admin", "plugins", "data", "rate", "auth", "contract", "outbound", "log", "limits"];

/// The keys that `[section]` may have, taken from the error that an unknown key causes.
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
            Kind::UnknownField(_, allowed) => Some(allowed.to_vec()),
            _ => None,
        })
        .unwrap_or_default()
}

/// The largest edit distance between a misspelt name and its suggestion.
const MOST_EDITS: usize = 3;

/// The fewest characters of a key: a shorter one could be guessed over the network.
pub const MIN_SECRET: usize = 16;

/// Why a configuration is refused. The host does not start to listen.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The configuration file, or a file that it names, can't be read.
    #[error("can't read {}, which is the configuration file or a file that it \
             names", file.display())]
    Unreadable {
        /// The file that can't be read.
        file: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A key or a value is wrong.
    #[error("{}{problem}", file.as_ref().map(|file| format!("{}: ", file.display())).unwrap_or_default())]
    Wrong {
        /// The configuration file, if there is one.
        file: Option<PathBuf>,
        /// The key, the value and what is allowed.
        problem: String,
    },
}

/// Returns the environment as text.
fn variables() -> Result<Vec<(String, String)>, ConfigError> {
    utf_8(std::env::vars_os()).map_err(|problem| ConfigError::Wrong { file: None, problem })
}

/// Returns the variables as text. A variable that is no setting may have any value.
///
/// # Errors
/// The value of a setting is not UTF-8: the host must not start with the default instead.
fn utf_8(
    variables: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Vec<(String, String)>, String> {
    let names =
        variables.into_iter().filter_map(|(name, text)| Some((name.into_string().ok()?, text)));
    names
        .map(|(name, text)| match text.into_string() {
            Err(_) if environment::is_setting(&name) => {
                Err(format!("{name}: the value is not UTF-8"))
            }
            text => Ok((name, text.unwrap_or_default())),
        })
        .collect()
}

impl ConfigError {
    /// Writes one line for each error: the key first, then the value and what is allowed.
    fn wrong(file: Option<&Path>, error: figment2::Error) -> Self {
        let lines = error.into_iter().map(|error| {
            let path = error.path.join(".");
            let path = match &error.kind {
                Kind::UnknownField(field, _) if !path.ends_with(field.as_str()) => {
                    join(&path, field)
                }
                _ => path,
            };
            let problem = match &error.kind {
                Kind::UnknownField(_, allowed) => {
                    format!("unknown key; allowed here: {}", allowed.join(", "))
                }
                kind if is_secret(&error.path) => message::of_secret(kind),
                kind => message::of(kind),
            };
            if path.is_empty() {
                problem
            } else if environment::has_caused(&error) {
                format!("{} ({path}): {problem}", environment::variable(&path))
            } else {
                format!("{path}: {problem}")
            }
        });
        Self::Wrong {
            file: file.map(Path::to_owned),
            problem: lines.collect::<Vec<_>>().join("\n"),
        }
    }
}

/// Whether the value of a key must not be shown: the secret of an access key, a list of keys, whose
/// text holds secrets if it can't be read, a setting of a plugin, which may be a secret, or the
/// origins of a plugin, which may have secrets.
fn is_secret(path: &[String]) -> bool {
    let names: Vec<&str> = path.iter().map(String::as_str).collect();
    matches!(
        names.as_slice(),
        ["plugins", _, "config" | "outbound", ..] | ["keys"] | ["auth", "keys"] | [.., "secret"]
    )
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Config, String> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("sockhop.toml");
        std::fs::write(&file, text).unwrap();
        Config::load(Some(&file))
            .map_err(|error| error.to_string().replace(&format!("{}: ", file.display()), ""))
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
        for section in ["server", "admin", "data", "rate", "auth", "contract", "log", "limits"] {
            let error = load(&format!("[{section}]\nno_such_key = 1")).unwrap_err();
            for key in error.split_once("allowed here: ").unwrap().1.split(", ") {
                let is_there = |line: &str| {
                    line.starts_with(&format!("{key} ="))
                        || line == format!("[{section}.{key}]")
                        || line == format!("[[{section}.{key}]]")
                };
                let mut lines = text.lines().map(|line| line.trim_start_matches(['#', ':', ' ']));
                assert!(lines.any(is_there), "{section}.{key}");
            }
        }
        let text: String = text
            .lines()
            .map(|line| line.strip_prefix("#:").unwrap_or(line).to_owned() + "\n")
            .collect();
        // The example has a key of tokens, which makes sense only with tokens.
        load(&text.replace("mode = \"anonymous\"", "mode = \"jwt\"")).unwrap();
    }

    #[test]
    fn a_plugin_has_the_limits_of_all_but_its_own() {
        let config = load(
            "[limits]\neffects = 7\nhandles = 9\n[plugins.ping]\neffects = \
                           8\ninstance_policy = \"fresh\"\n[plugins.ping.config]\nurl = \
                           \"x\"",
        )
        .unwrap();
        let (ping, other) = (config.of_plugin("ping"), config.of_plugin("other"));
        assert_eq!(
            (ping.limits.effects.get(), ping.limits.handles.get(), ping.instance_policy),
            (8, 9, InstancePolicy::Fresh)
        );
        assert_eq!(ping.config, BTreeMap::from([("url".to_owned(), "x".to_owned())]));
        assert_eq!((other.limits, other.instance_policy), (config.limits, InstancePolicy::Warm));
    }

    #[test]
    fn the_changed_limits_are_those_of_all_and_those_of_one_plugin() {
        let config = load(
            "[limits]\neffects = 7\nhead_ms = 20\nhandles = 1000\nconnections = \
                           9\n[plugins.ping]\neffects = 8\nevent_cpu_ms = 3",
        )
        .unwrap();
        assert_eq!(
            config.changed_limits(),
            "connections=9 effects=7 head_ms=20 ping.effects=8 ping.event_cpu_ms=3"
        );
        assert_eq!(Config::default().changed_limits(), "");
    }

    #[cfg(unix)]
    #[test]
    fn a_setting_that_is_not_utf_8_is_refused_and_other_variables_pass() {
        use std::os::unix::ffi::OsStringExt;
        let of = |name: &str| utf_8([(name.into(), OsString::from_vec(vec![b'/', 0xff]))]);
        assert_eq!(of("HOME"), Ok(vec![("HOME".to_owned(), String::new())]));
        let error = of("SOCKHOP_DATA__DIR").unwrap_err();
        assert_eq!(error, "SOCKHOP_DATA__DIR: the value is not UTF-8");
    }

    #[test]
    fn an_error_never_shows_a_secret() {
        for text in [
            "[[keys]]\nname = \"ops\"\nsecret = 1234567890123456\nscopes = [\"emit\"]",
            "[plugins.ping.config]\ntoken = 1234567890123456",
        ] {
            let error = load(text).unwrap_err();
            assert!(error.contains("expected text in quotes; the value is secret"), "{error}");
            assert!(!error.contains("1234567890123456"), "{error}");
        }
        // Syntax errors of the file, in the line of the secret.
        for text in [
            "[[keys]]\nname = \"ops\"\nsecret = \"1234567890123456\nscopes = [\"emit\"]",
            "[[keys]]\nsecret = \"a\"\nsecret = \"1234567890123456\"",
            "[[keys]]\nsecret = 1234567890123456 | x",
        ] {
            let error = load(text).unwrap_err();
            assert!(error.contains("line 3") || error.contains("line 2"), "{error}");
            assert!(!error.contains("1234567890123456"), "{error}");
        }
        // As from the environment, if the list is no TOML.
        for text in ["keys = \"1234567890123456\"", "[auth]\nkeys = \"[1234567890123456\""] {
            let error = load(text).unwrap_err();
            assert!(error.contains("the value is secret"), "{error}");
            assert!(!error.contains("1234567890123456"), "{error}");
        }
    }

    #[test]
    fn files_with_secrets_are_those_of_access_keys_of_tokens_and_of_deliveries() {
        let file = Path::new("sockhop.toml");
        let of = |key: &str| {
            let text =
                format!("[auth]\nmode = \"jwt\"\n[[auth.keys]]\nalgorithm = \"HS256\"\n{key}");
            let config = load(&text).unwrap();
            config.secret_files(Some(file)).into_iter().map(Path::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(of("secret_file = \"token.key\""), [Path::new("token.key")]);
        assert_eq!(of("secret = \"x\""), [file]);
        let of_origin = |secrets: &str| {
            let text =
                format!("[plugins.a]\noutbound = [{{ origin = \"https://a.test\", {secrets} }}]");
            let config = load(&text).unwrap();
            config.secret_files(Some(file)).into_iter().map(Path::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(of_origin("webhook_secrets_file = \"of_a\""), [Path::new("of_a")]);
        let secret = "webhook_secrets = [\"whsec_MDEyMzQ1Njc4OWFiY2RlZmdoaWprbG1u\"]";
        assert_eq!(of_origin(secret), [file]);
    }

    #[test]
    fn an_error_shows_a_value_so_that_its_fault_is_seen() {
        for (text, fault) in [
            ("[limits]\nmessage_bytes = 1000000.0", "found 1000000.0, expected a whole number"),
            ("[server]\nlisten = \"a\\\"b\"", "found \"a\\\"b\""),
        ] {
            let error = load(text).unwrap_err();
            assert!(error.contains(fault), "{error}");
        }
    }

    #[test]
    fn a_table_of_no_plugin_is_found_with_the_name_that_is_meant() {
        let config = load("[plugins.wavee]\n[plugins.wave]\n[plugins.billing]\n").unwrap();
        let tables = config.tables_without_plugin(&["connection", "wave"]);
        assert_eq!(tables, [("billing", None), ("wavee", Some("wave"))]);
    }

    #[test]
    fn the_keys_of_every_section_are_known_by_name() {
        for (section, key) in [
            ("server", "listen"),
            ("plugins", "dir"),
            ("data", "dir"),
            ("log", "filter"),
            ("limits", "event_cpu_ms"),
        ] {
            assert!(allowed_keys(section).contains(&key), "{section}: {:?}", allowed_keys(section));
        }
        assert!(SECTIONS.iter().all(|section| !allowed_keys(section).is_empty()));
    }

    #[test]
    fn a_wrong_key_or_value_is_named_with_what_is_allowed() {
        let cases = [
            (
                "[server]\nlisten = \"nonsense\"",
                "server.listen",
                "\"nonsense\", expected an address with a port",
            ),
            ("[server]\nport = 1", "server.port", "listen"),
            ("[serve]\n", "serve", "server"),
            (
                "[limits]\nevent_cpu_ms = 0",
                "limits.event_cpu_ms",
                "found 0, expected a whole number of at least 1",
            ),
            ("[limits]\nevent_cpu_ms = \"fast\"", "limits.event_cpu_ms", "\"fast\""),
            ("[plugins.ping]\ninstance_policy = \"hot\"", "plugins.ping.instance_policy", "warm"),
            ("[plugins.ping]\ncpu = 1", "plugins.ping.cpu", "instance_policy"),
            ("[plugins.ping]\nevent_cpu_ms = 0", "plugins.ping.event_cpu_ms", "at least 1"),
            ("[plugins.ping]\nmailbox_events = 5", "plugins.ping.mailbox_events", "event_cpu_ms"),
            (
                "[server]\nallowed_origins = [\"app.example.com\"]",
                "allowed_origins",
                "https://app.example.com",
            ),
            (
                "[server]\nallowed_origins = [\"https://x.example/\"]",
                "allowed_origins",
                "write \"https://x.example\"",
            ),
            ("[server]\nlisten = 4000", "server.listen", "found 4000, expected text in quotes"),
            ("server = 1", "server", "found 1, expected a table"),
            (
                "[plugins]\nrequired = \"ping\"",
                "plugins.required",
                "found \"ping\", expected a list",
            ),
            (
                "[contract]\npublic = \"yes\"",
                "contract.public",
                "found \"yes\", expected true or false",
            ),
            (
                "[limits]\noverflow_bytes = 16_777_216",
                "limits.overflow_bytes",
                "found 16777216, expected at least 16785408: 16 times",
            ),
            (
                "[limits]\nmailboxes_bytes = 6_000_000",
                "limits.mailboxes_bytes",
                "found 6000000, expected at least 6299648: 16 times",
            ),
            (
                "[limits]\nmailbox_bytes = 1",
                "limits.mailbox_bytes",
                "found 1, expected at least 393216: the largest message",
            ),
            (
                "[limits]\nstate_wal_bytes = 1",
                "limits.state_wal_bytes",
                "found 1, expected at least 1048576: as many bytes as one event may store \
                 (limits.effects_bytes)",
            ),
            (
                "[limits]\nstate_bytes = 1_048_575",
                "limits.state_bytes",
                "found 1048575, expected at least 1048576",
            ),
            (
                "[limits]\nbreaker_calls = 5_000_000_000",
                "limits.breaker_calls",
                "from 1 to 4294967295",
            ),
            ("[[events]]\nevent = \"$x\"", "events", "`$x`"),
            ("[[events]]\nevent = \"x\"\nrooms = [\"a{\"]", "events", "a{"),
            ("[[events]]\nevent = \"x\"", "events", "needs `rooms`"),
            ("[[events]]\nevent = \"x\"\nrooms = [\"*\"]", "events", "everyone = true"),
            ("[[events]]\nevent = \"x\"\nschema = \"x\"", "events", "schema_file"),
            ("[[rules]]\naccess = \"anyone\"", "rules", "`event` and `room`"),
            ("[[rules]]\nevent = \"x\"\naccess = \"owner\"", "rules", "one of rooms"),
            ("[[rules]]\nevent = \"x\"\naccess = \"all\"", "rules", "`anyone`"),
            ("[[rules]]\nevent = \"x\"\naccess = \"anyone\"\nobserved = true", "rules", "observe"),
            ("[[keys]]\nname = \"shop\"\nscopes = [\"emit\"]", "shop", "secret_file"),
            (
                "[[keys]]\nname = \"shop\"\nsecret = \"0123456789abcdef\"\nscopes = [\"emit\"]\n\
                 user = \"7\"",
                "shop",
                "route",
            ),
            (
                "[[keys]]\nname = \"shop\"\nsecret = \"0123456789abcdef\"\nscopes = [\"route\"]\n\
                 roles = [\"admin\"]",
                "shop",
                "need a `user`",
            ),
            (
                "[[keys]]\nname = \"shop\"\nsecret = \"0123456789abcdef\"\nscopes = [\"route\"]\n\
                 user = \"\"",
                "shop",
                "user",
            ),
            (
                "[[keys]]\nname = \"shop\"\nsecret = \"0123456789abcdef\"\nscopes = [\"fly\"]",
                "scopes",
                "operate",
            ),
            ("[server]\nnamespaces = [\"/\", \"/\"]", "server.namespaces", "twice"),
            ("[plugins]\ndirectory = \"x\"", "plugins.directory", "dir"),
            ("[plugins.Bad-Name]\n", "plugins.Bad-Name", "a table"),
            ("[log]\nfilter = \"a=b=c\"", "log.filter", "\"a=b=c\", expected a level"),
            (
                "[log]\nfilter = \"verbose\"",
                "log.filter",
                "\"verbose\", expected a level (off, error, warn, info, debug or trace)",
            ),
            ("[log]\nqueue_bytes = 100", "log.queue_bytes", "at least 65536"),
            ("[server]\nlisten = \"x\"\nupgrade = maybe", "TOML", "line 3"),
            ("[server\n", "line 1", "expected"),
        ];
        for (text, key, allowed) in cases {
            let error = load(text).unwrap_err();
            assert!(error.contains(key) && error.contains(allowed), "{text}: {error}");
        }
    }

    #[test]
    fn limits_that_contradict_each_other_are_found_in_the_table_of_a_plugin_too() {
        for (table, first, second) in [
            (
                "effects_bytes = 33_554_432",
                "limits.overflow_bytes: found 67108864, expected at least 536879104",
                "plugins.lab.effects_bytes",
            ),
            (
                "state_wal_bytes = 1",
                "plugins.lab.state_wal_bytes: found 1, expected at least 1048576",
                "plugins.lab.effects_bytes",
            ),
            ("state_bytes = 1", "plugins.lab.state_bytes: found 1, expected at least 1048576", ""),
        ] {
            let error = load(&format!("[plugins.ping]\n[plugins.lab]\n{table}")).unwrap_err();
            assert!(error.starts_with(first) && error.contains(second), "{table}: {error}");
        }
        load(
            "[limits]\noverflow_bytes = 536_879_104\nstate_wal_bytes = \
              33_554_432\n[plugins.lab]\neffects_bytes = 33_554_432",
        )
        .unwrap();
    }

    #[test]
    fn a_variable_overrides_a_key_and_is_named_if_it_is_wrong() {
        let load = |name: &str, value: &str| {
            let file = "[limits]\neffects = 7\nhandles = 9";
            Config::read_written(None, Some(file), vec![(name.to_owned(), value.to_owned())])
                .map(|(config, _)| config)
                .map_err(|error| error.to_string())
        };
        let limits = load("SOCKHOP_LIMITS__EFFECTS", "8").unwrap().limits;
        assert_eq!((limits.effects.get(), limits.handles.get()), (8, 9));
        let server = load("SOCKHOP_SERVER__NAMESPACES", "[\"/\", /chat]").unwrap().server;
        assert_eq!(server.namespaces, ["/", "/chat"]);
        let cases = [
            (
                "SOCKHOP_LIMITS__EFFECTS",
                "0",
                "SOCKHOP_LIMITS__EFFECTS (limits.effects): found 0, expected a whole number of at \
                 least 1",
            ),
            (
                "SOCKHOP_SERVER__LISTEN",
                "",
                "SOCKHOP_SERVER__LISTEN (server.listen): found \"\", expected an address",
            ),
            (
                "SOCKHOP_DATA__DIRECTORY",
                "x",
                "SOCKHOP_DATA__DIRECTORY (data.directory): unknown key; allowed here: dir",
            ),
            (
                "SOCKHOP_SERVER_LISTEN",
                "x",
                "SOCKHOP_SERVER_LISTEN: not read as a setting; write SOCKHOP_SERVER__LISTEN",
            ),
        ];
        for (name, value, wanted) in cases {
            let error = load(name, value).unwrap_err();
            assert!(error.starts_with(wanted), "{error}");
        }
    }
}
