//! The difference between two configurations, by the names of their keys, and which changes a
//! running host can apply.

use std::collections::BTreeMap;
use std::path::Path;

use figment2::Figment;
use figment2::providers::{Format, Toml};
use serde::Serialize;
use serde_json::Value;

use super::{Config, ServerConfig, is_secret, limits};

/// The keys that only a start reads, besides those of `limits`. A table stands for all its keys.
const NEEDS_RESTART: &[&str] = &[
    "server.listen",
    "server.namespaces",
    "server.allowed_headers",
    "server.trusted_proxies",
    "server.proxy_header",
    "server.socketio",
    "server.ping_interval_ms",
    "server.ping_timeout_ms",
    "server.transports",
    "server.upgrade",
    "server.recovery",
    "plugins.dir",
    "plugins.rescan_s",
    "plugins.empty_after_s",
    "plugins.forget_after_s",
    "admin",
    "data",
    "auth.mode",
    "outbound.at_once",
    "outbound.memory_bytes",
    "log.format",
    "log.queue_bytes",
    "log.collapse",
];

/// A table that only a start adds or removes. Its keys may change while the host runs.
const ADDED_AT_START: &str = "server.tls";

/// The settings as they are written: in the file and in the environment, and else the defaults.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct WrittenSettings(BTreeMap<String, Value>);

/// A key whose value differs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Change {
    /// The path of the key, such as `limits.event_cpu_ms`. A list of tables, such as `keys`, is one
    /// key.
    pub key: String,
    /// The value before; `null` if the key was not set, or if its value is or holds a secret.
    pub from: Value,
    /// The value after it, likewise.
    pub to: Value,
    /// Whether the change has no effect before the host starts again.
    pub needs_restart: bool,
}

impl WrittenSettings {
    pub(super) fn of(settings: &Figment) -> Self {
        // The example file sets every key that has a default to that default.
        let defaults = Figment::from(Toml::string(include_str!("../../sockhop.example.toml")));
        let mut values = BTreeMap::new();
        for source in [&defaults, settings] {
            if let Ok(value) = source.extract::<Value>() {
                flatten(&mut Vec::new(), value, &mut values);
            }
        }
        Self(values)
    }

    /// Removes a key that an argument of the command overrides.
    pub fn remove(&mut self, key: &str) {
        self.0.remove(key);
    }

    /// Takes the values of `after`, except those of the `changes` that need a restart.
    pub(crate) fn apply(&mut self, after: Self, changes: &[Change]) {
        let before = std::mem::replace(self, after);
        for change in changes.iter().filter(|change| change.needs_restart) {
            match before.0.get(&change.key) {
                Some(value) => drop(self.0.insert(change.key.clone(), value.clone())),
                None => drop(self.0.remove(&change.key)),
            }
        }
    }

    /// Returns the keys whose values differ in `after`, in the order of their names.
    pub fn changes(&self, after: &Self) -> Vec<Change> {
        let mut keys: Vec<_> = self.0.keys().chain(after.0.keys()).collect();
        keys.sort_unstable();
        keys.dedup();
        let differ = keys.into_iter().filter(|key| self.0.get(*key) != after.0.get(*key));
        let change = |key: &String| {
            let path: Vec<_> = key.split('.').map(str::to_owned).collect();
            let show = |settings: &Self| match settings.0.get(key) {
                Some(value) if !is_secret(&path) => value.clone(),
                Some(value) if path.last().is_some_and(|last| last == "outbound") => {
                    without_secrets(value)
                }
                Some(_) | None => Value::Null,
            };
            let is_in_both = self.0.contains_key(key) && after.0.contains_key(key);
            Change {
                from: show(self),
                to: show(after),
                needs_restart: needs_restart(key) || (is_below(key, ADDED_AT_START) && !is_in_both),
                key: key.clone(),
            }
        };
        let mut changes: Vec<Change> = differ.map(change).collect();
        // Without the mode, the other keys mean nothing: see `applied_to`.
        if changes.iter().any(|change| change.key == "auth.mode") {
            let of_auth = changes.iter_mut().filter(|change| is_below(&change.key, "auth"));
            of_auth.for_each(|change| change.needs_restart = true);
        }
        changes
    }
}

/// Returns the origins of a plugin without the secrets of their deliveries.
fn without_secrets(origins: &Value) -> Value {
    let Value::Array(origins) = origins else { return Value::Null };
    let mut origins = origins.clone();
    for origin in origins.iter_mut().filter_map(Value::as_object_mut) {
        if let Some(secrets) = origin.get_mut("webhook_secrets") {
            *secrets = Value::Null;
        }
    }
    Value::Array(origins)
}

/// Writes each value of `value`, which is at `path`, into `values` under its own path.
fn flatten(path: &mut Vec<String>, value: Value, values: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                path.push(name);
                flatten(path, value, values);
                path.pop();
            }
        }
        value => drop(values.insert(path.join("."), value)),
    }
}

/// Whether a running host can't apply a change of this key.
fn needs_restart(key: &str) -> bool {
    let limit = match key.split('.').collect::<Vec<_>>().as_slice() {
        ["limits", limit] | ["plugins", _, limit] => limits::NEEDS_RESTART.contains(limit),
        _ => false,
    };
    limit || NEEDS_RESTART.iter().any(|restart| *restart == key || is_below(key, restart))
}

fn is_below(key: &str, table: &str) -> bool {
    key.strip_prefix(table).is_some_and(|rest| rest.starts_with('.'))
}

impl Config {
    /// Returns what of this configuration a host that runs with `old` can apply: the keys that need
    /// a restart keep their values.
    ///
    /// # Errors
    /// The result would be no valid configuration: the changes depend on a restart.
    pub fn applied_to(&self, old: &Self) -> Result<Self, String> {
        let mut applied = self.clone();
        applied.server = ServerConfig {
            allowed_origins: self.server.allowed_origins.clone(),
            // `ADDED_AT_START`
            tls: old.server.tls.as_ref().map(|old| self.server.tls.as_ref().unwrap_or(old).clone()),
            ..old.server.clone()
        };
        applied.plugins.dir.clone_from(&old.plugins.dir);
        applied.plugins.rescan_s = old.plugins.rescan_s;
        applied.plugins.empty_after_s = old.plugins.empty_after_s;
        applied.plugins.forget_after_s = old.plugins.forget_after_s;
        applied.admin = old.admin.clone();
        applied.data = old.data.clone();
        applied.outbound.at_once = old.outbound.at_once;
        applied.outbound.memory_bytes = old.outbound.memory_bytes;
        applied.log = old.log.clone();
        applied.log.filter = self.log.filter.clone();
        // Without the mode, the other keys mean nothing.
        if applied.auth.mode != old.auth.mode {
            applied.auth = old.auth.clone();
        }
        applied.limits.keep_until_restart(&old.limits);
        let names = self.plugins.by_name.keys().chain(old.plugins.by_name.keys());
        applied.plugins.by_name = names
            .map(|name| {
                let mut settings = self.of_plugin(name);
                settings.limits.keep_until_restart(&old.of_plugin(name).limits);
                (name.clone(), settings)
            })
            .collect();
        applied.check().map_err(|problem| format!("not possible without a restart: {problem}"))?;
        Ok(applied)
    }

    /// Reads `text` in place of the configuration file `file`, and the environment. Reads no other
    /// file.
    ///
    /// # Errors
    /// Same as [`Config::load`].
    pub fn parse(
        file: Option<&Path>,
        text: &str,
    ) -> Result<(Self, WrittenSettings), super::ConfigError> {
        Self::read_written(file, Some(text), super::variables()?)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(text: &str) -> (Config, WrittenSettings) {
        Config::read_written(None, Some(text), Vec::new()).unwrap()
    }

    /// Every key of the example file, with another value than its default.
    fn other_values() -> Vec<(String, String)> {
        let own = [
            ("server.listen", "\":5000\""),
            ("server.namespaces", "[\"/\", \"/b\"]"),
            ("server.allowed_origins", "[\"https://app.example.com\"]"),
            ("server.trusted_proxies", "[\"10.0.0.0/8\"]"),
            ("server.proxy_header", "\"forwarded\""),
            ("server.socketio", "\"socketioxide\""),
            ("server.transports", "[\"websocket\"]"),
            ("plugins.dir", "\"other\""),
            ("plugins.required", "[\"a\"]"),
            ("data.dir", "\"other\""),
            ("log.filter", "\"debug\""),
            ("log.format", "\"json\""),
            ("auth.user_claim", "\"name\""),
            ("auth.roles_claim", "\"groups\""),
            ("auth.grace_ms", "1000"),
            // Larger or smaller, so that the keys that depend on each other still fit.
            ("limits.overflow_bytes", "100000000"),
            ("limits.mailbox_bytes", "3000000"),
            ("limits.state_wal_bytes", "20000000"),
        ];
        let (_, WrittenSettings(defaults)) = read("");
        let other = |(key, value): (&String, &Value)| {
            let own =
                own.iter().find(|(name, _)| name == key).map(|(_, value)| (*value).to_owned());
            let text = own.unwrap_or_else(|| match value {
                Value::Number(number) => (number.as_u64().unwrap() + 1).to_string(),
                Value::Bool(is_set) => (!is_set).to_string(),
                value => format!("(no other value for {key}: {value})"),
            });
            (key.clone(), text)
        };
        // Other modes need keys, of which there is a test below.
        defaults.iter().filter(|(key, _)| *key != "auth.mode").map(other).collect()
    }

    #[test]
    fn a_key_is_either_applied_or_said_to_need_a_restart() {
        let (old, before) = read("");
        for (key, value) in other_values() {
            let (new, after) = read(&format!("{key} = {value}"));
            let [change] = before.changes(&after).try_into().expect(&key);
            assert_eq!(change.key, key);
            let applied = new.applied_to(&old).expect(&key);
            let mut expected = if change.needs_restart { old.clone() } else { new.clone() };
            assert_ne!(new, old, "{key}");
            expected.plugins.by_name.clone_from(&applied.plugins.by_name);
            assert_eq!(applied, expected, "{key}");
        }
    }

    #[test]
    fn the_keys_that_need_a_restart_exist() {
        let (_, WrittenSettings(defaults)) = read("");
        let without_default =
            ["server.allowed_headers", "server.recovery", "admin", "limits.connections"];
        let limits = limits::NEEDS_RESTART.iter().map(|limit| format!("limits.{limit}"));
        for key in NEEDS_RESTART.iter().map(|key| (*key).to_owned()).chain(limits) {
            let is_known = defaults.keys().any(|known| {
                *known == key || known.strip_prefix(&key).is_some_and(|rest| rest.starts_with('.'))
            });
            let is_optional =
                without_default.contains(&key.as_str()) || key == "limits.connections_per_network";
            assert!(is_known || is_optional, "{key}");
        }
    }

    #[test]
    fn the_files_of_tls_change_without_a_restart_but_not_whether_there_is_tls() {
        let tls = |certificate: &str| {
            read(&format!("[server.tls]\ncertificate_file = \"{certificate}\"\nkey_file = \"key\""))
        };
        let ((plain, of_plain), (first, of_first), (second, of_second)) =
            (read(""), tls("1"), tls("2"));
        assert_eq!(second.applied_to(&first).unwrap(), second);
        let [change] = of_first.changes(&of_second).try_into().unwrap();
        assert!(change.key == "server.tls.certificate_file" && !change.needs_restart);
        for ((old, before), (new, after)) in
            [((&plain, &of_plain), (&first, &of_first)), ((&first, &of_first), (&plain, &of_plain))]
        {
            assert_eq!(new.applied_to(old).unwrap(), *old);
            let changes = before.changes(after);
            assert!(changes.len() == 2 && changes.iter().all(|change| change.needs_restart));
        }
    }

    #[test]
    fn a_plugin_keeps_what_its_open_state_was_given() {
        let (old, before) = read("[plugins.a]\nstate_bytes = 9000000\nevent_cpu_ms = 7");
        let (new, after) = read("[limits]\nevent_cpu_ms = 9");
        let changes = before.changes(&after);
        let names: Vec<_> =
            changes.iter().map(|change| (change.key.as_str(), change.needs_restart)).collect();
        let expected = [
            ("limits.event_cpu_ms", false),
            ("plugins.a.event_cpu_ms", false),
            ("plugins.a.state_bytes", true),
        ];
        assert_eq!(names, expected);
        let applied = new.applied_to(&old).unwrap();
        let limits = applied.of_plugin("a").limits;
        assert_eq!((limits.state_bytes.get(), limits.event_cpu_ms.as_millis()), (9_000_000, 9));
        for plugin in ["a", "b"] {
            assert!(!applied.of_plugin(plugin).is_same_for_plugin(&old.of_plugin(plugin)));
        }
        let (other, _) = read("[limits]\nkeep_alive_ms = 9");
        assert!(other.of_plugin("a").is_same_for_plugin(&Config::default().of_plugin("a")));
    }

    #[test]
    fn a_change_shows_no_secret() {
        let text = |secret: &str| {
            format!(
                "[[keys]]\nname = \"shop\"\nsecret = \"{secret}\"\nscopes = [\"emit\"]\n\
                 [plugins.a.config]\npassword = \"{secret}\"\n\
                 [auth]\nmode = \"jwt\"\n[[auth.keys]]\nalgorithm = \"HS256\"\nsecret = \"{secret}\""
            )
        };
        let [(old, before), (new, after)] =
            ['1', '2'].map(|sign| read(&text(&sign.to_string().repeat(40))));
        let changes = before.changes(&after);
        let keys: Vec<_> = changes.iter().map(|change| change.key.as_str()).collect();
        assert_eq!(keys, ["auth.keys", "keys", "plugins.a.config.password"]);
        assert!(!serde_json::to_string(&changes).unwrap().contains("11111"));
        assert_eq!(new.applied_to(&old).unwrap().auth, new.auth);
        // The mode stays until a restart, and with it what it needs.
        let (anonymous, of_anonymous) = read("");
        assert_eq!(anonymous.applied_to(&old).unwrap().auth, old.auth);
        let mut changes = before.changes(&of_anonymous);
        changes.retain(|change| change.key.starts_with("auth."));
        assert!(changes.len() == 2 && changes.iter().all(|change| change.needs_restart));
    }

    #[test]
    fn a_change_of_origins_shows_them_without_their_secrets() {
        let of = |origins: &str| read(&format!("[plugins.a]\noutbound = [{origins}]")).1;
        let secret = "whsec_MDEyMzQ1Njc4OWFiY2RlZmdoaWprbG1u";
        let (before, after) = (
            of("\"https://a.test\""),
            of(&format!("{{ origin = \"https://b.test\", webhook_secrets = [\"{secret}\"] }}")),
        );
        let [change] = before.changes(&after).try_into().unwrap();
        assert_eq!(change.key, "plugins.a.outbound");
        let to = json!([{"origin": "https://b.test", "webhook_secrets": null}]);
        assert_eq!((change.from, change.to), (json!(["https://a.test"]), to));
    }

    #[test]
    fn a_configuration_that_fits_only_after_a_restart_is_refused() {
        let large = "[limits]\nmailbox_bytes = 9000000\nmessage_bytes = 6000000";
        let (old, _) = read(large);
        let problem = Config::default().applied_to(&old).unwrap_err();
        assert!(problem.contains("restart") && problem.contains("limits.mailbox"), "{problem}");
    }
}
