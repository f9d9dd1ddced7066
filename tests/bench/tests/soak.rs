//! The short form of the soak: the same abuse at the same time, for a quarter of a minute.

#![cfg(target_os = "linux")]

#[path = "common/judge.rs"]
mod judge;

#[test]
fn honest_clients_notice_nothing_of_all_abuse_at_once() {
    judge::judge("soak");
}
