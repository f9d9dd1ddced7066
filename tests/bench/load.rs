//! Load on a server and its results: as many events as the server can handle (closed loop), or
//! events at a fixed rate (open loop).
//!
//! In the open loop, the latency counts from the time at which an event was due. So a stall of the
//! server or of the driver is not hidden. Between the events the driver spins, because the system's
//! timers have a resolution of a millisecond.

use std::time::{Duration, Instant};

use crate::driver::{Driver, Outbox, PATIENCE};
use crate::question::{Answer, Question};
use crate::report::note;
use crate::sequence::{Faults, Sequence};
use crate::servers::{cpu_time, wait_time};

/// How many wrong answers of one load are shown in full.
const SHOWN: u64 = 5;

/// The results of one measured time.
#[derive(Debug, Default)]
pub(crate) struct Phase {
    /// Events that were answered in the measured time.
    pub(crate) events: u64,
    pub(crate) elapsed: Duration,
    /// Processor time of the server.
    pub(crate) server: Duration,
    /// How long the server's main thread waited for a processor.
    pub(crate) waited: Duration,
    /// Processor time of the driver. If it is close to `elapsed`, the driver limited the closed
    /// loop.
    pub(crate) driver: Duration,
    /// Latencies in microseconds, sorted.
    latencies: Vec<u32>,
    /// By how many microseconds each send of an open loop was late, sorted: the driver's own share
    /// of the latencies.
    delays: Vec<u32>,
    /// Faults of the connections since they were opened, so also those outside the measured time.
    pub(crate) faults: Faults,
}

impl Phase {
    /// Combines this phase with `later`, a phase of the same load.
    pub(crate) fn and(mut self, later: Self) -> Self {
        self.events += later.events;
        self.elapsed += later.elapsed;
        self.server += later.server;
        self.waited += later.waited;
        self.driver += later.driver;
        self.latencies.extend(later.latencies);
        self.latencies.sort_unstable();
        self.delays.extend(later.delays);
        self.delays.sort_unstable();
        Self { faults: later.faults, ..self }
    }

    /// Events per second.
    pub(crate) fn rate(&self) -> f64 {
        self.events as f64 / self.elapsed.as_secs_f64()
    }

    /// Processor time of the server per event, in microseconds.
    pub(crate) fn cpu(&self) -> f64 {
        self.server.as_secs_f64() * 1e6 / self.events.max(1) as f64
    }

    /// The latency in microseconds that this share of the events did not exceed.
    pub(crate) fn percentile(&self, share: f64) -> f64 {
        percentile(&self.latencies, share)
    }

    /// The delay in microseconds that this share of the driver's sends did not exceed.
    pub(crate) fn delay(&self, share: f64) -> f64 {
        percentile(&self.delays, share)
    }
}

fn percentile(sorted: &[u32], share: f64) -> f64 {
    let place = ((sorted.len() as f64 * share) as usize).min(sorted.len().saturating_sub(1));
    sorted.get(place).copied().unwrap_or_default().into()
}

fn microseconds(time: Duration) -> u32 {
    u32::try_from(time.as_micros()).unwrap_or(u32::MAX)
}

/// The clocks at the beginning of the measured time.
struct Marks {
    began: Instant,
    server: Duration,
    waited: Duration,
    driver: Duration,
}

#[derive(Default)]
struct Asked {
    acks: Sequence,
    pongs: Sequence,
}

/// Connections that send one kind of event and check the answers.
pub(crate) struct Load {
    driver: Driver,
    question: Question,
    pid: u32,
    asked: Vec<Asked>,
    wrong: u64,
    phase: Phase,
    /// Whether arriving answers are counted.
    counts: bool,
}

impl Load {
    /// Creates a load on the server with this process id, over the connections of `driver`.
    pub(crate) fn new(driver: Driver, question: Question, pid: u32) -> Self {
        let asked = (0..driver.len()).map(|_| Asked::default()).collect();
        Self { driver, question, pid, asked, wrong: 0, phase: Phase::default(), counts: false }
    }

    /// Keeps `in_flight` events under way on each connection, for `warm` and then for `time`.
    pub(crate) fn closed(&mut self, in_flight: usize, warm: Duration, time: Duration) -> Phase {
        let began = Instant::now();
        for connection in 0..self.driver.len() {
            for _ in 0..in_flight {
                self.ask(connection, began);
            }
            self.driver.flush(connection);
        }
        while began.elapsed() < warm {
            self.turn(Duration::from_millis(1), true);
        }
        let marks = self.begin();
        while marks.began.elapsed() < time {
            self.turn(Duration::from_millis(1), true);
        }
        self.end(marks)
    }

    /// Sends `at_once` events on each connection in turn, `rate` events per second over all
    /// connections. Runs for `warm` and then until `is_over` returns true. `is_over` gets the
    /// measured time so far.
    pub(crate) fn open(
        &mut self,
        rate: f64,
        at_once: usize,
        warm: Duration,
        mut is_over: impl FnMut(Duration) -> bool,
    ) -> Phase {
        let began = Instant::now();
        let due =
            |burst: u64| began + Duration::from_secs_f64(burst as f64 * at_once as f64 / rate);
        let (mut next, mut marks) = (0_u64, None);
        loop {
            let now = Instant::now();
            if marks.is_none() && now >= began + warm {
                marks = Some(self.begin());
            }
            if let Some(marks) = &marks
                && is_over(marks.began.elapsed())
            {
                break;
            }
            // After a long stall, the overdue events are not all sent at once: answers are read in
            // between.
            let (first, most) = (next, next + self.driver.len() as u64);
            while next < most && due(next) <= now {
                let connection = next as usize % self.driver.len();
                for _ in 0..at_once {
                    self.ask(connection, due(next));
                }
                self.driver.flush(connection);
                if self.counts {
                    self.phase.delays.push(microseconds(due(next).elapsed()));
                }
                next += 1;
            }
            if !self.turn(Duration::ZERO, false) && first == next {
                // Other threads on this processor, such as the one that reloads plugins, run first.
                std::thread::yield_now();
            }
        }
        let marks = marks.unwrap_or_else(|| self.begin());
        self.end(marks)
    }

    fn ask(&mut self, connection: usize, at: Instant) {
        ask(&mut self.asked[connection], self.driver.outbox(connection), &self.question, at);
    }

    /// Handles what has arrived. If `goes_on`, each ack is followed by the next event.
    fn turn(&mut self, timeout: Duration, goes_on: bool) -> bool {
        let (asked, question, phase, wrong, counts) =
            (&mut self.asked, &self.question, &mut self.phase, &mut self.wrong, self.counts);
        self.driver.turn(timeout, |connection, packet, outbox| {
            let now = Instant::now();
            match question.answer(packet) {
                Answer::Ack(number, is_right) => {
                    if !is_right && *wrong < SHOWN {
                        note(&format!("  wrong answer: {}", String::from_utf8_lossy(packet)));
                    }
                    *wrong += u64::from(!is_right);
                    let took = asked[connection].acks.receive(number, now);
                    if let Some(took) = took.filter(|_| counts) {
                        phase.events += 1;
                        phase.latencies.push(microseconds(took));
                    }
                    if goes_on && took.is_some() {
                        ask(&mut asked[connection], outbox, question, now);
                    }
                }
                Answer::Pong(number) => {
                    asked[connection].pongs.receive(number, now);
                }
                Answer::Other => {}
            }
        })
    }

    /// Answers the heartbeats that arrived while the load was idle. A server closes a connection if
    /// it misses the heartbeat.
    pub(crate) fn answer_heartbeats(&mut self) {
        self.turn(Duration::ZERO, false);
    }

    fn begin(&mut self) -> Marks {
        self.phase = Phase::default();
        self.counts = true;
        Marks {
            began: Instant::now(),
            server: cpu_time(self.pid),
            waited: wait_time(self.pid),
            driver: cpu_time(std::process::id()),
        }
    }

    /// Ends the measured time, then waits for the outstanding answers. They don't count for the
    /// rate, but their latencies count.
    fn end(&mut self, marks: Marks) -> Phase {
        let events = self.phase.events;
        self.phase.elapsed = marks.began.elapsed();
        self.phase.server = cpu_time(self.pid).saturating_sub(marks.server);
        self.phase.waited = wait_time(self.pid).saturating_sub(marks.waited);
        self.phase.driver = cpu_time(std::process::id()).saturating_sub(marks.driver);
        let ended = Instant::now();
        while ended.elapsed() < PATIENCE
            && self.asked.iter().any(|asked| asked.acks.open() + asked.pongs.open() > 0)
        {
            self.turn(Duration::from_millis(1), false);
        }
        self.counts = false;
        self.phase.events = events;
        let mut phase = std::mem::take(&mut self.phase);
        phase.latencies.sort_unstable();
        phase.delays.sort_unstable();
        for asked in &self.asked {
            phase.faults.add(asked.acks.faults());
            phase.faults.add(asked.pongs.faults());
        }
        phase.faults.wrong = self.wrong;
        phase.faults.closed = self.driver.closed();
        phase
    }
}

fn ask(asked: &mut Asked, outbox: &mut Outbox, question: &Question, at: Instant) {
    let number = asked.acks.send(at);
    if question.has_pong() {
        asked.pongs.send(at);
    }
    outbox.frame(|bytes| question.write(number, bytes));
}
