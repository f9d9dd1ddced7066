//! Fires timers one at a time, for a host whose clock a scenario moves. No task looks at the clock
//! there, so a timer never fires while another event is handled.

use crate::dispatcher::Fired;
use crate::error_chain::ErrorChain;

use super::{Timers, due_timers, set_schedules};

/// Why timers can't be fired.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StepError {
    /// The plugin's file can't be read or written.
    #[error("the timers of {plugin} can't be read or set: {reason}")]
    Store {
        /// The plugin.
        plugin: String,
        /// The error with its causes.
        reason: String,
    },
    /// The plugin is not called now.
    #[error(
        "the timer `{timer}` of {plugin} is due, but the plugin is not called now: its breaker is open, or its state can't be written"
    )]
    NotCalled {
        /// The plugin.
        plugin: String,
        /// The name of the timer.
        timer: String,
    },
}

impl Timers {
    /// Sets the timers of the schedules that the plugins declare.
    ///
    /// # Errors
    /// The state of a plugin can't be written.
    pub(crate) async fn set_schedules(&self) -> Result<(), StepError> {
        let now = self.dispatcher.clock().now_ms();
        for active in &self.registry.snapshot().plugins {
            set_schedules(active, now).await.map_err(|error| StepError::Store {
                plugin: active.code.name().to_owned(),
                reason: ErrorChain(&error).to_string(),
            })?;
        }
        Ok(())
    }

    /// Fires the first timer that is due. Returns `None` after that, and the time of the next timer
    /// if none is due.
    ///
    /// # Errors
    /// The state of a plugin can't be read or written, or the plugin can't be called.
    pub(crate) async fn fire_first(&self) -> Result<Option<Next>, StepError> {
        let now = self.dispatcher.clock().now_ms();
        let (mut first, mut next) = (None, None);
        for active in &self.registry.snapshot().plugins {
            let found = due_timers(active, now, 1).await.map_err(|error| StepError::Store {
                plugin: active.code.name().to_owned(),
                reason: ErrorChain(&error).to_string(),
            })?;
            next = next.into_iter().chain(found.next).min();
            for due in found.due {
                if first.as_ref().is_none_or(|(_, earliest): &(String, crate::store::DueTimer)| {
                    due.due < earliest.due
                }) {
                    first = Some((active.code.name().to_owned(), due));
                }
            }
        }
        let Some((plugin, due)) = first else { return Ok(Some(Next(next))) };
        let timer = due.timer.clone();
        match self.dispatcher.fire(&plugin, due).await {
            Fired::Handled | Fired::Gone => Ok(None),
            Fired::Failed(fired, reason) => {
                if self.failed(&plugin, fired, reason).await {
                    return Ok(None);
                }
                Err(StepError::NotCalled { plugin, timer })
            }
            Fired::NotServing(_) | Fired::Later(_) => Err(StepError::NotCalled { plugin, timer }),
        }
    }
}

/// When the next timer is due, in milliseconds since 1970, if there is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Next(pub(crate) Option<u64>);
