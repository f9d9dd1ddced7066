//! The outage: clients call a handler that sends requests to a service that never answers. It shows
//! that each of their events is answered, and what other events of the same plugin notice.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::api::Api;
use crate::driver::{Driver, PATIENCE};
use crate::files::{guest, put};
use crate::load::{Load, Phase};
use crate::question::{Answer, Question, after};
use crate::report::note;
use crate::sequence::{Faults, Sequence};
use crate::servers::Stage;
use crate::trial::{Judged, Verdict, figures};

/// How an outage is done.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Schedule {
    /// Clients that call the service.
    callers: usize,
    /// Events per second of all other clients together. Every other event writes.
    rate: f64,
    /// The length of the steady part, and of the outage.
    time: Duration,
    /// Whether times are judged.
    judges_figures: bool,
}

impl Schedule {
    /// Returns an outage with the numbers of the promise.
    pub(crate) const fn full() -> Self {
        Self { callers: 200, rate: 500.0, time: Duration::from_secs(60), judges_figures: true }
    }

    /// Returns an outage of some seconds, for a host that is not optimised.
    pub(crate) const fn short() -> Self {
        Self { callers: 50, rate: 100.0, time: Duration::from_secs(8), judges_figures: false }
    }
}

/// The plugin whose handlers send the requests.
const PLUGIN: &str = "caller";

/// Connections of the other clients.
const HONEST: usize = 50;

/// The maximum p99 of the other events, as a multiple of the steady p99.
const P99_RATIO: f64 = 2.0;

/// The host's bound for the write-ahead log of one plugin, and the log's own overhead.
const WAL_BYTES: u64 = (16 + 1) * 1024 * 1024;

/// How long after its event an answer may come: the default of `event_wall_ms`, and some time for a
/// busy machine.
const ANSWERED: Duration = Duration::from_secs(6);

/// Accepts connections, and never answers.
fn silent_service() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            thread::spawn(move || {
                // The host closes the connection when it gives up.
                let _ = std::io::copy(&mut &connection, &mut std::io::sink());
            });
        }
    });
    address
}

/// Runs an outage.
pub(crate) fn outage(stage: &Stage, schedule: Schedule) -> Judged {
    let [plugins, data] = [(); 2].map(|()| tempfile::tempdir().expect("a directory"));
    put(plugins.path(), &guest(PLUGIN));
    let service = silent_service();
    let config = data.path().join("outage.toml");
    let settings = format!("[plugins.{PLUGIN}]\noutbound = [\"http://{service}\"]\n");
    std::fs::write(&config, settings).expect("a file");
    let host = stage.host_with_config(plugins.path(), data.path(), &config);
    let api = Api::new(&host.address, data.path());
    let texts = [r#"["ping",null]"#, r#"["bump",null]"#].map(str::to_owned);
    let driver = Driver::connect(&host.address, HONEST, false);
    let mut honest = Load::new(driver, Question::Texts(texts.into()), host.pid());
    note(&format!("steady, {} s", schedule.time.as_secs()));
    let steady = honest.open(schedule.rate, 1, WARM, |elapsed| elapsed >= schedule.time);
    note(&format!("{} clients call a service that never answers", schedule.callers));
    // They connect only now: in the steady part they would miss the heartbeats.
    let driver = Driver::connect(&host.address, schedule.callers, false);
    let mut calls = Calls::begin(driver, service);
    let (mut log_bytes, mut looks) = (0, 0);
    let rough = honest.open(schedule.rate, 1, WARM, |elapsed| {
        calls.receive(Duration::ZERO, true);
        if elapsed >= LOOK * looks {
            looks += 1;
            log_bytes = log_bytes.max(wal_bytes(data.path()));
        }
        elapsed >= schedule.time
    });
    calls.finish();
    let requests = api.metric("sockhop_outbound_requests_total").expect("a figure");
    let row = api.row_of(PLUGIN).expect("the plugin's row");
    let document = json!({
        "seconds": schedule.time.as_secs(), "connections": HONEST,
        "callers": schedule.callers, "calls": calls.answered, "requests": requests,
        "longest_call_ms": calls.longest.as_millis() as u64, "state": row["state"],
        "failures": row["failures"],
        "largest_log_bytes": log_bytes, "steady": figures(&steady), "outage": figures(&rough),
    });
    Judged { verdicts: verdicts(schedule, &calls, &document, (&steady, &rough)), document }
}

/// Warm-up of the clients.
const WARM: Duration = Duration::from_secs(1);

/// Interval of the looks at the write-ahead log.
const LOOK: Duration = Duration::from_millis(500);

fn wal_bytes(data: &Path) -> u64 {
    let log = data.join("state").join(format!("{PLUGIN}.sqlite-wal"));
    std::fs::metadata(log).map_or(0, |log| log.len())
}

fn verdicts(
    schedule: Schedule,
    calls: &Calls,
    document: &Value,
    (steady, rough): (&Phase, &Phase),
) -> Vec<Verdict> {
    let faults = calls.faults();
    let log_bytes = document["largest_log_bytes"].as_u64().unwrap_or(u64::MAX);
    let mut verdicts = vec![
        Verdict::of_faults(rough.faults),
        Verdict {
            what: format!(
                "each event of a caller is answered once, by its handler, in {} s",
                ANSWERED.as_secs()
            ),
            found: format!(
                "{} answered, the last after {} ms; {faults:?}",
                calls.answered,
                calls.longest.as_millis()
            ),
            is_kept: faults.is_none() && calls.answered > 0 && calls.longest <= ANSWERED,
        },
        Verdict {
            what: "the breaker of the plugin stays closed".to_owned(),
            found: format!("{}, {} failures", document["state"], document["failures"]),
            is_kept: document["state"] == "active" && document["failures"] == 0,
        },
        Verdict {
            what: format!("the write-ahead log has at most {WAL_BYTES} bytes"),
            found: format!("{log_bytes} bytes"),
            is_kept: log_bytes <= WAL_BYTES,
        },
    ];
    if schedule.judges_figures {
        verdicts.push(Verdict::of_p99(steady, rough, P99_RATIO));
    }
    verdicts
}

/// The connections of the callers. Each sends its next event when the last one is answered.
struct Calls {
    driver: Driver,
    question: Question,
    answers: Vec<Sequence>,
    answered: u64,
    wrong: u64,
    longest: Duration,
}

/// How many wrong answers are shown in full.
const SHOWN: u64 = 5;

/// Whether the handler was refused its request, and has answered.
fn is_refused(packet: &[u8]) -> bool {
    after(packet, b"\"reason\":\"not_called\"").is_some()
}

impl Calls {
    /// Each connection sends its first event.
    fn begin(driver: Driver, service: SocketAddr) -> Self {
        // The handler reads the state, sends the request, and would then write.
        let event = json!(["add", {"url": format!("http://{service}/")}]).to_string();
        let answers = (0..driver.len()).map(|_| Sequence::default()).collect();
        let question = Question::Texts(vec![event]);
        let (answered, wrong, longest) = (0, 0, Duration::ZERO);
        let mut calls = Self { driver, question, answers, answered, wrong, longest };
        for connection in 0..calls.driver.len() {
            let number = calls.answers[connection].send(Instant::now());
            let outbox = calls.driver.outbox(connection);
            outbox.frame(|bytes| calls.question.write(number, bytes));
            calls.driver.flush(connection);
        }
        calls
    }

    /// Counts the answers that have arrived. If `goes_on`, each is followed by the next event.
    fn receive(&mut self, timeout: Duration, goes_on: bool) {
        let Self { driver, question, answers, answered, wrong, longest } = self;
        driver.turn(timeout, |connection, packet, outbox| {
            let Answer::Ack(number, _) = question.answer(packet) else { return };
            let now = Instant::now();
            let took = answers[connection].receive(number, now);
            *longest = (*longest).max(took.unwrap_or_default());
            if is_refused(packet) {
                *answered += 1;
            } else {
                if *wrong < SHOWN {
                    note(&format!("  wrong answer: {}", String::from_utf8_lossy(packet)));
                }
                *wrong += 1;
            }
            if goes_on && took.is_some() {
                let number = answers[connection].send(now);
                outbox.frame(|bytes| question.write(number, bytes));
            }
        });
    }

    /// Waits for the outstanding answers.
    fn finish(&mut self) {
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until && self.answers.iter().any(|answers| answers.open() > 0) {
            self.receive(Duration::from_millis(1), false);
        }
    }

    fn faults(&self) -> Faults {
        let mut faults = Faults { wrong: self.wrong, ..Faults::default() };
        self.answers.iter().for_each(|answers| faults.add(answers.faults()));
        faults.closed = self.driver.closed();
        faults
    }
}
