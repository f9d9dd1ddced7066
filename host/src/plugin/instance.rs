//! One instance: a wasmtime store with the guest in it, which executes one call at a time. It is
//! moved, never shared. It is dropped after any failure, because a trap leaves its store in an
//! undefined state.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use wasmtime::{PoolConcurrencyLimitError, Store, UpdateDeadline};

use sockhop_core::declarations::{Declarations, Registration};
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::effect::HostCalls;
use crate::event::Event;
use crate::rejection::Refusal;

use super::Code;
use super::bindings;
use super::budget::Budget;
use super::calls::lowered;
use super::clock::CpuClock;
use super::engine::FIRST_CHECK;
use super::standstill::Standstills;
use super::state::{InstanceState, Phase, Registering};

/// What a handler returned: its reply, or its refusal.
pub type Handled = Result<Option<String>, Refusal>;

/// An instantiated guest that can be called.
pub(super) struct Instance {
    store: Store<InstanceState>,
    guest: bindings::Plugin,
    clock: Arc<CpuClock>,
    standstills: Arc<Standstills>,
    /// Cancelled by [`Plugin::end`](super::Plugin::end). Ends a call that waits.
    ended: CancellationToken,
    /// Bytes that the guest used after instantiation.
    initial_memory: usize,
    /// Events that the instance has handled.
    handled: u32,
}

/// Why a guest's call ended without a result.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The guest exceeded its CPU time.
    #[error("ran for more than {} ms", limit.as_millis())]
    CpuExceeded {
        /// The CPU limit of the event, over all its runs.
        limit: Duration,
        /// CPU time that it used until it was stopped.
        ran: Duration,
    },
    /// The event exceeded its wall-clock limit, waiting included. Also returned if
    /// [`Plugin::end`](super::Plugin::end) ended it while it waited. Contains the limit.
    #[error("took more than {} ms, waiting included", .0.as_millis())]
    WallExceeded(Duration),
    /// The guest was refused more memory, and its call failed.
    #[error("needed more memory than it may have")]
    MemoryExceeded(#[source] wasmtime::Error),
    /// The guest trapped, or sent something that the host could not accept.
    #[error("trapped")]
    Trapped(#[source] wasmtime::Error),
    /// There is no space for another instance now: the engine's slots are in use, or the plugin's
    /// memory limit is reached.
    #[error("no space for another instance")]
    NoSpace(#[source] wasmtime::Error),
    /// The instance could not be created.
    #[error("can't be instantiated")]
    NotInstantiated(#[source] wasmtime::Error),
}

/// Events after which a warm instance is replaced. This bounds a slow leak in a guest.
const MAX_HANDLED: u32 = 10_000;

/// A warm instance that uses more than this multiple of its initial memory is replaced after its
/// event.
const MAX_GROWTH: usize = 4;

/// Bytes of growth up to which an instance is not replaced, even if its initial memory is small.
const SMALL_GROWTH: usize = 8 << 20;

impl Instance {
    /// Creates an instance of `code` within `budget`, and runs the guest's start functions.
    pub(super) async fn new(code: &Code, budget: &mut Budget) -> Result<Self, Failure> {
        let clock = Arc::new(CpuClock::new(budget.in_background));
        let state = InstanceState::new(
            &code.limits,
            &code.config,
            &code.output,
            &code.memory,
            code.engine.clock.as_ref(),
        );
        let mut store = Store::new(&code.engine.wasm, state);
        store.limiter(|state| &mut state.memory);
        store.set_max_component_handles(code.limits.handles.get());
        store.set_hostcall_fuel(code.limits.host_call_bytes.get());
        let (ticking, checked) = (Arc::clone(&clock), Arc::clone(&code.engine.checked));
        store.epoch_deadline_callback(move |_| {
            // The engine's ticks come more often while guests run for long.
            checked.store(true, Ordering::Relaxed);
            if ticking.check() {
                return Err(CpuExceeded.into());
            }
            // Not wasmtime's own yield: tokio would put the task at the front of its queue, and
            // other tasks would starve.
            Ok(UpdateDeadline::YieldCustom(1, Box::pin(tokio::task::yield_now())))
        });
        store.set_epoch_deadline(FIRST_CHECK);
        let (standstills, ended) = (Arc::clone(&code.engine.standstills), code.ended.clone());
        let made = {
            let call = pin!(code.pre.instantiate_async(&mut store));
            within(&clock, budget, &standstills, &ended, call).await
        };
        // Also after a failure: nobody takes the output, so it is logged.
        store.data().end_call(false);
        let guest = made.map_err(|error| match explain(error, &store, budget) {
            Failure::Trapped(error) if error.is::<PoolConcurrencyLimitError>() => {
                Failure::NoSpace(error)
            }
            Failure::Trapped(error) => Failure::NotInstantiated(error),
            Failure::MemoryExceeded(error) if store.data().memory.is_plugin_full => {
                Failure::NoSpace(error)
            }
            other => other,
        })?;
        let initial_memory = store.data().memory.used;
        Ok(Self { store, guest, clock, standstills, ended, initial_memory, handled: 0 })
    }

    /// Runs `register` within `budget`, and drops the instance. `settings` has the settings of all
    /// plugins. The second value is whether `register` has read those of its plugin.
    pub(super) async fn register(
        mut self,
        code: &Code,
        settings: &Arc<Config>,
        budget: &mut Budget,
    ) -> Result<Result<(Registration, bool), Refusal>, Failure> {
        let limits = &code.limits;
        let declarations = Declarations::new(limits.declarations.get(), limits.schema_bytes.get());
        let settings = Arc::clone(settings);
        let registering = Registering { declarations, settings, has_read_settings: false };
        self.store.data_mut().phase = Phase::Registering(Box::new(registering));
        self.store.set_epoch_deadline(FIRST_CHECK);
        let returned = {
            let call = pin!(self.guest.call_register(&mut self.store));
            within(&self.clock, budget, &self.standstills, &self.ended, call).await
        };
        self.store.data().end_call(false);
        let returned = returned.map_err(|error| explain(error, &self.store, budget))?;
        match std::mem::replace(&mut self.store.data_mut().phase, Phase::Idle) {
            Phase::Registering(registering) => {
                let Registering { declarations, has_read_settings, .. } = *registering;
                let registration =
                    returned.map_err(Refusal::from).and_then(|()| declarations.finish());
                Ok(registration.map(|registration| (registration, has_read_settings)))
            }
            Phase::Idle | Phase::Handling(_) => {
                Ok(Err(Refusal::misuse("`register` lost its declarations")))
            }
        }
    }

    /// Runs `handle` for `event` with the payload `data` within `budget`. `calls` answers the
    /// guest's host calls.
    pub(super) async fn handle(
        &mut self,
        event: &Event,
        data: &str,
        calls: Box<dyn HostCalls>,
        budget: &mut Budget,
    ) -> Result<(Handled, Box<dyn HostCalls>), Failure> {
        self.handled += 1;
        self.store.data().current.set(event.id, calls.generation());
        self.store.data_mut().phase = Phase::Handling(calls);
        let attachments: Vec<&[u8]> = event.payload.attachments.iter().map(AsRef::as_ref).collect();
        self.store.set_epoch_deadline(FIRST_CHECK);
        let returned = {
            let identity = event.caller.identity();
            let lowered = lowered(event, data, &identity, &attachments);
            let call = pin!(self.guest.call_handle(&mut self.store, lowered));
            within(&self.clock, budget, &self.standstills, &self.ended, call).await
        };
        let phase = std::mem::replace(&mut self.store.data_mut().phase, Phase::Idle);
        // After a failure, standard error is held for `take_output`.
        self.store.data().end_call(returned.is_err());
        match (returned, phase) {
            (Ok(answer), Phase::Handling(calls)) => Ok((answer.map_err(Refusal::from), calls)),
            (Ok(_), Phase::Idle | Phase::Registering(_)) => {
                Err(Failure::Trapped(wasmtime::Error::msg("the event's host calls are missing")))
            }
            (Err(error), _) => Err(explain(error, &self.store, budget)),
        }
    }

    /// Returns what the guest wrote to standard error in the failed call.
    pub(super) fn take_output(&self) -> String {
        self.store.data().stderr.take_held()
    }

    /// Whether the instance must be replaced, because it has handled too many events or has grown
    /// too much.
    pub(super) fn is_spent(&self) -> bool {
        let used = self.store.data().memory.used;
        self.handled >= MAX_HANDLED
            || used
                > SMALL_GROWTH
                    .saturating_add(self.initial_memory)
                    .max(self.initial_memory.saturating_mul(MAX_GROWTH))
    }
}

/// The guest's CPU time is used up. Passes through wasmtime as the error of the call.
#[derive(Debug, thiserror::Error)]
#[error("the guest's running time is over")]
struct CpuExceeded;

/// The deadline of the event has passed.
#[derive(Debug, thiserror::Error)]
#[error("the event's time is over")]
struct WallExceeded;

fn explain(error: wasmtime::Error, store: &Store<InstanceState>, budget: &Budget) -> Failure {
    if error.is::<CpuExceeded>() {
        Failure::CpuExceeded { limit: budget.cpu, ran: budget.ran }
    } else if error.is::<WallExceeded>() {
        Failure::WallExceeded(budget.wall)
    } else if store.data().memory.refused {
        Failure::MemoryExceeded(error)
    } else {
        Failure::Trapped(error)
    }
}

/// Awaits a guest's call within the rest of `budget`, and subtracts the used time. A cancelled call
/// leaves its store unusable. Time in which the process stood still is not the guest's.
///
/// `call` is passed as a pinned reference. A call that is passed by value would also be stored in
/// this future and in every future around it.
async fn within<T>(
    clock: &CpuClock,
    budget: &mut Budget,
    standstills: &Standstills,
    ended: &CancellationToken,
    mut call: Pin<&mut (impl Future<Output = wasmtime::Result<T>> + Send)>,
) -> wasmtime::Result<T> {
    clock.begin(budget.cpu_left);
    // Measures the time from each resumption to the next suspension.
    let mut poll = |context: &mut Context<'_>| {
        clock.resume();
        let poll = call.as_mut().poll(context);
        clock.pause();
        match poll {
            // A guest that suspends again and again may never run at the time of the epoch
            // callback. A call that has ended keeps its result.
            Poll::Pending if clock.is_over() => Poll::Ready(Err(CpuExceeded.into())),
            poll => poll,
        }
    };
    // Nearly every call ends in its first poll, and then no timeout is needed.
    let answer = match poll_fn(|context| Poll::Ready(poll(context))).await {
        Poll::Ready(answer) => Some(answer),
        // From now on with a deadline. The call is polled again immediately.
        Poll::Pending => {
            let call = ended.run_until_cancelled(poll_fn(poll));
            // `None` after the deadline, and if the plugin has ended.
            standstills.within(budget, call).await.flatten()
        }
    };
    budget.ran += clock.used();
    budget.cpu_left = budget.cpu.saturating_sub(budget.ran);
    answer.unwrap_or_else(|| Err(WallExceeded.into()))
}
