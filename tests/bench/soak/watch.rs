//! Watches the host from outside during the soak: the size of its write-ahead logs, its memory, and
//! its log output.

use std::io::{BufRead, BufReader, PipeReader};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::report::note;
use crate::servers::Server;

/// The largest values that were observed.
#[derive(Debug, Default)]
pub(super) struct Peaks {
    /// Bytes of the largest write-ahead log.
    pub(super) wal_bytes: AtomicU64,
    /// KiB of resident memory.
    pub(super) resident_kib: AtomicU64,
    /// Bytes of all state files together.
    pub(super) state_bytes: AtomicU64,
    /// Number of lines in the host's log.
    pub(super) log_lines: AtomicU64,
}

/// Interval of the checks.
const LOOK: Duration = Duration::from_millis(200);

/// Watches the memory of `host` and the state files in `data` until `is_over`.
pub(super) fn host(host: &Server, data: &Path, peaks: &Peaks, is_over: &AtomicBool) {
    while !is_over.load(Ordering::Relaxed) {
        peaks.resident_kib.fetch_max(host.resident_kib(), Ordering::Relaxed);
        let mut all = 0;
        for entry in std::fs::read_dir(data.join("state")).into_iter().flatten().flatten() {
            // A file may be removed between the two calls.
            let bytes = entry.metadata().map_or(0, |metadata| metadata.len());
            all += bytes;
            if entry.file_name().to_string_lossy().ends_with("-wal") {
                peaks.wal_bytes.fetch_max(bytes, Ordering::Relaxed);
            }
        }
        peaks.state_bytes.fetch_max(all, Ordering::Relaxed);
        thread::sleep(LOOK);
    }
}

/// The times in which the log is not read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pauses {
    /// From the beginning of one pause to the beginning of the next.
    pub(super) every: Duration,
    /// The length of each pause.
    pub(super) length: Duration,
}

/// Reads the host's log to its end. While `stops` is set, it does not read during the pauses, so
/// that the pipe fills up.
pub(super) fn log(pipe: PipeReader, pauses: Pauses, stops: &AtomicBool, peaks: &Peaks) {
    let mut last_pause = Instant::now();
    for line in BufReader::new(pipe).lines().map_while(Result::ok) {
        peaks.log_lines.fetch_add(1, Ordering::Relaxed);
        // No abuse may make the host reject a plugin, so such a record is shown.
        if line.contains(r#""level":"ERROR""#) && line.contains(r#""target":"sockhop::reload"#) {
            note(&format!("  {line}"));
        }
        if stops.load(Ordering::Relaxed) && last_pause.elapsed() >= pauses.every {
            last_pause = Instant::now();
            thread::sleep(pauses.length);
        }
    }
}
