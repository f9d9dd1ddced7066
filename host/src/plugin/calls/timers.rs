//! The WIT interface `timers`: a handler sets and cancels timers.

use crate::effect::Deadline;
use crate::plugin::bindings::sockhop::plugin::timers;
use crate::plugin::state::InstanceState;

use super::CallResult;

impl timers::Host for InstanceState {
    fn after(&mut self, timer: String, duration: u64, key: String, data: String) -> CallResult<()> {
        self.handling()?.set_timer(timer, key, Deadline::After(duration), data)?;
        Ok(())
    }

    fn at(&mut self, timer: String, time: u64, key: String, data: String) -> CallResult<()> {
        self.handling()?.set_timer(timer, key, Deadline::At(time), data)?;
        Ok(())
    }

    fn cancel(&mut self, timer: String, key: String) -> CallResult<()> {
        self.handling()?.cancel_timer(timer, key)?;
        Ok(())
    }

    fn current(&mut self) -> Option<timers::Timer> {
        let fired = self.handling().ok()?.fired_timer()?.clone();
        let (name, key) = (fired.timer, fired.key);
        Some(timers::Timer { name, key, due: fired.due, attempt: fired.attempt })
    }
}
