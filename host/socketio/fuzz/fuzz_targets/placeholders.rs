//! The placeholders in arguments, see `sockhop_socketio::fuzzing`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sockhop_socketio::fuzzing::placeholders(data));
