//! Declares the event that its settings name.

#![allow(missing_docs, reason = "nobody reads it")]

use sockhop_sdk::{Context, Plugin, Refusal, Result, Settings};

const TEXT: &str = r#"{"type": "string"}"#;

fn configure(plugin: Plugin, settings: &Settings<'_>) -> Result<Plugin> {
    let names = settings.names();
    if let Some(unknown) = names.iter().find(|name| !["event", "greeting"].contains(&&***name)) {
        return Err(Refusal::new("unknown", format!("there is no setting `{unknown}`")));
    }
    let Some(event) = settings.get("event") else {
        return Err(Refusal::new("missing", "the setting `event` is missing"));
    };
    let greeting = settings.get("greeting").unwrap_or_default();
    let reply = move |_: &Context, name: &str| Ok(Some(format!("[\"{greeting}\",{name}]")));
    Ok(plugin.on_json(event, TEXT, Some(r#"{"type": "array"}"#.to_owned()), reply))
}

/// An event that no setting names.
fn fixed(_: &Context, _: ()) -> Result {
    Ok(())
}

fn plugin() -> Plugin {
    Plugin::new("configured", "1.0.0", "Declares what its settings name")
        .on("fixed", fixed)
        .configure(configure)
}

sockhop_sdk::export!(plugin);
