//! The short form of the outage: fewer callers, for some seconds.

#![cfg(target_os = "linux")]

#[path = "common/judge.rs"]
mod judge;

#[test]
fn a_service_that_never_answers_costs_other_events_of_the_plugin_nothing() {
    judge::judge("outage");
}
