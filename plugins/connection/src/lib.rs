//! Tells each new connection its own ids, user and the server time, and answers `ping`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Number;
use sockhop_sdk::{Context, Emits, Plugin, Result, Target};

/// Emitted to a new connection.
#[derive(Serialize, JsonSchema)]
struct Connected {
    /// The connection's own `socket.id`. No other client may see it.
    sid: String,
    /// The public id of the connection, which other clients may see.
    connection_id: String,
    /// Null for an anonymous client.
    user_id: Option<String>,
    #[schemars(extend("format" = "date-time"))]
    server_time: String,
}

#[derive(Deserialize, JsonSchema)]
struct Ping {
    /// The client's clock, in any unit. It is returned unchanged.
    timestamp: Number,
}

#[derive(Serialize, JsonSchema)]
struct Pong {
    timestamp: Number,
    #[schemars(extend("format" = "date-time"))]
    server_time: String,
}

const CONNECTED: Emits<Connected> = Emits::new("connected");
const PONG: Emits<Pong> = Emits::new("pong");

fn plugin() -> Plugin {
    Plugin::new("connection", env!("CARGO_PKG_VERSION"), "Greets new connections and answers pings")
        .on_connect(greet)
        .emits(CONNECTED)
        .on("ping", ping)
        .emits(PONG)
}

sockhop_sdk::export!(plugin);

fn greet(ctx: &Context) -> Result {
    let connected = Connected {
        sid: ctx.sid(),
        connection_id: ctx.connection().unwrap_or_default().to_owned(),
        user_id: ctx.user().map(str::to_owned),
        server_time: ctx.now(),
    };
    ctx.emit(Target::Sender, &CONNECTED, &connected)
}

fn ping(ctx: &Context, ping: Ping) -> Result<Pong> {
    let pong = Pong { timestamp: ping.timestamp, server_time: ctx.now() };
    ctx.emit(Target::Sender, &PONG, &pong)?;
    Ok(pong)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use sockhop_sdk::testing::{Effect, Outcome, TestHost};

    const NOW: &str = "2026-01-01T00:00:00.000Z";

    #[test]
    fn connecting_tells_the_newcomer_who_it_is() {
        let mut host = TestHost::new(plugin());
        let connected =
            json!({"sid": "sid-c1", "connection_id": "c1", "user_id": null, "server_time": NOW});
        let effects = vec![Effect::emit(Target::Sender, "connected", connected)];
        assert_eq!(host.connect(), Outcome { reply: Ok(json!(null)), effects });

        let connected =
            json!({"sid": "sid-c2", "connection_id": "c2", "user_id": "7", "server_time": NOW});
        let effects = vec![Effect::emit(Target::Sender, "connected", connected)];
        assert_eq!(
            host.connection("c2").user("7").connect(),
            Outcome { reply: Ok(json!(null)), effects }
        );
    }

    #[test]
    fn pinging_gives_the_timestamp_back_as_it_came() {
        let mut host = TestHost::new(plugin());
        for timestamp in [json!(1_767_225_600_123_u64), json!(0.5), json!(-7)] {
            let pong = json!({"timestamp": timestamp, "server_time": NOW});
            let effects = vec![Effect::emit(Target::Sender, "pong", pong.clone())];
            assert_eq!(
                host.handle("ping", json!({"timestamp": timestamp})),
                Outcome { reply: Ok(pong), effects }
            );
        }
    }

    #[test]
    fn pinging_without_a_number_is_an_invalid_payload() {
        let outcome = TestHost::new(plugin()).handle("ping", json!({"timestamp": "now"}));
        assert_eq!(
            outcome.reply.map_err(|refusal| refusal.code),
            Err("invalid_payload".to_owned())
        );
    }
}
