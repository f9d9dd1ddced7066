//! The backend's answer: its form, and how it is applied.

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use sockhop_sdk::{Context, Refusal, Result, Target};

use crate::failed;
use crate::object::Object;

/// What the backend answers.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Answer {
    reply: Option<Box<RawValue>>,
    leave: Vec<String>,
    join: Vec<String>,
    emits: Vec<Object<Emit>>,
    refuse: Option<Object<Refuse>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Emit {
    event: String,
    data: Option<Box<RawValue>>,
    #[serde(default)]
    to: Object<To>,
}

/// Who receives an event. A structure and no enum, so that errors name the wrong member.
#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct To {
    sender: bool,
    room: Option<String>,
    rooms: Option<Vec<String>>,
    user: Option<String>,
    connection: Option<String>,
    everyone: bool,
    skip_sender: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Refuse {
    code: String,
    message: String,
}

/// The codes with which a handler shows a failure of the plugin itself. From the backend, they
/// would open the plugin's breaker.
const FAILURES: [&str; 5] = ["misuse", "undeclared", "invalid_data", "internal", "corrupt_state"];

impl Answer {
    /// Applies the answer, and returns the reply.
    ///
    /// # Errors
    /// The backend's own refusal, `forbidden` or `limit` if the caller can't join a room, or
    /// `backend_failed` if the answer is wrong.
    pub(crate) fn apply(self, ctx: &Context) -> Result<Option<String>> {
        if let Some(Object(Refuse { code, message })) = &self.refuse {
            let stands_alone = self.reply.is_none()
                && self.leave.is_empty()
                && self.join.is_empty()
                && self.emits.is_empty();
            if !stands_alone {
                return Err(failed(ctx, "`refuse` has other members beside it"));
            }
            if !is_code(code) || FAILURES.contains(&code.as_str()) {
                return Err(failed(ctx, "the code of `refuse` can't be used"));
            }
            return Err(Refusal::new(code.as_str(), message.as_str()));
        }
        if self.reply.as_deref().is_some_and(has_error) {
            return Err(failed(ctx, "`reply` has a member `error`; use `refuse`"));
        }
        for room in &self.leave {
            ctx.leave(room).map_err(|refusal| not_applied(ctx, "leave", room, refusal))?;
        }
        for room in &self.join {
            ctx.join(room).map_err(|refusal| not_applied(ctx, "join", room, refusal))?;
        }
        for Object(Emit { event, data, to }) in &self.emits {
            let target = to.0.target().map_err(|why| failed(ctx, &format!("`{event}`: {why}")))?;
            let data = data.as_deref().map_or("null", RawValue::get);
            ctx.emit_json(target, event, data)
                .map_err(|refusal| failed(ctx, &format!("`{event}` is not emitted: {refusal}")))?;
        }
        Ok(self.reply_text().map(str::to_owned))
    }

    /// The text of the reply, as the backend has sent it.
    pub(crate) fn reply_text(&self) -> Option<&str> {
        self.reply.as_deref().map(RawValue::get)
    }
}

impl To {
    fn target(&self) -> Result<Target, String> {
        let Self { sender, room, rooms, user, connection, everyone, skip_sender } = self.clone();
        let user = user.map(|user| vec![format!("user_{user}")]);
        let rooms = [room.map(|room| vec![room]), rooms, user];
        let mut targets: Vec<Target> = Vec::new();
        let room_target = if skip_sender { Target::RoomsButSender } else { Target::Rooms };
        let in_rooms = rooms.iter().any(Option::is_some);
        targets.extend(rooms.into_iter().flatten().map(room_target));
        targets.extend(connection.map(Target::Connection));
        targets.extend(sender.then_some(Target::Sender));
        targets.extend(everyone.then_some(Target::Everyone));
        if skip_sender && !in_rooms {
            return Err("`skip_sender` is only for `room`, `rooms` and `user`".to_owned());
        }
        match targets.len() {
            0 => Ok(Target::Sender),
            1 => targets.pop().ok_or_else(String::new),
            _ => Err("`to` has more than one kind of receiver".to_owned()),
        }
    }
}

/// Passes on what is the client's business: a rule, or too many rooms. Anything else is the
/// operator's, or the backend's.
fn not_applied(ctx: &Context, verb: &str, room: &str, refusal: Refusal) -> Refusal {
    match refusal.code.as_str() {
        "forbidden" | "limit" => refusal,
        _ => failed(ctx, &format!("the caller can't {verb} `{room}`: {refusal}")),
    }
}

/// Whether `code` has the form of a code: `[a-z][a-z0-9_]{0,63}`.
fn is_code(code: &str) -> bool {
    code.len() <= 64
        && code.starts_with(|first: char| first.is_ascii_lowercase())
        && code.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_'))
}

/// Whether a reply is an object with a member `error`, which clients take for a rejection.
fn has_error(reply: &RawValue) -> bool {
    #[derive(Deserialize)]
    struct Reply {
        #[serde(rename = "error")]
        _error: IgnoredAny,
    }
    reply.get().starts_with('{') && serde_json::from_str::<Reply>(reply.get()).is_ok()
}
