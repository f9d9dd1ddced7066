//! The calls of the bare host about the caller of an event and its reply. They do nothing.

use super::bare::sockhop::plugin::{identity, replies};
use super::{Answer, Bare};

impl identity::Host for Bare {
    fn has_role(&mut self, _: String) -> bool {
        false
    }
    fn claims(&mut self) -> String {
        "null".to_owned()
    }
    fn auth(&mut self) -> Answer<String> {
        Ok(String::new())
    }
    fn query(&mut self) -> Answer<Option<Vec<(String, String)>>> {
        Ok(None)
    }
    fn sid(&mut self) -> String {
        String::new()
    }
    fn event_id(&mut self) -> String {
        String::new()
    }
    fn received_at(&mut self) -> u64 {
        1_767_225_600_123
    }
    fn disconnect(&mut self, _: String) {}
}

impl replies::Host for Bare {
    fn attach(&mut self, _: Vec<u8>) -> Answer<u32> {
        Ok(0)
    }
}
