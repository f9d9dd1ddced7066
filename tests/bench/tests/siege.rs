//! The short form of the siege: a twentieth of the attackers, and shorter deadlines.

#![cfg(target_os = "linux")]

#[path = "common/judge.rs"]
mod judge;

#[test]
fn attackers_that_take_every_slot_are_gone_in_time_and_operators_and_others_are_served() {
    judge::judge("siege");
}
