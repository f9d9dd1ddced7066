//! HTTP requests, see `sockhop_socketio::fuzzing`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sockhop_socketio::fuzzing::request(data));
