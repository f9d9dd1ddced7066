//! `[plugins]`: which plugins are served, and the settings of single plugins.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use figment2::Figment;
use figment2::providers::Serialized;
use figment2::value::{Dict, Value};
use serde::{Deserialize, de};
use sockhop_core::name::is_plugin_name;

use super::limits::{self, Limits};
use super::outbound::ListedOrigin;

/// The keys of `[plugins]` that are not the table of a plugin.
pub(super) use sockhop_core::name::RESERVED_PLUGIN_NAMES as KEYS_OF_PLUGINS;

/// `[plugins]`, with a table `[plugins.NAME]` for each plugin that has settings of its own.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default)]
pub struct PluginsConfig {
    /// The directory whose `.wasm` files are loaded.
    pub dir: PathBuf,
    /// Names of the plugins that must serve before the host is ready.
    pub required: Vec<String>,
    /// Interval, in seconds, of the scans that find changes without a notification of the system.
    #[serde(deserialize_with = "limits::seconds")]
    pub rescan_s: Duration,
    /// Seconds that the directory must stay empty before its plugins are removed.
    #[serde(deserialize_with = "limits::seconds")]
    pub empty_after_s: Duration,
    /// Seconds after which a plugin without a file is forgotten, with the decisions about it.
    #[serde(deserialize_with = "limits::seconds")]
    pub forget_after_s: Duration,
    /// The settings of the plugins that have a table, by name.
    #[serde(skip)]
    pub by_name: BTreeMap<String, PluginSettings>,
}

impl Default for PluginsConfig {
    fn default() -> Self {
        Self {
            dir: PathBuf::from("plugins"),
            required: Vec::new(),
            rescan_s: Duration::from_secs(30),
            // Longer than a volume takes to be mounted again, or a deployment takes to delete a
            // directory and to fill it.
            empty_after_s: Duration::from_secs(10),
            // 30 days: longer than a plugin is missing by mistake.
            forget_after_s: Duration::from_secs(30 * 24 * 60 * 60),
            by_name: BTreeMap::new(),
        }
    }
}

/// `[plugins.NAME]`: the settings of one plugin.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PluginSettings {
    /// Whether instances are reused.
    pub instance_policy: InstancePolicy,
    /// The keys and values that the plugin reads from `wasi:config/store`.
    pub config: BTreeMap<String, String>,
    /// The origins to which the plugin may send HTTP requests.
    pub outbound: Vec<ListedOrigin>,
    /// The limits of `[limits]`, overridden by those of this table.
    pub limits: Limits,
}

impl PluginSettings {
    /// Whether a plugin runs in the same way under these settings as under `others`.
    pub(crate) fn is_same_for_plugin(&self, others: &Self) -> bool {
        (self.instance_policy, &self.config, &self.outbound)
            == (others.instance_policy, &others.config, &others.outbound)
            && !self.limits.differ_for_plugins(&others.limits)
    }

    /// Reads a plugin's table, which overrides `[limits]`.
    #[allow(
        clippy::result_large_err,
        reason = "once at the start, and the library's own error says what is wrong best"
    )]
    fn read(limits: &Dict, table: &Dict) -> Result<Self, figment2::Error> {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Own {
            instance_policy: InstancePolicy,
            config: BTreeMap<String, String>,
            outbound: Vec<ListedOrigin>,
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
        let Own { instance_policy, config, outbound } = own;
        Ok(Self { instance_policy, config, outbound, limits })
    }
}

/// The keys of `[plugins.NAME]` that are not limits.
const OWN_KEYS: [&str; 3] = ["instance_policy", "config", "outbound"];

/// Whether an instance of a plugin serves one event or many.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InstancePolicy {
    /// An instance is reused, one event at a time. What a handler keeps in memory is a cache that
    /// may be lost at any time.
    #[default]
    Warm,
    /// Each event has a new instance: nothing of an earlier event is left. An event costs some ten
    /// microseconds more.
    Fresh,
}

/// Reads the tables `[plugins.NAME]`, which are in the same table as the keys of `[plugins]`.
#[allow(
    clippy::result_large_err,
    reason = "once at the start, and the library's own error says what is wrong best"
)]
pub(super) fn plugin_tables(
    figment: &Figment,
) -> Result<BTreeMap<String, PluginSettings>, figment2::Error> {
    let dict =
        |path: &str| figment.find_value(path).ok().and_then(Value::into_dict).unwrap_or_default();
    let limits = dict("limits");
    let mut tables = BTreeMap::new();
    for (name, value) in
        dict("plugins").into_iter().filter(|(name, _)| !KEYS_OF_PLUGINS.contains(&name.as_str()))
    {
        let table = match value {
            Value::Dict(_, table) if is_plugin_name(&name) => table,
            _ => {
                const ALLOWED: &[&str] = &[
                    "dir",
                    "required",
                    "rescan_s",
                    "empty_after_s",
                    "forget_after_s",
                    "NAME ([a-z][a-z0-9_]*, a table)",
                ];
                let error: figment2::Error = de::Error::unknown_field(&name, ALLOWED);
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
