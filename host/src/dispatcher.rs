//! Handles events: finds the plugin, checks the payload, runs the handler, commits its writes and
//! applies its effects. Everything that makes a client receive an event passes through here.

mod backlog;
mod commit;
mod host_events;
mod run;

use std::sync::Arc;
use std::time::Instant;

use serde_json::Value;
use serde_json::value::RawValue;

use crate::breaker::{Change, Denied, Outcome, Permit};
use crate::config::Limits;
use crate::effect::{Effect, Emit, Target};
use crate::event::{Event, Identity, Json, is_deeper};
use crate::log::{self, Chain, Handler};
use crate::metrics::Metrics;
use crate::plugin::{Budget, Failure};
use crate::registry::{ActivePlugin, Generation, Inbound, Registry};
use crate::rejection::{Refusal, Rejection};
use crate::rooms::{Applied, Rooms};
use crate::rule::Access;
use crate::store::CommitError;

use commit::{checkpoint_if_due, commit, commit_exclusive, lock_exclusive};
use host_events::HostEvents;
use run::{Fault, Run};

/// Runs the handlers of plugins, and applies their effects.
pub struct Dispatcher {
    registry: Arc<Registry>,
    rooms: Arc<Rooms>,
    limits: Arc<Limits>,
    metrics: Arc<Metrics>,
    host_events: HostEvents,
}

/// The result of a handler that succeeded.
#[derive(Debug)]
pub struct Reply {
    /// The JSON that the event's ack carries.
    pub json: Json,
    /// Whether the handler asked to end its caller's connection. The ack is sent before the end.
    pub ends: bool,
}

/// The outcome of an event.
pub type Answer = Result<Reply, Rejection>;

/// Why an event had no effects: a rejection for its sender, and a fault for operators only.
#[derive(Debug)]
struct Failed {
    rejection: Rejection,
    /// Boxed, so that the result of a success does not reserve space for it.
    fault: Option<Box<log::Fault>>,
}

impl Failed {
    fn new(rejection: Rejection, fault: log::Fault) -> Self {
        Self { rejection, fault: Some(Box::new(fault)) }
    }
}

impl From<Rejection> for Failed {
    fn from(rejection: Rejection) -> Self {
        Self { rejection, fault: None }
    }
}

/// Number of runs without the plugin's commit lock. If each of them ends in a conflict, the next
/// run holds the lock from its begin, so that it can commit.
const OPTIMISTIC_RUNS: u32 = 2;

impl Dispatcher {
    /// Creates a dispatcher for the plugins in `registry`. It applies effects to `rooms`.
    pub fn new(
        registry: Arc<Registry>,
        rooms: Arc<Rooms>,
        limits: Arc<Limits>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self { registry, rooms, limits, metrics, host_events: HostEvents::default() }
    }

    /// Handles a client's event to its end. When this returns, the effects of the event are in the
    /// buffers of their receivers.
    ///
    /// # Errors
    /// Returns why the event had no effects. Nothing was applied then.
    pub async fn handle(&self, event: Arc<Event>) -> Answer {
        // The event is bound to this generation.
        let generation = self.registry.snapshot();
        let Some(route) = generation.route(&event.name) else {
            self.metrics.unknown_event();
            log::rejected(
                &event.name,
                event.id,
                event.caller.as_deref(),
                None,
                &Rejection::UnknownEvent,
                None,
            );
            return Err(Rejection::UnknownEvent);
        };
        let began = Instant::now();
        let mut checked = self.check(&event, &route.inbound);
        if let Some(caller) = &event.caller
            && !caller.untold.is_empty()
            && checked.is_ok()
        {
            // Boxed, because only the first events of a connection need it.
            checked = Box::pin(self.until_connected(&route.plugin, caller, began)).await;
        }
        let (answer, ended) =
            match checked.and_then(|()| Self::admit(&generation, &route.plugin, &event, began)) {
                Ok(permit) => {
                    self.run(
                        permit,
                        &generation,
                        &route.plugin,
                        &event,
                        Some(route.inbound.as_ref()),
                        began,
                    )
                    .await
                }
                Err(rejection) => (Err(rejection.into()), Instant::now()),
            };
        let code = answer.as_ref().err().map(|failed| failed.rejection.code());
        route.inbound.meter.record(code, ended.saturating_duration_since(began));
        answer.map_err(|failed| report(&generation, &route.plugin, &event, failed))
    }

    /// Emits `event` for a business system. Without `to`, the declaration of the event decides
    /// whether it goes to everyone or to rooms that are named by the data.
    ///
    /// # Errors
    /// Returns a rejection if no plugin declares the event, its data is invalid, it may not go to
    /// `to`, or no room is known.
    pub fn emit(
        &self,
        event: &str,
        data: &RawValue,
        to: Option<Target>,
    ) -> Result<Emitted, Rejection> {
        let generation = self.registry.snapshot();
        let declarations: Vec<_> = generation.outbound(event).collect();
        // All declarations of an event have the same schema.
        let Some(declared) = declarations.first() else { return Err(Rejection::UnknownEvent) };
        let value = self.parse(data.get())?;
        declared.data.check(&value).map_err(Rejection::against_schema)?;
        let to = match to {
            Some(Target::Everyone) if !declarations.iter().any(|declared| declared.everyone) => {
                return Err(Rejection::Forbidden(format!(
                    "the declaration of `{event}` does not send it to everyone"
                )));
            }
            Some(Target::Rooms(rooms)) => {
                if let Some(room) = rooms
                    .iter()
                    .find(|room| !declarations.iter().any(|declared| declared.names(room)))
                {
                    return Err(Rejection::Forbidden(format!(
                        "the declaration of `{event}` does not name the room `{room}`"
                    )));
                }
                Target::Rooms(rooms)
            }
            Some(other) => other,
            None if declarations.iter().any(|declared| declared.everyone) => Target::Everyone,
            None => {
                let mut rooms: Vec<_> = declarations
                    .iter()
                    .flat_map(|declared| &declared.rooms)
                    .filter_map(|pattern| pattern.fill(&value))
                    .collect();
                rooms.sort();
                rooms.dedup();
                if rooms.is_empty() {
                    return Err(Rejection::invalid(format!(
                        "no room is known: name one, the declaration of `{event}` gives none for this data"
                    )));
                }
                Target::Rooms(rooms)
            }
        };
        let rooms = match &to {
            Target::Rooms(rooms) => rooms.clone(),
            _ => Vec::new(),
        };
        let emit = Emit {
            to,
            event: event.to_owned(),
            data: Json::of(data.get().to_owned(), &value),
            attachments: Vec::new(),
        };
        let receivers = self.rooms.apply(None, &[Effect::Emit(emit)]).receivers;
        Ok(Emitted { rooms, receivers })
    }

    /// Checks the sender's access, and that the payload and its attachments are valid.
    fn check(&self, event: &Event, inbound: &Inbound) -> Result<(), Rejection> {
        let nobody = Identity::default();
        let identity = event.caller.as_ref().map_or(&nobody, |caller| &caller.identity);
        if !inbound.access.allows(identity, None) {
            return Err(match &inbound.access {
                Access::Role(role) if identity.user.is_some() => {
                    Rejection::Forbidden(format!("this event asks for the role `{role}`"))
                }
                _ => Rejection::Unauthorized(
                    "this event asks for a user; connect with a token".to_owned(),
                ),
            });
        }
        let value = self.parse(&event.payload.text)?;
        inbound.data.check(&value).map_err(Rejection::against_schema)?;
        match run::placeholders_match(&value, event.payload.attachments.len()) {
            true => Ok(()),
            false => Err(Rejection::invalid(
                "each binary attachment must be named by exactly one placeholder, and no other",
            )),
        }
    }

    fn parse(&self, text: &str) -> Result<Value, Rejection> {
        let most = self.limits.json_depth.get();
        if is_deeper(text, most) {
            return Err(Rejection::TooLarge(format!("the payload nests deeper than {most}")));
        }
        serde_json::from_str(text).map_err(|error| unreadable(text, &error))
    }

    /// Returns a permit if an event of a client may run now.
    fn admit(
        generation: &Generation,
        active: &ActivePlugin,
        event: &Event,
        began: Instant,
    ) -> Result<Permit, Rejection> {
        if generation.is_disabled(active.code.name()) {
            return Err(disabled());
        }
        active
            .health
            .admit(event.caller.as_ref().map(|caller| &caller.client), began)
            .map_err(refuse)
    }

    /// Runs the handler of an admitted event, again if its writes met a conflict, and applies its
    /// effects. Returns the result, and the time at which the event ended.
    async fn run(
        &self,
        permit: Permit,
        generation: &Arc<Generation>,
        active: &Arc<ActivePlugin>,
        event: &Arc<Event>,
        inbound: Option<&Inbound>,
        began: Instant,
    ) -> (Result<Reply, Failed>, Instant) {
        let client = event.caller.as_ref().map(|caller| &caller.client);
        let answer = self.run_within(generation, active, event, inbound, began).await;
        let ended = Instant::now();
        // Checked after failures too: a failed event may have written the numbers that it took.
        checkpoint_if_due(active);
        let outcome = match answer.as_ref().map_err(|failed| &failed.rejection) {
            Err(Rejection::PluginFailed | Rejection::TimedOut) => Outcome::Failed,
            Err(Rejection::Busy(_) | Rejection::Unavailable(_)) => Outcome::Unknown,
            _ => Outcome::Answered,
        };
        active.code.count(outcome == Outcome::Failed);
        // Noted before the breaker can open: if it opens, a rollback is reported with this reason.
        if let (Outcome::Failed, Err(Failed { fault: Some(fault), .. })) = (outcome, &answer) {
            active.health.note_failure(format!("{}: {}", event.name, fault.error));
        }
        if let Some(change) = active.health.record(permit, client, outcome, ended) {
            let (plugin, digest) = (active.code.name(), &active.code.digest);
            match change {
                Change::Opened(time) => {
                    self.metrics.breaker_trip(plugin);
                    tracing::error!(
                        plugin,
                        digest,
                        open_ms = time.as_millis(),
                        "breaker open: the plugin failed too often"
                    );
                }
                Change::Closed => {
                    tracing::info!(plugin, digest, "breaker closed: the plugin is well again");
                    self.registry.tell_change();
                }
                Change::Throttled(client, time) => {
                    tracing::warn!(plugin, throttled = %client, throttled_ms = time.as_millis(), "client throttled: the plugin fails on its events");
                }
            }
        }
        (answer, ended)
    }

    async fn run_within(
        &self,
        generation: &Arc<Generation>,
        active: &Arc<ActivePlugin>,
        event: &Arc<Event>,
        inbound: Option<&Inbound>,
        began: Instant,
    ) -> Result<Reply, Failed> {
        let limits = active.code.limits();
        // A host event is never rejected as `busy`: it waits for an instance, and its time limit
        // begins after that wait.
        let (guard, mut budget) = match inbound {
            None => (
                active.code.acquire(None).await,
                Budget::new(limits.event_cpu_ms, limits.event_wall_ms),
            ),
            Some(_) => {
                let budget = Budget::since(began, limits.event_cpu_ms, limits.event_wall_ms);
                (active.code.acquire(Some(&budget)).await, budget)
            }
        };
        let Some(mut guard) = guard else {
            return Err(
                Rejection::Busy("all instances of the plugin are at work".to_owned()).into()
            );
        };
        let deadline = inbound.map(|_| budget.until());
        let mut runs = 0;
        loop {
            let mut lock = match runs < OPTIMISTIC_RUNS {
                true => None,
                false => Some(lock_exclusive(&active.state, deadline).await.ok_or_else(contended)?),
            };
            runs += 1;
            let run = Run::new(event, generation, active, &self.rooms);
            let faults = active.state.store.faults();
            let (answer, calls) = match guard.handle(event, Box::new(run), &mut budget).await {
                Ok(returned) => returned,
                Err(failure) => {
                    let mut failed = fail(&failure, guard.take_output());
                    // The handler may have trapped because a call to its state failed.
                    if failed.rejection == Rejection::PluginFailed
                        && active.state.store.faults() != faults
                    {
                        failed.rejection = state_failed(active);
                    }
                    return Err(failed);
                }
            };
            let Some(mut run) = Run::from_calls(calls) else {
                return Err(Rejection::PluginFailed.into());
            };
            match run.take_fault() {
                None => {}
                Some(Fault::Rejected(rejection)) => {
                    active.code.count_failure();
                    return Err(rejection.into());
                }
                Some(Fault::Outdated) => {
                    guard.discard();
                    tracing::trace!(event = %event.name, id = %event.id, runs, "run again: the state has changed under its reads");
                    continue;
                }
            }
            let reply = match answer {
                Ok(reply) => reply,
                Err(refusal) => {
                    guard.keep();
                    let (code, message) = (refusal.code.clone(), refusal.message.clone());
                    let rejection = match Rejection::from_handler(refusal) {
                        // For a host event, `unavailable` means that the host itself failed, and
                        // the event is kept. So a handler's own `unavailable` becomes a plain
                        // refusal.
                        Rejection::Unavailable(message) if inbound.is_none() => {
                            Rejection::Refused(Refusal::new(code.as_str(), message))
                        }
                        rejection => rejection,
                    };
                    return Err(match rejection {
                        Rejection::PluginFailed => {
                            let error = format!(
                                "the handler returned a refusal that is not its client's: {code}: {message}"
                            );
                            Failed::new(rejection, log::Fault::new(error))
                        }
                        rejection => rejection.into(),
                    });
                }
            };
            let reply = match run.check_reply(reply, inbound) {
                Ok(reply) => reply,
                Err(reason) => {
                    return Err(Failed::new(
                        Rejection::PluginFailed,
                        log::Fault::new(format!("reply refused: {reason}")),
                    ));
                }
            };
            let (effects, view) = run.finish();
            match view.filter(|view| view.wrote()) {
                None => {
                    let applied = self.apply(generation, event, &effects);
                    guard.keep();
                    return Ok(Reply { json: reply, ends: applied.ends });
                }
                Some(view) => {
                    let changes = view.into_changes();
                    let (held, committed) = match lock.take() {
                        Some(held) => (held, commit_exclusive(&active.state.store, changes).await),
                        None => {
                            commit(&active.state, changes, deadline).await.ok_or_else(contended)?
                        }
                    };
                    match committed {
                        Ok(()) => {
                            let applied = self.apply(generation, event, &effects);
                            drop(held);
                            guard.keep();
                            return Ok(Reply { json: reply, ends: applied.ends });
                        }
                        Err(CommitError::Conflict) => {
                            guard.discard();
                            tracing::trace!(event = %event.name, id = %event.id, runs, "run again after a conflict");
                        }
                        Err(CommitError::Contended) => return Err(contended().into()),
                        Err(error @ CommitError::Full { .. }) => {
                            active.code.count_failure();
                            return Err(Rejection::TooLarge(error.to_string()).into());
                        }
                        Err(error) => {
                            active.code.count_failure();
                            let rejection = Rejection::Unavailable(
                                "the plugin's state can't be written now".to_owned(),
                            );
                            return Err(Failed::new(
                                rejection,
                                log::Fault::new(format!("state not written: {}", Chain(&error))),
                            ));
                        }
                    }
                }
            }
        }
    }

    /// Applies the handler's effects. A reload may have tightened a room's rule since the handler
    /// was allowed to join. That reload checked only the members of that time, so a later join is
    /// checked here.
    fn apply(&self, generation: &Generation, event: &Event, effects: &[Effect]) -> Applied {
        let applied = self.rooms.apply(event.caller.as_ref(), effects);
        if let Some(caller) = &event.caller
            && effects.iter().any(|effect| matches!(effect, Effect::Join(_)))
        {
            let now = self.registry.snapshot();
            if now.number != generation.number {
                self.rooms
                    .recheck_one(caller, &|room, identity| now.may_join(room, identity).is_ok());
            }
        }
        applied
    }
}

/// Logs once why an event had no effects. Returns the rejection for its sender.
fn report(
    generation: &Generation,
    active: &ActivePlugin,
    event: &Event,
    failed: Failed,
) -> Rejection {
    let Failed { rejection, fault } = failed;
    let handler = Handler {
        plugin: active.code.name(),
        version: &active.code.registration.version,
        generation: generation.number,
    };
    log::rejected(
        &event.name,
        event.id,
        event.caller.as_deref(),
        Some(handler),
        &rejection,
        fault.as_deref(),
    );
    rejection
}

/// Maps a guest call that ended without an answer to a rejection for the event's sender and a fault
/// for operators.
fn fail(failure: &Failure, output: String) -> Failed {
    let mut fault = log::Fault::new(Chain(failure).to_string()).with_output(output);
    if let Failure::CpuExceeded { ran, .. } = failure {
        fault.ran_ms = Some(ran.as_secs_f64() * 1000.0);
    }
    let rejection = match failure {
        Failure::CpuExceeded { .. } | Failure::WallExceeded(_) => Rejection::TimedOut,
        Failure::NoRoom(_) => {
            Rejection::Busy("there is no room for another instance of the plugin now".to_owned())
        }
        Failure::MemoryExceeded(_) | Failure::Trapped(_) | Failure::NotInstantiated(_) => {
            Rejection::PluginFailed
        }
    };
    Failed::new(rejection, fault)
}

/// The rejection of an event for a disabled plugin.
fn disabled() -> Rejection {
    Rejection::Unavailable("an operator has disabled this plugin".to_owned())
}

/// The rejection if the state could not be read while the handler ran.
fn state_failed(active: &ActivePlugin) -> Rejection {
    active.code.count_failure();
    Rejection::Unavailable("the plugin's state can't be read now".to_owned())
}

/// The rejection if the plugin's state stayed locked for too long.
fn contended() -> Rejection {
    Rejection::Busy("the plugin's state is contended".to_owned())
}

/// Explains why a payload could not be parsed. The text between the event's name and the end of the
/// packet may be several arguments, or no JSON. The parser's message never quotes the text.
fn unreadable(text: &str, error: &serde_json::Error) -> Rejection {
    let arguments = serde_json::from_str::<Vec<serde::de::IgnoredAny>>(&format!("[{text}]"));
    match arguments.map(|arguments| arguments.len()) {
        Ok(count @ 2..) => Rejection::invalid(format!(
            "an event has at most one argument, and this one has {count}; put them into one object"
        )),
        _ => Rejection::invalid(format!("the payload can't be read as JSON: {error}")),
    }
}

/// The rejection of an event that the breaker does not admit now.
fn refuse(denied: Denied) -> Rejection {
    match denied {
        Denied::Open { .. } => Rejection::Unavailable(
            "this plugin has failed too often; it is tried again soon".to_owned(),
        ),
        Denied::Throttled { retry_after } => Rejection::RateLimited {
            message: "this plugin has failed too often on events of this client".to_owned(),
            retry_after,
        },
    }
}

/// The receivers of an event that was emitted over HTTP.
#[derive(Debug, PartialEq, Eq)]
pub struct Emitted {
    /// Empty if the event went to everyone.
    pub rooms: Vec<String>,
    /// Number of connections into whose buffers the event was put.
    pub receivers: usize,
}
