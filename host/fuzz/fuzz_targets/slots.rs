//! The file of saved slots, see `sockhop::fuzzing`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sockhop::fuzzing::slots(data));
