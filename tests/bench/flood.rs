//! The flood: one user sends far more events than its bucket has tokens for, over many connections.
//! It shows that the user gets what its bucket gives and an answer to each event, and what other
//! users notice.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::driver::{Driver, PATIENCE, Target};
use crate::files::{bundled_plugin, put};
use crate::load::{Load, Phase};
use crate::question::{Answer, Question, is_rate_limited};
use crate::report::note;
use crate::sequence::{Faults, Sequence};
use crate::servers::{Stage, token};
use crate::trial::{Judged, Verdict, figures};

/// How a flood is done.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Schedule {
    /// Events per second of the flooding user.
    flood: f64,
    /// Tokens that come back to a user's bucket in a second. The bucket holds as many.
    tokens: u32,
    /// Events per second of all honest clients together: for each user far less than its bucket
    /// gives.
    rate: f64,
    /// The length of the steady part, and of the flood.
    time: Duration,
    /// Whether times are judged.
    judges_figures: bool,
}

impl Schedule {
    /// Returns a flood with the numbers of the promise.
    pub(crate) const fn full() -> Self {
        Self {
            flood: 50_000.0,
            tokens: 2_000,
            rate: 1_000.0,
            time: Duration::from_secs(60),
            judges_figures: true,
        }
    }

    /// Returns a flood of some seconds, for a host that is not optimised.
    pub(crate) const fn short() -> Self {
        Self {
            flood: 3_000.0,
            tokens: 200,
            rate: 100.0,
            time: Duration::from_secs(3),
            judges_figures: false,
        }
    }
}

/// Connections of the flooding user.
const FLOODERS: usize = 20;

/// Honest users, and the connections of each.
const HONEST: (usize, usize) = (10, 5);

/// Returns the configuration of the host.
fn configuration(tokens: u32) -> String {
    format!(
        r#"
[auth]
mode = "jwt"

[[auth.keys]]
algorithm = "HS256"
secret = "a secret of the benchmark, known to all"

[rate.user]
per_second = {tokens}
"#
    )
}

/// The number of accepted events as a share of the tokens. More than all of them breaks the
/// promise; the hundredth is for clocks that are read at different moments. Far fewer would mean
/// that the user is refused more than its bucket says.
const ACCEPTED: std::ops::RangeInclusive<f64> = 0.9..=1.01;

/// The maximum p99 of honest events, as a multiple of the steady p99.
const P99_RATIO: f64 = 2.0;

/// Runs a flood.
pub(crate) fn flood(stage: &Stage, schedule: Schedule) -> Judged {
    let [plugins, data] = [(); 2].map(|()| tempfile::tempdir().expect("a directory"));
    put(plugins.path(), &bundled_plugin("connection"));
    let config = data.path().join("flood.toml");
    std::fs::write(&config, configuration(schedule.tokens)).expect("a file");
    let host = stage.host_with_config(plugins.path(), data.path(), &config);
    let (users, connections) = HONEST;
    let tokens: Vec<_> = (0..users).map(|user| token(&config, &format!("honest{user}"))).collect();
    let flooding = token(&config, "7");
    fn target<'a>(address: &'a str, token: &'a str) -> Target<'a> {
        Target { address, token: Some(token) }
    }
    let mut driver = Driver::connect(target(&host.address, &tokens[0]), connections, true);
    for token in &tokens[1..] {
        driver.add(target(&host.address, token), connections, true);
    }
    let mut honest = Load::new(driver, Question::Ping, host.pid());
    note(&format!("steady, {} s", schedule.time.as_secs()));
    let steady = honest.open(schedule.rate, 1, WARM, |elapsed| elapsed >= schedule.time);
    note(&format!("flood, {} s", schedule.time.as_secs()));
    // They connect only now: in the steady part they would miss the heartbeats.
    let driver = Driver::connect(target(&host.address, &flooding), FLOODERS, true);
    let mut flood = Flood::new(driver, schedule.flood);
    flood.began = Instant::now();
    // One thread does both, so that neither waits for the other to have its time slice.
    let rough = honest.open(schedule.rate, 1, Duration::ZERO, |elapsed| {
        flood.send_due();
        flood.receive(Duration::ZERO);
        elapsed >= schedule.time
    });
    let sent_for = flood.began.elapsed();
    flood.finish();
    let reached = flood.sent as f64 / sent_for.as_secs_f64();
    let document = json!({
        "seconds": schedule.time.as_secs(), "honest_connections": users * connections,
        "flood": {"connections": FLOODERS, "events_per_second": reached.round(), "sent": flood.sent,
            "accepted": flood.accepted, "rate_limited": flood.refused},
        "steady": figures(&steady), "flooded": figures(&rough),
    });
    Judged { verdicts: verdicts(schedule, &flood, reached, (&steady, &rough)), document }
}

/// Warm-up of the honest clients.
const WARM: Duration = Duration::from_secs(1);

fn verdicts(
    schedule: Schedule,
    flood: &Flood,
    reached: f64,
    (steady, rough): (&Phase, &Phase),
) -> Vec<Verdict> {
    let time = flood.last_answer.saturating_duration_since(flood.began).as_secs_f64();
    let per_second = f64::from(schedule.tokens);
    let tokens = per_second + per_second * time;
    let accepted = flood.accepted as f64;
    let faults = flood.faults();
    let mut verdicts = vec![
        Verdict::of_faults(rough.faults),
        Verdict {
            what: format!(
                "one user's events are accepted as its bucket has tokens, {per_second} and as \
                 many each second"
            ),
            found: format!(
                "{accepted} accepted in {time:.1} s, for {tokens:.0} tokens; {} refused; \
                 {reached:.0} sent each second",
                flood.refused
            ),
            is_kept: ACCEPTED.contains(&(accepted / tokens)),
        },
        Verdict {
            what: "each event of the flood is answered once, in order, by its result or by \
                   `rate_limited`"
                .to_owned(),
            found: format!("{faults:?}"),
            is_kept: faults.is_none() && flood.sent == flood.accepted + flood.refused,
        },
    ];
    if schedule.judges_figures {
        verdicts.push(Verdict::of_p99(steady, rough, P99_RATIO));
    }
    verdicts
}

/// The connections of the flooding user.
struct Flood {
    driver: Driver,
    answers: Vec<Sequence>,
    /// Events per second.
    rate: f64,
    began: Instant,
    last_answer: Instant,
    /// Bursts that were due so far.
    bursts: u64,
    sent: u64,
    accepted: u64,
    refused: u64,
    wrong: u64,
}

/// Events that a connection sends at once.
const AT_ONCE: usize = 25;

/// Unanswered events of a connection at which it sends no more: what a host does not read must not
/// fill the memory of this process.
const MAX_OPEN: usize = 10_000;

/// How many wrong answers are shown in full.
const SHOWN: u64 = 5;

impl Flood {
    fn new(driver: Driver, rate: f64) -> Self {
        let answers = (0..driver.len()).map(|_| Sequence::default()).collect();
        let (sent, accepted, refused, wrong) = (0, 0, 0, 0);
        let (began, last_answer) = (Instant::now(), Instant::now());
        Self {
            driver,
            answers,
            rate,
            began,
            last_answer,
            bursts: 0,
            sent,
            accepted,
            refused,
            wrong,
        }
    }

    /// Sends the next burst if it is due. One at a time, so that the honest clients, whose events
    /// this thread sends too, do not wait for many.
    fn send_due(&mut self) {
        let now = Instant::now();
        let due = Duration::from_secs_f64(self.bursts as f64 * AT_ONCE as f64 / self.rate);
        if now < self.began + due {
            return;
        }
        let connection = self.bursts as usize % self.driver.len();
        self.bursts += 1;
        if self.answers[connection].open() >= MAX_OPEN {
            return;
        }
        for _ in 0..AT_ONCE {
            let number = self.answers[connection].send(now);
            self.driver.outbox(connection).frame(|bytes| Question::Ping.write(number, bytes));
        }
        self.driver.flush(connection);
        self.sent += AT_ONCE as u64;
    }

    /// Counts the answers that have arrived.
    fn receive(&mut self, timeout: Duration) {
        let now = Instant::now();
        let Self { driver, answers, last_answer, accepted, refused, wrong, .. } = self;
        driver.turn(timeout, |connection, packet, _| {
            let Answer::Ack(number, is_right) = Question::Ping.answer(packet) else { return };
            *last_answer = now;
            answers[connection].receive(number, now);
            if is_right {
                *accepted += 1;
            } else if is_rate_limited(packet) {
                *refused += 1;
            } else {
                if *wrong < SHOWN {
                    note(&format!("  wrong answer: {}", String::from_utf8_lossy(packet)));
                }
                *wrong += 1;
            }
        });
    }

    /// Waits for the outstanding answers.
    fn finish(&mut self) {
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until && self.answers.iter().any(|answers| answers.open() > 0) {
            self.receive(Duration::from_millis(1));
        }
    }

    fn faults(&self) -> Faults {
        let mut faults = Faults { wrong: self.wrong, ..Faults::default() };
        self.answers.iter().for_each(|answers| faults.add(answers.faults()));
        faults.closed = self.driver.closed();
        faults
    }
}
