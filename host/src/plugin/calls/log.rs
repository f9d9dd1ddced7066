//! The WIT interface `log`: a plugin writes a log line, in any phase.

use crate::effect::LogLevel;
use crate::plugin::bindings::sockhop::plugin::log;
use crate::plugin::state::InstanceState;

impl log::Host for InstanceState {
    fn write(&mut self, level: log::Level, message: String) {
        let level = match level {
            log::Level::Trace => LogLevel::Trace,
            log::Level::Debug => LogLevel::Debug,
            log::Level::Info => LogLevel::Info,
            log::Level::Warn => LogLevel::Warn,
            log::Level::Error => LogLevel::Error,
        };
        self.output.write(level, &self.current, message);
    }
}
