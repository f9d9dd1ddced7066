//! The instances of one plugin: how many run at once, and which are kept warm for the next event.

use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::config::InstancePolicy;
use crate::effect::HostCalls;
use crate::event::Event;

use super::Code;
use super::instance::{Budget, Failure, Handled, Instance};

/// The instances of one plugin.
pub(super) struct Pool {
    shared: Arc<Shared>,
    policy: InstancePolicy,
    most: usize,
}

struct Shared {
    code: Code,
    places: Mutex<Places>,
    /// Told when a place has become free for who waits for one.
    freed: Notify,
}

/// What is taken and given back with one lock.
struct Places {
    /// Events that may begin now.
    free: usize,
    /// Instances that wait for an event.
    idle: Vec<Instance>,
    /// The fewest idle instances since the last [`Pool::trim`]: as many were not needed.
    unneeded: usize,
    /// Whether instances are kept any more.
    is_open: bool,
    /// Events that wait for a place.
    waiting: usize,
}

impl Places {
    /// Takes the instance that was used last, so that the oldest are those that are not needed.
    fn take_idle(&mut self) -> Option<Instance> {
        let instance = self.idle.pop();
        self.unneeded = self.unneeded.min(self.idle.len());
        instance
    }
}

impl Shared {
    /// The lock is held for a few moves; a panic leaves numbers that are whole.
    fn places(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pool {
    pub(super) fn new(code: Code, policy: InstancePolicy, instances: usize) -> Self {
        let places = Places { free: instances, idle: Vec::new(), unneeded: 0, is_open: policy == InstancePolicy::Warm, waiting: 0 };
        Self { shared: Arc::new(Shared { code, places: Mutex::new(places), freed: Notify::new() }), policy, most: instances }
    }

    /// Another one like it, of `code`, with no instance yet.
    pub(super) fn again(&self, code: Code) -> Self {
        Self::new(code, self.policy, self.most)
    }

    /// What its instances are made of.
    pub(super) fn code(&self) -> &Code {
        &self.shared.code
    }

    /// Keeps no instance from now on.
    pub(super) fn close(&self) {
        let mut places = self.shared.places();
        places.is_open = false;
        let instances = std::mem::take(&mut places.idle);
        // Dropped without the lock: each gives back its memory.
        drop(places);
        drop(instances);
    }

    /// Drops half of the idle instances that no event has needed since the last call, but never the last one. A burst of events starts
    /// instances, each of a MiB or more, that would otherwise stay. To be called about once a second.
    pub(super) fn trim(&self) {
        let mut places = self.shared.places();
        let unneeded = places.unneeded.min(places.idle.len().saturating_sub(1));
        let dropped: Vec<_> = places.idle.drain(..unneeded.div_ceil(2)).collect();
        places.unneeded = places.idle.len();
        // Dropped without the lock: each gives back its memory.
        drop(places);
        drop(dropped);
    }

    /// Events that run at once at most.
    pub(super) fn most(&self) -> usize {
        self.most
    }

    /// Instances that there are, at work and waiting.
    pub(super) fn instances(&self) -> usize {
        let places = self.shared.places();
        self.most.saturating_sub(places.free) + places.idle.len()
    }

    /// A place to run one event, as soon as there is one; nothing when the event's time is over before.
    ///
    /// A place that is free goes to whoever asks first, and not to who has waited longest: a connection with several events would lose the
    /// processor between any two of them, and every answer would be a write of its own. Who waits has its turn when that connection's events
    /// are handled, or when its task has used up what the scheduler gives it at once.
    pub(super) async fn seat(&self, budget: Option<&Budget>) -> Option<Seat> {
        if let Some(warm) = self.take() {
            return Some(self.seated(warm));
        }
        let _waiting = Waiting::new(&self.shared);
        let freed = async {
            loop {
                // Enlisted before it is looked again: a place that becomes free after that wakes one that is enlisted.
                let mut freed = pin!(self.shared.freed.notified());
                freed.as_mut().enable();
                if let Some(warm) = self.take() {
                    return warm;
                }
                freed.await;
            }
        };
        let warm = match budget {
            Some(budget) => tokio::time::timeout_at(budget.until().into(), freed).await.ok()?,
            None => freed.await,
        };
        Some(self.seated(warm))
    }

    /// Takes a free place, with an instance where one waits.
    fn take(&self) -> Option<Option<Instance>> {
        let mut places = self.shared.places();
        places.free = places.free.checked_sub(1)?;
        Some(places.take_idle())
    }

    fn seated(&self, instance: Option<Instance>) -> Seat {
        Seat { shared: Arc::clone(&self.shared), instance, kept: None, output: Box::default() }
    }
}

/// An event that waits for a place.
struct Waiting<'pool>(&'pool Shared);

impl<'pool> Waiting<'pool> {
    fn new(shared: &'pool Shared) -> Self {
        shared.places().waiting += 1;
        Self(shared)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.places().waiting -= 1;
    }
}

/// The right to run one event in one instance: kept over its reruns, so that an event that waits for its commit never waits for an
/// instance that is waiting for the same.
pub struct Seat {
    shared: Arc<Shared>,
    instance: Option<Instance>,
    /// What the next event is to find.
    kept: Option<Instance>,
    /// What the guest said of the call that has failed.
    output: Box<str>,
}

impl Seat {
    /// Runs the handler. The instance stays with the seat until [`Seat::keep`] says that it may serve others; a failure drops it.
    ///
    /// # Errors
    /// Where the guest gave no answer.
    pub async fn handle(
        &mut self,
        event: &Event,
        calls: Box<dyn HostCalls>,
        budget: &mut Budget,
    ) -> Result<(Handled, Box<dyn HostCalls>), Failure> {
        let warm = self.instance.take().or_else(|| self.shared.places().take_idle());
        let mut instance = match warm {
            Some(instance) => instance,
            None => Instance::new(&self.shared.code, budget).await?,
        };
        let returned = instance.handle(event, calls, budget).await;
        match returned {
            Ok(_) => self.instance = Some(instance),
            Err(_) => self.output = instance.take_output().into(),
        }
        returned
    }

    /// What the guest said on its standard error of the call that has failed.
    pub fn take_output(&mut self) -> String {
        std::mem::take(&mut self.output).into()
    }

    /// The run counts: its instance may serve another event. Not called for a run whose writes were dropped, because what the guest
    /// remembers of it never happened.
    pub fn keep(mut self) {
        self.kept = self.instance.take().filter(|instance| !instance.is_spent());
    }

    /// The run does not count: its instance is dropped, and the event may be run again.
    pub fn discard(&mut self) {
        self.instance = None;
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut places = self.shared.places();
        places.free += 1;
        if let Some(instance) = self.kept.take()
            && places.is_open
        {
            places.idle.push(instance);
        }
        let is_awaited = places.waiting > 0;
        drop(places);
        if is_awaited {
            self.shared.freed.notify_one();
        }
    }
}
