//! The test host's part for emits with an ack.

use serde_json::Value;
use sockhop_core::ack::{self, Outcome as AckOutcome};

use super::TestHost;
use super::outcome::{AskedAck, Outcome};

impl TestHost {
    /// Returns the emits with an ack whose outcome is not known, in their order. Those of handlers
    /// that have failed are not among them.
    #[must_use]
    pub fn pending_acks(&self) -> &[AskedAck] {
        &self.world.acks
    }

    /// Lets the client of an emit with an ack answer with these arguments. The connection becomes
    /// the caller. If they are not what the ack declares, the handler gets
    /// [`NoAnswer::Invalid`](crate::NoAnswer::Invalid), as on a host.
    ///
    /// # Panics
    /// If there is no such emit whose outcome is not known.
    pub fn answer(&mut self, id: &str, arguments: &[Value]) -> Outcome {
        self.answer_binary(id, arguments, Vec::new())
    }

    /// Lets the client answer, as [`answer`](Self::answer) does, with attachments that the
    /// arguments name by placeholders.
    ///
    /// # Panics
    /// As [`answer`](Self::answer).
    pub fn answer_binary(
        &mut self,
        id: &str,
        arguments: &[Value],
        attachments: Vec<Vec<u8>>,
    ) -> Outcome {
        let text: Vec<String> = arguments.iter().map(Value::to_string).collect();
        self.end_ack(id, AckOutcome::Answered(text.join(",")), attachments)
    }

    /// Lets the time of an emit with an ack pass without an answer. The clock does not move.
    ///
    /// # Panics
    /// As [`answer`](Self::answer).
    pub fn time_out(&mut self, id: &str) -> Outcome {
        self.end_ack(id, AckOutcome::Timeout, Vec::new())
    }

    /// Ends the acks that are waited for of the caller, which disconnects.
    pub(super) fn end_acks_of_caller(&mut self) {
        let of_caller = self.world.acks.iter().filter(|asked| asked.connection == self.current);
        for id in of_caller.map(|asked| asked.id.clone()).collect::<Vec<_>>() {
            self.end_ack(&id, AckOutcome::Disconnected, Vec::new());
        }
    }

    #[allow(
        clippy::panic,
        reason = "a test fails by panicking, and here it is the test that is wrong"
    )]
    fn end_ack(&mut self, id: &str, outcome: AckOutcome, attachments: Vec<Vec<u8>>) -> Outcome {
        let all = &mut self.world.acks;
        let Some(place) = all.iter().position(|asked| asked.id == id) else {
            panic!("there is no emit with the ack `{id}` without an outcome; there are {all:?}");
        };
        let AskedAck { connection, ack, context, .. } = all.remove(place);
        connection.clone_into(&mut self.current);
        let (data, attachments) = match outcome {
            AckOutcome::Answered(text) => {
                match self.declared.check_answer(&ack, &text, attachments.len()) {
                    Ok(data) => (AckOutcome::Answered(data), attachments),
                    Err(reason) => (AckOutcome::Invalid(reason), Vec::new()),
                }
            }
            other => (other, Vec::new()),
        };
        let data = match &data {
            AckOutcome::Answered(data) => AckOutcome::Answered(data.as_str()),
            AckOutcome::Timeout => AckOutcome::Timeout,
            AckOutcome::Disconnected => AckOutcome::Disconnected,
            AckOutcome::Invalid(reason) => AckOutcome::Invalid(reason.clone()),
            AckOutcome::Busy(reason) => AckOutcome::Busy(reason.clone()),
        };
        let data = ack::event_data(id, &connection, &context.to_string(), &data);
        let caller = self.caller();
        self.run(&ack::event_name(&ack), data, attachments, Some(caller), None)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;
    use sockhop_core::limits;

    use super::*;
    use crate::testing::Effect;
    use crate::{Ack, Args, Attachment, Context, Emits, NoAnswer, Plugin, Refusal, Result, Target};

    const ASK: Emits<u32> = Emits::new("ask");
    const ANSWERED: Ack<Args<Vec<u32>>, String> = Ack::new("answered");
    const PICTURE: Ack<Attachment> = Ack::new("picture");

    fn plugin() -> Plugin {
        let ask = |ctx: &Context, (to, timeout, fails): (String, u64, bool)| {
            let ask = ANSWERED.within(Duration::from_millis(timeout), &to);
            let id = ctx.emit_with_ack(&to, &ASK, &7, ask)?;
            if fails { Err(Refusal::new("no", "no")) } else { Ok(id) }
        };
        let answered = |ctx: &Context, to: String, answer: Result<Args<Vec<u32>>, NoAnswer>| {
            ctx.emit_volatile(Target::Sender, &ASK, &1)?;
            let answer = match answer {
                Ok(Args(numbers)) => format!("{numbers:?}"),
                Err(no) => no.to_string(),
            };
            ctx.state().set(&to, &answer)
        };
        let picture = |ctx: &Context, (): (), answer: Result<Attachment, NoAnswer>| {
            let bytes =
                answer.ok().and_then(|attachment| ctx.attachment(&attachment)).map(<[u8]>::len);
            ctx.state().set("picture", &bytes)
        };
        let ask_picture = |ctx: &Context, (): ()| {
            let ask = PICTURE.within(Duration::from_secs(1), &());
            ctx.emit_with_ack("c1", &ASK, &1, ask).map(drop)
        };
        Plugin::new("quiz", "1.0.0", "")
            .on("ask", ask)
            .on("ask_picture", ask_picture)
            .emits(ASK)
            .on_ack(ANSWERED, answered)
            .on_ack(PICTURE, picture)
    }

    #[test]
    fn an_emit_with_an_ack_has_one_outcome() {
        let mut host = TestHost::new(plugin());
        let ask = |host: &mut TestHost| {
            let id = host.connection("c1").handle("ask", json!(["c2", 50, false])).reply.unwrap();
            id.as_str().unwrap().to_owned()
        };
        let id = ask(&mut host);
        let asked = host.pending_acks()[0].clone();
        assert_eq!((asked.id.as_str(), asked.timeout), (id.as_str(), Duration::from_millis(50)));
        assert_eq!((&asked.data, &asked.context), (&json!(7), &json!("c2")));
        let outcome = host.answer(&id, &[json!(1), json!(2)]);
        let effects = [Effect::EmitVolatile {
            to: Target::Sender,
            event: "ask".into(),
            data: json!(1),
            attachments: vec![],
        }];
        assert_eq!((outcome.reply, outcome.effects), (Ok(Value::Null), effects.to_vec()));
        assert_eq!(host.state()["c2"], json!("[1, 2]"));
        let id = ask(&mut host);
        host.answer(&id, &[json!("x")]);
        assert!(host.state()["c2"].as_str().unwrap().contains("invalid"), "{:?}", host.state());
        let id = ask(&mut host);
        host.time_out(&id);
        assert_eq!(host.state()["c2"], json!("the client has not answered in time"));
        ask(&mut host);
        host.connection("c2").disconnect();
        assert_eq!(host.state()["c2"], json!("the connection has ended"));
        assert!(host.pending_acks().is_empty());
        host.handle("ask_picture", json!(null));
        let id = host.pending_acks()[0].id.clone();
        host.answer_binary(&id, &[json!({"_placeholder": true, "num": 0})], vec![vec![1; 9]]);
        assert_eq!(host.state()["picture"], json!(9));
    }

    #[test]
    fn an_ack_is_asked_for_only_by_a_handler_that_succeeds_and_within_the_limits() {
        let mut host = TestHost::new(plugin());
        assert!(host.handle("ask", json!(["c2", 50, true])).reply.is_err());
        for timeout in [0, limits::ACK_TIMEOUT_MS + 1] {
            let refused = host.handle("ask", json!(["c2", timeout, false])).reply.unwrap_err();
            assert_eq!(refused.code, "misuse", "{timeout}");
        }
        assert!(host.pending_acks().is_empty());
        for _ in 0..20 {
            host.handle("ask", json!(["x".repeat(400_000), 1, false]));
        }
        let refused = host.handle("ask", json!(["x".repeat(400_000), 1, false])).reply.unwrap_err();
        assert_eq!(refused.code, "limit");
        assert!(host.handle("ask", json!(["c2", 1, false])).reply.is_ok());
    }
}
