//! The calls of the bare host about the caller of an event, its reply and what is emitted. They do
//! nothing.

use std::hint::black_box;

use super::bare::sockhop::plugin::{emitter, identity, replies, types};
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

impl emitter::Host for Bare {
    fn emit(&mut self, _: types::Target, event: String, data: String) -> Answer<()> {
        black_box((event, data));
        Ok(())
    }
    fn emit_binary(
        &mut self,
        _: types::Target,
        _: String,
        _: String,
        _: Vec<Vec<u8>>,
    ) -> Answer<()> {
        Ok(())
    }
    fn emit_volatile(
        &mut self,
        _: types::Target,
        _: String,
        _: String,
        _: Vec<Vec<u8>>,
    ) -> Answer<()> {
        Ok(())
    }
    fn emit_with_ack(
        &mut self,
        _: String,
        _: String,
        _: String,
        _: Vec<Vec<u8>>,
        _: emitter::AckRequest,
    ) -> Answer<String> {
        Ok(String::new())
    }
}
