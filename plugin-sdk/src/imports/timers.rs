//! The interface `timers`. Its functions are called directly; see `host.rs`.

use crate::host::TimerCalls;
use crate::refusal::Result;
use crate::timer::FiredTimer;

use super::Component;
use super::generated::sockhop::plugin::timers;

impl TimerCalls for Component {}

/// Calls the import `timers.after`. `duration` is in milliseconds.
pub(crate) fn after(timer: &str, duration: u64, key: &str, data: &str) -> Result {
    Ok(timers::after(timer, duration, key, data)?)
}

/// Calls the import `timers.at`. `time` is in milliseconds since 1970.
pub(crate) fn at(timer: &str, time: u64, key: &str, data: &str) -> Result {
    Ok(timers::at(timer, time, key, data)?)
}

/// Calls the import `timers.cancel`.
pub(crate) fn cancel(timer: &str, key: &str) -> Result {
    Ok(timers::cancel(timer, key)?)
}

/// Calls the import `timers.current`.
pub(crate) fn current() -> Option<FiredTimer> {
    let timers::Timer { name, key, due, attempt } = timers::current()?;
    Some(FiredTimer { name, key, due, attempt })
}
