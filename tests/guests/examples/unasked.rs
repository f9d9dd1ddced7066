//! Reads the handshake of its caller without having asked for it.

#![allow(missing_docs, reason = "nobody reads it")]

use sockhop_sdk::{Context, Plugin, Result};

fn codes(ctx: &Context, _: ()) -> Result<Vec<String>> {
    let refused = [ctx.auth().map(drop), ctx.query().map(drop)];
    Ok(refused.into_iter().filter_map(Result::err).map(|refusal| refusal.code).collect())
}

fn plugin() -> Plugin {
    Plugin::new("unasked", "1.0.0", "Reads handshakes unasked").on("unasked", codes)
}

sockhop_sdk::export!(plugin);
