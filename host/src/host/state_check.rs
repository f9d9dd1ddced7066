//! Runs a version on the copy of a state, for `sockhop check`: `$load` to its end, and then
//! `$check`. There are no clients, no network, no timers and no deliveries.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sockhop_core::load::{Progress, Stall, Step};
use sockhop_core::state_check::{CheckReply, Cursors, MAX_EXAMPLES, Unreadable};

use crate::config::LiveConfig;
use crate::dispatcher::{Dispatcher, Loaded};
use crate::event::host_event;
use crate::metrics::Metrics;
use crate::outbound::Outbound;
use crate::registry::{ActivePlugin, Generation, Registry};
use crate::rooms::Rooms;

/// What the check of a state has found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateOutcome {
    /// What became of `$load`. `None` if the version does not handle it.
    pub load: Option<LoadOutcome>,
    /// What the version can't read. `None` if it does not handle `$check`, or `$load` has failed.
    pub records: Option<Result<RecordsOutcome, String>>,
    /// Whether the operator allows requests to other services, which were refused here.
    pub refuses_requests: bool,
}

/// What became of `$load`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoadOutcome {
    /// It has finished after so many calls.
    Finished {
        /// The number of calls.
        calls: u64,
    },
    /// The version has finished on the host from which the state comes. It is not called again.
    FinishedBefore,
    /// A call has failed.
    Failed {
        /// Why.
        reason: String,
        /// How far the version was.
        progress: Progress,
    },
}

/// What a version can read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecordsOutcome {
    /// How many entries it has tried to read.
    pub checked: u64,
    /// How many of them it can't read.
    pub unreadable: u64,
    /// The first of those.
    pub examples: Vec<Unreadable>,
}

/// How far a check is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckStep {
    /// `$load` has replied this.
    Load(Progress),
    /// So many entries were tried.
    Records(u64),
}

impl StateOutcome {
    /// Whether `$load` has finished, and everything can be read, as far as the version says.
    pub fn is_ok(&self) -> bool {
        let can_read = |records: &Result<RecordsOutcome, String>| {
            records.as_ref().is_ok_and(|records| records.unreadable == 0)
        };
        !matches!(self.load, Some(LoadOutcome::Failed { .. }))
            && self.records.as_ref().is_none_or(can_read)
    }
}

/// The time that the check may take.
struct Time {
    began: Instant,
    limit: Duration,
}

impl Time {
    fn check(&self) -> Result<(), String> {
        if self.began.elapsed() < self.limit {
            return Ok(());
        }
        Err(format!("the time of --timeout is over ({} s)", self.limit.as_secs()))
    }
}

/// Runs a version, which has the copy of a state, as a host would that has just loaded it. Then
/// asks it what it can't read. After `timeout`, no further call is made: each call has its own
/// limit. `progress` is called after each step.
pub async fn check_state(
    config: &Arc<LiveConfig>,
    active: &Arc<ActivePlugin>,
    generation: Generation,
    timeout: Duration,
    mut progress: impl FnMut(CheckStep),
) -> StateOutcome {
    let time = Time { began: Instant::now(), limit: timeout };
    let registry = Arc::new(Registry::default());
    registry.publish(generation);
    let (rooms, metrics) = (Arc::<Rooms>::default(), Arc::<Metrics>::default());
    let dispatcher = Dispatcher::new(registry, rooms, Arc::clone(config), metrics);
    let outbound = Outbound::refusing("`sockhop check` sends no requests");
    let dispatcher = dispatcher.sending_by(Arc::new(outbound));
    let load = if active.listens_for_load() {
        Some(load(&dispatcher, active, &time, &mut progress).await)
    } else {
        None
    };
    let listens_for_check = active.code.registration.listens.contains(&host_event::CHECK);
    let records = if listens_for_check && !matches!(load, Some(LoadOutcome::Failed { .. })) {
        Some(records(&dispatcher, active, &time, &mut progress).await)
    } else {
        None
    };
    StateOutcome { load, records, refuses_requests: active.allowance.allows_any() }
}

async fn load(
    dispatcher: &Dispatcher,
    active: &Arc<ActivePlugin>,
    time: &Time,
    progress: &mut impl FnMut(CheckStep),
) -> LoadOutcome {
    let (mut calls, mut stall, mut last) = (0, Stall::default(), Progress::default());
    match active.state.store.load_row(&active.code.digest) {
        Ok(row) if row.is_some_and(|row| row.finished.is_some()) => {
            return LoadOutcome::FinishedBefore;
        }
        Ok(_) => {}
        Err(error) => return LoadOutcome::Failed { reason: error.to_string(), progress: last },
    }
    let reason = loop {
        if let Err(reason) = time.check() {
            break reason;
        }
        calls += 1;
        match dispatcher.load(active).await {
            Loaded::Finished => return LoadOutcome::Finished { calls },
            Loaded::Progressed(now) => {
                last = now;
                progress(CheckStep::Load(now));
                if let Step::Stuck(reason) = stall.take(now) {
                    break reason;
                }
            }
            Loaded::Failed(reason) => break reason,
            Loaded::NotServing(_) => break "there is no space for an instance".to_owned(),
        }
    };
    LoadOutcome::Failed { reason, progress: last }
}

async fn records(
    dispatcher: &Dispatcher,
    active: &Arc<ActivePlugin>,
    time: &Time,
    progress: &mut impl FnMut(CheckStep),
) -> Result<RecordsOutcome, String> {
    let (mut found, mut cursor) = (RecordsOutcome::default(), None);
    let mut cursors = Cursors::default();
    loop {
        time.check().map_err(|reason| format!("{reason}, after {} entries", found.checked))?;
        let reply = dispatcher.check_state(active, cursor.clone()).await?;
        let CheckReply { checked, unreadable, examples, next } = reply;
        found.checked = found.checked.saturating_add(checked);
        found.unreadable = found.unreadable.saturating_add(unreadable);
        let free = MAX_EXAMPLES.saturating_sub(found.examples.len());
        found.examples.extend(examples.into_iter().take(free));
        progress(CheckStep::Records(found.checked));
        let Some(next) = next else { return Ok(found) };
        cursors.take(checked, &next)?;
        cursor = Some(next);
    }
}
