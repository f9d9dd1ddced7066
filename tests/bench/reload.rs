//! What clients notice of reloads and of a plugin that spins: the same open loop without and with them, on one host.

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

/// The plugin's file.
const FILE: &str = "chameleon.wasm";

const WARM: Duration = Duration::from_secs(1);

/// Turns in which the load runs with reloads and then without them, equally long. What counts is the median of the turns' p99: a shared
/// machine takes the processor away for tens of milliseconds now and then, and one such turn would decide the p99 of the whole time.
const TURNS: usize = 25;

/// For how long the load runs before either half of a turn counts, and how long after its last reload it still does: a version that was replaced is
/// looked after for 200 ms.
const REST: Duration = Duration::from_millis(300);

/// How often it is looked which version answers.
const LOOK: Duration = Duration::from_millis(2);

/// Puts the versions into the directory in turn.
struct Reloads<'a> {
    plugins: &'a Path,
    /// Where a version is written that is then moved to the plugins: on the same disk.
    staged: &'a Path,
    versions: [Vec<u8>; 2],
    /// The version that answered last. Asking the host which one serves would be load of another kind.
    answered_by: Arc<AtomicU64>,
}

impl Reloads<'_> {
    fn staged(&self, turn: usize) -> PathBuf {
        self.staged.join(turn.to_string())
    }

    /// Writes the version of this turn beside the directory.
    fn stage(&self, turn: usize) {
        std::fs::write(self.staged(turn), &self.versions[turn % 2]).expect("a file");
    }

    /// Moves the version of this turn, which was staged, into the directory, and waits until it answers; how many milliseconds that took.
    /// `look` has it asked something, where nobody else does.
    fn reload(&self, turn: usize, mut look: impl FnMut()) -> u64 {
        let version = 2 - turn as u64 % 2;
        std::fs::rename(self.staged(turn), self.plugins.join(FILE)).expect("a renamed file");
        let (began, mut answers_since) = (Instant::now(), None);
        loop {
            look();
            let is_there = self.answered_by.load(Ordering::Relaxed) == version;
            match answers_since {
                // Twice in a row: an event that began on the version before may be answered after the first on this one.
                Some(since) if is_there => return since,
                _ => answers_since = is_there.then(|| began.elapsed().as_millis() as u64),
            }
            assert!(began.elapsed() < PATIENCE, "version {version} never answered");
            std::thread::sleep(LOOK);
        }
    }

    /// The load while these turns are taken, and how many milliseconds each took.
    fn under(&self, load: &mut Load, rate: f64, turns: Range<usize>) -> (Phase, Vec<u64>) {
        // Before the load: what is written on the driver's processor keeps the driver waiting, and would count as the host's latency.
        turns.clone().for_each(|turn| self.stage(turn));
        let (counts, is_over) = (AtomicBool::new(false), AtomicBool::new(false));
        std::thread::scope(|scope| {
            let reloading = scope.spawn(|| {
                // Also where a reload fails: the load would go on for ever.
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

/// 200 reloads under load, or as many as `extent` says.
pub(crate) fn reloads(stage: &Stage, extent: Extent) -> Found {
    let [plugins, staged, data] = [(); 3].map(|()| tempfile::tempdir().expect("a directory"));
    let versions = [chameleon("version=2"), chameleon("version=1")];
    drop_in(plugins.path(), FILE, &versions[1]);
    let host = stage.host(plugins.path(), data.path(), &[]);
    let reloads = Reloads { plugins: plugins.path(), staged: staged.path(), versions, answered_by: Arc::default() };
    let question = Question::Count(Arc::clone(&reloads.answered_by));
    let mut load = Load::new(Driver::connect(&host.address, extent.connections, false), question.clone(), host.pid());

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
        steady.add(load.open(rate, 1, REST, |elapsed| elapsed >= time));
    }
    times.sort_unstable();
    drop(load);

    let mut asker = Driver::connect(&host.address, 1, false);
    let mut after_50 = host.footprint();
    for turn in 0..extent.memory_reloads {
        // On from the last turn under load, so that each is another version.
        let next = extent.reloads + 1 + turn;
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

/// Ends what goes on beside this, also where this panics.
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
