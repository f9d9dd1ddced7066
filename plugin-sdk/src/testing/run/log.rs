//! The interface `log`.

use std::rc::Rc;

use crate::host::LogCalls;
use crate::level::Level;

use super::Run;

impl LogCalls for Rc<Run> {
    fn log(&self, level: Level, message: &str) {
        self.log.borrow_mut().push((level, message.to_owned()));
    }
}
