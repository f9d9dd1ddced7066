//! WASI's interface `wasi:config/store`.

use crate::host::SettingCalls;

use super::Component;
use super::config::wasi::config::store;

impl SettingCalls for Component {
    fn setting(&self, name: &str) -> Option<String> {
        store::get(name).ok().flatten()
    }

    fn setting_names(&self) -> Vec<String> {
        let all = store::get_all().unwrap_or_default();
        all.into_iter().map(|(name, _)| name).collect()
    }
}
