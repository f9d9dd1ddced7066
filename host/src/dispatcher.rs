//! Handles events: finds the plugin, checks the payload, runs the handler, commits its writes and
//! applies its effects. Everything that makes a client receive an event passes through here.

mod acks;
mod attempt;
mod checks;
mod commit;
mod emit;
mod fire;
mod host_events;
mod load;
mod requests;
mod run;
mod sequence;
mod source;
mod state_check;

use std::sync::Arc;
use std::time::Instant;

use crate::breaker::{Change, Denied, Outcome, Permit};
use crate::config::LiveConfig;
use crate::effect::Effect;
pub use crate::effect::Reply;
use crate::event::{Caller, Connection, Event};
use crate::events::check_payload;
use crate::log::{self, Handler};
use crate::metrics::Metrics;
use crate::outbound::Outbound;
use crate::rate::{RateLimits, Verdict};
use crate::registry::{ActivePlugin, Generation, Inbound, Registry};
use crate::rejection::{Origin, Rejection, Retry};
use crate::rooms::Rooms;
use crate::rule::Access;
use crate::wall_clock::WallClock;

use acks::WaitingAcks;
pub(crate) use acks::panicked as ack_panicked;
use commit::checkpoint_if_due;
pub use emit::PreparedEmit;
pub(crate) use fire::Fired;
use host_events::HostEvents;
pub(crate) use host_events::max_timers;
pub(crate) use load::Loaded;
use load::is_load;
use source::Source;

/// Runs the handlers of plugins, and applies their effects.
pub struct Dispatcher {
    registry: Arc<Registry>,
    rooms: Arc<Rooms>,
    config: Arc<LiveConfig>,
    metrics: Arc<Metrics>,
    host_events: HostEvents,
    waiting_acks: WaitingAcks,
    /// The clock by which timers fire.
    clock: WallClock,
    rate: RateLimits,
    outbound: Arc<Outbound>,
    /// Called with the effects of each handler, in a host that tests plugins.
    observer: Option<Observer>,
}

/// Called with an event, the plugin that has handled it, and the effects that are applied next.
pub(crate) type Observer = Box<dyn Fn(&Event, &str, &[Effect]) + Send + Sync>;

/// The outcome of an event.
pub type EventResult = Result<Reply, Rejection>;

/// Why an event had no effects: a rejection for its sender, and a fault for operators only.
#[derive(Debug)]
struct Failed {
    rejection: Rejection,
    /// Boxed, so that the result of a success does not reserve space for it.
    fault: Option<Box<log::Fault>>,
    /// Whether a missed deadline is not the plugin's failure: it has waited for another service for
    /// most of the time.
    is_excused: bool,
    /// Whether nothing of the event was stored or applied, because the state can't be written, and
    /// it has sent no requests. So it may be handled again.
    is_unstored: bool,
}

impl Failed {
    /// Why the event has failed, for operators.
    fn reason(&self) -> String {
        match &self.fault {
            Some(fault) => fault.error.clone(),
            None => format!("{}: {}", self.rejection.code(), self.rejection.message()),
        }
    }

    fn new(rejection: Rejection, fault: log::Fault) -> Self {
        Self { rejection, fault: Some(Box::new(fault)), is_excused: false, is_unstored: false }
    }
}

impl Failed {
    /// The same after the handler has sent requests to other services: a repeat may have
    /// consequences there, even if the host has applied no effect. A handler that refuses knows
    /// what it has sent.
    fn after_requests(mut self) -> Self {
        self.is_unstored = false;
        let rejection = &self.rejection;
        if rejection.origin() == Origin::Host && rejection.retry() == Retry::Safe {
            self.rejection = Rejection::NotCommitted(self.rejection.message().to_owned());
        }
        self
    }
}

impl From<Rejection> for Failed {
    fn from(rejection: Rejection) -> Self {
        Self { rejection, fault: None, is_excused: false, is_unstored: false }
    }
}

impl Dispatcher {
    /// Creates a dispatcher for the plugins in `registry`. It applies effects to `rooms`.
    pub fn new(
        registry: Arc<Registry>,
        rooms: Arc<Rooms>,
        config: Arc<LiveConfig>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let (host_events, rate) = (HostEvents::default(), RateLimits::new(config.get().rate));
        let clock = WallClock::default();
        let (waiting_acks, outbound, observer) = (WaitingAcks::default(), Arc::default(), None);
        Self {
            registry,
            rooms,
            config,
            metrics,
            host_events,
            waiting_acks,
            clock,
            rate,
            outbound,
            observer,
        }
    }

    /// Lets events and timers have the time of `clock`, and calls `observer` with all effects: for
    /// a host that tests plugins.
    #[must_use]
    pub(crate) fn observed_by(mut self, clock: WallClock, observer: Observer) -> Self {
        (self.clock, self.observer) = (clock, Some(observer));
        self
    }

    /// Lets handlers send their HTTP requests by `outbound`, instead of a client that knows no TLS.
    #[must_use]
    pub(crate) fn sending_by(mut self, outbound: Arc<Outbound>) -> Self {
        self.outbound = outbound;
        self
    }

    /// What sends the HTTP requests of handlers.
    pub(crate) fn outbound(&self) -> &Outbound {
        &self.outbound
    }

    /// Whether a plugin that serves asks for the handshakes of connections.
    pub(crate) fn needs_handshakes(&self) -> bool {
        self.registry.snapshot().needs_handshakes()
    }

    /// The token buckets of clients.
    pub(crate) fn rate(&self) -> &RateLimits {
        &self.rate
    }

    /// Takes a token for an event that is handled `now`.
    ///
    /// # Errors
    /// `rate_limited`: there is none.
    pub(crate) fn limit_rate(&self, event: &Event, now: Instant) -> Result<(), Rejection> {
        let connection = event.caller.connection().map(Arc::as_ref);
        match event.caller.take_token(now) {
            Verdict::Allowed => Ok(()),
            Verdict::Observed(kind) => {
                self.metrics.observed_refusal("rate", kind);
                let client = connection.map(|connection| connection.public_id.as_str());
                tracing::info!(client, kind, "a rate that is tried would refuse an event");
                Ok(())
            }
            Verdict::Limited(kind, retry_after) => {
                self.metrics.rate_limited(kind);
                let message = format!("too many events of this {kind}");
                let rejection = Rejection::RateLimited { message, retry_after };
                log::rejected(&event.name, event.id, connection, None, &rejection, None);
                Err(rejection)
            }
        }
    }

    /// Handles a client's event to its end. When this returns, the effects of the event are in the
    /// buffers of their receivers.
    ///
    /// # Errors
    /// Returns why the event had no effects. Nothing was applied then.
    pub async fn handle(&self, event: Arc<Event>) -> EventResult {
        let began = Instant::now();
        self.limit_rate(&event, began)?;
        self.handle_within_rate(event, began).await
    }

    /// Like [`Dispatcher::handle`], for an event that has taken its token. Its handling `began`
    /// now.
    ///
    /// # Errors
    /// Same as [`Dispatcher::handle`].
    pub(crate) async fn handle_within_rate(
        &self,
        event: Arc<Event>,
        began: Instant,
    ) -> EventResult {
        // The event is bound to this generation.
        let generation = self.registry.snapshot();
        let Some(route) = generation.route(&event.name) else {
            self.metrics.unknown_event();
            log::rejected(
                &event.name,
                event.id,
                event.caller.connection().map(Arc::as_ref),
                None,
                &Rejection::UnknownEvent,
                None,
            );
            return Err(Rejection::UnknownEvent);
        };
        let mut checked = self.check(&event, &route.inbound, &route.access, route.tried.as_ref());
        if let Some(connection) = event.caller.connection()
            && !connection.pending_connects.is_empty()
            && checked.is_ok()
        {
            // Boxed, because only the first events of a connection need it.
            checked = Box::pin(self.until_connected(&route.plugin, connection, began)).await;
        }
        let (answer, ended) =
            match checked.and_then(|()| Self::admit(&generation, &route.plugin, &event, began)) {
                Ok(permit) => {
                    self.run(
                        permit,
                        &generation,
                        &route.plugin,
                        &event,
                        Source::Client(&route.inbound),
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

    /// Adds a connection of a user to the user's own room, unless a plugin declares the room with a
    /// rule that does not allow it.
    pub(crate) fn join_own_room(&self, connection: &Connection) {
        let identity = connection.identity();
        let Some(room) = identity.own_room() else { return };
        if self.registry.snapshot().may_join(&room, &identity, "").is_ok() {
            self.rooms.join(connection, &room);
            // A reload that came in between has not seen the connection in the room.
            let now = self.registry.snapshot();
            self.rooms.recheck_one(connection, &|other, identity| {
                if other == room {
                    now.may_join(other, identity, "").is_ok()
                } else {
                    now.may_stay(other, identity, &now)
                }
            });
        }
    }

    /// Removes a connection from the rooms that its identity, which has changed, may not be in.
    pub(crate) fn recheck_rooms(&self, connection: &Connection) {
        let generation = self.registry.snapshot();
        self.rooms.recheck_one(connection, &|room, identity| {
            generation.may_stay(room, identity, &generation)
        });
    }

    /// Checks the sender's access, and that the payload and its attachments are valid.
    /// `access` is the rule that decides, and `tried` one that the operator only tries.
    fn check(
        &self,
        event: &Event,
        inbound: &Inbound,
        access: &Access,
        tried: Option<&Access>,
    ) -> Result<(), Rejection> {
        let identity = event.caller.identity();
        access.check_sender(&identity)?;
        if let Some(tried) = tried.filter(|rule| !rule.allows(&identity, None)) {
            self.observed("event", &event.name, &event.caller, tried);
        }
        let (payload, arguments) = (&event.payload, inbound.arguments);
        let max_depth = self.config.get().limits.json_depth.get() + arguments.levels();
        let data = arguments.payload(&payload.text);
        check_payload(&data, payload.attachments.len(), &inbound.data, max_depth)
    }

    /// Counts and logs what a rule that the operator only tries would have refused.
    fn observed(&self, kind: &'static str, name: &str, caller: &Caller, rule: &Access) {
        self.metrics.observed_refusal(kind, name);
        let client = caller.connection().map(|connection| connection.public_id.as_str());
        tracing::info!(client, kind, name, %rule, "a rule that is tried would refuse this");
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
        active.health.admit(event.caller.client_keys().as_deref(), began).map_err(refuse)
    }

    /// Runs the handler of an admitted event ([`Dispatcher::run_until_valid`]), and records the
    /// outcome for the breaker. Returns the result, and the time at which the event ended.
    async fn run(
        &self,
        permit: Permit,
        generation: &Arc<Generation>,
        active: &Arc<ActivePlugin>,
        event: &Arc<Event>,
        source: Source<'_>,
        began: Instant,
    ) -> (Result<Reply, Failed>, Instant) {
        let answer = self.run_until_valid(generation, active, event, source, began).await;
        let inbound = source.inbound();
        let ended = Instant::now();
        // Checked after failures too: a failed event may have written the numbers that it took.
        checkpoint_if_due(active);
        let is_excused = answer.as_ref().is_err_and(|failed| failed.is_excused);
        let outcome = match answer.as_ref().map_err(|failed| &failed.rejection) {
            Err(_) if is_excused => Outcome::Unknown,
            Err(Rejection::PluginFailed | Rejection::TimedOut) => Outcome::Failed,
            Err(Rejection::Busy(_) | Rejection::Unavailable(_) | Rejection::NotCommitted(_)) => {
                Outcome::Unknown
            }
            // The handler has passed on the refusal of a call to its state, which can't be used.
            Err(Rejection::Refused(refusal))
                if refusal.code == "unavailable" && inbound.is_some() =>
            {
                Outcome::Unknown
            }
            _ => Outcome::Answered,
        };
        // A timer that fails is called less and less, and at last not any more, and `$load` is
        // called less and less. So they neither open the breaker nor keep it open: that would close
        // the plugin to clients that it serves well. The next event is then the probe.
        let has_failed = outcome == Outcome::Failed;
        let is_excepted = has_failed && (event.timer.is_some() || is_load(event));
        let judged = if is_excepted { Outcome::Unknown } else { outcome };
        // A `$connect` that the plugin handles does not show that it serves the client well.
        let counts = inbound.is_some() || outcome == Outcome::Failed;
        let client = event.caller.client_keys().filter(|_| counts);
        active.code.count(outcome == Outcome::Failed);
        // Noted before the breaker can open: if it opens, a rollback is reported with this reason.
        if let (Outcome::Failed, Err(Failed { fault: Some(fault), .. })) = (outcome, &answer) {
            active.health.note_failure(format!("{}: {}", event.name, fault.error));
        }
        if let Some(change) = active.health.record(permit, client.as_deref(), judged, ended) {
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
                    tracing::info!(plugin, digest, "breaker closed: the plugin works again");
                    self.registry.notify_change();
                }
                Change::Throttled(client, time) => {
                    tracing::warn!(plugin, throttled = %client, throttled_ms = time.as_millis(), "client throttled: the plugin fails on its events");
                }
            }
        }
        (answer, ended)
    }
}

/// Logs once why an event had no effects. Returns the rejection for its sender.
fn report(
    generation: &Generation,
    active: &ActivePlugin,
    event: &Event,
    failed: Failed,
) -> Rejection {
    let Failed { rejection, fault, .. } = failed;
    let handler = Handler {
        plugin: active.code.name(),
        version: &active.code.registration.version,
        generation: generation.number,
    };
    log::rejected(
        &event.name,
        event.id,
        event.caller.connection().map(Arc::as_ref),
        Some(handler),
        &rejection,
        fault.as_deref(),
    );
    rejection
}

/// The rejection of an event for a disabled plugin.
fn disabled() -> Rejection {
    Rejection::Unavailable("an operator has disabled this plugin".to_owned())
}

/// The rejection if the plugin's state stayed locked for too long.
fn contended() -> Rejection {
    Rejection::Busy("the plugin's state is contended".to_owned())
}

/// The rejection if the plugin's state could not be read or written while the handler ran.
fn state_unreadable() -> Rejection {
    Rejection::Unavailable("the plugin's state can't be read now".to_owned())
}

/// The rejection of an event that the breaker does not admit now.
fn refuse(denied: Denied) -> Rejection {
    match denied {
        Denied::Open { .. } => Rejection::Unavailable(
            "this plugin has failed too often and is not called now; try again later".to_owned(),
        ),
        Denied::Throttled { retry_after } => Rejection::RateLimited {
            message: "this plugin has failed too often on events of this client".to_owned(),
            retry_after,
        },
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use sockhop_core::arguments::Arguments;

    use crate::event::{Identity, Payload, Requester};
    use crate::rate::ClientRate;
    use crate::rejection::Refusal;
    use crate::schema::Schema;

    #[test]
    fn access_is_checked_by_the_callers_identity_with_or_without_a_connection() {
        let metrics = Arc::new(Metrics::default());
        let (registry, rooms) = (Arc::default(), Arc::default());
        let dispatcher = Dispatcher::new(registry, rooms, Arc::default(), Arc::clone(&metrics));
        let data = Arc::new(Schema::compile("true", 4).unwrap());
        let meter = metrics.meter("plugin", "event");
        let inbound = Inbound {
            data,
            reply: None,
            access: Access::Role("admin".into()),
            arguments: Arguments::One,
            reply_arguments: Arguments::One,
            meter,
        };
        let request = |user: Option<&str>, roles: &[&str]| {
            let identity = Identity {
                user: user.map(str::to_owned),
                roles: roles.iter().map(|role| (*role).to_owned()).collect(),
                claims: Value::Null,
            };
            let (identity, rate) = (Arc::new(identity), ClientRate::default());
            let requester = Requester::new("01JD", "/".into(), identity, None, rate);
            Caller::Request(Arc::new(requester))
        };
        let code = |caller| {
            let event = Event::now("event", Payload::null(), caller);
            let checked = dispatcher.check(&event, &inbound, &inbound.access, None);
            checked.map_err(|rejection| rejection.code())
        };
        assert_eq!(code(request(Some("ada"), &["admin"])), Ok(()));
        assert_eq!(code(request(Some("eve"), &[])), Err("forbidden"));
        assert_eq!(code(request(None, &[])), Err("unauthorized"));
        assert_eq!(code(Caller::None), Err("unauthorized"));
    }

    #[test]
    fn a_client_is_not_told_to_repeat_what_the_host_rejects_after_a_request_was_sent() {
        let retry =
            |rejection: Rejection| Failed::from(rejection).after_requests().rejection.retry();
        let text = || "text".to_owned();
        for safe in [Rejection::Busy(text()), Rejection::Unavailable(text())] {
            assert_eq!((safe.retry(), retry(safe)), (Retry::Safe, Retry::Unsafe));
        }
        assert_eq!(retry(Rejection::TooLarge(text())), Retry::Never);
        // The handler knows what it has sent.
        assert_eq!(retry(Rejection::from_handler(Refusal::new("busy", "text"))), Retry::Safe);
    }
}
