//! Runs the handler of one admitted event until a run is valid: commits the writes of that run, and
//! applies its effects.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use crate::effect::Effect;
use crate::error_chain::ErrorChain;
use crate::event::{Connection, Event, Identity, Json};
use crate::log;
use crate::plugin::{Budget, Failure, InstanceGuard};
use crate::registry::{ActivePlugin, Generation, Inbound};
use crate::rejection::{Refusal, Rejection};
use crate::rooms::{Applied, MemberRule};
use crate::store::{CommitError, CommitGuard, View};

use super::checks::check_reply;
use super::commit::{CommitEntry, commit};
use super::load;
use super::requests::EventRequests;
use super::run::{Discarded, Run, Sending};
use super::source::Source;
use super::{Dispatcher, Failed, Reply, contended, state_check, state_unreadable};

/// Number of conflicts after which a run holds the plugin's commit lock from its begin, so that it
/// can commit. Only a run that has to send a request does not hold the lock then.
const OPTIMISTIC_RUNS: u32 = 2;

/// Why an event got no instance.
const ALL_BUSY: &str = "all instances of the plugin are busy";

/// An admitted event, and what it is bound to.
struct BoundEvent<'event> {
    dispatcher: &'event Dispatcher,
    generation: &'event Arc<Generation>,
    active: &'event Arc<ActivePlugin>,
    event: &'event Arc<Event>,
    source: Source<'event>,
    /// `None` unless a client has sent it.
    inbound: Option<&'event Inbound>,
    /// `None` if the plugin may send no requests.
    requests: Option<Arc<EventRequests>>,
}

/// The result of one run of the handler.
enum Attempt {
    /// The handler replied. It has succeeded if its entry can be committed.
    Done { reply: Json, attachments: Vec<Bytes>, entry: CommitEntry },
    /// Data that the run has read has changed since. The handler must run again.
    Outdated,
    /// The handler was stopped at a request: the run holds the commit lock, or the event has no
    /// permit to send. It must run again without the lock, after a wait without an instance.
    MustSend,
    /// The handler refused the event. All that it has read was of one state, so the run is valid,
    /// and its instance can be kept.
    Refused(Failed),
    /// The run failed, and its instance must be dropped.
    RunFailed(Failed),
}

impl Dispatcher {
    /// Runs the handler of an admitted event. Runs it again if data that it has read has changed
    /// meanwhile. Commits the writes of the valid run, and applies its effects.
    pub(super) async fn run_until_valid(
        &self,
        generation: &Arc<Generation>,
        active: &Arc<ActivePlugin>,
        event: &Arc<Event>,
        source: Source<'_>,
        began: Instant,
    ) -> Result<Reply, Failed> {
        let requests = active.allowance.allows_any().then(Arc::default);
        let (dispatcher, inbound) = (self, source.inbound());
        let bound = BoundEvent { dispatcher, generation, active, event, source, inbound, requests };
        let answer = bound.run_until_valid(began).await;
        answer.map_err(|failed| match &bound.requests {
            Some(requests) if requests.were_sent() => failed.after_requests(),
            _ => failed,
        })
    }
}

/// Waits for an instance of the plugin, see [`Source`]. A host event is never rejected as `busy`.
async fn acquire(
    active: &ActivePlugin,
    source: Source<'_>,
    began: Instant,
) -> Result<(InstanceGuard, Budget), Failed> {
    let limits = active.code.limits();
    let whole = || Budget::new(limits.event_cpu_ms, limits.event_wall_ms);
    let (guard, budget) = match source {
        Source::Host => (active.code.acquire(None).await, whole()),
        Source::Ack(deadline) => {
            let acquired = active.code.acquire(None);
            (tokio::time::timeout_at(deadline.into(), acquired).await.ok().flatten(), whole())
        }
        Source::Client(_) => {
            let budget = Budget::since(began, limits.event_cpu_ms, limits.event_wall_ms);
            (active.code.acquire(Some(&budget)).await, budget)
        }
    };
    let Some(guard) = guard else {
        return Err(Rejection::Busy(ALL_BUSY.to_owned()).into());
    };
    Ok((guard, budget))
}

impl BoundEvent<'_> {
    /// See [`Dispatcher::run_until_valid`].
    async fn run_until_valid(&self, began: Instant) -> Result<Reply, Failed> {
        let (active, event) = (self.active, self.event);
        let (mut guard, mut budget) = acquire(active, self.source, began).await?;
        // A host event waits for the commit lock without a limit.
        let deadline = |budget: &Budget| self.waits_in_time().then(|| active.code.deadline(budget));
        let (mut runs, mut conflicts, mut stops, mut must_send) = (0, 0, 0, false);
        // Only a valid run leaves the loop by `break`, and its instance is kept.
        let answer = loop {
            // A run without the lock sends the request at which the last run was stopped. Its
            // answer is recorded: if this run ends in a conflict, the next one, with the lock,
            // gets the answer and does not stop there.
            let is_optimistic = std::mem::take(&mut must_send) || conflicts < OPTIMISTIC_RUNS;
            let lock = if is_optimistic {
                None
            } else {
                let store = &active.state.store;
                Some(store.lock_exclusive(deadline(&budget)).await.ok_or_else(contended)?)
            };
            runs += 1;
            let before = self.requests.as_ref().map(|_| budget.clone());
            match self.attempt(&mut guard, &mut budget, lock.is_some()).await {
                Attempt::Done { reply, attachments, entry } => {
                    match self.commit_and_apply(entry, lock, deadline(&budget)).await? {
                        Some(applied) => {
                            break Ok(Reply { json: reply, attachments, ends: applied.ends });
                        }
                        None => {
                            conflicts += 1;
                            tracing::trace!(event = %event.name, id = %event.id, runs, "run again \
                                        after a conflict");
                        }
                    }
                }
                Attempt::Outdated => {
                    conflicts += 1;
                    tracing::trace!(event = %event.name, id = %event.id, runs, "run again: the \
                                        state that it read has changed");
                }
                Attempt::MustSend => {
                    drop((lock, guard));
                    // The handler is not the cause of the stop, so the event gets back the CPU time
                    // of this run. It is stopped once for each request that it may send, and once
                    // for the permit. Only a handler that makes other requests in each run is
                    // stopped more often. It gets nothing back then, so its CPU time ends it.
                    if let Some(before) = before.filter(|_| stops <= active.allowance.requests) {
                        budget.give_back(&before);
                    }
                    stops += 1;
                    guard = self.wait_to_send(&mut budget).await?;
                    must_send = true;
                    // The guard has another instance already.
                    continue;
                }
                Attempt::Refused(failed) => break Err(failed),
                Attempt::RunFailed(failed) => return Err(failed),
            }
            // The run has changed the memory of its instance. The guard keeps the permit, and gives
            // the next run another instance.
            guard.discard();
        };
        guard.keep();
        answer
    }

    /// Whether all its waits after the first have its time limit.
    fn waits_in_time(&self) -> bool {
        !matches!(self.source, Source::Host)
    }

    /// Returns what the next run needs to send HTTP requests.
    fn sending(&self, budget: &Budget, holds_lock: bool) -> Option<Box<Sending>> {
        let requests = self.requests.as_ref()?;
        requests.begin_run();
        Some(Box::new(Sending {
            outbound: Arc::clone(&self.dispatcher.outbound),
            metrics: Arc::clone(&self.dispatcher.metrics),
            requests: Arc::clone(requests),
            deadline: self.active.code.deadline(budget),
            holds_lock,
            made: 0,
        }))
    }

    /// Waits until the event may send requests, and then for an instance.
    async fn wait_to_send(&self, budget: &mut Budget) -> Result<InstanceGuard, Failed> {
        if let Some(requests) = &self.requests {
            let waited = requests.wait(&self.active.allowance);
            // A version that is replaced does not let its events wait until their deadline.
            self.active.code.until_ended(waited).await.ok_or(Rejection::TimedOut)?;
        }
        self.acquire_again(budget).await
    }

    /// Waits for an instance again, for an event that has given its instance back. This wait of a
    /// host event does not count, as its first one does not.
    async fn acquire_again(&self, budget: &mut Budget) -> Result<InstanceGuard, Failed> {
        let code = &self.active.code;
        let guard = if self.waits_in_time() {
            code.acquire(Some(budget)).await
        } else {
            let began = Instant::now();
            let guard = code.acquire(None).await;
            budget.postpone(began.elapsed());
            guard
        };
        guard.ok_or_else(|| Rejection::Busy(ALL_BUSY.to_owned()).into())
    }

    /// Runs the handler once. Its writes are not stored yet, and its effects not applied. Only the
    /// numbers that it has taken (`next-id`) and the requests that it has sent stay.
    async fn attempt(
        &self,
        guard: &mut InstanceGuard,
        budget: &mut Budget,
        holds_lock: bool,
    ) -> Attempt {
        let active = self.active;
        let sending = self.sending(budget, holds_lock);
        let run = Run::new(self.event, self.generation, active, &self.dispatcher.rooms, sending);
        let faults = active.state.store.faults();
        let arguments = self.inbound.map(|inbound| inbound.arguments).unwrap_or_default();
        let data = arguments.payload(&self.event.payload.text);
        let handled = guard.handle(self.event, &data, Box::new(run), budget).await;
        let (answer, calls) = match handled {
            Ok(returned) => returned,
            Err(failure) => {
                let mut failed = fail(&failure, guard.take_output());
                if let Some(requests) = &self.requests {
                    if requests.is_stopped() {
                        return Attempt::MustSend;
                    }
                    // The handler may have trapped because of it.
                    if requests.is_outdated() && failed.rejection == Rejection::PluginFailed {
                        return Attempt::Outdated;
                    }
                    // The event has waited for other services for half of its time: then the
                    // breaker does not count that it is late.
                    failed.is_excused = matches!(failure, Failure::WallExceeded(_))
                        && requests.have_taken_half(active.code.limits().event_wall_ms);
                }
                // The handler may have trapped because a call to its state failed. The fault may
                // be that of another event at the same time: in doubt, the state is the cause.
                if failed.rejection == Rejection::PluginFailed
                    && active.state.store.faults() != faults
                {
                    // `Dispatcher::run` counts `plugin_failed` and `timed_out`, and nothing else.
                    active.code.count_failure();
                    failed.rejection = state_unreadable();
                    let trouble = active.state.store.trouble();
                    if let (Some(fault), Some(trouble)) = (&mut failed.fault, trouble) {
                        fault.error =
                            format!("state not read: {}; {}", trouble.reason, fault.error);
                    }
                }
                return Attempt::RunFailed(failed);
            }
        };
        // `handle` returns the calls that it was given, which are a `Run`.
        let Some(mut run) = Run::from_calls(calls) else {
            return Attempt::RunFailed(Rejection::PluginFailed.into());
        };
        match run.take_discarded() {
            None => {}
            Some(Discarded::Rejected(failed)) => {
                active.code.count_failure();
                return Attempt::RunFailed(failed);
            }
            Some(Discarded::Outdated) => return Attempt::Outdated,
        }
        let reply = match answer {
            Ok(reply) => reply,
            Err(refusal) => return Attempt::Refused(refused(refusal)),
        };
        let (effects, attachments, view) = run.finish();
        let mut changes = view.map(|view| View::into_changes(*view)).unwrap_or_default();
        let checked = if self.inbound.is_none() && load::is_load(self.event) {
            let read = load::read(reply, attachments.len(), active, self.event);
            read.map(|(reply, mark)| {
                changes.mark_load(mark);
                reply
            })
        } else if self.inbound.is_none() && state_check::is_check(self.event) {
            state_check::read(reply, attachments.len())
        } else {
            check_reply(reply, attachments.len(), self.inbound, active, &effects)
        };
        let reply = match checked {
            Ok(reply) => reply,
            Err(reason) => {
                return Attempt::RunFailed(Failed::new(
                    Rejection::PluginFailed,
                    log::Fault::new(format!("reply refused: {reason}")),
                ));
            }
        };
        let (event, generation) = (self.event.id, self.generation.number);
        if let Some(fired) = &self.event.timer {
            changes.consume(fired.clone());
        }
        let entry = CommitEntry { event, generation, changes, effects };
        Attempt::Done { reply, attachments, entry }
    }

    /// Commits the entry of a run and applies its effects. `lock` is the plugin's commit lock if
    /// the run has held it. Otherwise, if there is something to store, the commit waits for the
    /// lock until `deadline`; `None` is no limit. Returns `None` after a conflict.
    async fn commit_and_apply(
        &self,
        entry: CommitEntry,
        lock: Option<CommitGuard>,
        deadline: Option<Instant>,
    ) -> Result<Option<Applied>, Failed> {
        let code = &self.active.code;
        match commit(&self.active.state.store, entry, lock, deadline).await {
            Ok(committed) => Ok(Some(committed.deliver(|effects| self.apply(effects)))),
            Err(CommitError::Conflict) => Ok(None),
            Err(CommitError::Contended | CommitError::Late) => Err(contended().into()),
            Err(error @ CommitError::TimerGone) => Err(Rejection::Busy(error.to_string()).into()),
            Err(
                error @ (CommitError::Full { .. }
                | CommitError::TooManyTimers { .. }
                | CommitError::TooManyDeliveries { .. }),
            ) => {
                code.count_failure();
                Err(Rejection::TooLarge(error.to_string()).into())
            }
            Err(error) => {
                code.count_failure();
                let mut failed = Failed::new(
                    Rejection::NotCommitted("the plugin's state can't be written now".to_owned()),
                    log::Fault::new(format!("state not written: {}", ErrorChain(&error))),
                );
                failed.is_unstored = !matches!(error, CommitError::Unknown);
                Err(failed)
            }
        }
    }

    /// Applies the handler's effects. Since the handler was allowed to join a connection, a reload
    /// may have tightened the rule of the room, or a new token may have changed the roles of the
    /// connection. Both recheck the members of that moment. So joins of others are checked again in
    /// `rooms.apply`, and the rooms of the caller after it has joined: then either the reload (or
    /// the token) has found the new member, or this function finds the new rule.
    fn apply(&self, effects: &[Effect]) -> Applied {
        let Dispatcher { registry, rooms, .. } = self.dispatcher;
        let may_join = |room: &str, identity: &Identity| {
            registry.snapshot().may_join(room, identity, self.active.code.name()).is_ok()
        };
        let max_rooms = self.active.code.limits().rooms.get();
        let on_join = |room: &str, connection: &Connection| {
            self.observe_join(&registry.snapshot(), room, &connection.identity());
        };
        let rule = MemberRule { may_join: &may_join, joined: &on_join, max_rooms };
        if let Some(observer) = &self.dispatcher.observer {
            observer(self.event, self.active.code.name(), effects);
        }
        let applied = rooms.apply(&self.event.caller, effects, &rule);
        if applied.skipped > 0 {
            let plugin = self.active.code.name();
            self.dispatcher.metrics.volatile_skipped(plugin, applied.skipped);
        }
        if let Some(connection) = self.event.caller.connection()
            && effects.iter().any(|effect| matches!(effect, Effect::Join(_)))
        {
            let (now, plugin) = (registry.snapshot(), self.active.code.name());
            for effect in effects {
                if let Effect::Join(room) = effect {
                    self.observe_join(&now, room, &connection.identity());
                }
            }
            let is_new = |room: &str| {
                effects.iter().any(|effect| matches!(effect, Effect::Join(name) if name == room))
            };
            rooms.recheck_one(connection, &|room, identity| {
                if is_new(room) {
                    now.may_join(room, identity, plugin).is_ok()
                } else {
                    // It was in this room before. With `now` as the rules before, it counts as let
                    // in where handlers choose the members.
                    now.may_stay(room, identity, &now)
                }
            });
        }
        applied
    }

    /// Counts a join that a rule with `observe = true` would have refused.
    fn observe_join(&self, generation: &Generation, room: &str, identity: &Identity) {
        let plugin = self.active.code.name();
        if let Some(rule) = generation.tried_refuses(room, identity, plugin) {
            let (name, caller) = (rule.pattern.as_str(), &self.event.caller);
            self.dispatcher.observed("room", name, caller, &rule.access);
        }
    }
}

/// Maps a handler's refusal to a rejection for the event's sender. If the sender can't correct it,
/// the refusal is a fault for operators.
fn refused(refusal: Refusal) -> Failed {
    let (code, message) = (refusal.code.clone(), refusal.message.clone());
    match Rejection::from_handler(refusal) {
        rejection @ Rejection::PluginFailed => {
            let error = format!(
                "the handler returned a refusal that is not caused by the client: {code}: {message}"
            );
            Failed::new(rejection, log::Fault::new(error))
        }
        rejection => rejection.into(),
    }
}

/// Maps a guest call that ended without an answer to a rejection for the event's sender and a fault
/// for operators.
fn fail(failure: &Failure, output: String) -> Failed {
    let mut fault = log::Fault::new(ErrorChain(failure).to_string()).with_output(output);
    if let Failure::CpuExceeded { ran, .. } = failure {
        fault.ran_ms = Some(ran.as_secs_f64() * 1000.0);
    }
    let rejection = match failure {
        Failure::CpuExceeded { .. } | Failure::WallExceeded(_) => Rejection::TimedOut,
        Failure::NoSpace(_) => {
            Rejection::Busy("there is no space for another instance of the plugin now".to_owned())
        }
        Failure::MemoryExceeded(_) | Failure::Trapped(_) | Failure::NotInstantiated(_) => {
            Rejection::PluginFailed
        }
    };
    Failed::new(rejection, fault)
}
