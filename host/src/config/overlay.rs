//! A configuration whose tables of plugins are overridden, for tests of plugins.

use std::collections::BTreeMap;
use std::path::Path;

use figment2::Figment;
use figment2::providers::{Format, Serialized, Toml};
use serde_json::{Map, Value, json};

use super::environment::Environment;
use super::plugins::plugin_tables;
use super::{Config, ConfigError, variables};

impl Config {
    /// Reads `file`, if there is one, and the environment, and then `plugins`: tables
    /// `[plugins.NAME]` by their names.
    ///
    /// # Errors
    /// Same as [`Config::load`]. If only the tables are wrong, the error names no file.
    pub fn load_with_plugins(
        file: Option<&Path>,
        plugins: &BTreeMap<String, Map<String, Value>>,
    ) -> Result<Self, ConfigError> {
        // What is wrong without the tables is told with the file.
        let config = Self::load(file)?;
        if plugins.is_empty() {
            return Ok(config);
        }
        let unreadable =
            |file: &Path, source| ConfigError::Unreadable { file: file.to_owned(), source };
        let read = |file| std::fs::read_to_string(file).map_err(|error| unreadable(file, error));
        let text = file.map(read).transpose()?.unwrap_or_default();
        let figment = Figment::from(Toml::string(&text))
            .merge(Environment::of(variables()?))
            .merge(Serialized::defaults(json!({"plugins": plugins})));
        let wrong = |error| ConfigError::wrong(None, error);
        let mut config: Self = figment.extract().map_err(wrong)?;
        config.plugins.by_name = plugin_tables(&figment).map_err(wrong)?;
        let checked = config.check();
        checked.map_err(|problem| ConfigError::Wrong { file: None, problem })?;
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_overrides_that_of_the_file_key_by_key() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("sockhop.toml");
        std::fs::write(&file, "[plugins.lab.config]\na = \"1\"\nb = \"1\"\n").unwrap();
        let plugins = |value: Value| serde_json::from_value(value).unwrap();
        let tables = plugins(json!({"lab": {"config": {"b": "2"}, "effects": 7}}));
        let config = Config::load_with_plugins(Some(&file), &tables).unwrap();
        let lab = config.of_plugin("lab");
        assert_eq!((lab.config["a"].as_str(), lab.config["b"].as_str()), ("1", "2"));
        assert_eq!(lab.limits.effects.get(), 7);
        let tables = plugins(json!({"lab": {"efects": 7}}));
        let error = Config::load_with_plugins(Some(&file), &tables).unwrap_err().to_string();
        assert!(error.contains("plugins.lab.efects"), "{error}");
    }
}
