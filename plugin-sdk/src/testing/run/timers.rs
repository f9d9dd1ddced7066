//! The interface `timers`.

use std::rc::Rc;

use sockhop_core::limits;
use sockhop_core::rejection;
use sockhop_core::state::{StateError, check_key, check_value};
use sockhop_core::timer::{self, Deadline};

use crate::host::TimerCalls;
use crate::refusal::{Refusal, Result};
use crate::testing::outcome::{Effect, of_host};
use crate::testing::timers::{Change, Id};
use crate::timer::FiredTimer;

use super::Run;

impl Run {
    fn set_timer(&self, timer: &str, deadline: Deadline, key: &str, data: &str) -> Result {
        // First: a host does not parse data that is too large.
        let bytes = timer::bytes(timer, key, data);
        self.pending.borrow().check_timer(timer, key, bytes)?;
        let due = deadline.resolve(self.event.at).map_err(of_host)?;
        let value = self.declared.check_timer_data(timer, data).map_err(of_host)?;
        check_key(key, limits::STATE_KEY_BYTES).map_err(refused)?;
        check_value(data.len(), limits::STATE_VALUE_BYTES).map_err(refused)?;
        let id = (timer.to_owned(), key.to_owned());
        self.check_count(&id)?;
        let change = Change { id: id.clone(), set: Some((due, data.to_owned())), bytes };
        let (timer, key) = id;
        let effect = Effect::SetTimer { timer, key, due, data: value };
        self.pending.borrow_mut().change(change, effect);
        Ok(())
    }

    /// Checks that the plugin may have one more timer, as a host does before it has applied the
    /// other changes of the handler.
    fn check_count(&self, id: &Id) -> Result {
        let pending = self.pending.borrow();
        let own = pending.timers.iter().filter(|change| change.set.is_some()).count();
        let max = limits::TIMERS;
        if self.timers.len() + own < max as usize || self.timers.is_set(id) {
            return Ok(());
        }
        Err(of_host(rejection::Refusal::limit(format!(
            "the plugin would have more than {max} timers, dead ones included"
        ))))
    }
}

impl TimerCalls for Rc<Run> {
    fn set_timer_after(&self, timer: &str, duration: u64, key: &str, data: &str) -> Result {
        self.set_timer(timer, Deadline::After(duration), key, data)
    }

    fn set_timer_at(&self, timer: &str, time: u64, key: &str, data: &str) -> Result {
        self.set_timer(timer, Deadline::At(time), key, data)
    }

    fn cancel_timer(&self, timer: &str, key: &str) -> Result {
        let bytes = timer::bytes(timer, key, "");
        self.pending.borrow().check_timer(timer, key, bytes)?;
        self.declared.check_timer(timer).map_err(of_host)?;
        check_key(key, limits::STATE_KEY_BYTES).map_err(refused)?;
        let id = (timer.to_owned(), key.to_owned());
        let change = Change { id: id.clone(), set: None, bytes };
        let (timer, key) = id;
        self.pending.borrow_mut().change(change, Effect::CancelTimer { timer, key });
        Ok(())
    }

    fn current_timer(&self) -> Option<FiredTimer> {
        self.event.timer.clone()
    }
}

/// Converts an error of a key or of the data to a refusal.
fn refused(error: StateError) -> Refusal {
    of_host(error.into())
}
