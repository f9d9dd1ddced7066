//! The secrets that sign the deliveries of each plugin to each of its origins.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config::{Config, ListedOrigin, WebhookSecret};

/// The most bytes of a file with secrets.
const MAX_FILE: u64 = 64 << 10;

/// Why the secrets of an origin can't be used.
#[derive(Debug, thiserror::Error)]
pub enum SecretsError {
    /// The file can't be read.
    #[error("plugins.{plugin}.outbound: can't read the secrets of {origin} in {}", file.display())]
    Unreadable {
        /// The plugin.
        plugin: String,
        /// The origin.
        origin: String,
        /// The file.
        file: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The file does not contain what it should.
    #[error("plugins.{plugin}.outbound: {origin} is listed with {}: {problem}", file.display())]
    Unusable {
        /// The plugin.
        plugin: String,
        /// The origin.
        origin: String,
        /// The file.
        file: PathBuf,
        /// What is wrong, and what is expected.
        problem: String,
    },
}

/// The secrets by plugin and origin.
#[derive(Debug, Default)]
pub(super) struct Secrets(HashMap<(String, String), Arc<[WebhookSecret]>>);

impl Secrets {
    /// Reads the secrets that a configuration names. Blocks.
    ///
    /// # Errors
    /// A file can't be read, or has something else in it.
    pub(super) fn read(config: &Config) -> Result<Self, SecretsError> {
        let mut all = HashMap::new();
        for (plugin, settings) in &config.plugins.by_name {
            for listed in settings.outbound.iter().filter(|listed| listed.takes_deliveries()) {
                let secrets = match listed.webhook_secrets_file() {
                    Some(file) => of_file(plugin, listed, file)?,
                    None => listed.webhook_secrets().to_vec(),
                };
                // If an origin is listed twice, its first entry applies, as elsewhere.
                let place = (plugin.clone(), listed.text());
                all.entry(place).or_insert_with(|| secrets.into());
            }
        }
        Ok(Self(all))
    }

    /// Returns the secrets of a plugin for an origin; `None` if there are none.
    pub(super) fn of(&self, plugin: &str, origin: &str) -> Option<Arc<[WebhookSecret]>> {
        self.0.get(&(plugin.to_owned(), origin.to_owned())).cloned()
    }
}

fn of_file(
    plugin: &str,
    listed: &ListedOrigin,
    file: &Path,
) -> Result<Vec<WebhookSecret>, SecretsError> {
    let (plugin, origin, name) = (plugin.to_owned(), listed.text(), file.to_owned());
    let mut text = String::new();
    if let Err(source) =
        File::open(file).and_then(|file| file.take(MAX_FILE).read_to_string(&mut text))
    {
        return Err(SecretsError::Unreadable { plugin, origin, file: name, source });
    }
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    WebhookSecret::parse_all(lines).map_err(|problem| SecretsError::Unusable {
        plugin,
        origin,
        file: name,
        problem,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "whsec_MDEyMzQ1Njc4OWFiY2RlZmdoaWprbG1u";

    fn config(rest: &str) -> Config {
        let text = format!("[plugins.a]\noutbound = [{{ origin = \"https://a.test\", {rest} }}]");
        Config::parse(None, &text).unwrap().0
    }

    #[test]
    fn secrets_are_in_the_configuration_or_in_a_file_with_one_in_each_line() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("secrets");
        std::fs::write(&file, format!("{SECRET}\n\n  {SECRET}\n")).unwrap();
        let of_file = format!("webhook_secrets_file = {:?}", file.display().to_string());
        let own = format!("webhook_secrets = [\"{SECRET}\"]");
        for (rest, expected) in
            [(&own, Some(1)), (&of_file, Some(2)), (&"private = true".into(), None)]
        {
            let secrets = Secrets::read(&config(rest)).unwrap();
            let found = secrets.of("a", "https://a.test");
            assert_eq!(found.map(|found| found.len()), expected, "{rest}");
            assert!(secrets.of("b", "https://a.test").is_none());
        }
        std::fs::write(&file, "whsec_MDEy\n").unwrap();
        let error = Secrets::read(&config(&of_file)).unwrap_err().to_string();
        assert!(error.contains("number 1 is no secret") && !error.contains("MDEy"), "{error}");
        std::fs::remove_file(&file).unwrap();
        let error = Secrets::read(&config(&of_file)).unwrap_err().to_string();
        assert!(error.contains("can't read") && error.contains("https://a.test"), "{error}");
    }
}
