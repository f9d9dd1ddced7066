//! The settings of a plugin, for declarations that depend on them.

use std::fmt;

use crate::host::SettingCalls;

/// The plugin's own settings, which an operator writes under `[plugins.NAME.config]`, for
/// [`Plugin::configure`](crate::Plugin::configure). All values are text.
pub struct Settings<'host>(pub(crate) &'host dyn SettingCalls);

impl Settings<'_> {
    /// Returns the setting `name`, or `None` if it is not set.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<String> {
        self.0.setting(name)
    }

    /// Returns the names of all settings, sorted. A plugin that refuses those that it does not know
    /// shows the operator a misspelt name.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let mut names = self.0.setting_names();
        names.sort_unstable();
        names
    }
}

/// The values may be secrets.
impl fmt::Debug for Settings<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Settings").field(&self.names()).finish()
    }
}
