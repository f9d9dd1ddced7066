//! What the operator declares: rules in place of those of plugins, and events that business systems
//! may emit.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::Value;
use sockhop_core::arguments::Arguments;
use sockhop_core::rule::OperatorRules;

use crate::config::Config;
use crate::contract::OutboundContract;
use crate::events::Outbound;
use crate::schema::{Schema, SchemaError};

/// The declarations of the operator.
#[derive(Debug, Default)]
pub struct OperatorSettings {
    /// The rules of events and rooms.
    pub(super) rules: OperatorRules,
    /// The events that business systems may emit, by name.
    pub(super) events: BTreeMap<String, OperatorEvent>,
}

/// An event that the operator declares.
#[derive(Debug)]
pub(super) struct OperatorEvent {
    pub(super) outbound: Outbound,
    /// The operator's schema. Without it, a plugin must declare the event.
    pub(super) schema: Option<Value>,
}

/// Why an event of the operator can't be used.
#[derive(Debug, thiserror::Error)]
pub enum OperatorSettingsError {
    /// The file of a schema can't be read.
    #[error("events: the schema of `{event}` in {} can't be read", file.display())]
    Unreadable {
        /// The event.
        event: String,
        /// The file.
        file: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A schema is refused.
    #[error("events: the schema of `{event}` in {} is refused", file.display())]
    Schema {
        /// The event.
        event: String,
        /// The file.
        file: PathBuf,
        /// Why it is refused.
        source: SchemaError,
    },
}

/// The schema of an event for which the operator gives none: a plugin's applies.
const ANYTHING: &str = "true";

impl OperatorSettings {
    /// Returns the events that business systems may emit because the operator says so, with the
    /// operator's schema or that of a plugin among `emits`, sorted by name.
    pub(super) fn contract(&self, emits: &[OutboundContract]) -> Vec<OutboundContract> {
        let events = self.events.iter().filter_map(|(event, declared)| {
            let of_plugin = emits.iter().find(|emit| emit.event == *event);
            let data = || Some(of_plugin?.data.clone());
            Some(OutboundContract {
                event: event.clone(),
                data: declared.schema.clone().or_else(data)?,
                arguments: of_plugin.map(|emit| emit.arguments).unwrap_or_default(),
                rooms: declared.outbound.rooms.clone(),
                everyone: declared.outbound.everyone,
            })
        });
        events.collect()
    }

    /// Reads the schemas that `config` names.
    ///
    /// # Errors
    /// A schema can't be read or used.
    pub fn load(config: &Config) -> Result<Self, OperatorSettingsError> {
        let max_bytes = config.limits.schema_bytes.get();
        let mut events = BTreeMap::new();
        for declared in &config.events {
            let event = &declared.event;
            let file = declared.schema_file.clone().unwrap_or_default();
            let text = match &declared.schema_file {
                None => ANYTHING.to_owned(),
                Some(file) => std::fs::read_to_string(file).map_err(|source| {
                    let (event, file) = (event.clone(), file.clone());
                    OperatorSettingsError::Unreadable { event, file, source }
                })?,
            };
            let schema = Schema::compile(&text, max_bytes).map_err(|source| {
                OperatorSettingsError::Schema { event: event.clone(), file, source }
            })?;
            let outbound = Outbound {
                data: Arc::new(schema),
                // The declaration of a plugin comes first.
                arguments: Arguments::One,
                // Checked with the configuration.
                rooms: declared.patterns().unwrap_or_default(),
                everyone: declared.everyone,
            };
            // It is JSON, because it was compiled.
            let schema =
                declared.schema_file.as_ref().and_then(|_| serde_json::from_str(&text).ok());
            events.insert(event.clone(), OperatorEvent { outbound, schema });
        }
        Ok(Self { rules: config.operator_rules(), events })
    }
}
