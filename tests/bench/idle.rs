//! Measures the memory of idle connections.

use std::time::{Duration, Instant};

use crate::driver::Driver;
use crate::servers::Server;

/// How long a server may take to become idle before its memory is read.
const REST: Duration = Duration::from_secs(2);

/// Returns the KiB of the server's memory for each of `count` connections, not counting those that
/// were opened for warm-up.
pub(crate) fn memory(server: &Server, count: usize) -> f64 {
    let mut driver = Driver::connect(server.target(), 20, true);
    for _ in 0..50 {
        driver.ask_all(0..20, "ping", r#"{"timestamp":1}"#);
    }
    rest(&mut driver);
    let before = server.resident_kib();
    driver.add(server.target(), count, true);
    rest(&mut driver);
    let after = server.resident_kib();
    assert!(driver.closed() == 0, "the server has closed idle connections");
    after.saturating_sub(before) as f64 / count as f64
}

/// Waits for `REST`, and answers heartbeats meanwhile.
pub(crate) fn rest(driver: &mut Driver) {
    let began = Instant::now();
    while began.elapsed() < REST {
        driver.turn(Duration::from_millis(50), |_, _, _| {});
    }
}
