//! The soak: honest clients work beside every abuse that the host must contain. Meanwhile plugins
//! are reloaded, and the log is not read for a part of each minute. It shows the effect on honest
//! clients, and what the host holds afterwards.
//!
//! ```text
//! introduction (honest clients alone) -> rehearsal (all abuse, not measured)
//!   -> rest -> steady (honest clients alone) -> storm (all abuse) -> rest -> steady -> verdicts
//! ```
//!
//! Some abusers have the address of the honest clients. A new connection of an abuser's address may
//! be throttled, so the introduction lets each plugin answer each honest client first.
//!
//! The rehearsal creates what remains as long as the host runs, such as warm instances and idle
//! threads. Therefore the state of the host before and after the storm can be compared.

mod abuse;
mod protocol;
mod watch;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::api::Api;
use crate::driver::Driver;
use crate::files::{bundled_plugin, chameleon, drop_in, guest, put};
use crate::load::{Load, Phase};
use crate::question::Question;
use crate::report::note;
use crate::sequence::Faults;
use crate::servers::{Server, Stage};
use crate::trial::{
    Footprint, Judged, Verdict, figures, held, lower_priority, rest, rest_until_released,
};

use abuse::{ABSENT, Abuse, Scene};
use watch::{Pauses, Peaks};

/// How long each part takes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Schedule {
    rehearsal: Duration,
    rest: Duration,
    steady: Duration,
    storm: Duration,
    pauses: Pauses,
    /// Events per second of all honest clients together: far below what one processor handles.
    rate: f64,
    /// The factor by which each abuse is slower than usual.
    slowness: u32,
    /// Whether time and memory are judged. A short soak beside other work shows nothing about them.
    judges_figures: bool,
    abuses: Abuses,
}

/// The abuses that run beside the honest clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Abuses {
    /// Everything that the host must contain
    All,
    /// What strangers do to the Socket.IO layer alone: mutated frames, and clients that connect,
    /// leave, upgrade and break off
    Protocol,
}

impl Abuses {
    fn list(self) -> Vec<&'static Abuse> {
        match self {
            Self::All => abuse::HOST.iter().chain(&abuse::PROTOCOL).collect(),
            Self::Protocol => abuse::PROTOCOL.iter().collect(),
        }
    }
}

impl Schedule {
    /// Returns the schedule with a storm of this many minutes and a matching steady part.
    pub(crate) fn of_minutes(minutes: f64, abuses: Abuses) -> Self {
        let storm = Duration::from_secs_f64(minutes * 60.0);
        Self {
            // Memory reaches its level within five minutes of abuse, and stays there for the hour.
            rehearsal: Duration::from_secs(300),
            rest: Duration::from_secs(30),
            steady: (storm / 10).clamp(Duration::from_secs(20), Duration::from_secs(180)),
            storm,
            pauses: Pauses { every: Duration::from_secs(60), length: Duration::from_secs(10) },
            rate: 1_000.0,
            slowness: 1,
            judges_figures: true,
            abuses,
        }
    }

    /// Returns a schedule of less than a minute in all, for a host that is not optimised. It shows
    /// whether the host survives everything, not how fast it is.
    pub(crate) fn short(abuses: Abuses) -> Self {
        Self {
            rehearsal: Duration::from_secs(4),
            rest: Duration::from_secs(13),
            steady: Duration::from_secs(1),
            storm: Duration::from_secs(14),
            pauses: Pauses { every: Duration::from_secs(5), length: Duration::from_secs(3) },
            rate: 200.0,
            slowness: 4,
            judges_figures: false,
            abuses,
        }
    }
}

/// How often a plugin is replaced in the rehearsal. After that, the plugin has as many versions in
/// memory as it ever has. Every other abuse takes place at least once.
const REHEARSED_RELOADS: u64 = 3;

/// How long a rehearsal goes on at most beyond its length, until every abuse has taken place.
const MORE_REHEARSAL: Duration = Duration::from_secs(120);

/// Number of honest clients.
const HONEST: usize = 200;

/// The maximum p99 of honest events, as a multiple of the steady p99.
const P99_RATIO: f64 = 3.0;

/// The maximum size of a write-ahead log: twice the default of `[limits] state_wal_bytes`, which a
/// log exceeds by at most one transaction.
const WAL_BYTES: u64 = 2 * (16 << 20);

/// The host's settings that differ from the defaults. Limits are low, so that the abuse reaches
/// them, and reaches them again and again: with the default for host events, a plugin that sleeps
/// in `$connect` takes four minutes to reach its limit, and the memory before and after the storm
/// would depend on how many events wait by chance. A plugin gets more instances than the host's one
/// processor would give it, so that two readers that take 4 s don't occupy all of them.
const SETTINGS: [(&str, &str); 7] = [
    ("LOG__FILTER", "info"),
    ("LOG__QUEUE_BYTES", "65536"),
    ("LIMITS__HOST_EVENTS", "2000"),
    ("LIMITS__INSTANCES", "8"),
    ("LIMITS__CONNECTIONS", "300"),
    ("LIMITS__MAILBOXES_BYTES", "33554432"),
    ("LIMITS__OVERFLOW_BYTES", "33554432"),
];

/// KiB that the host may use during the storm in addition to its memory before. They are for all
/// mailboxes, emits that wait for slow clients, and events that are being handled.
const STORM_KIB: u64 = (32 + 32 + 160) << 10;

/// Runs a soak.
pub(crate) fn soak(stage: &Stage, schedule: Schedule) -> Judged {
    let [plugins, aside, data] = [(); 3].map(|()| tempfile::tempdir().expect("a directory"));
    let versions = [chameleon("version=2 claims=turn"), chameleon("version=1 claims=turn")];
    fill(plugins.path(), &versions);
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let host = stage.host_with_log(plugins.path(), data.path(), &SETTINGS, writer);
    let (stops, peaks) = (AtomicBool::new(false), Peaks::default());
    thread::scope(|scope| {
        scope.spawn(|| watch::log(reader, schedule.pauses, &stops, &peaks));
        let scene = Setting {
            plugins: plugins.path(),
            aside: aside.path(),
            data: data.path(),
            versions: &versions,
            stops: &stops,
            peaks: &peaks,
        };
        let soaked = scene.run(&host, schedule);
        // The thread that reads the log ends when the host ends.
        drop(host);
        soaked
    })
}

/// Fills the plugin directory with bundled plugins and with those that misbehave.
fn fill(plugins: &Path, versions: &[Vec<u8>; 2]) {
    for name in ["connection", "subscription", "memory_logs"] {
        put(plugins, &bundled_plugin(name));
    }
    for name in ["lab", "dozer"] {
        put(plugins, &guest(name));
    }
    drop_in(plugins, "chameleon.wasm", &versions[1]);
    drop_in(
        plugins,
        &format!("{ABSENT}.wasm"),
        &chameleon(&format!("version=1 name={ABSENT} claims=absent")),
    );
}

/// The environment of the host during a soak.
struct Setting<'a> {
    plugins: &'a Path,
    aside: &'a Path,
    data: &'a Path,
    versions: &'a [Vec<u8>; 2],
    /// Whether the log is not read during its pauses.
    stops: &'a AtomicBool,
    peaks: &'a Peaks,
}

/// The results of a storm.
struct Storm {
    honest: Phase,
    /// How often each abuse was done.
    counts: Vec<(&'static str, u64)>,
    /// Promises that an abuse found broken.
    broken: Vec<String>,
}

impl Setting<'_> {
    fn run(&self, host: &Server, schedule: Schedule) -> Judged {
        let api = Api::new(&host.address, self.data);
        let mut honest = Load::new(
            Driver::connect(&host.address, HONEST, false),
            Question::Texts(honest_events()),
            host.pid(),
        );
        alone(&mut honest, schedule, introduction(schedule.rate));
        note(&format!("rehearsal, {} s", schedule.rehearsal.as_secs()));
        // Continues until everything that has a lasting effect has happened. On a slow machine the
        // time alone is too short for that.
        let rehearsed = self.storm(&mut honest, host, &api, schedule, |elapsed, is_complete| {
            elapsed >= schedule.rehearsal
                && (is_complete || elapsed >= schedule.rehearsal + MORE_REHEARSAL)
        });
        note(&format!("rest, {} s", schedule.rest.as_secs()));
        rest(&mut honest, schedule.rest);
        let before = host.footprint();
        note(&format!("steady, {} s", schedule.steady.as_secs()));
        let steady = alone(&mut honest, schedule, schedule.steady);
        note(&format!("storm, {} s", schedule.storm.as_secs()));
        let mut storm =
            self.storm(&mut honest, host, &api, schedule, |elapsed, _| elapsed >= schedule.storm);
        storm.broken.extend(rehearsed.broken);
        note(&format!("rest, {} s", schedule.rest.as_secs()));
        let after = rest_until_released(&mut honest, schedule.rest, before, || host.footprint());
        // Shows that the honest clients are served as before.
        let rested = alone(&mut honest, schedule, schedule.steady);
        let dropped = api.metric("sockhop_log_lines_dropped_total").unwrap_or_else(|error| {
            storm.broken.push(error);
            None
        });
        let faults = rested.faults;
        let mut verdicts = self.verdicts(schedule, &storm, faults, (&steady, before), after);
        if schedule.judges_figures && schedule.abuses == Abuses::All {
            verdicts.push(Verdict {
                what: "the log was full at times, and what did not fit was counted".to_owned(),
                found: format!("{} lines dropped", dropped.unwrap_or_default()),
                is_kept: dropped.is_some_and(|lines| lines > 0.0),
            });
        }
        let counts: serde_json::Map<String, Value> = storm
            .counts
            .iter()
            .map(|(name, count)| ((*name).to_owned(), (*count).into()))
            .collect();
        let document = json!({
            "seconds": schedule.storm.as_secs(), "honest_clients": HONEST, "steady": figures(&steady), "storm": figures(&storm.honest),
            "abuse": counts, "before": held(before), "after": held(after),
            "wal_bytes_most": self.peaks.wal_bytes.load(Ordering::Relaxed), "state_bytes_most": self.peaks.state_bytes.load(Ordering::Relaxed),
            "log_lines": self.peaks.log_lines.load(Ordering::Relaxed), "log_lines_dropped": dropped,
        });
        Judged { verdicts, document }
    }

    /// Runs the honest clients together with all abuses.
    fn storm(
        &self,
        honest: &mut Load,
        server: &Server,
        api: &Api,
        schedule: Schedule,
        ends: impl Fn(Duration, bool) -> bool,
    ) -> Storm {
        let (is_over, host): (_, SocketAddr) =
            (AtomicBool::new(false), server.address.parse().expect("an address"));
        let abuses = schedule.abuses.list();
        let counts: Vec<AtomicU64> = abuses.iter().map(|_| AtomicU64::new(0)).collect();
        self.stops.store(true, Ordering::Relaxed);
        let (phase, broken) = thread::scope(|scope| {
            scope.spawn(|| watch::host(server, self.data, self.peaks, &is_over));
            let running: Vec<_> = abuses
                .iter()
                .zip(&counts)
                .map(|(abuse, count)| {
                    let scene = Scene {
                        host,
                        api,
                        plugins: self.plugins,
                        aside: self.aside,
                        versions: self.versions,
                        slowness: schedule.slowness,
                        is_over: &is_over,
                    };
                    scope.spawn(move || {
                        // With a lower priority, so that the honest clients' driver does not wait
                        // for the abusers, which share its processor.
                        lower_priority();
                        (abuse.run)(&scene, count)
                    })
                })
                .collect();
            let _end = crate::reload::SetAtEnd(&is_over);
            let is_complete = || {
                let least = |abuse: &Abuse| {
                    if abuse.name == abuse::RELOADS { REHEARSED_RELOADS } else { 1 }
                };
                abuses
                    .iter()
                    .zip(&counts)
                    .all(|(abuse, count)| count.load(Ordering::Relaxed) >= least(abuse))
            };
            let phase = honest
                .open(schedule.rate, 1, Duration::ZERO, |elapsed| ends(elapsed, is_complete()));
            is_over.store(true, Ordering::Relaxed);
            let ended = running.into_iter().zip(&abuses).filter_map(|(thread, abuse)| match thread
                .join()
            {
                Ok(result) => result.err().map(|error| format!("{}: {error}", abuse.name)),
                Err(_) => Some(format!("{}: the abuser panicked", abuse.name)),
            });
            (phase, ended.collect::<Vec<_>>())
        });
        self.stops.store(false, Ordering::Relaxed);
        let counts = abuses
            .iter()
            .zip(counts)
            .map(|(abuse, count)| (abuse.name, count.into_inner()))
            .collect();
        Storm { honest: phase, counts, broken }
    }

    fn verdicts(
        &self,
        schedule: Schedule,
        storm: &Storm,
        faults: Faults,
        (steady, before): (&Phase, Footprint),
        after: Footprint,
    ) -> Vec<Verdict> {
        let mut verdicts = vec![Verdict::of_faults(faults), Verdict::of_broken(&storm.broken)];
        let idle: Vec<_> =
            storm.counts.iter().filter(|(_, count)| *count == 0).map(|(name, _)| *name).collect();
        verdicts.push(Verdict {
            what: "every abuse took place".to_owned(),
            found: idle.join("\n"),
            is_kept: idle.is_empty(),
        });
        let (peak, most) = (self.peaks.resident_kib.load(Ordering::Relaxed), before.0 + STORM_KIB);
        verdicts.push(Verdict {
            what: format!("never more than {most} KiB of memory"),
            found: format!("{peak} KiB"),
            is_kept: peak <= most,
        });
        let wal = self.peaks.wal_bytes.load(Ordering::Relaxed);
        verdicts.push(Verdict {
            what: format!("no write-ahead log over {} MiB", WAL_BYTES >> 20),
            found: format!("{} KiB", wal >> 10),
            is_kept: wal <= WAL_BYTES,
        });
        verdicts.push(Verdict {
            what: "the same number of threads".to_owned(),
            found: format!("{}, then {}", before.1, after.1),
            is_kept: after.1 <= before.1,
        });
        verdicts.push(Verdict::of_files(before, after));
        if schedule.judges_figures {
            verdicts.push(Verdict::of_memory(before, after));
            verdicts.push(Verdict::of_p99(steady, &storm.honest, P99_RATIO));
        }
        verdicts
    }
}

/// Runs the honest clients alone.
fn alone(honest: &mut Load, schedule: Schedule, time: Duration) -> Phase {
    honest.open(schedule.rate, 1, Duration::ZERO, |elapsed| elapsed >= time)
}

/// The cheap events of honest clients: one of each plugin.
const CHEAP: [&str; 4] = [
    r#"["ping",{"timestamp":1}]"#,
    r#"["turn"]"#,
    r#"["echo","hello"]"#,
    r#"["memory_log_list",{"user_id":7,"limit":1}]"#,
];

/// The events of honest clients, sent in turn: mostly cheap ones, and now and then a write. Every
/// answer is a reply, never a rejection.
fn honest_events() -> Vec<String> {
    let create = r#"["memory_log_create",{"user_id":7,"content":"from a soak"}]"#;
    (0..5).flat_map(|_| CHEAP).chain([create]).map(str::to_owned).collect()
}

/// Returns how long the honest clients take to send each cheap event once, and one more.
fn introduction(rate: f64) -> Duration {
    Duration::from_secs_f64((HONEST * (CHEAP.len() + 1)) as f64 / rate)
}
