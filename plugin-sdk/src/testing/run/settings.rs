//! The settings of the plugin.

use std::collections::BTreeMap;
use std::rc::Rc;

use crate::host::SettingCalls;

use super::Run;

impl SettingCalls for Rc<Run> {
    fn setting(&self, name: &str) -> Option<String> {
        self.world.borrow().settings.get(name).cloned()
    }

    fn setting_names(&self) -> Vec<String> {
        self.world.borrow().settings.keys().cloned().collect()
    }
}

/// The settings with which the plugin registers.
impl SettingCalls for BTreeMap<String, String> {
    fn setting(&self, name: &str) -> Option<String> {
        self.get(name).cloned()
    }

    fn setting_names(&self) -> Vec<String> {
        self.keys().cloned().collect()
    }
}
