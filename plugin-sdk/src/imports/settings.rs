//! WASI's interface `wasi:config/store`.

use crate::host::SettingCalls;

use super::Component;
use super::config::wasi::config::store;

impl SettingCalls for Component {
    fn setting(&self, name: &str) -> Option<String> {
        store::get(name).ok().flatten()
    }
}
