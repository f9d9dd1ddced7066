//! The thread that writes the lines of a queue, and continues after write errors.

use std::io::{self, ErrorKind, Write};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use super::queue::{LineQueue, Next};

/// A thread that writes lines in the order in which they were pushed. Pushing never waits for it.
pub struct LineWriter {
    queue: Arc<LineQueue>,
    /// Disconnected when the thread has ended.
    ended: Receiver<()>,
}

/// The writer's work in addition to writing.
pub(super) trait Chores: Send {
    /// Pushes the lines that are due at `now`. Returns when the next ones are due.
    fn push_due(&mut self, now: Instant, queue: &LineQueue) -> Option<Instant>;
    /// Returns a line that reports dropped lines; `None` if they are not reported.
    fn dropped_line(&self, dropped: u64) -> Option<String>;
}

/// No additional work.
struct NoChores;

impl Chores for NoChores {
    fn push_due(&mut self, _: Instant, _: &LineQueue) -> Option<Instant> {
        None
    }

    fn dropped_line(&self, _: u64) -> Option<String> {
        None
    }
}

/// Pause after the first failed write. Each further failure doubles it, up to [`LONGEST_REST`].
const FIRST_REST: Duration = Duration::from_millis(50);

/// Longest pause after a failed write. Lines wait in the queue meanwhile.
const LONGEST_REST: Duration = Duration::from_secs(1);

/// Shortest interval between two reports of dropped lines: a slow log drops lines all the time.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

impl LineWriter {
    /// Starts a thread that writes to `sink`; at most `max_bytes` wait in the queue.
    ///
    /// # Errors
    /// If the thread can't be started.
    pub fn start(name: &str, sink: Box<dyn Write + Send>, max_bytes: usize) -> io::Result<Self> {
        Self::with_chores(name, sink, Arc::new(LineQueue::new(max_bytes)), Box::new(NoChores))
    }

    pub(super) fn with_chores(
        name: &str,
        sink: Box<dyn Write + Send>,
        queue: Arc<LineQueue>,
        chores: Box<dyn Chores>,
    ) -> io::Result<Self> {
        // Nothing is sent: the channel is disconnected when the thread ends.
        let (end, ended) = sync_channel(0);
        let lines = Arc::clone(&queue);
        thread::Builder::new().name(name.to_owned()).spawn(move || {
            write_all(&lines, &mut Sink::new(sink), chores);
            drop(end);
        })?;
        Ok(Self { queue, ended })
    }

    /// Enqueues one line; drops it if the queue is full.
    pub fn line(&self, text: &str) {
        self.queue.push(format!("{text}\n"));
    }

    /// Accepts no more lines, and waits at most `deadline` until the waiting lines are written.
    pub fn finish(self, deadline: Duration) {
        self.queue.close();
        match self.ended.recv_timeout(deadline) {
            // The process ends now: lines that are not written are lost.
            Ok(()) | Err(RecvTimeoutError::Disconnected | RecvTimeoutError::Timeout) => {}
        }
    }

    /// Accepts no more lines. The thread ends when it has written the waiting lines.
    pub fn close(&self) {
        self.queue.close();
    }
}

fn write_all(queue: &LineQueue, sink: &mut Sink, mut chores: Box<dyn Chores>) {
    let mut report_at = Instant::now();
    loop {
        let now = Instant::now();
        let mut wake_at = chores.push_due(now, queue);
        let unreported = queue.unreported();
        if unreported > 0 {
            if now >= report_at {
                if let Some(line) = chores.dropped_line(unreported)
                    && sink.write_line(&line).is_err()
                {
                    if rest(queue, sink) {
                        return;
                    }
                    continue;
                }
                queue.report(unreported);
                report_at = now + REPORT_INTERVAL;
            } else {
                wake_at = Some(wake_at.map_or(report_at, |at| at.min(report_at)));
            }
        }
        match queue.pop(wake_at) {
            Next::Line(line) => {
                if sink.write_line(&line).is_err() {
                    queue.count_dropped();
                    // The first write that succeeds reports the dropped line.
                    report_at = now;
                    if rest(queue, sink) {
                        return;
                    }
                }
            }
            Next::Nothing => {}
            Next::End => return,
        }
    }
}

/// Pauses after a failed write. Returns whether the writer must end, because the queue is closed.
fn rest(queue: &LineQueue, sink: &Sink) -> bool {
    queue.rest(Instant::now() + sink.rest)
}

/// The output of the writer, and its state after errors.
struct Sink {
    to: Box<dyn Write + Send>,
    /// Whether the last line was written only partly.
    is_torn: bool,
    /// The pause after the next failure.
    next_rest: Duration,
    /// The pause after the last failure.
    rest: Duration,
}

impl Sink {
    fn new(to: Box<dyn Write + Send>) -> Self {
        Self { to, is_torn: false, next_rest: FIRST_REST, rest: FIRST_REST }
    }

    /// Writes a whole line, or fails. After a partly written line, the next one begins on a new
    /// line.
    fn write_line(&mut self, line: &str) -> io::Result<()> {
        let written = if self.is_torn {
            self.write(b"\n").and_then(|()| {
                self.is_torn = false;
                self.write(line.as_bytes())
            })
        } else {
            self.write(line.as_bytes())
        };
        match &written {
            Ok(()) => self.next_rest = FIRST_REST,
            Err(_) => {
                self.rest = self.next_rest;
                self.next_rest = (self.next_rest * 2).min(LONGEST_REST);
            }
        }
        written
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut left = bytes;
        while !left.is_empty() {
            match self.to.write(left) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => {
                    left = left.get(written..).unwrap_or_default();
                    self.is_torn = !left.is_empty();
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Another process has made this pipe non-blocking: it is full now and can be
                // written later.
                Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(FIRST_REST),
                Err(error) => return Err(error),
            }
        }
        self.to.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    /// A file on a disk that a test can make full.
    #[derive(Clone, Default)]
    struct Disk {
        is_full: Arc<AtomicBool>,
        text: Arc<Mutex<String>>,
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let room = match (self.is_full.load(Ordering::SeqCst), bytes) {
                (true, [b'p', ..]) => 3.min(bytes.len()),
                (true, _) => return Err(ErrorKind::StorageFull.into()),
                (false, _) => bytes.len(),
            };
            self.text.lock().unwrap().push_str(std::str::from_utf8(&bytes[..room]).unwrap());
            Ok(room)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Reporting;

    impl Chores for Reporting {
        fn push_due(&mut self, _: Instant, _: &LineQueue) -> Option<Instant> {
            None
        }

        fn dropped_line(&self, dropped: u64) -> Option<String> {
            Some(format!("dropped {dropped}\n"))
        }
    }

    const PATIENCE: Duration = Duration::from_secs(60);

    fn until(condition: impl Fn() -> bool) {
        let until = Instant::now() + PATIENCE;
        while !condition() {
            assert!(Instant::now() < until, "gave up waiting");
            thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn a_full_disk_costs_lines_which_are_counted_and_reported_once_it_has_room() {
        let disk = Disk::default();
        let queue = Arc::new(LineQueue::new(10_000));
        let writer = LineWriter::with_chores(
            "test",
            Box::new(disk.clone()),
            Arc::clone(&queue),
            Box::new(Reporting),
        )
        .unwrap();
        writer.line("before");
        until(|| *disk.text.lock().unwrap() == "before\n");
        disk.is_full.store(true, Ordering::SeqCst);
        writer.line("partly written");
        until(|| queue.dropped() == 1);
        disk.is_full.store(false, Ordering::SeqCst);
        writer.line("after");
        until(|| disk.text.lock().unwrap().ends_with("after\n"));
        assert_eq!(*disk.text.lock().unwrap(), "before\npar\ndropped 1\nafter\n");
        writer.finish(PATIENCE);
    }

    #[test]
    fn finishing_writes_what_waits_and_does_not_wait_for_a_disk_that_stays_full() {
        let disk = Disk::default();
        let writer = LineWriter::start("test", Box::new(disk.clone()), 10_000).unwrap();
        for line in ["one", "two"] {
            writer.line(line);
        }
        writer.finish(PATIENCE);
        assert_eq!(*disk.text.lock().unwrap(), "one\ntwo\n");
        disk.is_full.store(true, Ordering::SeqCst);
        let writer = LineWriter::start("test", Box::new(disk.clone()), 10_000).unwrap();
        writer.line("three");
        let began = Instant::now();
        writer.finish(PATIENCE);
        assert!(began.elapsed() < PATIENCE / 2);
    }

    #[test]
    fn pushing_never_waits_for_a_writer_that_is_stuck() {
        struct Stuck(Receiver<()>);
        impl Write for Stuck {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                let _ = self.0.recv();
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (release, stuck) = sync_channel(0);
        let queue = Arc::new(LineQueue::new(1_000));
        let writer = LineWriter::with_chores(
            "test",
            Box::new(Stuck(stuck)),
            Arc::clone(&queue),
            Box::new(NoChores),
        )
        .unwrap();
        for _ in 0..10_000 {
            writer.line("a line");
        }
        assert!(queue.dropped() > 9_900);
        writer.finish(Duration::from_millis(1));
        drop(release);
    }
}
