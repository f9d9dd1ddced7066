//! The WIT interface `timers`, for one run of a handler.

use std::sync::Arc;

use sockhop_core::timer;

use crate::effect::{Deadline, TimerCalls};
use crate::event::FiredTimer;
use crate::events;
use crate::rejection::Refusal;

use super::Run;

impl Run {
    /// Returns how many more changes are pending if this timer is set or cancelled.
    fn new_timers(&mut self, timer: &str, key: &str) -> usize {
        usize::from(!self.view().has_changed_timer(timer, key))
    }
}

impl TimerCalls for Run {
    fn set_timer(
        &mut self,
        timer: String,
        key: String,
        deadline: Deadline,
        data: String,
    ) -> Result<(), Refusal> {
        let new = self.new_timers(&timer, &key);
        // Checked before parsing: data that is too large is not worth parsing.
        self.check_effect_limits(new, timer::bytes(&timer, &key, &data))?;
        let due = deadline.resolve(self.event.received_at_ms())?;
        let schema = events::declared_timer(&self.active.timers, &timer)?;
        let data = events::check_timer_data(&timer, data, schema)?;
        let (event, data) = (Arc::clone(&self.event), data.as_str().to_owned());
        let set = self.view().set_timer(timer, key, due, data, event.timer.as_deref());
        set.map_err(|error| self.refuse(error))
    }

    fn cancel_timer(&mut self, timer: String, key: String) -> Result<(), Refusal> {
        let new = self.new_timers(&timer, &key);
        self.check_effect_limits(new, timer::bytes(&timer, &key, ""))?;
        events::declared_timer(&self.active.timers, &timer)?;
        self.view().cancel_timer(timer, key).map_err(|error| self.refuse(error))
    }

    fn fired_timer(&self) -> Option<&FiredTimer> {
        self.event.timer.as_deref()
    }
}
