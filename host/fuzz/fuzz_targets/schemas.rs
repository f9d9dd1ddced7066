//! The schemas of a plugin, and documents that are checked against them, see `sockhop::fuzzing`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sockhop::fuzzing::schema(data));
