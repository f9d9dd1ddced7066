//! The effect of reloads and of a spinning plugin on clients: measures the same open loop without
//! and with them, on one host.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::files::{bundled_plugin, chameleon, drop_in, guest, put};
use serde_json::{Value, json};

use crate::driver::{Driver, PATIENCE};
use crate::load::{Load, Phase};
use crate::question::Question;
use crate::report::{median, note};
use crate::sequence::Faults;
use crate::servers::{Server, Stage};

/// The size of the measurement.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    pub(crate) connections: usize,
    /// Number of reloads under load.
    pub(crate) reloads: usize,
    /// Number of reloads without load, after those under load. The memory, threads and file
    /// descriptors at their end are compared with those after the 50th.
    pub(crate) memory_reloads: usize,
    /// Time for measuring the peak rate.
    pub(crate) time: Duration,
}

/// The results: a document for readers and scripts, and the figures for the bars.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) document: Value,
    /// p99 over steady while two versions alternate whose compiled code the host has cached.
    pub(crate) p99_ratio: f64,
    /// p99 over steady while the host compiles a version that it has never seen.
    pub(crate) compiling_p99_ratio: f64,
    pub(crate) reload_ms: f64,
    pub(crate) faults: Faults,
}

/// The name of the plugin's file.
const FILE: &str = "chameleon.wasm";

const WARM: Duration = Duration::from_secs(1);

/// Turns in which the load runs with reloads and then without them, for the same time. The result
/// is the median of the turns' p99. A shared machine takes the processor away for tens of
/// milliseconds now and then, and one such turn would decide the p99 of the whole time.
const TURNS: usize = 25;

/// How long the load runs before either half of a turn is measured, and how long it continues after
/// its last reload. The host looks at a replaced version again after 200 ms.
const REST: Duration = Duration::from_millis(300);

/// Interval of the checks which version answers.
const LOOK: Duration = Duration::from_millis(2);

/// Puts the versions into the plugin directory in turn.
struct Reloads<'a> {
    plugins: &'a Path,
    /// The directory where a version is written before it is moved to the plugins. It is on the
    /// same file system.
    staged: &'a Path,
    versions: [Vec<u8>; 2],
    /// The version that answered last. Asking the host for the current version would be another
    /// kind of load.
    answered_by: Arc<AtomicU64>,
}

impl Reloads<'_> {
    fn staged(&self, turn: usize) -> PathBuf {
        self.staged.join(turn.to_string())
    }

    /// Writes the version of this turn to the staging directory.
    fn stage(&self, turn: usize) {
        std::fs::write(self.staged(turn), &self.versions[turn % 2]).expect("a file");
    }

    /// Moves the staged version of this turn into the plugin directory and waits until it answers.
    /// Returns how many milliseconds that took. `look` sends the plugin an event, if there is no
    /// load that does so.
    fn reload(&self, turn: usize, mut look: impl FnMut()) -> u64 {
        let version = 2 - turn as u64 % 2;
        std::fs::rename(self.staged(turn), self.plugins.join(FILE)).expect("a renamed file");
        let (began, mut answers_since) = (Instant::now(), None);
        loop {
            look();
            let is_there = self.answered_by.load(Ordering::Relaxed) == version;
            match answers_since {
                // The version must be seen twice in a row. An event of the previous version may be
                // answered after the first event of the new one.
                Some(since) if is_there => return since,
                _ => answers_since = is_there.then(|| began.elapsed().as_millis() as u64),
            }
            assert!(began.elapsed() < PATIENCE, "version {version} never answered");
            std::thread::sleep(LOOK);
        }
    }

    /// Takes these turns while the load runs. Returns the phase of the load, and how many
    /// milliseconds each reload took.
    fn under(&self, load: &mut Load, rate: f64, turns: Range<usize>) -> (Phase, Vec<u64>) {
        // The files are written before the load starts. Writing on the driver's processor delays
        // the driver, and the delay would count as the host's latency.
        turns.clone().for_each(|turn| self.stage(turn));
        let (counts, is_over) = (AtomicBool::new(false), AtomicBool::new(false));
        std::thread::scope(|scope| {
            let reloading = scope.spawn(|| {
                // Also set if a reload fails. Otherwise the load would never end.
                let _end = SetAtEnd(&is_over);
                while !counts.load(Ordering::Relaxed) {
                    std::thread::sleep(LOOK);
                }
                let took = turns.map(|turn| self.reload(turn, || ())).collect::<Vec<_>>();
                std::thread::sleep(REST);
                took
            });
            let phase = load.open(rate, 1, REST, |_| {
                counts.store(true, Ordering::Relaxed);
                is_over.load(Ordering::Relaxed)
            });
            (phase, reloading.join().expect("reloads"))
        })
    }
}

/// Measures as many reloads under load as `size` says.
pub(crate) fn reloads(stage: &Stage, size: Size) -> Found {
    let [plugins, staged, data] = [(); 3].map(|()| tempfile::tempdir().expect("a directory"));
    let versions = [chameleon("version=2"), chameleon("version=1")];
    drop_in(plugins.path(), FILE, &versions[1]);
    let host = stage.host(plugins.path(), data.path(), &[]);
    let reloads = Reloads {
        plugins: plugins.path(),
        staged: staged.path(),
        versions,
        answered_by: Arc::default(),
    };
    let question = Question::Count(Arc::clone(&reloads.answered_by));
    let mut load = Load::new(
        Driver::connect(&host.address, size.connections, false),
        question.clone(),
        host.pid(),
    );

    let peak = load.closed(1, WARM, size.time.min(Duration::from_secs(5)));
    let rate = peak.rate() / 2.0;
    note(&format!("peak {:.0} events/s", peak.rate()));
    note("compiling a version never seen");
    let (compiling, never_seen) = reloads.under(&mut load, rate, 0..1);
    let (mut steady, mut reloaded, mut times) = (Turns::default(), Turns::default(), Vec::new());
    let count = TURNS.min(size.reloads).max(1);
    for turn in 0..count {
        note(&format!("reloading, turn {} of {count}", turn + 1));
        let turns = |turn: usize| 1 + turn * size.reloads / count;
        let (phase, took) = reloads.under(&mut load, rate, turns(turn)..turns(turn + 1));
        let time = phase.elapsed;
        reloaded.add(phase);
        times.extend(took);
        steady.add(load.open(rate, 1, REST, |elapsed| elapsed >= time));
    }
    times.sort_unstable();
    drop(load);

    let mut asker = Driver::connect(&host.address, 1, false);
    let mut after_50 = host.footprint();
    for turn in 0..size.memory_reloads {
        // Continues the count of the turns under load, so that each reload changes the version.
        let next = size.reloads + 1 + turn;
        reloads.stage(next);
        reloads.reload(next, || {
            question.answer(format!("430{}", asker.ask(0, "count", "0")).as_bytes());
        });
        if turn == 49 {
            after_50 = host.footprint();
        }
    }
    let last = host.footprint();
    let over = |p99: f64, steady: f64| (p99 / steady.max(1.0) * 100.0).round() / 100.0;
    let p99_ratio = over(reloaded.p99(), steady.p99());
    let compiling_p99_ratio = over(compiling.percentile(0.99), steady.p99());
    let document = json!({
        "connections": size.connections, "peak_events_per_second": peak.rate().round(),
        "steady": document(&steady.whole), "compiling": document(&compiling), "never_seen_ms": never_seen.first(), "with_reloads": document(&reloaded.whole), "reloads": times.len(),
        "reload_ms_median": times.get(times.len() / 2), "reload_ms_most": times.last(), "turns_p99_us": { "steady": steady.p99(), "with_reloads": reloaded.p99() }, "p99_ratio": p99_ratio,
        "compiling_p99_ratio": compiling_p99_ratio,
        "memory_reloads": size.memory_reloads, "after_50": footprint(after_50), "at_the_end": footprint(last),
    });
    let reload_ms = times.get(times.len() / 2).copied().unwrap_or_default() as f64;
    Found { document, p99_ratio, compiling_p99_ratio, reload_ms, faults: steady.whole.faults }
}

/// The turns of one phase.
#[derive(Default)]
struct Turns {
    whole: Phase,
    p99: Vec<f64>,
}

impl Turns {
    fn add(&mut self, turn: Phase) {
        self.p99.push(turn.percentile(0.99));
        self.whole = std::mem::take(&mut self.whole).and(turn);
    }

    /// The median of the turns' p99, in microseconds.
    fn p99(&self) -> f64 {
        median(&self.p99)
    }
}

/// Sets the flag when it is dropped, also during a panic, so that concurrent threads end.
pub(crate) struct SetAtEnd<'a>(pub(crate) &'a AtomicBool);

impl Drop for SetAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn document(phase: &Phase) -> Value {
    json!({"answers": phase.events, "events_per_second": phase.rate().round(), "lost_acks": phase.faults.lost,
        "duplicates": phase.faults.duplicated, "reorders": phase.faults.reordered, "wrong_answers": phase.faults.wrong,
        "disconnects": phase.faults.closed, "server_cpu_us": phase.cpu(), "p50_us": phase.percentile(0.5), "p99_us": phase.percentile(0.99),
        "p999_us": phase.percentile(0.999), "driver_late_p99_us": phase.delay(0.99)})
}

fn footprint((resident, threads, files): (u64, usize, usize)) -> Value {
    json!({"resident_kib": resident, "threads": threads, "file_descriptors": files})
}

/// Latency of `ping` while another plugin spins on all of its instances: p99 in microseconds,
/// without and with the spinning plugin.
#[derive(Debug)]
pub(crate) struct Spun {
    pub(crate) steady_p99: f64,
    pub(crate) spinning_p99: f64,
    /// By how many milliseconds each spinning handler exceeded its limit, from the host's log.
    pub(crate) overruns: Vec<f64>,
    pub(crate) faults: Faults,
}

/// Rate of `ping` in events per second: low enough that the spinning plugin gets the processor, so
/// that the load itself does not cause the latency.
const CALM: f64 = 1_000.0;

/// Clients that keep the plugin spinning: more than it has instances.
const SPINNERS: usize = 4;

/// The limit of a handler's CPU time: low, so that many handlers reach it.
const SPIN_LIMIT_MS: u32 = 100;

/// Measures `ping` while another plugin spins.
pub(crate) fn spinners(stage: &Stage, time: Duration) -> Spun {
    let (plugins, data) =
        (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    put(plugins.path(), &bundled_plugin("connection"));
    put(plugins.path(), &guest("chameleon"));
    let limit = SPIN_LIMIT_MS.to_string();
    // With the default settings, the circuit breaker would reject the events of a plugin that fails
    // this often, and the plugin would not run.
    let settings = [
        ("LIMITS__BREAKER_FAILURES", "1000000"),
        ("LIMITS__BREAKER_CALLS", "1000000"),
        ("LIMITS__EVENT_CPU_MS", &*limit),
    ];
    let log = tempfile::NamedTempFile::new().expect("a file");
    let host: Server =
        stage.host_with_log(plugins.path(), data.path(), &settings, log.reopen().expect("a file"));
    let mut load = Load::new(Driver::connect(&host.address, 50, true), Question::Ping, host.pid());
    let steady = load.open(CALM, 1, WARM, |elapsed| elapsed >= time);
    let is_over = AtomicBool::new(false);
    let (spinning, spins) = std::thread::scope(|scope| {
        let spinners: Vec<_> =
            (0..SPINNERS).map(|_| scope.spawn(|| spin(&host.address, &is_over))).collect();
        let phase = load.open(CALM, 1, WARM, |elapsed| elapsed >= time);
        is_over.store(true, Ordering::Relaxed);
        (
            phase,
            spinners.into_iter().map(|spinner| spinner.join().expect("a spinner")).sum::<usize>(),
        )
    });
    let overruns = overruns(&std::fs::read_to_string(log.path()).expect("the host's log"));
    assert!(spins > 0 && overruns.len() >= spins, "{spins} spun, the log has {}", overruns.len());
    Spun {
        steady_p99: steady.percentile(0.99),
        spinning_p99: spinning.percentile(0.99),
        overruns,
        faults: spinning.faults,
    }
}

/// Reads the overruns from the log records of handlers that reached their limit.
fn overruns(log: &str) -> Vec<f64> {
    let ran =
        |line: &str| serde_json::from_str::<Value>(line).ok()?.pointer("/fields/ran_ms")?.as_f64();
    log.lines().filter_map(ran).map(|ran| ran - f64::from(SPIN_LIMIT_MS)).collect()
}

fn spin(address: &str, is_over: &AtomicBool) -> usize {
    let (mut driver, mut spins) = (Driver::connect(address, 1, true), 0);
    while !is_over.load(Ordering::Relaxed) {
        spins += usize::from(driver.ask(0, "behave", r#""spin""#).contains("timed_out"));
    }
    spins
}
