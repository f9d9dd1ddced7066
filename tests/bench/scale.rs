//! Measures how costs grow with connections, receivers, rooms, plugins and payloads, each
//! separately. Native socketioxide is measured beside Sockhop if it can do the same. If both curves
//! have the same bend, the cause is tokio, the kernel or the driver.

use std::time::Duration;

use crate::driver::Driver;
use crate::files::{bundled_plugin, chameleon, guest, put};
use crate::load::{Load, Phase};
use crate::question::Question;
use crate::report::note;
use crate::servers::{Kind, Server};
use crate::{CONNECTIONS, Run, WARM, fanout, idle};

/// Rate in events per second for the measures with a growing number of connections. It is high
/// enough to matter, and the same for all. More events at once on fewer connections would be
/// cheaper for another reason.
const RATE: f64 = 10_000.0;

/// Runs all measures of this part.
pub(crate) fn scale(run: &mut Run) {
    let files = rlimit::increase_nofile_limit(u64::MAX).expect("a limit of files");
    for connections in [1_000, 5_000, 10_000] {
        // Files beside the connections: programs, files, the poll.
        if files < connections as u64 + 200 {
            note(&format!(
                "{connections} connections are left out: the limit of open files is {files} here \
                 (`ulimit -n`, and its hard limit)"
            ));
            continue;
        }
        run.scale(&format!("scale, {connections} connections"), |run, kind, name| {
            by_connections(run, kind, name, connections)
        });
    }
    for receivers in [10, 100, 1_000, 5_000] {
        run.scale(&format!("scale, {receivers} receivers"), |run, kind, name| {
            let server = run.stage.start(kind);
            let spread = fanout::spread(&server, receivers, 1, WARM, run.time);
            run.report.add(format!("{name}: server CPU per delivery"), "µs", kind, spread.cpu);
            run.report.add_faults(kind, name, spread.faults);
        });
    }
    for bytes in [20, 1_000, 10_000, 100_000] {
        run.scale(&format!("scale, {bytes} B echoed"), |run, kind, name| {
            by_payload(run, kind, name, bytes)
        });
    }
    for rooms in [10, 1_000, 10_000] {
        run.scale_alone(&format!("scale, {rooms} rooms"), |run, name| by_rooms(run, name, rooms));
    }
    for plugins in [4, 50, 200] {
        run.scale_alone(&format!("scale, {plugins} plugins"), |run, name| {
            by_plugins(run, name, plugins)
        });
    }
}

impl Run {
    /// Runs `part` for Sockhop and for native socketioxide in turn, in every round.
    fn scale(&mut self, name: &str, mut part: impl FnMut(&mut Self, Kind, &str)) {
        self.rounds(name, |run, kind| {
            if matches!(kind, Kind::Sockhop | Kind::Native) {
                part(run, kind, name);
            }
        });
    }

    /// Runs `part` for Sockhop alone, in every round.
    fn scale_alone(&mut self, name: &str, mut part: impl FnMut(&mut Self, &str)) {
        self.rounds(name, |run, kind| {
            if kind == Kind::Sockhop {
                part(run, name);
            }
        });
    }

    fn note_phase(&mut self, kind: Kind, name: &str, phase: &Phase) {
        self.report.add(format!("{name}: server CPU"), "µs", kind, phase.cpu());
        self.report.add(format!("{name}: p99"), "µs", kind, phase.percentile(0.99));
        self.report.add_faults(kind, name, phase.faults);
    }

    /// Starts a host with the files that `fill` puts into its plugin directory. It is started
    /// twice, so that everything is compiled.
    fn host_with(&self, fill: impl FnOnce(&std::path::Path)) -> (Server, [tempfile::TempDir; 2]) {
        let directories =
            [tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory")];
        let [plugins, data] = &directories;
        fill(plugins.path());
        drop(self.stage.host(plugins.path(), data.path(), &[]));
        (self.stage.host(plugins.path(), data.path(), &[]), directories)
    }
}

fn by_connections(run: &mut Run, kind: Kind, name: &str, connections: usize) {
    let server = run.stage.start(kind);
    let mut driver = Driver::connect(&server.address, 20, true);
    idle::rest(&mut driver);
    let before = server.resident_kib();
    driver.add(&server.address, connections - 20, true);
    idle::rest(&mut driver);
    let each = server.resident_kib().saturating_sub(before) as f64 / (connections - 20) as f64;
    let time = run.time;
    let phase = Load::new(driver, Question::Ping, server.pid())
        .open(RATE, 1, WARM, |elapsed| elapsed >= time);
    run.report.add(format!("{name}: memory per connection"), "KiB", kind, each);
    run.note_phase(kind, name, &phase);
}

fn by_payload(run: &mut Run, kind: Kind, name: &str, bytes: usize) {
    let (server, _directories) = match kind {
        Kind::Sockhop => {
            let (server, directories) = run.host_with(|plugins| put(plugins, &guest("lab")));
            (server, Some(directories))
        }
        _ => (run.stage.start(kind), None),
    };
    let question = Question::Texts(vec![format!(r#"["echo",{{"data":"{}"}}]"#, "x".repeat(bytes))]);
    let driver = Driver::connect(&server.address, CONNECTIONS, false);
    // Without the greeting, no packet tells when the native peer has registered its handlers.
    std::thread::sleep(Duration::from_millis(100));
    let phase = Load::new(driver, question, server.pid()).closed(1, WARM, run.time);
    run.note_phase(kind, name, &phase);
}

/// Each event goes to one room with one member. The rooms are spread over the same number of
/// connections, for any number of rooms.
fn by_rooms(run: &mut Run, name: &str, rooms: usize) {
    const MEMBERS: usize = 1_000;
    let (server, _directories) = run.host_with(|plugins| {
        for plugin in [bundled_plugin("connection"), bundled_plugin("subscription"), guest("crowd")]
        {
            put(plugins, &plugin);
        }
    });
    let mut driver = Driver::connect(&server.address, MEMBERS, true);
    for room in 0..rooms {
        let answer = driver.ask(
            room % MEMBERS,
            "subscribe_event",
            &format!(r#"{{"event_type":"crowd_{room}"}}"#),
        );
        assert!(answer.contains("subscribed"), "not subscribed: {answer}");
    }
    // The step is coprime to the number of rooms, so that consecutive events do not use adjacent
    // entries of the table.
    let told =
        (0..rooms).map(|event| format!(r#"["crowd_tell",{}]"#, event * 7_919 % rooms)).collect();
    let phase = Load::new(driver, Question::Texts(told), server.pid()).closed(1, WARM, run.time);
    run.note_phase(Kind::Sockhop, name, &phase);
}

/// The plugins are copies of one small plugin, each with its own name and event. Each event reads
/// one key of the plugin's state.
fn by_plugins(run: &mut Run, name: &str, plugins: usize) {
    let (server, _directories) = run.host_with(|directory| {
        for number in 0..plugins {
            let bytes = chameleon(&format!("version=1 name=p{number:03} claims=e{number:03}"));
            std::fs::write(directory.join(format!("p{number:03}.wasm")), bytes).expect("a file");
        }
    });
    run.report.add(
        format!("{name}: start, all cached"),
        "ms",
        Kind::Sockhop,
        server.took.as_secs_f64() * 1e3,
    );
    run.report.add(
        format!("{name}: memory after the start"),
        "MiB",
        Kind::Sockhop,
        server.resident_kib() as f64 / 1024.0,
    );
    let asked = (0..plugins).map(|number| format!(r#"["e{number:03}",null]"#)).collect();
    let driver = Driver::connect(&server.address, CONNECTIONS, false);
    let phase = Load::new(driver, Question::Texts(asked), server.pid()).closed(8, WARM, run.time);
    run.note_phase(Kind::Sockhop, name, &phase);
    run.report.add(
        format!("{name}: memory under load"),
        "MiB",
        Kind::Sockhop,
        server.resident_kib() as f64 / 1024.0,
    );
}
