//! The short form of the flood: fewer events, for some seconds.

#![cfg(target_os = "linux")]

#[path = "common/judge.rs"]
mod judge;

#[test]
fn a_user_that_sends_too_much_gets_what_its_bucket_gives_and_an_answer_to_each_event() {
    judge::judge("flood");
}
