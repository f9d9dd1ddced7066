//! Emits that differ from the usual ones: with an ack, and volatile.

use sockhop_core::ack::AckRequest;
use sockhop_core::effect::Target;

use crate::ack::Ask;
use crate::args::Outgoing;
use crate::emits::Emits;
use crate::json::{Output, encode};
use crate::refusal::Result;
use crate::time::milliseconds;

use super::Context;

impl Context {
    /// Emits `event` to one connection, by its public id, and asks its client for an ack. The
    /// outcome is handled by the handler of [`Plugin::on_ack`](crate::Plugin::on_ack). Returns the
    /// id of the ack, for a log. [`Ack`](crate::Ack) says what the host promises.
    ///
    /// This is an effect, like each emit: the event is sent when the handler has returned. A
    /// handler does not wait for an answer.
    ///
    /// Hosts before 0.1.1 refuse to load a plugin that calls this.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use serde_json::json;
    /// use sockhop_sdk::testing::TestHost;
    /// use sockhop_sdk::{Ack, Context, Emits, NoAnswer, Plugin, Refusal, Result};
    ///
    /// // `socket.on("invited", (game, answer) => answer(confirm(`Play ${game}?`)))`
    /// const INVITED: Emits<String> = Emits::new("invited");
    /// /// The client answers whether it plays. The context is the game.
    /// const ACCEPTED: Ack<bool, String> = Ack::new("accepted");
    ///
    /// fn invite(ctx: &Context, (player, game): (String, String)) -> Result {
    ///     let ask = ACCEPTED.within(Duration::from_secs(60), &game);
    ///     ctx.emit_with_ack(&player, &INVITED, &game, ask).map(drop)
    /// }
    ///
    /// fn accepted(ctx: &Context, game: String, answer: Result<bool, NoAnswer>) -> Result {
    ///     match answer {
    ///         Ok(true) => ctx.state().set(&format!("game/{game}"), &ctx.connection()),
    ///         Ok(false) => ctx.state().delete(&format!("game/{game}")),
    ///         // Nobody is there: the invitation stays open.
    ///         Err(NoAnswer::Timeout | NoAnswer::Disconnected) => Ok(()),
    ///         Err(other) => Err(Refusal::new("no_answer", other.to_string())),
    ///     }
    /// }
    ///
    /// let plugin = Plugin::new("games", "1.0.0", "")
    ///     .on("invite", invite)
    ///     .emits(INVITED)
    ///     .on_ack(ACCEPTED, accepted);
    ///
    /// let mut host = TestHost::new(plugin);
    /// host.handle("invite", json!(["c2", "chess"]));
    /// let asked = host.pending_acks()[0].clone();
    /// assert_eq!((asked.connection.as_str(), asked.event.as_str()), ("c2", "invited"));
    /// assert!(host.answer(&asked.id, &[json!(true)]).reply.is_ok());
    /// assert_eq!(host.state()["game/chess"], json!("c2"));
    /// ```
    ///
    /// # Errors
    /// `undeclared`: the plugin does not declare the event or the ack. `invalid_data`: `data`
    /// breaks a bound of its schema. `limit`: the plugin would wait for more than 10,000 acks, or
    /// for more than 16 MiB of their contexts (by default), or the event has too many effects.
    /// `misuse`: the timeout is not between 1 ms and 10 minutes, or placeholders and attachments do
    /// not match.
    pub fn emit_with_ack<T: Outgoing, A, C: Output>(
        &self,
        connection: &str,
        event: &Emits<T>,
        data: &T,
        ask: Ask<'_, A, C>,
    ) -> Result<String> {
        let request = AckRequest {
            connection: connection.to_owned(),
            ack: ask.ack.to_owned(),
            timeout_ms: milliseconds(ask.timeout),
            context: encode(ask.context)?,
        };
        let data = event.encode(data)?;
        #[cfg(target_family = "wasm")]
        return crate::imports::emitter::emit_with_ack(
            event.name(),
            &data,
            ask.attachments,
            request,
        );
        #[cfg(not(target_family = "wasm"))]
        self.host.emit_with_ack(event.name(), &data, ask.attachments, request)
    }

    /// Emits `event` to those clients of `to` that read fast enough: it is skipped for a client for
    /// which more than 64 KiB wait (by default), and for one that has lost its transport. A client
    /// that gets it gets it in the order of all emits. For events of which only the newest matters,
    /// such as the place of a cursor. The host counts what it skips.
    ///
    /// Hosts before 0.1.1 refuse to load a plugin that calls this.
    ///
    /// # Errors
    /// As [`emit`](Self::emit).
    pub fn emit_volatile<T: Outgoing>(&self, to: Target, event: &Emits<T>, data: &T) -> Result {
        self.emit_volatile_binary(to, event, data, &[])
    }

    /// Emits `event` with binary attachments, as [`emit_volatile`](Self::emit_volatile) does.
    /// `data` must name each attachment by exactly one [`Attachment`](crate::Attachment).
    ///
    /// # Errors
    /// As [`emit_binary`](Self::emit_binary).
    pub fn emit_volatile_binary<T: Outgoing>(
        &self,
        to: Target,
        event: &Emits<T>,
        data: &T,
        attachments: &[Vec<u8>],
    ) -> Result {
        let data = event.encode(data)?;
        #[cfg(target_family = "wasm")]
        return crate::imports::emitter::emit_volatile(to, event.name(), &data, attachments);
        #[cfg(not(target_family = "wasm"))]
        self.host.emit_volatile(to, event.name(), &data, attachments)
    }
}
