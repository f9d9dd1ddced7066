//! What the parts have in common that judge the host instead of measuring it (`soak`, `siege`,
//! `flood`, `outage`): promises and whether they were kept, what the host holds, and honest clients
//! at rest.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::load::{Load, Phase};
use crate::sequence::Faults;

/// The results of one part.
pub(crate) struct Judged {
    pub(crate) verdicts: Vec<Verdict>,
    pub(crate) document: Value,
}

/// One promise, and whether it was kept.
#[derive(Debug)]
pub(crate) struct Verdict {
    pub(crate) what: String,
    pub(crate) found: String,
    pub(crate) is_kept: bool,
}

/// The maximum memory of the host afterwards, as a multiple of its memory before.
const MEMORY_RATIO: f64 = 1.1;

impl Verdict {
    /// The host serves honest clients without any fault.
    pub(crate) fn of_faults(faults: Faults) -> Self {
        Self {
            what: "honest clients: nothing lost, doubled, out of order, wrong or closed".to_owned(),
            found: format!("{faults:?}"),
            is_kept: faults.is_none(),
        }
    }

    /// The p99 of honest clients is at most `most` times the steady one.
    pub(crate) fn of_p99(steady: &Phase, rough: &Phase, most: f64) -> Self {
        let (calm, rough) = (steady.percentile(0.99), rough.percentile(0.99));
        let ratio = rough / calm.max(1.0);
        Self {
            what: format!("honest p99 at most {most} × steady"),
            found: format!("{calm} µs, then {rough}: {ratio:.2} ×"),
            is_kept: ratio <= most,
        }
    }

    /// The host gives back the memory that it took.
    pub(crate) fn of_memory(before: Footprint, after: Footprint) -> Self {
        let memory = after.0 as f64 / before.0 as f64;
        Self {
            what: format!("memory at most {MEMORY_RATIO} × of before"),
            found: format!("{} KiB, then {}: {memory:.2} ×", before.0, after.0),
            is_kept: memory <= MEMORY_RATIO,
        }
    }

    /// The host has no more file descriptors than before.
    pub(crate) fn of_files(before: Footprint, after: Footprint) -> Self {
        Self {
            what: "the same number of file descriptors".to_owned(),
            found: format!("{}, then {}", before.2, after.2),
            is_kept: after.2 <= before.2,
        }
    }

    /// Everything that an adversary checked was as promised.
    pub(crate) fn of_broken(broken: &[String]) -> Self {
        Self {
            what: "every promise that an abuser looks at is kept".to_owned(),
            found: broken.join("\n"),
            is_kept: broken.is_empty(),
        }
    }
}

/// KiB of memory, threads, file descriptors.
pub(crate) type Footprint = (u64, usize, usize);

/// Returns a footprint as a document.
pub(crate) fn held((memory, threads, files): Footprint) -> Value {
    json!({"resident_kib": memory, "threads": threads, "file_descriptors": files})
}

/// Returns the figures of honest clients as a document.
pub(crate) fn figures(phase: &Phase) -> Value {
    json!({"events": phase.events, "p50_us": phase.percentile(0.5),
        "p99_us": phase.percentile(0.99), "p999_us": phase.percentile(0.999),
        "server_cpu_s": phase.server.as_secs_f64(),
        "server_waited_s": phase.waited.as_secs_f64(), "driver_late_p99_us": phase.delay(0.99)})
}

/// Keeps the honest clients connected without events, so that the host can release what it holds
/// for work.
pub(crate) fn rest(honest: &mut Load, time: Duration) {
    let until = Instant::now() + time;
    while Instant::now() < until {
        honest.answer_heartbeats();
        thread::sleep(Duration::from_millis(10));
    }
}

/// How long after a rest the host may still take to release threads and files, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// Interval of the checks. It does not divide a second evenly: once a second the host starts a
/// thread for half a second. Not every check may coincide with that thread.
const LOOK_AGAIN: Duration = Duration::from_millis(730);

/// Rests for `time`, and longer while `footprint` has more threads or files than `before`: the host
/// releases idle threads and files after some time, not at once. Returns the last footprint.
pub(crate) fn rest_until_released(
    honest: &mut Load,
    time: Duration,
    before: Footprint,
    footprint: impl Fn() -> Footprint,
) -> Footprint {
    rest(honest, time);
    let until = Instant::now() + PATIENCE;
    loop {
        let now = footprint();
        if now.1 <= before.1 && now.2 <= before.2 || Instant::now() >= until {
            return now;
        }
        rest(honest, LOOK_AGAIN);
    }
}

/// Lowers the priority of this thread below the other threads of this process.
pub(crate) fn lower_priority() {
    const NICENESS: i32 = 10;
    // If this fails, the honest clients' latencies contain more of the abusers' processor time. The
    // report shows how late the driver was.
    let _ = rustix::process::setpriority_process(None, NICENESS);
}
