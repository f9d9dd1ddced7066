//! The interface `log`.

use std::rc::Rc;

use crate::host::LogCalls;
use crate::level::Level;

use super::Run;

impl LogCalls for Rc<Run> {
    fn log(&self, level: Level, message: &str) {
        self.world.borrow_mut().log.push((level, message.to_owned()));
    }
}
