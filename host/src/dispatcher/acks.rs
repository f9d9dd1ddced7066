//! Lets plugins handle the outcomes of their emits with an ack. An outcome whose plugin does not
//! serve or is busy waits for it, apart from the mailbox of its connection.

use std::collections::{HashMap, HashSet, VecDeque};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use sockhop_core::ack;
use tokio::task::JoinSet;

use crate::breaker::{Denied, Permit};
use crate::effect::{EndedAck, Outcome, PendingAck};
use crate::event::{Event, EventId, Payload};
use crate::events::Ack;
use crate::log;
use crate::registry::ActivePlugin;
use crate::rejection::Rejection;

use super::host_events::RETRY;
use super::source::Source;
use super::{Dispatcher, Reply, report};

/// How long an outcome waits for a plugin that does not serve: as long as a client may take to
/// answer by default. What asks for an ack is seldom of use later.
const MAX_WAIT: Duration = Duration::from_secs(10 * 60);

/// How long an outcome that is no answer holds up the events of its client, for all plugins, while
/// its plugin is busy. The client has not sent it, so nothing of the client depends on its order.
const MAX_HOLD_UP: Duration = Duration::from_millis(100);

/// The outcomes that wait until their plugins can handle them, by plugin. Each plugin waits only
/// for so many acks. As long as a plugin has a queue, also an empty one, a task looks at it.
#[derive(Default)]
pub(super) struct WaitingAcks(Mutex<HashMap<String, VecDeque<EndedAck>>>);

impl WaitingAcks {
    /// The lock is held for one operation of a queue.
    fn queues(&self) -> MutexGuard<'_, HashMap<String, VecDeque<EndedAck>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has_queue(&self, plugin: &str) -> bool {
        self.queues().contains_key(plugin)
    }

    /// Adds an outcome. Returns whether the plugin has had no queue: a task must look at it now.
    fn push(&self, ended: EndedAck) -> bool {
        let mut queues = self.queues();
        let plugin = &ended.ack.plugin;
        if let Some(queue) = queues.get_mut(plugin) {
            queue.push_back(ended);
            return false;
        }
        queues.insert(plugin.clone(), VecDeque::from([ended]));
        true
    }

    /// Adds an outcome before the others.
    fn push_front(&self, ended: EndedAck) {
        let plugin = ended.ack.plugin.clone();
        self.queues().entry(plugin).or_default().push_front(ended);
    }

    /// Removes the queue of a plugin if it is empty. The task that looks at it then ends.
    fn remove_empty(&self, plugin: &str) -> bool {
        let mut queues = self.queues();
        let is_empty = queues.get(plugin).is_none_or(VecDeque::is_empty);
        if is_empty {
            queues.remove(plugin);
        }
        is_empty
    }

    fn len(&self, plugin: &str) -> usize {
        self.queues().get(plugin).map_or(0, VecDeque::len)
    }

    /// Takes the next outcomes that can be handled at the same time: at most `max`, and one of each
    /// connection, so that the answers of a client stay in order.
    fn take(&self, plugin: &str, max: usize) -> Vec<EndedAck> {
        let mut queues = self.queues();
        let Some(queue) = queues.get_mut(plugin) else { return Vec::new() };
        let mut connections = HashSet::new();
        let mut taken = Vec::new();
        while taken.len() < max
            && let Some(next) = queue.pop_front_if(|next| {
                next.caller.connection().is_none_or(|of| connections.insert(of.public_id.clone()))
            })
        {
            taken.push(next);
        }
        taken
    }

    /// Takes the outcomes that have waited for too long.
    fn take_expired(&self, plugin: &str) -> Vec<EndedAck> {
        let mut queues = self.queues();
        let Some(queue) = queues.get_mut(plugin) else { return Vec::new() };
        let is_expired = |ended: &EndedAck| ended.since.elapsed() > MAX_WAIT;
        if !queue.iter().any(is_expired) {
            return Vec::new();
        }
        let (expired, kept): (Vec<_>, _) = std::mem::take(queue).into_iter().partition(is_expired);
        *queue = kept.into();
        expired
    }
}

/// What has become of an outcome.
enum Acknowledged {
    /// The plugin was called.
    Handled,
    /// The plugin was not called for this outcome, or nothing of the call was stored. It may be
    /// called for others.
    Later(EndedAck),
    /// The plugin is not called for any outcome now.
    NotServing(EndedAck),
}

/// Which way an outcome comes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// At once. If it is about a connection, the events of that client wait behind it.
    Direct,
    /// It has waited for its plugin. Others may wait behind it, but no events.
    Waited,
}

impl Dispatcher {
    /// Lets the plugin of an emit with an ack handle the outcome. Keeps it for later if the plugin
    /// does not serve, or is busy for too long.
    pub(crate) async fn acknowledge(self: &Arc<Self>, ended: EndedAck) {
        // An answer tries: it is handled before what its client sends afterwards.
        let is_answer = matches!(ended.outcome, Outcome::Answered(_));
        if !is_answer && self.waiting_acks.has_queue(&ended.ack.plugin) {
            self.acknowledge_later(ended);
            return;
        }
        match self.try_acknowledge(ended, Way::Direct).await {
            Acknowledged::Handled => {}
            Acknowledged::Later(ended) | Acknowledged::NotServing(ended) => {
                self.acknowledge_later(ended);
            }
        }
    }

    /// Keeps an outcome until its plugin can handle it.
    fn acknowledge_later(self: &Arc<Self>, ended: EndedAck) {
        let plugin = ended.ack.plugin.clone();
        if !self.waiting_acks.push(ended) {
            return;
        }
        let this = Arc::clone(self);
        self.host_events.tasks().spawn(async move {
            let stopped = this.host_events.stopped().clone();
            let _ = stopped.run_until_cancelled(this.acknowledge_waiting(&plugin)).await;
        });
    }

    /// Lets a plugin handle its outcomes when it serves, until none waits.
    async fn acknowledge_waiting(self: &Arc<Self>, plugin: &str) {
        let mut changes = self.registry.changes();
        loop {
            // An operator's `enable` is no change.
            let _ = tokio::time::timeout(RETRY, changes.changed()).await;
            for ended in self.waiting_acks.take_expired(plugin) {
                self.metrics.ack(plugin, "dropped");
                let (ack, outcome) = (&ended.ack.request.ack, ended.outcome.name());
                tracing::warn!(
                    plugin,
                    ack,
                    outcome,
                    "the outcome of an ack is dropped: the plugin has not served for too long"
                );
            }
            self.try_waiting(plugin).await;
            if self.waiting_acks.remove_empty(plugin) {
                return;
            }
        }
    }

    /// Tries each outcome that waits for a plugin once, some at a time. One that can't be handled
    /// now goes behind the others, and holds up none of them.
    async fn try_waiting(self: &Arc<Self>, plugin: &str) {
        let mut left = self.waiting_acks.len(plugin);
        while left > 0 {
            let max = self.acks_at_once(plugin);
            let batch = self.waiting_acks.take(plugin, max.min(left));
            if batch.is_empty() {
                return;
            }
            left = left.saturating_sub(batch.len());
            let mut tasks = JoinSet::new();
            for ended in batch {
                let (this, ack) = (Arc::clone(self), Arc::clone(&ended.ack));
                tasks.spawn(async move {
                    let trying = pin!(this.try_acknowledge(ended, Way::Waited));
                    log::catch(trying).await.inspect_err(|panic| panicked(&ack, panic))
                });
            }
            let mut is_serving = true;
            while let Some(tried) = tasks.join_next().await {
                match tried {
                    Ok(Ok(Acknowledged::Later(ended))) => _ = self.waiting_acks.push(ended),
                    Ok(Ok(Acknowledged::NotServing(ended))) => {
                        self.waiting_acks.push_front(ended);
                        is_serving = false;
                    }
                    Ok(Ok(Acknowledged::Handled) | Err(_)) | Err(_) => {}
                }
            }
            if !is_serving {
                return;
            }
        }
    }

    /// How many outcomes of a plugin are handled at once, at most; 0 if it does not serve.
    fn acks_at_once(&self, plugin: &str) -> usize {
        let generation = self.registry.snapshot();
        match generation.plugin(plugin) {
            Some(active) if !generation.is_disabled(plugin) && !active.health.is_open() => {
                (active.code.instances_at_once() / 2).max(1)
            }
            // One, so that the breaker has a probe.
            Some(_) => 1,
            None => 0,
        }
    }

    async fn try_acknowledge(&self, ended: EndedAck, way: Way) -> Acknowledged {
        let began = Instant::now();
        let generation = self.registry.snapshot();
        let plugin = ended.ack.plugin.as_str();
        let Some(active) = generation.plugin(plugin).filter(|_| !generation.is_disabled(plugin))
        else {
            return Acknowledged::NotServing(ended);
        };
        let Some(declared) = active.acks.get(&ended.ack.request.ack) else {
            return Acknowledged::Later(ended);
        };
        let is_answer = matches!(ended.outcome, Outcome::Answered(_));
        if let Some(connection) = ended.caller.connection()
            && connection.pending_connects.contains(plugin)
        {
            let waits = is_answer && way == Way::Direct;
            if !waits || self.until_connected(active, connection, began).await.is_err() {
                return Acknowledged::Later(ended);
            }
        }
        let limit = active.code.limits().event_wall_ms;
        let holds_up = way == Way::Direct && !is_answer;
        let deadline = began + if holds_up { limit.min(MAX_HOLD_UP) } else { limit };
        let turn = tokio::time::timeout_at(deadline.into(), active.ack_turns.acquire());
        let Ok(Ok(_turn)) = turn.await else {
            return Acknowledged::Later(ended);
        };
        let Some((permit, throttled)) = admit(active, &ended, Instant::now()) else {
            return Acknowledged::NotServing(ended);
        };
        let (event, outcome) = self.event_of(&ended, throttled, declared);
        let (event, source) = (Arc::new(event), Source::Ack(deadline));
        match self.run(permit, &generation, active, &event, source, began).await.0 {
            Ok(Reply { ends, .. }) => {
                if let Some(connection) = ended.caller.connection().filter(|_| ends) {
                    self.rooms.end(connection);
                }
            }
            Err(failed) => {
                let is_unstored = failed.is_unstored;
                let rejection = report(&generation, active, &event, failed);
                // The plugin has not seen it, or its state could not be read or written.
                if is_unstored
                    || matches!(rejection, Rejection::Busy(_) | Rejection::Unavailable(_))
                {
                    return Acknowledged::Later(ended);
                }
            }
        }
        self.metrics.ack(plugin, outcome);
        Acknowledged::Handled
    }

    /// The event by which the plugin gets an outcome, and the name of what it gets. An answer that
    /// is not as the plugin declares it is `invalid`, and one that it may not see is `busy`. The
    /// outcome itself stays: another version may get it, and judge otherwise.
    fn event_of(&self, ended: &EndedAck, throttled: bool, declared: &Ack) -> (Event, &'static str) {
        let max_depth = self.config.get().limits.json_depth.get();
        let EndedAck { ack, outcome, .. } = ended;
        let mut attachments = Vec::new();
        let data;
        let outcome = match outcome {
            Outcome::Answered(_) if throttled => Outcome::Busy(
                "this plugin has failed too often on events of this client".to_owned(),
            ),
            Outcome::Answered(answer) => {
                match declared.check(&answer.text, answer.attachments.len(), max_depth) {
                    Ok(checked) => {
                        attachments.clone_from(&answer.attachments);
                        data = checked;
                        Outcome::Answered(&*data)
                    }
                    Err(rejection) => Outcome::Invalid(rejection.message().to_owned()),
                }
            }
            Outcome::Timeout => Outcome::Timeout,
            Outcome::Disconnected => Outcome::Disconnected,
            Outcome::Invalid(reason) => Outcome::Invalid(reason.clone()),
            Outcome::Busy(reason) => Outcome::Busy(reason.clone()),
        };
        let request = &ack.request;
        let text = ack::event_data(&ack.id, &request.connection, &request.context, &outcome);
        let received_at = SystemTime::now();
        let event = Event {
            id: EventId::new(received_at),
            name: ack::event_name(&request.ack),
            payload: Payload { text: text.into(), attachments },
            caller: ended.caller.clone(),
            received_at,
            connections: None,
            timer: None,
        };
        (event, outcome.name())
    }
}

/// Returns a permit if the plugin may be called, and whether the client is throttled, because the
/// plugin fails on what it sends: then the plugin does not see its answer.
fn admit(active: &ActivePlugin, ended: &EndedAck, now: Instant) -> Option<(Permit, bool)> {
    let mut throttled = false;
    if matches!(ended.outcome, Outcome::Answered(_)) {
        match active.health.admit(ended.caller.client_keys().as_deref(), now) {
            Ok(permit) => return Some((permit, false)),
            Err(Denied::Open { .. }) => return None,
            Err(Denied::Throttled { .. }) => throttled = true,
        }
    }
    Some((active.health.admit(None, now).ok()?, throttled))
}

/// Logs that the host has panicked while a plugin handled an outcome, which is lost.
pub(crate) fn panicked(ack: &PendingAck, panic: &log::Panic) {
    tracing::error!(
        plugin = ack.plugin,
        event = ack.request.ack,
        error = panic.message,
        location = panic.location,
        "the host panicked while it handled the outcome of an ack"
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::effect::{AckBudget, AckLimits, AckRequest};
    use crate::event::{Caller, Connection, Identity};

    /// The outcome `number`, of this connection if it is about one.
    fn ended(number: u64, connection: Option<&Arc<Connection>>) -> EndedAck {
        let (id, ack, context) = ("c1".into(), "yes".into(), "null".into());
        let request = AckRequest { connection: id, ack, timeout_ms: number, context };
        let limits = AckLimits { acks: 1, bytes: 10_000 };
        let permit = Arc::<AckBudget>::default().take(request.memory(), limits).unwrap();
        let ack = PendingAck::new("id".to_owned(), "quiz", request, Duration::from_secs(1), permit);
        let caller = connection
            .map_or(Caller::None, |connection| Caller::Connection(Arc::clone(connection)));
        EndedAck::now(ack, caller, Outcome::Timeout)
    }

    fn numbers(taken: Vec<EndedAck>) -> Vec<u64> {
        taken.iter().map(|ended| ended.ack.request.timeout_ms).collect()
    }

    #[test]
    fn outcomes_that_wait_are_handled_at_once_but_those_of_one_connection_in_order() {
        let waiting = WaitingAcks::default();
        let [first, second] = ["c1", "c2"].map(|id| {
            let identity = Arc::<Identity>::default();
            Arc::new(Connection::new("sid".into(), id.into(), "/".into(), identity, None))
        });
        let callers = [Some(&first), None, Some(&second), Some(&first), None];
        for (number, caller) in callers.into_iter().enumerate() {
            waiting.push(ended(number as u64, caller));
        }
        assert_eq!(numbers(waiting.take("quiz", 2)), [0, 1]);
        waiting.push_front(ended(0, Some(&first)));
        assert_eq!(numbers(waiting.take("quiz", 10)), [0, 2]);
        assert_eq!(numbers(waiting.take("quiz", 10)), [3, 4]);
    }

    #[test]
    fn a_queue_has_a_task_until_the_task_removes_it_empty() {
        let waiting = WaitingAcks::default();
        assert!(waiting.push(ended(1, None)), "a task must begin");
        assert!(!waiting.push(ended(2, None)));
        assert_eq!(waiting.take("quiz", 10).len(), 2);
        // The queue is empty while its outcomes are tried. The same task gets the next outcomes.
        assert!(waiting.has_queue("quiz") && !waiting.push(ended(3, None)));
        assert!(!waiting.remove_empty("quiz"));
        waiting.take("quiz", 10);
        assert!(waiting.remove_empty("quiz") && !waiting.has_queue("quiz"));
        assert!(waiting.push(ended(4, None)), "another task must begin");
    }

    #[test]
    fn an_outcome_that_has_waited_for_too_long_is_taken_out() {
        let waiting = WaitingAcks::default();
        let mut old = ended(1, None);
        old.since -= MAX_WAIT + Duration::from_secs(1);
        waiting.push(ended(2, None));
        waiting.push(old);
        assert_eq!(numbers(waiting.take_expired("quiz")), [1]);
        assert_eq!(numbers(waiting.take("quiz", 10)), [2]);
    }
}
