//! Warnings, at the start and after a reload, about settings that have no effect, and about files
//! that too many can read.

use std::path::Path;

use crate::config::Config;
use crate::files;
use crate::registry::Generation;
use crate::reload::PluginStatus;

/// Warns of configuration tables for plugins that do not exist: a misspelt name would otherwise be
/// ignored silently.
pub(super) fn warn_of_tables_without_plugin(config: &Config, statuses: &[PluginStatus]) {
    let stems = statuses.iter().filter_map(|status| status.file.file_stem()?.to_str());
    let names: Vec<_> = statuses.iter().map(|status| status.name.as_str()).chain(stems).collect();
    for (table, nearest) in config.tables_without_plugin(&names) {
        match nearest {
            Some(nearest) => {
                tracing::warn!(
                    plugin = table,
                    nearest,
                    "a table `[plugins.NAME]` names no plugin; did you mean `nearest`?"
                )
            }
            None => tracing::warn!(
                plugin = table,
                "a table `[plugins.NAME]` names no plugin in the plugin directory"
            ),
        }
    }
}

/// Warns of rules that have no effect, because no plugin declares what they are about: a misspelt
/// name would otherwise leave an event open.
pub(super) fn warn_of_rules_without_subject(generation: &Generation) {
    for subject in generation.rules_without_subject() {
        tracing::warn!(%subject, "a rule in `[[rules]]` has no effect: no plugin declares this");
    }
}

/// Warns of each file of secrets that every user of the machine can access. Unlike the host's own
/// key, it is not refused: an operator may have put it where only some can look.
pub fn warn_of_open_secrets(config: &Config, file: Option<&Path>) {
    /// The permission bits of users who are neither the owner nor in the file's group.
    const OTHERS: u32 = 0o007;
    for file in config.secret_files(file) {
        // A file that is missing is an error later.
        if let Ok(Some(mode)) = files::mode(file)
            && mode & OTHERS != 0
        {
            tracing::warn!(
                file = %file.display(),
                mode = format!("{mode:o}"),
                "every user of this machine can access this file, which contains the secret of a \
                 key: run `chmod o=` on it"
            );
        }
    }
}
