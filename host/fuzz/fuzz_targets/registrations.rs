//! The declarations of a plugin, see `sockhop::fuzzing`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sockhop::fuzzing::registration(data));
