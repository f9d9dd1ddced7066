//! The settings in environment variables, and the variables that are misspelt settings:
//! `SOCKHOP_SERVER_LISTEN`, with one underscore instead of two.

use std::convert::Infallible;

use figment2::value::{Dict, Map, Value};
use figment2::{Error, Metadata, Profile, Provider};

/// Prefix of the environment variables that are read as settings: `SOCKHOP_SERVER__LISTEN` is
/// `server.listen`.
const PREFIX: &str = "SOCKHOP_";

/// Separates the tables and the key in the name of a variable.
const SEPARATOR: &str = "__";

/// The variables that are settings, as a source of values.
///
/// The library's own source is not used: it takes a number in a name for the index of a list.
pub(super) struct Environment {
    settings: Dict,
}

impl Environment {
    /// Takes the settings from `variables`; the others are ignored.
    pub(super) fn of(variables: impl IntoIterator<Item = (String, String)>) -> Self {
        let mut settings = Dict::new();
        for (name, text) in variables {
            if let Some(path) = without_prefix(&name).filter(|path| path.contains(SEPARATOR)) {
                insert(&mut settings, &path, value(text.trim()));
            }
        }
        Self { settings }
    }
}

impl Provider for Environment {
    fn metadata(&self) -> Metadata {
        Metadata::named(SOURCE)
    }

    fn data(&self) -> Result<Map<Profile, Dict>, Error> {
        Ok(Profile::Default.collect(self.settings.clone()))
    }
}

/// The name of this source in the errors of the library.
const SOURCE: &str = "environment";

/// Whether the value that caused `error` comes from a variable.
pub(super) fn has_caused(error: &Error) -> bool {
    error.metadata.as_ref().is_some_and(|metadata| metadata.name == SOURCE)
}

/// The variable that sets the key with the path `path`, such as `server.listen`.
pub(super) fn variable(path: &str) -> String {
    format!("{PREFIX}{}", path.to_uppercase().replace('.', SEPARATOR))
}

/// Sets the key that `path` names, and creates the tables around it.
fn insert(table: &mut Dict, path: &str, value: Value) {
    match path.split_once(SEPARATOR) {
        Some((name, rest)) => {
            let mut inner = table.remove(name).and_then(Value::into_dict).unwrap_or_default();
            insert(&mut inner, rest, value);
            table.insert(name.to_owned(), inner.into());
        }
        None => merge(table, path.to_owned(), value),
    }
}

/// Sets a key. Two tables become one, so that the order of the variables has no effect.
fn merge(table: &mut Dict, name: String, value: Value) {
    match (table.remove(&name).and_then(Value::into_dict), value) {
        (Some(mut inner), Value::Dict(_, added)) => {
            for (name, value) in added {
                merge(&mut inner, name, value);
            }
            table.insert(name, inner.into());
        }
        (_, value) => drop(table.insert(name, value)),
    }
}

/// Reads a value: a number, `true` or `false`, a list or a table as in TOML, or else text, which
/// needs no quotes. The library would take an empty text for a missing value.
fn value(text: &str) -> Value {
    if text.is_empty() {
        return Value::from(text);
    }
    text.parse().unwrap_or_else(|never: Infallible| match never {})
}

/// Names without a section that are read elsewhere: the key for the command line, and variables of
/// tests and tools.
const OTHERS: [&str; 3] = ["key", "bin", "guests_dir"];

/// Tools set this name, together with one of the others, for the directory of the plugins under
/// test. Alone, it is a misspelt `plugins.dir`.
const PLUGINS_OF_TOOLS: (&str, [&str; 2]) = ("plugins_dir", ["guests_dir", "bin"]);

/// The keys of sections that are tables themselves.
const TABLES: [&str; 2] = ["recovery", "jwks"];

/// Between a plugin's name and the name of one of its own settings.
const SETTINGS_OF_A_PLUGIN: &str = "_config_";

/// Returns the first of `names` that is a setting with underscores missing, and its correct
/// spelling. `keys_of` lists the keys of a section.
///
/// Other unknown names are no errors: for a service named `sockhop`, Kubernetes sets
/// `SOCKHOP_SERVICE_HOST`.
pub(super) fn misspelt<'a>(
    names: impl IntoIterator<Item = String>,
    sections: &[&str],
    keys_of: impl Fn(&str) -> Vec<&'a str>,
    keys_of_a_plugin: &[&str],
) -> Option<(String, String)> {
    let names: Vec<_> =
        names.into_iter().filter_map(|name| Some((without_separator(&name)?, name))).collect();
    let has = |wanted: &str| names.iter().any(|(setting, _)| setting == wanted);
    let is_of_tools = PLUGINS_OF_TOOLS.1.iter().any(|other| has(other));
    names.iter().find_map(|(setting, name)| {
        if OTHERS.contains(&setting.as_str())
            || setting.starts_with("test_")
            || (is_of_tools && setting == PLUGINS_OF_TOOLS.0)
        {
            return None;
        }
        let section =
            sections.iter().find(|section| setting.starts_with(&format!("{section}_")))?;
        let key = setting.get(section.len() + 1..)?;
        let keys = keys_of(section);
        let mut tables = TABLES.iter().filter(|table| keys.contains(table));
        let path = if keys.contains(&key) {
            format!("{section}.{key}")
        } else if let Some(inner) =
            tables.find_map(|table| key.strip_prefix(table)?.strip_prefix('_'))
        {
            let table = key.get(..key.len() - inner.len() - 1)?;
            format!("{section}.{table}.{inner}")
        } else if let Some((plugin, setting)) =
            key.split_once(SETTINGS_OF_A_PLUGIN).filter(|_| *section == "plugins")
        {
            format!("{section}.{plugin}.config.{setting}")
        } else {
            let own = keys_of_a_plugin
                .iter()
                .find(|own| *section == "plugins" && key.ends_with(&format!("_{own}")))?;
            format!("{section}.{}.{own}", key.strip_suffix(own)?.trim_end_matches('_'))
        };
        Some((name.clone(), variable(&path)))
    })
}

/// The rest of `name` after the prefix, in lower case. Returns `None` if the prefix is missing, or
/// if the name is a setting already.
fn without_separator(name: &str) -> Option<String> {
    without_prefix(name).filter(|rest| !rest.contains(SEPARATOR))
}

/// Whether the variable `name` is read as a setting.
pub(super) fn is_setting(name: &str) -> bool {
    without_prefix(name).is_some_and(|path| path.contains(SEPARATOR))
}

/// The rest of `name` after the prefix, in lower case. Returns `None` if the prefix is missing.
fn without_prefix(name: &str) -> Option<String> {
    let prefix = name.get(..PREFIX.len()).filter(|prefix| prefix.eq_ignore_ascii_case(PREFIX))?;
    Some(name.get(prefix.len()..)?.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(names: &[&str]) -> Option<String> {
        let names = names.iter().map(|name| (*name).to_owned());
        let keys_of = |section: &str| match section {
            "server" => vec!["listen", "allowed_origins", "recovery"],
            "plugins" => vec!["dir", "required"],
            _ => Vec::new(),
        };
        misspelt(names, &["server", "plugins"], keys_of, &["event_cpu_ms", "instances"])
            .map(|(_, right)| right)
    }

    #[test]
    fn a_setting_with_one_underscore_is_found_and_other_names_pass() {
        let found = |name: &str, right: &str| {
            assert_eq!(of(&["HOME", name]), Some(right.to_owned()), "{name}")
        };
        found("SOCKHOP_SERVER_LISTEN", "SOCKHOP_SERVER__LISTEN");
        found("sockhop_server_allowed_origins", "SOCKHOP_SERVER__ALLOWED_ORIGINS");
        found("SOCKHOP_PLUGINS_DIR", "SOCKHOP_PLUGINS__DIR");
        found(
            "SOCKHOP_PLUGINS_MEMORY_LOGS_EVENT_CPU_MS",
            "SOCKHOP_PLUGINS__MEMORY_LOGS__EVENT_CPU_MS",
        );
        found("SOCKHOP_SERVER_RECOVERY_SECONDS", "SOCKHOP_SERVER__RECOVERY__SECONDS");
        found("SOCKHOP_PLUGINS_WAVE_CONFIG_GREETING", "SOCKHOP_PLUGINS__WAVE__CONFIG__GREETING");
        for name in [
            "SOCKHOP_KEY",
            "SOCKHOP_BIN",
            "SOCKHOP_GUESTS_DIR",
            "SOCKHOP_TEST_SERVER_LISTEN",
            "SOCKHOP_SERVER__LISTEN",
        ] {
            assert_eq!(of(&[name]), None, "{name}");
        }
        for name in [
            "SOCKHOP_SERVICE_HOST",
            "SOCKHOP_PORT_4000_TCP",
            "SOCKHOP_SERVER_PORT",
            "SOCKHOP_",
            "SERVER_LISTEN",
            "É",
        ] {
            assert_eq!(of(&[name]), None, "{name}");
        }
        for other in ["SOCKHOP_GUESTS_DIR", "SOCKHOP_BIN"] {
            assert_eq!(of(&["SOCKHOP_PLUGINS_DIR", other]), None, "what `cargo xtask test` sets");
        }
    }

    #[test]
    fn a_name_with_two_underscores_sets_a_key_and_its_value_needs_no_quotes() {
        let of = |variables: &[(&str, &str)]| {
            let variables = variables.iter().map(|(name, text)| ((*name).into(), (*text).into()));
            Environment::of(variables).settings
        };
        let table = |key: &str, value: Value| Dict::from([(key.to_owned(), value)]);
        assert_eq!(of(&[("SOCKHOP_KEY", "x"), ("HOME", "/"), ("OTHER_A__B", "1")]), Dict::new());
        let set = |text: &str| {
            let mut set = of(&[("sockhop_Limits__X", text)]);
            set.remove("limits").and_then(|limits| limits.into_dict()?.remove("x")).unwrap()
        };
        assert_eq!(set(" 5 "), Value::from(5_u8));
        assert_eq!(set("true"), Value::from(true));
        assert_eq!(set(":4000"), Value::from(":4000"));
        assert_eq!(set("\"5\""), Value::from("5"));
        assert_eq!(set("[/, \"/chat\"]"), Value::from(vec!["/", "/chat"]));
        assert_eq!(set(""), Value::from(""));
        let config = of(&[
            ("SOCKHOP_PLUGINS__PING__CONFIG__1", "one"),
            ("SOCKHOP_PLUGINS__PING__CONFIG__A_B", "two"),
        ]);
        let keys = Dict::from([
            ("1".to_owned(), Value::from("one")),
            ("a_b".to_owned(), Value::from("two")),
        ]);
        let ping = table("ping", table("config", keys.into()).into());
        assert_eq!(config, table("plugins", ping.into()));
        let variables =
            [("SOCKHOP_A__B__ONE", "1"), ("SOCKHOP_A__B", "{two=2}"), ("SOCKHOP_A__B__THREE", "3")];
        let numbers = [("one", 1_u8), ("two", 2), ("three", 3)];
        let keys: Dict =
            numbers.map(|(name, number)| (name.to_owned(), Value::from(number))).into();
        assert_eq!(of(&variables), table("a", table("b", keys.into()).into()));
    }
}
