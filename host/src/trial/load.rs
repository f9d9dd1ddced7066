//! `$load` in a trial: it is sent before the first step, until the plugin has finished.

use std::sync::Arc;

use sockhop_core::load::{Stall, Step};

use crate::dispatcher::{Dispatcher, Loaded};
use crate::registry::ActivePlugin;

/// Sends `$load` to a plugin until it has finished. A host does so beside other events.
///
/// # Errors
/// Returns why the plugin has failed.
pub(super) async fn load(
    dispatcher: &Dispatcher,
    active: &Arc<ActivePlugin>,
) -> Result<(), String> {
    let mut stall = Stall::default();
    loop {
        match dispatcher.load(active).await {
            Loaded::Finished => return Ok(()),
            Loaded::Progressed(progress) => {
                if let Step::Stuck(reason) = stall.take(progress) {
                    return Err(reason);
                }
            }
            Loaded::Failed(reason) => return Err(reason),
            Loaded::NotServing(_) => return Err("there is no space for an instance".to_owned()),
        }
    }
}
