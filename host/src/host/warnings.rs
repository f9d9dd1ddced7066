//! Warnings at the start about settings that have no effect.

use crate::config::Config;
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
