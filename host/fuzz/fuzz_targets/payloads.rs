//! The text of a packet and the depth of its payload, see `sockhop::fuzzing`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sockhop::fuzzing::payload(data));
