//! The settings of the plugin.

use std::rc::Rc;

use crate::host::SettingCalls;

use super::Run;

impl SettingCalls for Rc<Run> {
    fn setting(&self, name: &str) -> Option<String> {
        self.world.borrow().settings.get(name).cloned()
    }
}
