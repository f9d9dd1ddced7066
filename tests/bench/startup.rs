//! Measures how long an operator waits for a starting host, and for a plugin that was added to the
//! directory.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::files::{bundled, bundled_plugin, drop_in};

use crate::driver::{Driver, PATIENCE};
use crate::servers::{Kind, Stage};

/// The waiting times of one round, in milliseconds.
#[derive(Debug)]
pub(crate) struct Waits {
    /// From the start of the process to the line that says that it listens, with the four bundled
    /// plugins already compiled. The host is then ready: it listens only after the first scan is
    /// loaded.
    pub(crate) start: f64,
    /// From the rename of a plugin that this host has never seen to the first answer to its event.
    pub(crate) never_seen: f64,
    /// The same with the compiled code of the plugin in the cache.
    pub(crate) cached: f64,
}

const PLUGIN: &str = "memory_logs";

/// Measures one round.
pub(crate) fn waits(stage: &Stage) -> Waits {
    // The first start with these data compiles the plugins.
    drop(stage.start(Kind::Sockhop));
    let start = stage.start(Kind::Sockhop).took;

    let (plugins, data) =
        (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    for name in ["connection", "subscription", "mental_notes"] {
        crate::files::put(plugins.path(), &bundled().join(format!("{name}.wasm")));
    }
    let host = stage.host(plugins.path(), data.path(), &[]);
    let mut driver = Driver::connect(&host.address, 1, true);
    let never_seen = until_answered(&mut driver, plugins.path());
    std::fs::remove_file(plugins.path().join(format!("{PLUGIN}.wasm"))).expect("a file to remove");
    until(&mut driver, |answer| answer.contains("unknown_event"));
    let cached = until_answered(&mut driver, plugins.path());
    Waits { start: ms(start), never_seen: ms(never_seen), cached: ms(cached) }
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn until_answered(driver: &mut Driver, plugins: &Path) -> Duration {
    let bytes = std::fs::read(bundled_plugin(PLUGIN)).expect("a plugin");
    drop_in(plugins, &format!("{PLUGIN}.wasm"), &bytes);
    let began = Instant::now();
    until(driver, |answer| answer.contains("items"));
    began.elapsed()
}

fn until(driver: &mut Driver, is: impl Fn(&str) -> bool) {
    let began = Instant::now();
    while !is(&driver.ask(0, "memory_log_list", "{}")) {
        assert!(began.elapsed() < PATIENCE, "it never came, or never went");
        std::thread::sleep(Duration::from_millis(1));
    }
}
