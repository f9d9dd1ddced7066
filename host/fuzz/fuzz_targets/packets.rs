//! The events of a client, see `sockhop::fuzzing`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sockhop::fuzzing::packet(data));
