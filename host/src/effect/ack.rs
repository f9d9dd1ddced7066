//! Emits with an ack: what is waited for, what has become of it, and how much of it one plugin may
//! have at once.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sockhop_core::ack::{AckLimits, AckRequest, Outcome};

use crate::event::{Caller, Payload};
use crate::memory::Reserved;
use crate::rejection::Refusal;

/// An emit with an ack, from the call of the handler until its outcome is handled.
#[derive(Debug)]
pub(crate) struct PendingAck {
    /// The id that the handler got.
    pub(crate) id: String,
    /// The name of the plugin.
    pub(crate) plugin: String,
    /// What the handler has asked for.
    pub(crate) request: AckRequest,
    /// How long the client may take to answer.
    pub(crate) timeout: Duration,
    /// Held until the outcome is handled.
    _permit: AckPermit,
}

impl PendingAck {
    pub(crate) fn new(
        id: String,
        plugin: &str,
        request: AckRequest,
        timeout: Duration,
        permit: AckPermit,
    ) -> Arc<Self> {
        Arc::new(Self { id, plugin: plugin.to_owned(), request, timeout, _permit: permit })
    }
}

/// An emit with an ack whose outcome is known, and was not handled yet.
#[derive(Debug)]
pub(crate) struct EndedAck {
    /// What was waited for.
    pub(crate) ack: Arc<PendingAck>,
    /// The connection, or only its namespace if it does not exist, or not any more.
    pub(crate) caller: Caller,
    /// What has become of it. An answer is not checked yet.
    pub(crate) outcome: Outcome<Payload>,
    /// Since when the outcome is known.
    pub(crate) since: Instant,
    /// The memory of the answer, wherever it waits.
    pub(crate) reserved: Option<Reserved>,
}

impl EndedAck {
    pub(crate) fn now(ack: Arc<PendingAck>, caller: Caller, outcome: Outcome<Payload>) -> Self {
        Self { ack, caller, outcome, since: Instant::now(), reserved: None }
    }

    /// Memory of the answer, in bytes.
    pub(crate) fn size(&self) -> usize {
        if let Outcome::Answered(payload) = &self.outcome { payload.size() } else { 0 }
    }
}

/// The acks that one plugin waits for, in all its versions.
#[derive(Debug, Default)]
pub(crate) struct AckBudget(Mutex<Used>);

#[derive(Debug, Default, Clone, Copy)]
struct Used {
    acks: usize,
    bytes: usize,
}

/// The right to wait for one ack. Given back when it is dropped.
#[derive(Debug)]
pub(crate) struct AckPermit {
    budget: Arc<AckBudget>,
    bytes: usize,
}

impl AckBudget {
    /// Takes a permit for an ack with so much memory.
    ///
    /// # Errors
    /// `limit`.
    pub(crate) fn take(
        self: &Arc<Self>,
        bytes: usize,
        limits: AckLimits,
    ) -> Result<AckPermit, Refusal> {
        let mut used = self.used();
        let after = Used { acks: used.acks + 1, bytes: used.bytes.saturating_add(bytes) };
        limits.check(after.acks, after.bytes)?;
        *used = after;
        Ok(AckPermit { budget: Arc::clone(self), bytes })
    }

    /// Number of acks that are waited for, those included whose outcome waits to be handled.
    pub(crate) fn pending(&self) -> usize {
        self.used().acks
    }

    /// The lock is held for two additions.
    fn used(&self) -> MutexGuard<'_, Used> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for AckPermit {
    fn drop(&mut self) {
        let mut used = self.budget.used();
        used.acks -= 1;
        used.bytes -= self.bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugin_waits_for_so_many_acks_of_so_much_memory_at_once() {
        let (budget, limits) = (Arc::<AckBudget>::default(), AckLimits { acks: 2, bytes: 100 });
        let first = budget.take(60, limits).unwrap();
        assert_eq!(budget.take(60, limits).unwrap_err().code, "limit");
        let second = budget.take(40, limits).unwrap();
        assert_eq!(budget.take(0, limits).unwrap_err().code, "limit");
        assert_eq!(budget.pending(), 2);
        drop((first, second));
        assert_eq!(budget.pending(), 0);
        budget.take(100, limits).unwrap();
    }
}
