//! Emits with an ack: sends them, and keeps what is waited for until the client has answered, its
//! time is over, or it is gone. [`Rooms::next_ended_ack`] returns what has ended otherwise than by
//! the client.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::effect::{Emit, EndedAck, Outcome, PendingAck, Target};
use crate::event::{Caller, Payload};
use crate::socketio::{Asked, NotAsked};

use super::Rooms;

/// When the outcome of an emit that was not sent is due. A handler that asks again at once would
/// otherwise run without a pause.
const NOT_SENT: Duration = Duration::from_secs(1);

/// The acks that are waited for. Their number has no limit here: each [`PendingAck`] holds a permit
/// of its plugin.
#[derive(Default)]
pub(super) struct Acks {
    inner: Mutex<Inner>,
    /// Notified when a new deadline is the earliest. For one task: if it does not wait yet, the
    /// [`Notify`] keeps the notification until it does.
    changed: Notify,
}

#[derive(Default)]
struct Inner {
    last_token: u64,
    waiting: HashMap<u64, WaitingAck>,
    deadlines: BTreeSet<(Instant, u64)>,
}

/// An ack that is waited for.
struct WaitingAck {
    ack: Arc<PendingAck>,
    caller: Caller,
    deadline: Instant,
    /// The outcome at the deadline: a timeout, or why the event was not sent.
    outcome: Outcome<Payload>,
    /// If it is dropped, the connection waits for the answer no more. `None` while the event is
    /// being sent, and if it was not sent.
    asked: Option<Asked>,
}

impl WaitingAck {
    fn end(self, outcome: Outcome<Payload>) -> EndedAck {
        EndedAck::now(self.ack, self.caller, outcome)
    }
}

impl Acks {
    /// Waits for an ack. Returns the token by which the answer is found.
    fn wait(&self, ack: &Arc<PendingAck>, caller: Caller) -> u64 {
        self.wait_for(ack, caller, ack.timeout, Outcome::Timeout)
    }

    /// Ends an ack with `outcome` after a moment: the event was not sent.
    fn not_sent(&self, ack: &Arc<PendingAck>, caller: Caller, outcome: Outcome<Payload>) {
        self.wait_for(ack, caller, NOT_SENT, outcome);
    }

    /// Waits for an ack. Without an answer, it ends with `outcome` after this time.
    fn wait_for(
        &self,
        ack: &Arc<PendingAck>,
        caller: Caller,
        time: Duration,
        outcome: Outcome<Payload>,
    ) -> u64 {
        let deadline = Instant::now() + time;
        let mut inner = self.inner();
        inner.last_token += 1;
        let token = inner.last_token;
        let ack = Arc::clone(ack);
        inner.waiting.insert(token, WaitingAck { ack, caller, deadline, outcome, asked: None });
        inner.deadlines.insert((deadline, token));
        let is_next = inner.deadlines.first().is_some_and(|first| first.1 == token);
        drop(inner);
        if is_next {
            self.changed.notify_one();
        }
        token
    }

    /// Notes that the event was sent. If the ack has ended already, `asked` is dropped.
    fn sent(&self, token: u64, asked: Asked) {
        let mut inner = self.inner();
        match inner.waiting.get_mut(&token) {
            Some(waiting) => waiting.asked = Some(asked),
            None => {
                // Without the lock: `asked` has locks of its own.
                drop(inner);
                drop(asked);
            }
        }
    }

    fn take(&self, token: u64) -> Option<WaitingAck> {
        let mut inner = self.inner();
        let waiting = inner.waiting.remove(&token)?;
        inner.deadlines.remove(&(waiting.deadline, token));
        drop(inner);
        Some(waiting)
    }

    /// Returns an ack that has ended by now, or when the next one can.
    fn next(&self, now: Instant) -> Result<EndedAck, Option<Instant>> {
        let mut inner = self.inner();
        let (deadline, token) = *inner.deadlines.first().ok_or(None)?;
        if deadline > now {
            return Err(Some(deadline));
        }
        inner.deadlines.pop_first();
        let waiting = inner.waiting.remove(&token);
        drop(inner);
        // Without the lock: what is dropped here has locks of its own. Each deadline has an ack; if
        // one had none, the caller would look again at once.
        let mut waiting = waiting.ok_or(Some(now))?;
        let outcome = std::mem::replace(&mut waiting.outcome, Outcome::Timeout);
        Ok(waiting.end(outcome))
    }

    /// The lock is held for a few operations. A panic leaves the lists consistent.
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Rooms {
    /// Sends an event to one connection, and waits for the ack of its client. Returns the number of
    /// connections that it was sent to.
    pub(super) fn emit_with_ack(
        &self,
        caller: &Caller,
        emit: &Emit,
        ack: &Arc<PendingAck>,
    ) -> usize {
        let Target::Connection(id) = &emit.to else { return 0 };
        let member = match caller.namespace() {
            Some(namespace) => self.members.find(namespace, id),
            None => {
                let namespaces = self.members.namespaces();
                namespaces.iter().find_map(|namespace| self.members.find(namespace, id))
            }
        };
        let Some(member) = member else {
            let caller = match caller.namespace() {
                Some(namespace) => Caller::Namespace(namespace.into()),
                None => Caller::None,
            };
            self.acks.not_sent(ack, caller, Outcome::Disconnected);
            return 0;
        };
        // Before it is sent: the client may answer at once.
        let token = self.acks.wait(ack, Caller::Connection(Arc::clone(&member.connection)));
        match member.link.emit_with_ack(token, emit) {
            Ok(asked) => {
                self.acks.sent(token, asked);
                1
            }
            Err(not) => {
                if let Some(WaitingAck { ack, caller, .. }) = self.acks.take(token) {
                    self.acks.not_sent(&ack, caller, outcome(not));
                }
                0
            }
        }
    }

    /// Ends the ack with this token with `outcome`. Returns `None` if it has ended before.
    pub(crate) fn end_ack(&self, token: u64, outcome: Outcome<Payload>) -> Option<EndedAck> {
        Some(self.acks.take(token)?.end(outcome))
    }

    /// Returns the next ack that has ended otherwise than by the client. Waits until there is one.
    /// For one task.
    pub(crate) async fn next_ended_ack(&self) -> EndedAck {
        loop {
            let changed = self.acks.changed.notified();
            match self.acks.next(Instant::now()) {
                Ok(ended) => return ended,
                Err(None) => changed.await,
                Err(Some(deadline)) => _ = tokio::time::timeout_at(deadline.into(), changed).await,
            }
        }
    }
}

/// The outcome of an emit that was not sent.
fn outcome(not: NotAsked) -> Outcome<Payload> {
    match not {
        NotAsked::Disconnected => Outcome::Disconnected,
        NotAsked::TooManyAcks => {
            Outcome::Busy("too many acks of this connection are waited for".to_owned())
        }
        NotAsked::Full => Outcome::Busy("the client reads too slowly".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::effect::{AckBudget, AckLimits, AckRequest};
    use crate::event::{Connection, Identity};

    fn pending(timeout: Duration) -> Arc<PendingAck> {
        let (connection, ack, context) = ("c1".into(), "yes".into(), "null".into());
        let request = AckRequest { connection, ack, timeout_ms: 1, context };
        let limits = AckLimits { acks: 1, bytes: 10_000 };
        let permit = Arc::<AckBudget>::default().take(request.memory(), limits).unwrap();
        PendingAck::new("id".to_owned(), "quiz", request, timeout, permit)
    }

    #[tokio::test]
    async fn an_ack_ends_once_by_its_client_or_at_its_time() {
        let rooms = Rooms::default();
        let identity = Arc::<Identity>::default();
        let connection = Connection::new("sid".into(), "c1".into(), "/".into(), identity, None);
        let connection = Caller::Connection(Arc::new(connection));
        let (late, soon) = (Duration::from_millis(60), Duration::from_millis(1));
        let answered = rooms.acks.wait(&pending(soon), connection.clone());
        let last = rooms.acks.wait(&pending(late), connection.clone());
        let first = rooms.acks.wait(&pending(soon), connection.clone());
        assert!(rooms.end_ack(answered, Outcome::Answered(Payload::null())).is_some());
        assert!(rooms.end_ack(answered, Outcome::Answered(Payload::null())).is_none());
        let mut tokens = Vec::new();
        for _ in 0..2 {
            let ended = rooms.next_ended_ack().await;
            assert_eq!(ended.outcome.name(), "timeout");
            tokens.push(ended.ack.timeout);
        }
        assert_eq!(tokens, [soon, late]);
        assert!([first, last].iter().all(|token| rooms.acks.take(*token).is_none()));
        assert!(rooms.acks.inner().deadlines.is_empty());
        let ack = pending(late);
        let emit = Emit {
            to: Target::Connection("nobody".into()),
            event: "ask".into(),
            data: crate::event::Json::null(),
            attachments: Vec::new(),
            is_volatile: false,
            ack: None,
        };
        let began = Instant::now();
        assert_eq!(rooms.emit_with_ack(&Caller::None, &emit, &ack), 0);
        assert_eq!(rooms.next_ended_ack().await.outcome.name(), "disconnected");
        assert!(began.elapsed() >= NOT_SENT, "a handler that asks again at once has pauses");
    }
}
