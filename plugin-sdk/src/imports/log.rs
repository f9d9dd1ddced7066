//! The interface `log`.

use crate::host::LogCalls;
use crate::level::Level;

use super::Component;
use super::generated::sockhop::plugin::log;

impl LogCalls for Component {
    fn log(&self, level: Level, message: &str) {
        log::write(level.into(), message);
    }
}

impl From<Level> for log::Level {
    fn from(level: Level) -> Self {
        match level {
            Level::Trace => Self::Trace,
            Level::Debug => Self::Debug,
            Level::Info => Self::Info,
            Level::Warn => Self::Warn,
            Level::Error => Self::Error,
        }
    }
}
