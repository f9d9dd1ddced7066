//! The instances of one plugin: how many run at the same time, and which are kept warm for the next
//! event.

use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::config::InstancePolicy;
use crate::effect::HostCalls;
use crate::event::Event;

use super::Code;
use super::budget::Budget;
use super::instance::{Failure, Handled, Instance};

/// The instances of one plugin.
pub(super) struct Pool {
    shared: Arc<SharedPool>,
    policy: InstancePolicy,
    max_concurrent: usize,
}

struct SharedPool {
    code: Code,
    permits: Mutex<Permits>,
    /// Notified when a permit becomes free and a task waits for one.
    freed: Notify,
}

/// The permits and idle instances, guarded by one lock.
struct Permits {
    /// Free permits: the number of events that may begin now.
    free: usize,
    /// Warm instances without an event; the last used one is at the end.
    idle: Vec<Instance>,
    /// Minimum of `idle.len()` since the last [`Pool::trim`]. That many instances were not needed.
    unneeded: usize,
    /// Whether instances are still kept after an event.
    is_open: bool,
    /// Events that wait for a permit.
    waiting: usize,
}

impl Permits {
    /// Takes the last used instance, so that the oldest ones are those that are not needed.
    fn take_idle(&mut self) -> Option<Instance> {
        let instance = self.idle.pop();
        self.unneeded = self.unneeded.min(self.idle.len());
        instance
    }
}

impl SharedPool {
    /// The counters are consistent even if a thread panics, so poisoning is ignored.
    fn permits(&self) -> MutexGuard<'_, Permits> {
        self.permits.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pool {
    pub(super) fn new(code: Code, policy: InstancePolicy, instances: usize) -> Self {
        let permits = Permits {
            free: instances,
            idle: Vec::new(),
            unneeded: 0,
            is_open: policy == InstancePolicy::Warm,
            waiting: 0,
        };
        Self {
            shared: Arc::new(SharedPool {
                code,
                permits: Mutex::new(permits),
                freed: Notify::new(),
            }),
            policy,
            max_concurrent: instances,
        }
    }

    /// Creates a pool with the same settings for `code`, without instances.
    pub(super) fn fresh(&self, code: Code) -> Self {
        Self::new(code, self.policy, self.max_concurrent)
    }

    /// The code that its instances run.
    pub(super) fn code(&self) -> &Code {
        &self.shared.code
    }

    /// Drops all idle instances and keeps none from now on.
    pub(super) fn close(&self) {
        let mut permits = self.shared.permits();
        permits.is_open = false;
        let instances = std::mem::take(&mut permits.idle);
        // Dropped after the lock is released, because each frees its memory.
        drop(permits);
        drop(instances);
    }

    /// Drops half of the idle instances that no event has needed since the last call, but never the
    /// last idle instance. Otherwise the instances that a burst of events starts, each of a MiB or
    /// more, would stay. Call it about once a second.
    pub(super) fn trim(&self) {
        let mut permits = self.shared.permits();
        // The last idle instance stays. Of the others that were not needed, half go, rounded up: so
        // also a single one.
        let unneeded = permits.unneeded.min(permits.idle.len().saturating_sub(1));
        let dropped: Vec<_> = permits.idle.drain(..unneeded.div_ceil(2)).collect();
        permits.unneeded = permits.idle.len();
        // Dropped after the lock is released, because each frees its memory.
        drop(permits);
        drop(dropped);
    }

    /// The maximum number of events that run at the same time.
    pub(super) fn max_concurrent(&self) -> usize {
        self.max_concurrent
    }

    /// Number of instances: the idle ones, and one for each event that holds a guard, also if its
    /// guard has none at the moment.
    pub(super) fn instances(&self) -> usize {
        let permits = self.shared.permits();
        self.max_concurrent.saturating_sub(permits.free) + permits.idle.len()
    }

    /// Waits for the permit to run one event. Returns `None` if the deadline of `budget` passes
    /// first.
    ///
    /// A free permit goes to the first task that asks, not to the task that has waited longest.
    /// With FIFO order, a connection with several events would yield the processor between any two
    /// of them, and every answer would be a separate write. A waiting task gets a permit when the
    /// events of that connection are handled, or when that connection's task has used up its time
    /// slice.
    pub(super) async fn acquire(&self, budget: Option<&Budget>) -> Option<InstanceGuard> {
        if let Some(warm) = self.take() {
            return Some(self.guard(warm));
        }
        let _waiting = WaitingGuard::new(&self.shared);
        let freed = async {
            loop {
                // Registered as a waiter before the check: a permit that becomes free after the
                // check wakes it.
                let mut freed = pin!(self.shared.freed.notified());
                freed.as_mut().enable();
                if let Some(warm) = self.take() {
                    return warm;
                }
                freed.await;
            }
        };
        let warm = match budget {
            // Time in which the whole process stood still does not count.
            Some(budget) => self.code().engine.standstills.within(budget, freed).await?,
            None => freed.await,
        };
        Some(self.guard(warm))
    }

    /// Takes a free permit, with an idle instance if there is one. Returns `None` if no permit is
    /// free.
    fn take(&self) -> Option<Option<Instance>> {
        let mut permits = self.shared.permits();
        permits.free = permits.free.checked_sub(1)?;
        Some(permits.take_idle())
    }

    fn guard(&self, instance: Option<Instance>) -> InstanceGuard {
        InstanceGuard {
            shared: Arc::clone(&self.shared),
            instance,
            kept: None,
            output: Box::default(),
        }
    }
}

/// Counts an event as waiting for a permit while it exists.
struct WaitingGuard<'pool>(&'pool SharedPool);

impl<'pool> WaitingGuard<'pool> {
    fn new(shared: &'pool SharedPool) -> Self {
        shared.permits().waiting += 1;
        Self(shared)
    }
}

impl Drop for WaitingGuard<'_> {
    fn drop(&mut self) {
        self.0.permits().waiting -= 1;
    }
}

/// The permit to run one event in one instance. An event keeps it over its reruns. It gives it back
/// only to wait until it may send HTTP requests, and then it gives back the commit lock too.
///
/// So no event waits for an instance while it has the commit lock or waits for it. Otherwise two
/// events could wait for each other: one has an instance and waits for the lock, and the other has
/// the lock and waits for an instance.
pub struct InstanceGuard {
    shared: Arc<SharedPool>,
    instance: Option<Instance>,
    /// The instance that is returned to the pool when the guard is dropped.
    kept: Option<Instance>,
    /// The guest's standard error of the failed call.
    output: Box<str>,
}

impl InstanceGuard {
    /// Runs the handler. The instance stays with the guard until [`InstanceGuard::keep`] allows
    /// other events to use it. A failure drops the instance.
    ///
    /// # Errors
    /// Returns the [`Failure`] if no instance could be made, or the guest's call did not return a
    /// result.
    pub async fn handle(
        &mut self,
        event: &Event,
        data: &str,
        calls: Box<dyn HostCalls>,
        budget: &mut Budget,
    ) -> Result<(Handled, Box<dyn HostCalls>), Failure> {
        // A new instance only if none is idle: so all instances, idle ones included, are never more
        // than the permits.
        let warm = self.instance.take().or_else(|| self.shared.permits().take_idle());
        let mut instance = match warm {
            Some(instance) => instance,
            None => Instance::new(&self.shared.code, budget).await?,
        };
        let returned = instance.handle(event, data, calls, budget).await;
        match returned {
            Ok(_) => self.instance = Some(instance),
            Err(_) => self.output = instance.take_output().into(),
        }
        returned
    }

    /// Returns and clears what the guest wrote to standard error in the failed call.
    pub fn take_output(&mut self) -> String {
        std::mem::take(&mut self.output).into()
    }

    /// Returns the instance to the pool, because the run is valid. Not called for a run whose
    /// writes were dropped: the guest may remember things that never happened.
    pub fn keep(mut self) {
        self.kept = self.instance.take().filter(|instance| !instance.is_spent());
    }

    /// Drops the instance, because the run is not valid. The event may be run again.
    pub fn discard(&mut self) {
        self.instance = None;
    }
}

impl Drop for InstanceGuard {
    fn drop(&mut self) {
        let mut permits = self.shared.permits();
        permits.free += 1;
        // If the pool is closed, the instance is dropped later, without the lock.
        if permits.is_open
            && let Some(instance) = self.kept.take()
        {
            permits.idle.push(instance);
        }
        let is_awaited = permits.waiting > 0;
        drop(permits);
        if is_awaited {
            self.shared.freed.notify_one();
        }
    }
}
