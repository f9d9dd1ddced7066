//! Lets plugins handle the outcomes of their emits with an ack. An outcome whose plugin does not
//! serve waits for it, apart from the mailbox of its connection.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use sockhop_core::ack;

use crate::breaker::{Denied, Permit};
use crate::effect::{EndedAck, Outcome};
use crate::event::{Event, EventId, Payload};
use crate::events::Ack;
use crate::registry::ActivePlugin;
use crate::rejection::Rejection;

use super::host_events::RETRY;
use super::{Dispatcher, Reply, report};

/// How long an outcome waits for a plugin that does not serve: as long as a client may take to
/// answer by default. What asks for an ack is seldom of use later.
const MAX_WAIT: Duration = Duration::from_secs(10 * 60);

/// The outcomes whose plugins do not serve, by plugin. Each plugin waits only for so many acks.
#[derive(Default)]
pub(super) struct WaitingAcks(Mutex<HashMap<String, VecDeque<EndedAck>>>);

impl WaitingAcks {
    /// The lock is held for one operation of a queue.
    fn queues(&self) -> MutexGuard<'_, HashMap<String, VecDeque<EndedAck>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What has become of an outcome.
enum Acknowledged {
    /// The plugin was called. Whether it asked to end the connection of its caller.
    Handled(bool),
    /// The plugin was not called.
    NotServing(EndedAck),
}

impl Dispatcher {
    /// Lets the plugin of an emit with an ack handle the outcome. Returns whether the handler asked
    /// to end the connection of its caller.
    pub(crate) async fn acknowledge(self: &Arc<Self>, ended: EndedAck) -> bool {
        match self.try_acknowledge(ended).await {
            Acknowledged::Handled(ends) => ends,
            Acknowledged::NotServing(ended) => {
                self.acknowledge_later(ended);
                false
            }
        }
    }

    /// Keeps an outcome until its plugin serves.
    fn acknowledge_later(self: &Arc<Self>, ended: EndedAck) {
        let plugin = ended.ack.plugin.clone();
        let mut queues = self.waiting_acks.queues();
        if let Some(queue) = queues.get_mut(&plugin) {
            queue.push_back(ended);
            return;
        }
        queues.insert(plugin.clone(), VecDeque::from([ended]));
        drop(queues);
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
            while let Some(ended) = self.next_waiting(plugin) {
                if ended.since.elapsed() > MAX_WAIT {
                    self.metrics.ack(plugin, "dropped");
                    let (ack, outcome) = (&ended.ack.request.ack, ended.outcome.name());
                    tracing::warn!(
                        plugin,
                        ack,
                        outcome,
                        "the outcome of an ack is dropped: the plugin has not served for too long"
                    );
                    continue;
                }
                match self.try_acknowledge(ended).await {
                    Acknowledged::Handled(true) | Acknowledged::Handled(false) => {}
                    Acknowledged::NotServing(ended) => {
                        if let Some(queue) = self.waiting_acks.queues().get_mut(plugin) {
                            queue.push_front(ended);
                        }
                        break;
                    }
                }
            }
            if !self.waiting_acks.queues().contains_key(plugin) {
                return;
            }
        }
    }

    /// Takes the next outcome that waits for a plugin. Removes the queue if there is none.
    fn next_waiting(&self, plugin: &str) -> Option<EndedAck> {
        let mut queues = self.waiting_acks.queues();
        let next = queues.get_mut(plugin)?.pop_front();
        if next.is_none() {
            queues.remove(plugin);
        }
        next
    }

    async fn try_acknowledge(&self, mut ended: EndedAck) -> Acknowledged {
        let began = Instant::now();
        let generation = self.registry.snapshot();
        let plugin = ended.ack.plugin.clone();
        let Some(active) = generation.plugin(&plugin) else {
            return Acknowledged::NotServing(ended);
        };
        let Some(declared) = active.acks.get(&ended.ack.request.ack) else {
            return Acknowledged::NotServing(ended);
        };
        if generation.is_disabled(&plugin) {
            return Acknowledged::NotServing(ended);
        }
        if let Some(connection) = ended.caller.connection()
            && self.until_connected(active, connection, began).await.is_err()
        {
            return Acknowledged::NotServing(ended);
        }
        let Some(permit) = admit(active, &mut ended, began) else {
            return Acknowledged::NotServing(ended);
        };
        let event = Arc::new(self.event_of(&mut ended, declared));
        let answer = self.run(permit, &generation, active, &event, None, began).await.0;
        let ends = match answer {
            Ok(Reply { ends, .. }) => ends,
            Err(failed) => match report(&generation, active, &event, failed) {
                // The plugin has not seen it, or could not read its state.
                Rejection::Busy(_) | Rejection::Unavailable(_) => {
                    return Acknowledged::NotServing(ended);
                }
                _ => false,
            },
        };
        self.metrics.ack(&plugin, ended.outcome.name());
        Acknowledged::Handled(ends)
    }

    /// The event by which the plugin gets an outcome. An answer that is not as the plugin declares
    /// it becomes the outcome `invalid`.
    fn event_of(&self, ended: &mut EndedAck, declared: &Ack) -> Event {
        let max_depth = self.config.get().limits.json_depth.get();
        let EndedAck { ack, outcome, .. } = &mut *ended;
        let request = &ack.request;
        let data_of = |outcome: &Outcome<&str>| {
            ack::event_data(&ack.id, &request.connection, &request.context, outcome).into()
        };
        let mut payload = Payload { text: Box::default(), attachments: Vec::new() };
        if let Outcome::Answered(answer) = outcome {
            match declared.check(&answer.text, answer.attachments.len(), max_depth) {
                Ok(data) => {
                    payload.text = data_of(&Outcome::Answered(&data));
                    payload.attachments = answer.attachments.clone();
                }
                Err(rejection) => *outcome = Outcome::Invalid(rejection.message().to_owned()),
            }
        }
        let of_host = match outcome {
            Outcome::Answered(_) => None,
            Outcome::Timeout => Some(Outcome::Timeout),
            Outcome::Disconnected => Some(Outcome::Disconnected),
            Outcome::Invalid(reason) => Some(Outcome::Invalid(reason.clone())),
            Outcome::Busy(reason) => Some(Outcome::Busy(reason.clone())),
        };
        if let Some(outcome) = of_host {
            payload.text = data_of(&outcome);
        }
        let received_at = SystemTime::now();
        Event {
            id: EventId::new(received_at),
            name: ack::event_name(&request.ack),
            payload,
            caller: ended.caller.clone(),
            received_at,
            connections: None,
            timer: None,
        }
    }
}

/// Returns a permit if the plugin may be called. A client that is throttled, because the plugin
/// fails on what it sends, gives no answer that the plugin sees.
fn admit(active: &ActivePlugin, ended: &mut EndedAck, now: Instant) -> Option<Permit> {
    if matches!(ended.outcome, Outcome::Answered(_)) {
        match active.health.admit(ended.caller.client_keys().as_deref(), now) {
            Ok(permit) => return Some(permit),
            Err(Denied::Open { .. }) => return None,
            Err(Denied::Throttled { .. }) => {
                let reason = "this plugin has failed too often on events of this client";
                ended.outcome = Outcome::Busy(reason.to_owned());
            }
        }
    }
    active.health.admit(None, now).ok()
}
