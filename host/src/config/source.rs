//! Where a host reads its configuration, at its start and again while it runs.

use std::path::PathBuf;

use super::{Config, ConfigError, Listen, WrittenSettings};

/// Where a host reads its configuration: a file, the environment and the arguments of its command,
/// which override both.
#[derive(Debug, Clone, Default)]
pub struct ConfigSource {
    /// The file that was named.
    pub file: Option<PathBuf>,
    /// The file that is read if none was named and this one exists.
    pub default_file: Option<PathBuf>,
    /// The address to listen on.
    pub listen: Option<Listen>,
    /// The plugin directory.
    pub plugins: Option<PathBuf>,
    /// The data directory.
    pub data: Option<PathBuf>,
}

impl ConfigSource {
    /// The file that is read, if there is one now.
    pub fn file(&self) -> Option<PathBuf> {
        let default = || self.default_file.clone().filter(|file| file.is_file());
        self.file.clone().or_else(default)
    }

    /// Reads the configuration.
    ///
    /// # Errors
    /// Same as [`Config::load`].
    pub fn load(&self) -> Result<(Config, WrittenSettings), ConfigError> {
        Config::load_written(self.file().as_deref()).map(|loaded| self.overriding(loaded))
    }

    /// Reads `text` in place of the file, and no other file.
    ///
    /// # Errors
    /// Same as [`Config::load`].
    pub fn parse(&self, text: &str) -> Result<(Config, WrittenSettings), ConfigError> {
        Config::parse(None, text).map(|loaded| self.overriding(loaded))
    }

    fn overriding(
        &self,
        (mut config, mut written): (Config, WrittenSettings),
    ) -> (Config, WrittenSettings) {
        if let Some(listen) = &self.listen {
            config.server.listen = listen.clone();
            written.remove("server.listen");
        }
        if let Some(plugins) = &self.plugins {
            config.plugins.dir.clone_from(plugins);
            written.remove("plugins.dir");
        }
        if let Some(data) = &self.data {
            config.data.dir.clone_from(data);
            written.remove("data.dir");
        }
        (config, written)
    }
}
