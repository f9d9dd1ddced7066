//! Joins connections to the rooms that they ask for. Clients subscribe to *event types*, and an
//! event type is a room that a loaded plugin declares.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sockhop_sdk::{Access, Context, Plugin, Refusal, Result};

#[derive(Deserialize, JsonSchema)]
struct Subscription {
    /// The name of a room, or `user` for the caller's own room.
    event_type: String,
}

#[derive(Serialize, JsonSchema)]
struct Answer {
    status: Status,
    event_type: String,
    /// The room of the event type.
    room: String,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Status {
    Subscribed,
    Unsubscribed,
}

fn plugin() -> Plugin {
    Plugin::new(
        "subscription",
        env!("CARGO_PKG_VERSION"),
        "Puts connections into the rooms that they ask for",
    )
    .room("user_{user}", Access::Owner)
    .room("admin", Access::Role("admin"))
    .on("subscribe_event", subscribe)
    .on("unsubscribe_event", unsubscribe)
}

sockhop_sdk::export!(plugin);

fn subscribe(ctx: &Context, Subscription { event_type }: Subscription) -> Result<Answer> {
    let room = room_of(ctx, &event_type)?;
    // The host knows which rooms exist and who can join them, so `forbidden` is passed on
    // unchanged.
    ctx.join(&room).map_err(|refusal| match refusal.code.as_str() {
        "unknown_room" => {
            Refusal::new("unknown_event_type", format!("there is no event type `{event_type}`"))
        }
        _ => refusal,
    })?;
    Ok(Answer { status: Status::Subscribed, event_type, room })
}

fn unsubscribe(ctx: &Context, Subscription { event_type }: Subscription) -> Result<Answer> {
    let room = room_of(ctx, &event_type)?;
    ctx.leave(&room)?;
    Ok(Answer { status: Status::Unsubscribed, event_type, room })
}

/// Returns the room of an event type.
fn room_of(ctx: &Context, event_type: &str) -> Result<String> {
    match (event_type, ctx.user()) {
        ("user", Some(user)) => Ok(format!("user_{user}")),
        ("user", None) => Err(Refusal::forbidden(
            "an anonymous client has no room of its own; connect with a token",
        )),
        (room, _) => Ok(room.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use sockhop_sdk::testing::{Effect, Outcome, TestHost};

    fn host() -> TestHost {
        let mut host = TestHost::new(plugin());
        host.room("memory_logs", Access::Anyone);
        host
    }

    fn subscribed(event_type: &str, room: &str) -> Value {
        json!({"status": "subscribed", "event_type": event_type, "room": room})
    }

    #[test]
    fn subscribing_to_a_declared_room_joins_it() {
        let outcome = host().handle("subscribe_event", json!({"event_type": "memory_logs"}));
        let effects = vec![Effect::join("memory_logs")];
        assert_eq!(
            outcome,
            Outcome { reply: Ok(subscribed("memory_logs", "memory_logs")), effects }
        );
    }

    #[test]
    fn subscribing_twice_changes_nothing() {
        let mut host = host();
        host.handle("subscribe_event", json!({"event_type": "memory_logs"}));
        let again = host.handle("subscribe_event", json!({"event_type": "memory_logs"}));
        assert_eq!(
            again,
            Outcome { reply: Ok(subscribed("memory_logs", "memory_logs")), effects: vec![] }
        );
        assert_eq!(host.members("memory_logs"), ["c1"]);
    }

    #[test]
    fn subscribing_to_what_nobody_declares_is_an_unknown_event_type() {
        let outcome = host().handle("subscribe_event", json!({"event_type": "nothing"}));
        assert_eq!(
            outcome,
            Outcome::refused("unknown_event_type", "there is no event type `nothing`")
        );
    }

    #[test]
    fn subscribing_to_user_joins_the_callers_own_room() {
        let outcome = host().user("7").handle("subscribe_event", json!({"event_type": "user"}));
        assert_eq!(
            outcome,
            Outcome {
                reply: Ok(subscribed("user", "user_7")),
                effects: vec![Effect::join("user_7")]
            }
        );
    }

    #[test]
    fn subscribing_to_user_without_one_is_forbidden() {
        let outcome = host().handle("subscribe_event", json!({"event_type": "user"}));
        assert_eq!(
            outcome,
            Outcome::refused(
                "forbidden",
                "an anonymous client has no room of its own; connect with a token"
            )
        );
    }

    #[test]
    fn subscribing_to_anothers_room_is_forbidden() {
        let outcome = host().user("7").handle("subscribe_event", json!({"event_type": "user_8"}));
        assert_eq!(
            outcome,
            Outcome::refused("forbidden", "the room `user_8` is not open to this client")
        );
    }

    #[test]
    fn subscribing_to_admin_takes_the_role() {
        let mut host = host();
        let outcome = host.user("7").handle("subscribe_event", json!({"event_type": "admin"}));
        assert_eq!(
            outcome,
            Outcome::refused("forbidden", "the room `admin` is not open to this client")
        );
        let outcome = host.role("admin").handle("subscribe_event", json!({"event_type": "admin"}));
        assert_eq!(
            outcome,
            Outcome {
                reply: Ok(subscribed("admin", "admin")),
                effects: vec![Effect::join("admin")]
            }
        );
    }

    #[test]
    fn unsubscribing_leaves_and_is_no_error_the_second_time() {
        let mut host = host();
        host.handle("subscribe_event", json!({"event_type": "memory_logs"}));
        let reply =
            json!({"status": "unsubscribed", "event_type": "memory_logs", "room": "memory_logs"});
        let first = host.handle("unsubscribe_event", json!({"event_type": "memory_logs"}));
        assert_eq!(
            first,
            Outcome { reply: Ok(reply.clone()), effects: vec![Effect::leave("memory_logs")] }
        );
        let second = host.handle("unsubscribe_event", json!({"event_type": "memory_logs"}));
        assert_eq!(second, Outcome { reply: Ok(reply), effects: vec![] });
    }

    #[test]
    fn an_event_type_that_is_no_text_is_an_invalid_payload() {
        let outcome = host().handle("subscribe_event", json!({"event_type": 7}));
        assert_eq!(
            outcome.reply.map_err(|refusal| refusal.code),
            Err("invalid_payload".to_owned())
        );
    }
}
