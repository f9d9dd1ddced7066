//! What clients notice of reloads and of a plugin that spins: the same open loop without and with them, on one host.

use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::files::{bundled_plugin, chameleon, drop_in, guest, put};
use serde_json::{Value, json};

use crate::driver::{Driver, PATIENCE};
use crate::load::{Load, Phase};
use crate::question::Question;
use crate::report::{median, note};
use crate::sequence::Faults;
use crate::servers::{Server, Stage};

/// How much of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Extent {
    pub(crate) connections: usize,
    /// Reloads under load.
    pub(crate) reloads: usize,
    /// After the load: reloads without any, whose memory, threads and file descriptors are compared with those after the 50th.
    pub(crate) memory_reloads: usize,
    /// Of finding the peak.
    pub(crate) time: Duration,
}

/// What was found: a document for people and scripts, and what the bars ask for.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) document: Value,
    /// While versions alternate whose compiled code the host has.
    pub(crate) p99_ratio: f64,
    /// While a version is compiled that it has never seen.
    pub(crate) compiling_p99_ratio: f64,
    pub(crate) reload_ms: f64,
    pub(crate) faults: Faults,
}

const WARM: Duration = Duration::from_secs(1);

/// Turns in which the load runs with reloads and then without them, equally long. What counts is the median of the turns' p99: a shared
/// machine takes the processor away for tens of milliseconds now and then, and one such turn would decide the p99 of the whole time.
const TURNS: usize = 20;

/// Asks the host over HTTP for the version that serves.
fn serving(url: &str, key: &str) -> String {
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).proxy(None).build().into();
    let answer = agent.get(format!("{url}/api/plugins/chameleon")).header("Authorization", format!("Bearer {key}")).call();
    let text = answer.expect("an answer").body_mut().read_to_string().expect("a body");
    let row: Value = serde_json::from_str(&text).unwrap_or_default();
    row["version"].as_str().unwrap_or_default().to_owned()
}

/// Puts the versions into the directory in turn.
struct Reloads<'a> {
    url: String,
    key: String,
    plugins: &'a Path,
    versions: [Vec<u8>; 2],
}

impl Reloads<'_> {
    /// Puts the version of this turn into the directory, and waits until it serves; how many milliseconds that took.
    fn reload(&self, turn: usize) -> u64 {
        let version = 2 - turn % 2;
        drop_in(self.plugins, "chameleon.wasm", &self.versions[turn % 2]);
        let (began, wanted) = (Instant::now(), format!("{version}.0.0"));
        while serving(&self.url, &self.key) != wanted {
            assert!(began.elapsed() < PATIENCE, "version {version} never served");
            std::thread::sleep(Duration::from_millis(5));
        }
        began.elapsed().as_millis() as u64
    }

    /// The load while these turns are taken, and how many milliseconds each took.
    fn under(&self, load: &mut Load, rate: f64, turns: Range<usize>) -> (Phase, Vec<u64>) {
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let reloading = scope.spawn(|| {
                // Also where a reload fails: the load would go on for ever.
                let _end = SetAtEnd(&is_over);
                turns.map(|turn| self.reload(turn)).collect::<Vec<_>>()
            });
            let phase = load.open(rate, 1, Duration::ZERO, |_| is_over.load(Ordering::Relaxed));
            (phase, reloading.join().expect("reloads"))
        })
    }
}

/// 200 reloads under load, or as many as `extent` says.
pub(crate) fn reloads(stage: &Stage, extent: Extent) -> Found {
    let (plugins, data) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    let versions = [chameleon("version=2"), chameleon("version=1")];
    drop_in(plugins.path(), "chameleon.wasm", &versions[1]);
    let host = stage.host(plugins.path(), data.path(), &[]);
    let key = std::fs::read_to_string(data.path().join("key")).expect("the host's key").trim().to_owned();
    let reloads = Reloads { url: format!("http://{}", host.address), key, plugins: plugins.path(), versions };
    let mut load = Load::new(Driver::connect(&host.address, extent.connections, false), Question::Count, host.pid());

    let peak = load.closed(1, WARM, extent.time.min(Duration::from_secs(5)));
    let rate = peak.rate() / 2.0;
    note(&format!("peak {:.0} events/s", peak.rate()));
    note("compiling a version never seen");
    let (compiling, never_seen) = reloads.under(&mut load, rate, 0..1);
    let (mut steady, mut reloaded, mut times) = (Turns::default(), Turns::default(), Vec::new());
    let count = TURNS.min(extent.reloads).max(1);
    for turn in 0..count {
        note(&format!("reloading, turn {} of {count}", turn + 1));
        let turns = |turn: usize| 1 + turn * extent.reloads / count;
        let (phase, took) = reloads.under(&mut load, rate, turns(turn)..turns(turn + 1));
        let time = phase.elapsed;
        reloaded.add(phase);
        times.extend(took);
        steady.add(load.open(rate, 1, Duration::ZERO, |elapsed| elapsed >= time));
    }
    times.sort_unstable();
    drop(load);

    let mut after_50 = host.footprint();
    for turn in 0..extent.memory_reloads {
        // On from the last turn under load, so that each is another version.
        reloads.reload(extent.reloads + 1 + turn);
        if turn == 49 {
            after_50 = host.footprint();
        }
    }
    let last = host.footprint();
    let over = |p99: f64, steady: f64| (p99 / steady.max(1.0) * 100.0).round() / 100.0;
    let p99_ratio = over(reloaded.p99(), steady.p99());
    let compiling_p99_ratio = over(compiling.percentile(0.99), steady.p99());
    let document = json!({
        "connections": extent.connections, "peak_events_per_second": peak.rate().round(),
        "steady": document(&steady.whole), "compiling": document(&compiling), "never_seen_ms": never_seen.first(), "with_reloads": document(&reloaded.whole), "reloads": times.len(),
        "reload_ms_median": times.get(times.len() / 2), "reload_ms_most": times.last(), "turns_p99_us": { "steady": steady.p99(), "with_reloads": reloaded.p99() }, "p99_ratio": p99_ratio,
        "compiling_p99_ratio": compiling_p99_ratio,
        "memory_reloads": extent.memory_reloads, "after_50": footprint(after_50), "at_the_end": footprint(last),
    });
    let reload_ms = times.get(times.len() / 2).copied().unwrap_or_default() as f64;
    Found { document, p99_ratio, compiling_p99_ratio, reload_ms, faults: steady.whole.faults }
}

/// One phase, in several turns.
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

    /// Microseconds: the median of the turns.
    fn p99(&self) -> f64 {
        median(&self.p99)
    }
}

struct SetAtEnd<'a>(&'a AtomicBool);

impl Drop for SetAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn document(phase: &Phase) -> Value {
    json!({"answers": phase.events, "events_per_second": phase.rate().round(), "lost_acks": phase.faults.lost,
        "duplicates": phase.faults.duplicated, "reorders": phase.faults.reordered, "wrong_answers": phase.faults.wrong,
        "disconnects": phase.faults.closed, "p50_us": phase.percentile(0.5), "p99_us": phase.percentile(0.99),
        "p999_us": phase.percentile(0.999), "driver_late_p99_us": phase.delay(0.99)})
}

fn footprint((resident, threads, files): (u64, usize, usize)) -> Value {
    json!({"resident_kib": resident, "threads": threads, "file_descriptors": files})
}

/// What `ping` waits for while another plugin spins on all of its instances: p99 in microseconds without and with.
#[derive(Debug)]
pub(crate) struct Spun {
    pub(crate) steady_p99: f64,
    pub(crate) spinning_p99: f64,
    /// Milliseconds by which each handler that spun ran on beyond its limit, as the host's log has it.
    pub(crate) overruns: Vec<f64>,
    pub(crate) faults: Faults,
}

/// Events a second of `ping`: few enough to leave the spinning plugin the processor, so that it is not the load that is waited for.
const CALM: f64 = 1_000.0;

/// Clients that keep the plugin spinning; more than it has instances.
const SPINNERS: usize = 4;

/// What a handler may run: little, so that many come to that.
const SPIN_LIMIT_MS: u32 = 100;

/// Measures `ping` while another plugin spins.
pub(crate) fn spinners(stage: &Stage, time: Duration) -> Spun {
    let (plugins, data) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    put(plugins.path(), &bundled_plugin("connection"));
    put(plugins.path(), &guest("chameleon"));
    let limit = SPIN_LIMIT_MS.to_string();
    // A plugin that fails so often would be answered by its breaker, and would not run.
    let settings = [("LIMITS__BREAKER_FAILURES", "1000000"), ("LIMITS__BREAKER_CALLS", "1000000"), ("LIMITS__EVENT_CPU_MS", &*limit)];
    let log = tempfile::NamedTempFile::new().expect("a file");
    let host: Server = stage.host_with_log(plugins.path(), data.path(), &settings, log.reopen().expect("a file"));
    let mut load = Load::new(Driver::connect(&host.address, 50, true), Question::Ping, host.pid());
    let steady = load.open(CALM, 1, WARM, |elapsed| elapsed >= time);
    let is_over = AtomicBool::new(false);
    let (spinning, spins) = std::thread::scope(|scope| {
        let spinners: Vec<_> = (0..SPINNERS).map(|_| scope.spawn(|| spin(&host.address, &is_over))).collect();
        let phase = load.open(CALM, 1, WARM, |elapsed| elapsed >= time);
        is_over.store(true, Ordering::Relaxed);
        (phase, spinners.into_iter().map(|spinner| spinner.join().expect("a spinner")).sum::<usize>())
    });
    let overruns = overruns(&std::fs::read_to_string(log.path()).expect("the host's log"));
    assert!(spins > 0 && overruns.len() >= spins, "{spins} spun, the log has {}", overruns.len());
    Spun { steady_p99: steady.percentile(0.99), spinning_p99: spinning.percentile(0.99), overruns, faults: spinning.faults }
}

/// From the log's lines on handlers that ran into their limit.
fn overruns(log: &str) -> Vec<f64> {
    let ran = |line: &str| serde_json::from_str::<Value>(line).ok()?.pointer("/fields/ran_ms")?.as_f64();
    log.lines().filter_map(ran).map(|ran| ran - f64::from(SPIN_LIMIT_MS)).collect()
}

fn spin(address: &str, is_over: &AtomicBool) -> usize {
    let (mut driver, mut spins) = (Driver::connect(address, 1, true), 0);
    while !is_over.load(Ordering::Relaxed) {
        spins += usize::from(driver.ask(0, "behave", r#""spin""#).contains("timed_out"));
    }
    spins
}
