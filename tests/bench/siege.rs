//! The siege: clients that only hold connections take every slot of the host at once. It shows that
//! operators and honest clients are served meanwhile, and that the host frees each slot in time.
//!
//! ```text
//! rehearsal (a siege, not measured) -> rest -> steady (honest clients alone)
//!   -> sieges, one after the other -> rest -> steady -> verdicts
//! ```
//!
//! A siege begins with the readers that will stall: what a room gets fills their buffers. That is
//! an ordinary fan-out to many, which delays others also if they read. So the honest clients are
//! measured from its end on: while the other attackers arrive, and all hold their slots and lose
//! them. An operator works in the steady time too, as in a siege.
//!
//! The rehearsal creates what remains as long as the host runs, such as tables that have grown.
//! Therefore the memory of the host before and after the sieges can be compared.

mod attack;

use std::net::SocketAddr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::api::Api;
use crate::driver::Driver;
use crate::files::{bundled_plugin, put};
use crate::load::{Load, Phase};
use crate::question::Question;
use crate::report::note;
use crate::servers::{Server, Stage};
use crate::trial::{Judged, Verdict, figures, held, lower_priority, rest, rest_until_released};

use attack::{Attackers, Emitter, Kind, Numbers};

/// How a siege is done.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Schedule {
    /// Number of honest clients.
    honest: usize,
    attackers: Numbers,
    /// Interval of the arrivals. If it is shorter, the host does little but shake hands. If it is
    /// longer, the first ones are gone before the last ones arrive.
    arrivals: Duration,
    /// Settings of the host in addition to the number of slots.
    settings: &'static [(&'static str, &'static str)],
    /// Events per second of all honest clients together.
    rate: f64,
    steady: Duration,
    rest: Duration,
    sieges: usize,
    /// The numbers of clients as a share of those of the promise.
    scale: f64,
    /// Whether times and memory are judged, and a siege is rehearsed for that.
    judges_figures: bool,
}

/// The numbers of the promise.
const FULL: Schedule = Schedule {
    honest: 200,
    attackers: [
        (Kind::Stalled, 1_000),
        (Kind::HalfOpen, 5_000),
        (Kind::Silent, 200),
        (Kind::Head, 200),
        (Kind::Body, 200),
    ],
    arrivals: Duration::from_millis(1),
    settings: &[],
    rate: 1_000.0,
    steady: Duration::from_secs(60),
    rest: Duration::from_secs(30),
    sieges: 3,
    scale: 1.0,
    judges_figures: true,
};

/// Files of this process and of the host in addition to the connections.
const OTHER_FILES: u64 = 300;

impl Schedule {
    /// Returns a siege with the numbers of the promise, or with as many connections as this process
    /// and the host may have.
    pub(crate) fn full() -> Self {
        let files = rlimit::increase_nofile_limit(u64::MAX).expect("a limit of files");
        let (needed, free) = (FULL.slots() as f64, files.saturating_sub(OTHER_FILES) as f64);
        if needed <= free {
            return FULL;
        }
        let factor = free / needed;
        note(&format!(
            "all numbers of clients are multiplied by {factor:.2}: the limit of open files is \
             {files} here (`ulimit -n`, and its hard limit)"
        ));
        FULL.scaled(factor)
    }

    /// Returns a siege of some seconds, for a host that is not optimised: a twentieth of the
    /// clients, and shorter deadlines.
    pub(crate) fn short() -> Self {
        Self {
            settings: &[
                ("LIMITS__FIRST_BYTE_MS", "5000"),
                ("LIMITS__HEAD_MS", "5000"),
                ("LIMITS__CONNECT_MS", "5000"),
                ("LIMITS__STALLED_READER_MS", "8000"),
            ],
            rate: 100.0,
            steady: Duration::from_secs(1),
            rest: Duration::from_secs(1),
            sieges: 1,
            judges_figures: false,
            ..FULL.scaled(0.05)
        }
    }

    fn scaled(self, factor: f64) -> Self {
        let scaled = |number: usize| ((number as f64 * factor) as usize).max(1);
        let attackers = self.attackers.map(|(kind, number)| (kind, scaled(number)));
        Self { honest: scaled(self.honest), attackers, scale: factor, ..self }
    }

    /// The slots of the host: one for each client, and one that an operator's request may have when
    /// the last attacker arrives. A further client takes it otherwise.
    fn slots(self) -> usize {
        self.served() + self.attacking() + 1
    }

    fn attacking(self) -> usize {
        self.attackers.iter().map(|(_, number)| number).sum()
    }

    /// The clients that the host must keep: the honest ones, and the one that sends to the stalled
    /// readers.
    const fn served(self) -> usize {
        self.honest + 1
    }
}

/// Maximum time of a list of the plugins.
const LIST: Duration = Duration::from_secs(1);

/// The maximum p99 of honest events, as a multiple of the steady p99.
const P99_RATIO: f64 = 2.0;

/// How long after the last attacker has arrived the host may keep one.
const GONE: Duration = Duration::from_secs(30);

/// How long after that a siege ends although attackers are there.
const PATIENCE: Duration = Duration::from_secs(60);

/// Interval of an operator's requests.
const LOOK: Duration = Duration::from_secs(1);

/// The figures of the slots that are taken, by TCP connections and by sessions.
const SLOTS: [&str; 2] = ["sockhop_tcp_connections", "sockhop_sessions"];

/// The results of one siege, or of several together.
#[derive(Default)]
struct Siege {
    /// The honest clients while the buffers of the stalled readers are filled.
    filling: Phase,
    /// The honest clients after that.
    honest: Phase,
    operator: Operator,
    /// Further clients that were let in before one was refused, see [`Schedule::slots`].
    surplus: usize,
    /// Attackers whose connections the host had not closed at the end.
    open: usize,
    /// Stalled readers that had got all that was sent to them.
    served: usize,
    /// Promises that an attacker found broken.
    broken: Vec<String>,
}

impl Siege {
    /// The worst of both.
    fn and(mut self, other: Self) -> Self {
        self.broken.extend(other.broken);
        Self {
            filling: self.filling.and(other.filling),
            honest: self.honest.and(other.honest),
            operator: self.operator.and(other.operator),
            surplus: self.surplus.max(other.surplus),
            open: self.open + other.open,
            served: self.served + other.served,
            broken: self.broken,
        }
    }
}

/// What an operator saw during a siege.
#[derive(Default)]
struct Operator {
    lists: usize,
    slowest: Duration,
    /// The most TCP connections in slots.
    taken: usize,
    /// The time from the last arrival until no attacker had a slot.
    gone: Option<Duration>,
    /// Requests that failed.
    broken: Vec<String>,
}

impl Operator {
    fn and(mut self, other: Self) -> Self {
        self.broken.extend(other.broken);
        Self {
            lists: self.lists + other.lists,
            slowest: self.slowest.max(other.slowest),
            taken: self.taken.min(other.taken),
            gone: self.gone.zip(other.gone).map(|(one, other)| one.max(other)),
            broken: self.broken,
        }
    }
}

/// Runs the sieges.
pub(crate) fn siege(stage: &Stage, schedule: Schedule) -> Judged {
    let [plugins, data] = [(); 2].map(|()| tempfile::tempdir().expect("a directory"));
    for name in ["connection", "subscription", "memory_logs"] {
        put(plugins.path(), &bundled_plugin(name));
    }
    let slots = schedule.slots().to_string();
    let mut settings = vec![("LIMITS__CONNECTIONS", slots.as_str())];
    settings.extend_from_slice(schedule.settings);
    let host = stage.host(plugins.path(), data.path(), &settings);
    let api = Api::new(&host.address, data.path());
    let mut scene = Scene {
        host: host.address.parse().expect("an address"),
        api: &api,
        honest: Load::new(
            Driver::connect(&host.address, schedule.honest, true),
            Question::Ping,
            host.pid(),
        ),
        schedule,
    };
    scene.run(&host)
}

/// Those who take part in each siege.
struct Scene<'a> {
    host: SocketAddr,
    api: &'a Api,
    honest: Load,
    schedule: Schedule,
}

impl Scene<'_> {
    fn run(&mut self, host: &Server) -> Judged {
        let schedule = self.schedule;
        let mut broken = Vec::new();
        if schedule.judges_figures {
            note("rehearsal");
            broken.extend(self.siege().broken);
        }
        note(&format!("rest, {} s", schedule.rest.as_secs()));
        rest(&mut self.honest, schedule.rest);
        let before = host.footprint();
        note(&format!("steady, {} s", schedule.steady.as_secs()));
        let steady = self.alone(&mut broken);
        let sieges = (1..=schedule.sieges).map(|number| {
            note(&format!("siege {number} of {}", schedule.sieges));
            self.siege()
        });
        let mut siege = sieges.reduce(Siege::and).unwrap_or_default();
        note(&format!("rest, {} s", schedule.rest.as_secs()));
        let after =
            rest_until_released(&mut self.honest, schedule.rest, before, || host.footprint());
        // Shows that the honest clients are served as before.
        let rested = self.alone(&mut broken);
        siege.broken.extend(broken);
        let mut verdicts = vec![Verdict::of_faults(rested.faults)];
        verdicts.extend(siege.verdicts(schedule));
        verdicts.push(Verdict::of_files(before, after));
        if schedule.judges_figures {
            verdicts.push(Verdict::of_memory(before, after));
            verdicts.push(Verdict::of_p99(&steady, &siege.honest, P99_RATIO));
        }
        let attackers: serde_json::Map<String, Value> = schedule
            .attackers
            .iter()
            .map(|(kind, number)| (kind.name().to_owned(), (*number).into()))
            .collect();
        let document = json!({
            "sieges": schedule.sieges, "scale": schedule.scale, "honest_clients": schedule.honest, "attackers": attackers,
            "steady": figures(&steady), "filling": figures(&siege.filling), "siege": figures(&siege.honest),
            "slowest_list_ms": siege.operator.slowest.as_secs_f64() * 1e3, "lists": siege.operator.lists,
            "gone_after_s": siege.operator.gone.map(|time| time.as_secs_f64()),
            "before": held(before), "after": held(after),
        });
        Judged { verdicts, document }
    }

    /// Runs the honest clients and an operator alone.
    fn alone(&mut self, broken: &mut Vec<String>) -> Phase {
        let Self { api, honest, schedule, .. } = self;
        let (time, is_over) = (schedule.steady, AtomicBool::new(false));
        thread::scope(|scope| {
            let operator =
                scope.spawn(|| operate(api, schedule.served(), &OnceLock::new(), &is_over));
            let phase = honest.open(schedule.rate, 1, Duration::ZERO, |elapsed| elapsed >= time);
            is_over.store(true, Ordering::Relaxed);
            broken.extend(operator.join().expect("an operator").broken);
            phase
        })
    }

    /// Runs the honest clients together with all attackers, until none of these has a slot.
    fn siege(&mut self) -> Siege {
        let Self { host, api, honest, schedule } = self;
        // A new one each time: between the sieges it would miss the heartbeats.
        let mut emitter = Emitter::connect(*host);
        let (is_filled, is_over, arrived) =
            (AtomicBool::new(false), AtomicBool::new(false), OnceLock::new());
        let mut siege = thread::scope(|scope| {
            let attack = scope.spawn(|| {
                // With a lower priority, so that the honest clients' driver does not wait for the
                // attackers, which share its processor.
                lower_priority();
                let attack =
                    attack(*host, schedule, &mut emitter, (&is_filled, &arrived, &is_over));
                is_over.store(true, Ordering::Relaxed);
                attack
            });
            let operator = scope.spawn(|| {
                let operator = operate(api, schedule.served(), &arrived, &is_over);
                is_over.store(true, Ordering::Relaxed);
                operator
            });
            let mut until = |is_reached: &AtomicBool| {
                honest.open(schedule.rate, 1, Duration::ZERO, |_| {
                    is_reached.load(Ordering::Relaxed) || is_over.load(Ordering::Relaxed)
                })
            };
            let (filling, honest) = (until(&is_filled), until(&is_over));
            let operator = operator.join().expect("an operator");
            let mut siege = Siege { filling, honest, operator, ..Siege::default() };
            match attack.join().expect("an attack") {
                Ok(attackers) => {
                    siege.surplus = attackers.surplus;
                    (siege.open, siege.served) = attackers.leave();
                }
                Err(broken) => siege.broken.push(broken),
            }
            siege
        });
        siege.broken.append(&mut siege.operator.broken);
        siege
    }
}

/// Lets all attackers arrive, and holds their connections until `is_over`.
fn attack(
    host: SocketAddr,
    schedule: &Schedule,
    emitter: &mut Emitter,
    (is_filled, arrived, is_over): (&AtomicBool, &OnceLock<Instant>, &AtomicBool),
) -> Result<Attackers, String> {
    let is_now_filled = || is_filled.store(true, Ordering::Relaxed);
    let (numbers, interval) = (schedule.attackers, schedule.arrivals);
    let mut attackers = Attackers::arrive(host, numbers, interval, emitter, is_now_filled)?;
    note(&format!("  all have arrived, and {} further ones", attackers.surplus));
    arrived.get_or_init(Instant::now);
    attackers.hold(emitter, is_over)?;
    Ok(attackers)
}

/// Lists the plugins and reads the metrics again and again, until only `served` clients have a slot
/// after all attackers have arrived.
fn operate(
    api: &Api,
    served: usize,
    arrived: &OnceLock<Instant>,
    is_over: &AtomicBool,
) -> Operator {
    let mut operator = Operator::default();
    while !is_over.load(Ordering::Relaxed) {
        let began = Instant::now();
        let looked = api.list_plugins().and_then(|()| {
            operator.slowest = operator.slowest.max(began.elapsed());
            operator.lists += 1;
            api.metrics(SLOTS)
        });
        match looked {
            Ok([Some(connections), Some(sessions)]) => {
                operator.taken = operator.taken.max(connections as usize);
                // The request itself takes a slot, unless it has a reserved one.
                let is_free = connections as usize <= served + 1 && sessions as usize <= served;
                if is_free && arrived.get().is_some() {
                    operator.gone = arrived.get().map(Instant::elapsed);
                    break;
                }
            }
            Ok(_) => operator.broken.push(format!("GET /metrics does not have {SLOTS:?}")),
            Err(error) => operator.broken.push(error),
        }
        if arrived.get().is_some_and(|arrived| arrived.elapsed() > PATIENCE) {
            break;
        }
        thread::sleep(LOOK);
    }
    operator
}

impl Siege {
    fn verdicts(&self, schedule: Schedule) -> Vec<Verdict> {
        let Operator { taken, slowest, lists, gone, .. } = self.operator;
        let (slots, attackers) = (schedule.slots(), schedule.attacking());
        let mut verdicts = vec![
            Verdict {
                what: "every slot is taken, and a further client is answered 503".to_owned(),
                found: format!(
                    "{attackers} attackers, {taken} of {slots} slots; {} further clients before",
                    self.surplus
                ),
                is_kept: taken == slots && self.broken.is_empty(),
            },
            Verdict {
                what: "the buffers of each stalled reader are full".to_owned(),
                found: format!("{} got all that was sent", self.served),
                is_kept: self.served == 0 && self.broken.is_empty(),
            },
            Verdict {
                what: format!("no attacker has a slot {} s after the last arrival", GONE.as_secs()),
                found: gone.map_or("some have".to_owned(), |time| {
                    format!("gone after {:.1} s", time.as_secs_f64())
                }),
                is_kept: gone.is_some_and(|time| time <= GONE),
            },
            Verdict {
                what: "the host has closed the connection of each attacker".to_owned(),
                found: format!("{} are open", self.open),
                is_kept: self.open == 0,
            },
            Verdict::of_broken(&self.broken),
        ];
        if schedule.judges_figures {
            verdicts.push(Verdict {
                what: format!("a list of the plugins in less than {} ms", LIST.as_millis()),
                found: format!("at most {} ms, of {lists} lists", slowest.as_millis()),
                is_kept: lists > 0 && slowest < LIST,
            });
        }
        verdicts
    }
}
