//! The instances of one plugin: how many run at once, and which are kept warm for the next event.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::config::InstancePolicy;
use crate::effect::HostCalls;
use crate::event::Event;

use super::Code;
use super::instance::{Budget, Failure, Handled, Instance};

/// The instances of one plugin.
pub(super) struct Pool {
    permits: Arc<Semaphore>,
    idle: Arc<Mutex<Idle>>,
    most: usize,
}

/// Instances that wait for an event.
struct Idle {
    instances: Vec<Instance>,
    /// Whether instances are kept any more.
    is_open: bool,
}

impl Pool {
    pub(super) fn new(policy: InstancePolicy, instances: usize) -> Self {
        let idle = Idle { instances: Vec::new(), is_open: policy == InstancePolicy::Warm };
        Self { permits: Arc::new(Semaphore::new(instances)), idle: Arc::new(Mutex::new(idle)), most: instances }
    }

    /// Keeps no instance from now on.
    pub(super) fn close(&self) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.is_open = false;
        let instances = std::mem::take(&mut idle.instances);
        // Dropped without the lock: each gives back its memory.
        drop(idle);
        drop(instances);
    }

    /// Instances that there are, at work and waiting.
    pub(super) fn instances(&self) -> usize {
        let at_work = self.most.saturating_sub(self.permits.available_permits());
        at_work + self.idle.lock().unwrap_or_else(PoisonError::into_inner).instances.len()
    }

    /// A place to run one event, as soon as there is one; nothing when the event's time is over before.
    pub(super) async fn seat(&self, code: Arc<Code>, budget: Option<&Budget>) -> Option<Seat> {
        let permit = Arc::clone(&self.permits).acquire_owned();
        let permit = match budget {
            Some(budget) => tokio::time::timeout_at(budget.until().into(), permit).await.ok()?.ok()?,
            None => permit.await.ok()?,
        };
        Some(Seat { code, idle: Arc::clone(&self.idle), instance: None, _permit: permit })
    }
}

/// The right to run one event in one instance: kept over its reruns, so that an event that waits for its commit never waits for an
/// instance that is waiting for the same.
pub struct Seat {
    code: Arc<Code>,
    idle: Arc<Mutex<Idle>>,
    instance: Option<Instance>,
    /// Returned last: fields drop in the order of their declaration, and the next event may find the instance idle.
    _permit: OwnedSemaphorePermit,
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
        let warm = self.idle.lock().unwrap_or_else(PoisonError::into_inner).instances.pop();
        let mut instance = match warm {
            Some(instance) => instance,
            None => Instance::new(&self.code, budget).await?,
        };
        let returned = instance.handle(event, calls, budget).await?;
        self.instance = Some(instance);
        Ok(returned)
    }

    /// The run counts: its instance may serve another event. Not called for a run whose writes were dropped, because what the guest
    /// remembers of it never happened.
    pub fn keep(mut self) {
        if let Some(instance) = self.instance.take().filter(|instance| !instance.is_spent()) {
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            if idle.is_open {
                idle.instances.push(instance);
            }
        }
    }

    /// The run does not count: its instance is dropped, and the event may be run again.
    pub fn discard(&mut self) {
        self.instance = None;
    }
}
