//! One plugin that serves: its code, its events with their compiled schemas and meters, its state
//! and its health. It does not know which other plugins serve.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use tokio::sync::{Notify, Semaphore};

use crate::breaker::{Breaker, Change, ClientKeys, Denied, Outcome, Permit};
use crate::config::{Limits, PluginSettings};
use crate::effect::AckBudget;
use crate::event::host_event;
use crate::events::{self, Ack, Events, Outbound};
use crate::metrics::{Meter, Metrics};
use crate::outbound::Allowance;
use crate::plugin::{Candidate, Plugin};
use crate::rejection::truncate;
use crate::rule::Access;
use crate::schema::Schema;
use crate::store::Store;
use sockhop_core::arguments::Arguments;
use sockhop_core::schedule::Schedule;

use super::error::AdmitError;
use super::load::LoadStatus;

/// A plugin that serves, with the data for the checks of the host.
pub struct ActivePlugin {
    /// The code and its instances.
    pub code: Plugin,
    /// The settings of the plugin, under which it runs.
    settings: PluginSettings,
    /// Its own settings on which its declarations depend; `None` if they depend on none.
    declared_under: Option<BTreeMap<String, String>>,
    /// The events that clients may send, by name.
    pub inbound: BTreeMap<String, Arc<Inbound>>,
    /// The events that the plugin emits, by name.
    pub outbound: BTreeMap<String, Outbound>,
    /// The answers that clients give to its emits with an ack, by the ack's name.
    pub acks: BTreeMap<String, Ack>,
    /// What handles an outcome of such an emit has one of its permits. They are half as many as its
    /// instances, so that its other events find a free one.
    pub(crate) ack_turns: Semaphore,
    /// The schemas of the data of its timers, by name.
    pub timers: BTreeMap<String, Arc<Schema>>,
    /// The schedules of the timers that the host sets, by name.
    pub schedules: BTreeMap<String, Schedule>,
    /// What it may send to other services.
    pub(crate) allowance: Allowance,
    /// Its state.
    pub state: PluginState,
    /// Its breaker and its last failure.
    pub health: PluginHealth,
    /// How far it is with `$load`.
    pub load: LoadStatus,
}

impl ActivePlugin {
    /// Prepares a candidate to serve, and compiles its schemas, once per load. `alarm` is notified
    /// when its breaker opens.
    ///
    /// # Errors
    /// Returns an error if one of the plugin's own schemas is not allowed.
    pub fn new(
        candidate: Candidate,
        settings: &PluginSettings,
        state: PluginState,
        alarm: Arc<Notify>,
        metrics: &Metrics,
    ) -> Result<Arc<Self>, AdmitError> {
        let declared_under = candidate.settings.clone();
        let registration = &candidate.registration;
        let Events { inbound, outbound, acks, timers, schedules } =
            Events::compile(registration, settings.limits.schema_bytes.get())?;
        let inbound = inbound.into_iter().map(|(event, declared)| {
            let meter = metrics.meter(&registration.name, &event);
            (event, Arc::new(Inbound::new(declared, meter)))
        });
        let inbound = inbound.collect();
        let health = PluginHealth::new(&registration.name, &settings.limits, alarm);
        let code = Plugin::new(candidate, settings, Arc::clone(&state.memory));
        Ok(Arc::new(Self {
            ack_turns: ack_turns(&code),
            allowance: Allowance::new(code.name(), settings, code.instances_at_once()),
            code,
            settings: settings.clone(),
            declared_under,
            inbound,
            outbound,
            acks,
            timers,
            schedules,
            state,
            health,
            load: LoadStatus::default(),
        }))
    }

    /// Whether it handles `$load`.
    pub fn listens_for_load(&self) -> bool {
        self.code.registration.listens.contains(&host_event::LOAD)
    }

    /// Returns the same version in its initial state, with a new breaker. Nothing is compiled
    /// again.
    #[must_use]
    pub fn fresh(&self) -> Arc<Self> {
        self.with_code(self.code.fresh(), self.settings.clone())
    }

    /// Whether the plugin may declare something else under these settings, and has to register
    /// again to run under them.
    pub fn is_outdated(&self, settings: &PluginSettings) -> bool {
        self.declared_under.as_ref().is_some_and(|declared| *declared != settings.config)
    }

    /// Returns this version if it runs under these settings, else the same version in its initial
    /// state under them. A version that is outdated keeps the settings under which it has declared
    /// what it is; everything else, such as its listed origins, is in force at once.
    #[must_use]
    pub fn under(self: &Arc<Self>, settings: &PluginSettings) -> Arc<Self> {
        let mut settings = settings.clone();
        if let Some(declared_under) = &self.declared_under {
            settings.config.clone_from(declared_under);
        }
        if self.settings.is_same_for_plugin(&settings) {
            return Arc::clone(self);
        }
        self.with_code(self.code.under(&settings), settings)
    }

    fn with_code(&self, code: Plugin, settings: PluginSettings) -> Arc<Self> {
        let health = PluginHealth::new(code.name(), code.limits(), Arc::clone(&self.health.alarm));
        let (inbound, outbound, state) =
            (self.inbound.clone(), self.outbound.clone(), self.state.clone());
        let (timers, schedules) = (self.timers.clone(), self.schedules.clone());
        let acks = self.acks.clone();
        let declared_under = self.declared_under.clone();
        let allowance = Allowance::new(code.name(), &settings, code.instances_at_once());
        Arc::new(Self {
            ack_turns: ack_turns(&code),
            code,
            settings,
            declared_under,
            inbound,
            outbound,
            acks,
            timers,
            schedules,
            allowance,
            state,
            health,
            load: LoadStatus::default(),
        })
    }
}

fn ack_turns(code: &Plugin) -> Semaphore {
    Semaphore::new((code.instances_at_once() / 2).max(1))
}

/// The health of a plugin: decides whether a plugin that keeps failing is called.
pub struct PluginHealth {
    breaker: Mutex<Breaker>,
    /// Whether the breaker admits every event, without its lock. Changes under the lock.
    admits_all: AtomicBool,
    /// Set when the breaker opens, for the reload path, which may roll the version back.
    has_tripped: AtomicBool,
    /// Notified when `has_tripped` is set.
    alarm: Arc<Notify>,
    /// The last failure, for operators.
    last_failure: Mutex<Option<(String, SystemTime)>>,
}

/// Maximum number of bytes that are kept of a failure's reason: enough for a sentence and a trap's
/// message.
const MAX_FAILURE: usize = 1024;

impl PluginHealth {
    fn new(plugin: &str, limits: &Limits, alarm: Arc<Notify>) -> Self {
        Self {
            breaker: Mutex::new(Breaker::new(plugin, limits.breaker())),
            admits_all: AtomicBool::new(true),
            has_tripped: AtomicBool::new(false),
            alarm,
            last_failure: Mutex::default(),
        }
    }

    /// The lock is held for a few operations. A panic leaves the counters consistent.
    fn breaker(&self) -> MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the breaker by `change`.
    fn change<T>(&self, change: impl FnOnce(&mut Breaker) -> T) -> T {
        let mut breaker = self.breaker();
        let changed = change(&mut breaker);
        self.admits_all.store(breaker.admits_all(), Ordering::Release);
        changed
    }

    /// Asks the breaker for a permit to handle an event of `client` at `now`. Host events are
    /// passed without a client: they are never throttled.
    ///
    /// # Errors
    /// Returns whether the breaker is open or the client is throttled, and the time to retry.
    pub fn admit(&self, client: Option<&ClientKeys>, now: Instant) -> Result<Permit, Denied> {
        if self.admits_all.load(Ordering::Acquire) {
            return Ok(Permit::Normal);
        }
        self.change(|breaker| breaker.admit(client, now))
    }

    /// Records the outcome, at `now`, of an event that was admitted. Returns the change that it
    /// caused.
    pub fn record(
        &self,
        permit: Permit,
        client: Option<&ClientKeys>,
        outcome: Outcome,
        now: Instant,
    ) -> Option<Change> {
        let change = self.change(|breaker| breaker.record(permit, client, outcome, now));
        if matches!(change, Some(Change::Opened(_))) {
            self.has_tripped.store(true, Ordering::Release);
            self.alarm.notify_one();
        }
        change
    }

    /// Keeps the reason of a handler's failure for operators, cut to `MAX_FAILURE` bytes.
    pub fn note_failure(&self, mut reason: String) {
        truncate(&mut reason, MAX_FAILURE);
        *self.last_failure.lock().unwrap_or_else(PoisonError::into_inner) =
            Some((reason, SystemTime::now()));
    }

    /// Returns why and when a handler of this version last failed.
    pub fn last_failure(&self) -> Option<(String, SystemTime)> {
        self.last_failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether the breaker is open or half-open.
    pub fn is_open(&self) -> bool {
        self.breaker().is_open()
    }

    /// Returns whether the breaker has opened since the last call.
    pub fn take_trip(&self) -> bool {
        self.has_tripped.swap(false, Ordering::AcqRel)
    }

    /// Closes the breaker, because an operator says that the plugin is healthy.
    pub fn reset(&self) {
        self.change(Breaker::reset);
    }
}

/// The state of one plugin, shared by all its versions.
#[derive(Clone)]
pub struct PluginState {
    /// The stored records.
    pub store: Arc<Store>,
    /// Held by the one thread that waits for the next number of a sequence; see `Store::next_id`.
    pub numbers: Arc<tokio::sync::Mutex<()>>,
    /// The acks of clients that handlers wait for.
    pub(crate) acks: Arc<AckBudget>,
    /// Bytes of all instances, including those of old versions that finish their last events.
    pub memory: Arc<AtomicUsize>,
}

/// An event that clients may send.
pub struct Inbound {
    /// Schema of the payload.
    pub data: Arc<Schema>,
    /// Schema of the ack. `None` if the ack is `null`.
    pub reply: Option<Arc<Schema>>,
    /// Who may send it, as the plugin declares it. The operator may have set another rule.
    pub access: Access,
    /// How many arguments it has.
    pub arguments: Arguments,
    /// How many arguments the ack has.
    pub reply_arguments: Arguments,
    /// Its metrics.
    pub(crate) meter: Meter,
}

impl Inbound {
    fn new(declared: events::Inbound, meter: Meter) -> Self {
        let events::Inbound { data, reply, access, arguments, reply_arguments } = declared;
        Self { data, reply, access, arguments, reply_arguments, meter }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nearly always, the breaker admits all events, and is then not locked to admit one.
    #[test]
    fn events_are_denied_from_the_moment_at_which_the_breaker_opens_or_throttles() {
        let now = Instant::now();
        let (offender, other) =
            (ClientKeys::new("offender", None, None), ClientKeys::new("other", None, None));
        for is_beside_others in [false, true] {
            let health = PluginHealth::new("plugin", &Limits::default(), Arc::default());
            let event = |client, outcome| {
                let permit = health.admit(Some(client), now)?;
                Ok(health.record(permit, Some(client), outcome, now))
            };
            if is_beside_others {
                assert_eq!(event(&other, Outcome::Answered), Ok(None));
            }
            let change = (0..100).find_map(|_| event(&offender, Outcome::Failed).unwrap()).unwrap();
            let denied = event(&offender, Outcome::Failed).unwrap_err();
            if is_beside_others {
                assert!(matches!(change, Change::Throttled(..)), "{change:?}");
                assert!(matches!(denied, Denied::Throttled { .. }), "{denied:?}");
                assert_eq!(event(&other, Outcome::Answered), Ok(None));
            } else {
                assert!(matches!(change, Change::Opened(_)), "{change:?}");
                assert!(matches!(denied, Denied::Open { .. }), "{denied:?}");
            }
            health.reset();
            assert_eq!(event(&offender, Outcome::Answered), Ok(None));
        }
    }
}
