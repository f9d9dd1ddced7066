//! Tries to send an HTTP request while it registers, and declares an event named after the result.

#![allow(missing_docs, reason = "nobody reads it")]

use sockhop_sdk::{Context, Plugin, Result};

#[cfg(target_family = "wasm")]
fn result() -> String {
    use sockhop_sdk::bindings::generated::sockhop::plugin::http::{Request, send};
    let request = Request {
        method: "GET".to_owned(),
        url: "http://127.0.0.1:9/".to_owned(),
        headers: Vec::new(),
        body: Vec::new(),
        timeout_ms: None,
    };
    send(&request).map_or_else(|refusal| refusal.code, |response| response.status.to_string())
}

#[cfg(not(target_family = "wasm"))]
fn result() -> String {
    "native".to_owned()
}

fn ping(_: &Context, _: ()) -> Result {
    Ok(())
}

fn plugin() -> Plugin {
    let event = format!("register_{}", result());
    Plugin::new("caller_registers", "1.0.0", "Sends while it registers").on(event, ping)
}

sockhop_sdk::export!(plugin);
