//! The benchmark: measures what plugins cost, by comparing Sockhop with three other servers that
//! serve the same events, in one run. `cargo xtask bench` builds everything and runs it;
//! `host/benches/README.md` explains the output.
//!
//! The servers run one at a time on one processor (in `ping` they take turns there), the driver
//! runs on another. The main figure is the server's processor time per event. It is the resource
//! that limits a busy server, and it is steadier than rates and latencies on a shared machine.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a measurement fails by panicking"
)]

mod api;
mod driver;
mod fanout;
#[path = "../src/files.rs"]
#[allow(unreachable_pub, reason = "it is public where it belongs")]
mod files;
mod flood;
mod idle;
mod load;
mod outage;
mod polling;
mod question;
mod reload;
mod report;
mod scale;
mod sequence;
mod servers;
mod siege;
mod soak;
mod startup;
mod trial;
mod visitor;

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use serde_json::json;

use driver::Driver;
use load::{Load, Phase};
use question::Question;
use report::{Report, note};
use servers::{Kind, Stage};

/// Measures Sockhop beside native socketioxide, Node's socket.io and python-socketio.
#[derive(Debug, Parser)]
#[command(name = "bench")]
struct Arguments {
    /// Only these parts [default: all but `scale` and those that run alone]
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Part>,
    /// Only these servers [default: all but `guarded`]
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Kind::Sockhop, Kind::Library, Kind::Native, Kind::Pool, Kind::Node, Kind::Python])]
    servers: Vec<Kind>,
    /// Rounds; in each, every server has its turn, and the median of all rounds counts
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Seconds of each measured time
    #[arg(long, default_value_t = 4.0)]
    seconds: f64,
    /// One round of one second, and fewer reloads: whether it works, not how fast
    #[arg(long)]
    quick: bool,
    /// Events a second of the open loop [default: half of native's peak, or of Sockhop's own where
    /// native does not run]
    #[arg(long)]
    rate: Option<f64>,
    /// Connections of `reload`
    #[arg(long, default_value_t = 500)]
    connections: usize,
    /// Reloads under load
    #[arg(long, default_value_t = 200)]
    reloads: usize,
    /// After those: reloads without load, whose memory, threads and file descriptors are compared
    /// with those after the 50th
    #[arg(long, default_value_t = 0)]
    memory_reloads: usize,
    /// An argument for the native peer, such as `--native=--runtime=multi`; may be given more than
    /// once
    #[arg(long, allow_hyphen_values = true)]
    native: Vec<OsString>,
    /// Prints one JSON document instead of tables
    #[arg(long)]
    json: bool,
    /// Minutes of the storm of `soak`; `--quick` makes it a quarter of a minute, and judges neither
    /// time nor memory
    #[arg(long, default_value_t = 60.0)]
    minutes: f64,
    /// What goes on beside the honest clients of `soak`
    #[arg(long, value_enum, default_value_t = soak::Abuses::All)]
    abuses: soak::Abuses,
}

/// The parts of a run, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// `ping` as fast as it goes, 1 and 8 in flight on each of 50 connections
    Ping,
    /// `ping` at a fixed rate
    Open,
    /// One message to 500 and 1,000 receivers
    Fanout,
    /// Memory of 1,000 idle connections
    Idle,
    /// Start of the host, and plugins that are put into its directory
    Startup,
    /// Reloads under load
    Reload,
    /// `ping` while another plugin spins
    Spinners,
    /// How costs grow with connections, rooms, receivers, plugins and payloads
    Scale,
    /// Honest clients beside every abuse that the host must contain; runs alone
    Soak,
    /// Honest clients while clients that only hold connections have every slot; runs alone
    Siege,
    /// Honest users while another one sends far more events than its bucket allows; runs alone
    Flood,
    /// Other events of a plugin while 200 clients call a service that never answers; runs alone
    Outage,
}

impl Part {
    /// Whether the part judges the host instead of measuring it, and so runs alone.
    const fn runs_alone(self) -> bool {
        matches!(self, Self::Soak | Self::Siege | Self::Flood | Self::Outage)
    }
}

/// Connections of `ping`.
const CONNECTIONS: usize = 50;

/// Events that a connection of the open loop sends at once: as many as are in flight in the closed
/// loop that its rate comes from. With a separate write and read for each event, the driver would
/// use its whole processor, and the measured latency would be its own.
const AT_ONCE: usize = 8;

/// Warm-up before each measured time. Caches fill, a just-in-time compiler compiles, and a heap
/// that shrank while its server waited grows again.
const WARM: Duration = Duration::from_millis(1_000);

/// Turns of each server in one round of `ping`.
const TURNS: u32 = 4;

/// One run: its arguments and its results.
struct Run {
    arguments: Arguments,
    stage: Stage,
    report: Report,
    time: Duration,
}

impl Run {
    fn does(&self, part: Part) -> bool {
        if self.arguments.only.is_empty() {
            part != Part::Scale && !part.runs_alone()
        } else {
            self.arguments.only.contains(&part)
        }
    }

    fn measures(&self, kind: Kind) -> bool {
        self.arguments.servers.contains(&kind)
    }

    /// Runs `part` for each server in turn, in every round.
    fn rounds(&mut self, what: &str, mut part: impl FnMut(&mut Self, Kind)) {
        for round in 1..=self.arguments.rounds {
            note(&format!("{what}, round {round} of {}", self.arguments.rounds));
            for kind in self.arguments.servers.clone() {
                part(self, kind);
            }
        }
    }

    /// Runs all servers at once; each is idle while another has its turn. The turns are short, so
    /// that other load on the machine affects all servers alike.
    fn ping(&mut self, in_flight: usize) {
        let name = format!("ping, {in_flight} in flight");
        for round in 1..=self.arguments.rounds {
            note(&format!("{name}, round {round} of {}", self.arguments.rounds));
            let asked = self.arguments.servers.iter().map(|kind| {
                let server = self.stage.start(*kind);
                let driver = Driver::connect(server.target(), CONNECTIONS, true);
                let mut load = Load::new(driver, Question::Ping, server.pid());
                load.closed(in_flight, WARM, Duration::ZERO);
                (*kind, server, load, Phase::default())
            });
            let mut asked: Vec<_> = asked.collect();
            for number in 0..TURNS {
                let order: Vec<_> = (0..asked.len()).collect();
                // In every other turn backwards, so that a load that grows favours none.
                let order = if number % 2 == 0 { order } else { order.into_iter().rev().collect() };
                for turn in order {
                    let (_, _, load, phase) = &mut asked[turn];
                    *phase =
                        std::mem::take(phase).and(load.closed(in_flight, WARM, self.time / TURNS));
                    asked.iter_mut().for_each(|(_, _, load, _)| load.answer_heartbeats());
                }
            }
            for (kind, server, load, phase) in asked {
                // The connections must close before the server ends.
                drop(load);
                drop(server);
                self.report.add(format!("{name}: server CPU"), "µs", kind, phase.cpu());
                self.report.add(format!("{name}: rate"), "1/s", kind, phase.rate());
                self.report.add(format!("{name}: p50"), "µs", kind, phase.percentile(0.5));
                self.report.add(format!("{name}: p99"), "µs", kind, phase.percentile(0.99));
                let busy = phase.driver.as_secs_f64() / phase.elapsed.as_secs_f64() * 100.0;
                self.report.add(format!("{name}: driver busy"), "%", kind, busy);
                self.report.add_faults(kind, &name, phase.faults);
            }
        }
    }

    /// Runs the open loop with the same rate for all servers. A server whose peak is below that
    /// rate gets half of its own peak, and its figure gets a separate name.
    fn open(&mut self) {
        let peak = |run: &Self, kind| run.report.median("ping, 8 in flight: rate", kind);
        let rate = self.arguments.rate.or_else(|| {
            peak(self, Kind::Native).or_else(|| peak(self, Kind::Sockhop)).map(|peak| peak / 2.0)
        });
        let Some(rate) = rate else {
            note(
                "the open loop needs --rate, or `ping` with native or sockhop, whose peak it \
                 halves",
            );
            return;
        };
        self.rounds(&format!("ping, open loop at {rate:.0}/s"), |run, kind| {
            let own = peak(run, kind).filter(|peak| *peak < rate * 1.1).map(|peak| peak / 2.0);
            let name = if own.is_some() {
                "ping, open loop at half of its own peak"
            } else {
                "ping, open loop"
            };
            let server = run.stage.start(kind);
            let driver = Driver::connect(server.target(), CONNECTIONS, true);
            let time = run.time;
            let phase = Load::new(driver, Question::Ping, server.pid()).open(
                own.unwrap_or(rate),
                AT_ONCE,
                WARM,
                |elapsed| elapsed >= time,
            );
            run.report.add(format!("{name}: p50"), "µs", kind, phase.percentile(0.5));
            run.report.add(format!("{name}: p99"), "µs", kind, phase.percentile(0.99));
            run.report.add(format!("{name}: driver late, p99"), "µs", kind, phase.delay(0.99));
            run.report.add(format!("{name}: server CPU"), "µs", kind, phase.cpu());
            run.report.add(format!("{name}: rate"), "1/s", kind, phase.rate());
            run.report.add_faults(kind, name, phase.faults);
        });
    }

    fn fan_out(&mut self) {
        for (receivers, in_flight) in [(500, 1), (1_000, 1), (500, 4)] {
            let name = format!("fan-out to {receivers}, {in_flight} in flight");
            self.rounds(&name, |run, kind| {
                let server = run.stage.start(kind);
                let spread = fanout::spread(&server, receivers, in_flight, WARM, run.time);
                run.report.add(format!("{name}: server CPU per delivery"), "µs", kind, spread.cpu);
                run.report.add(format!("{name}: deliveries"), "1/s", kind, spread.rate);
                run.report.add(
                    format!("{name}: until the last receiver"),
                    "ms",
                    kind,
                    spread.last_ms,
                );
                run.report.add_faults(kind, &name, spread.faults);
            });
        }
    }

    fn idle(&mut self) {
        self.rounds("idle", |run, kind| {
            let server = run.stage.start(kind);
            let each = idle::memory(&server, 1_000);
            run.report.add("idle: memory per connection", "KiB", kind, each);
        });
    }

    fn startup(&mut self) {
        for round in 1..=self.arguments.rounds {
            note(&format!("start and drop, round {round} of {}", self.arguments.rounds));
            let waits = startup::waits(&self.stage);
            self.report.add("start with 4 cached plugins", "ms", Kind::Sockhop, waits.start);
            self.report.add(
                "drop of a plugin never seen to its first answer",
                "ms",
                Kind::Sockhop,
                waits.never_seen,
            );
            self.report.add(
                "drop of a plugin with its artifact cached to its first answer",
                "ms",
                Kind::Sockhop,
                waits.cached,
            );
        }
    }

    fn reload(&mut self) {
        let Arguments { connections, reloads, memory_reloads, rounds, .. } = self.arguments;
        // Long enough for the rarest events that are measured, even if the other parts are shorter.
        let time =
            if self.arguments.quick { self.time } else { self.time.max(Duration::from_secs(10)) };
        let mut documents = Vec::new();
        for round in 1..=rounds {
            note(&format!("reloads under load, round {round} of {rounds}"));
            let memory_reloads = if round == rounds { memory_reloads } else { 0 };
            let found = reload::reloads(
                &self.stage,
                reload::Size { connections, reloads, memory_reloads, time },
            );
            self.report.add(
                "reloads under load: p99 over steady",
                "×",
                Kind::Sockhop,
                found.p99_ratio,
            );
            self.report.add(
                "a version never seen is compiled under load: p99 over steady",
                "×",
                Kind::Sockhop,
                found.compiling_p99_ratio,
            );
            self.report.add(
                "reloads under load: rename until it serves, median",
                "ms",
                Kind::Sockhop,
                found.reload_ms,
            );
            self.report.add_faults(Kind::Sockhop, "reloads under load", found.faults);
            documents.push(found.document);
        }
        self.report.add_document("reload", documents.into());
    }

    fn spinners(&mut self) {
        let mut most = 0.0_f64;
        for round in 1..=self.arguments.rounds {
            note(&format!("a spinning neighbour, round {round} of {}", self.arguments.rounds));
            let spun = reload::spinners(&self.stage, self.time);
            let more = (spun.spinning_p99 - spun.steady_p99) / 1e3;
            self.report.add(
                "spinning neighbour: steady p99",
                "ms",
                Kind::Sockhop,
                spun.steady_p99 / 1e3,
            );
            self.report.add("spinning neighbour: p99 above steady", "ms", Kind::Sockhop, more);
            self.report.add(
                "spinning neighbour: events that spun",
                "",
                Kind::Sockhop,
                spun.overruns.len() as f64,
            );
            most = spun.overruns.iter().copied().fold(most, f64::max);
            self.report.add_faults(Kind::Sockhop, "a spinning neighbour", spun.faults);
        }
        // The maximum of all rounds, because no round may exceed the bar.
        self.report.add(
            "spinning neighbour: most that a spinner overran",
            "ms",
            Kind::Sockhop,
            most,
        );
    }
}

/// Runs one part that judges the host instead of measuring it.
fn judge(part: Part, arguments: &Arguments, stage: &Stage) -> ExitCode {
    let (is_quick, abuses) = (arguments.quick, arguments.abuses);
    let judged = match part {
        Part::Flood if is_quick => flood::flood(stage, flood::Schedule::short()),
        Part::Flood => flood::flood(stage, flood::Schedule::full()),
        Part::Outage if is_quick => outage::outage(stage, outage::Schedule::short()),
        Part::Outage => outage::outage(stage, outage::Schedule::full()),
        Part::Siege if is_quick => siege::siege(stage, siege::Schedule::short()),
        Part::Siege => siege::siege(stage, siege::Schedule::full()),
        _ if is_quick => soak::soak(stage, soak::Schedule::short(abuses)),
        _ => soak::soak(stage, soak::Schedule::of_minutes(arguments.minutes, abuses)),
    };
    report::print_verdicts(&judged.verdicts, &judged.document, arguments.json);
    if judged.verdicts.iter().all(|verdict| verdict.is_kept) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn main() -> ExitCode {
    let mut arguments = Arguments::parse();
    if arguments.quick {
        (arguments.rounds, arguments.seconds, arguments.reloads) =
            (1, 1.0, arguments.reloads.min(20));
    }
    let stage = Stage::new(arguments.native.clone());
    if let [part] = arguments.only[..]
        && part.runs_alone()
    {
        return judge(part, &arguments, &stage);
    }
    assert!(
        !arguments.only.iter().any(|part| part.runs_alone()),
        "`soak`, `siege`, `flood` and `outage` run alone, such as `--only soak`"
    );
    let time = Duration::from_secs_f64(arguments.seconds);
    let mut run = Run { arguments, stage, report: Report::default(), time };
    for kind in [Kind::Sockhop, Kind::Guarded] {
        if run.measures(kind) {
            // This start compiles the bundled plugins, so that no later start does.
            drop(run.stage.start(kind));
        }
    }
    if run.does(Part::Ping) {
        run.ping(1);
        run.ping(8);
    } else if run.does(Part::Open) && run.arguments.rate.is_none() {
        run.ping(8);
    }
    if run.does(Part::Open) {
        run.open();
    }
    if run.does(Part::Fanout) {
        run.fan_out();
    }
    if run.does(Part::Idle) {
        run.idle();
    }
    if run.measures(Kind::Sockhop) {
        if run.does(Part::Startup) {
            run.startup();
        }
        if run.does(Part::Reload) {
            run.reload();
        }
        if run.does(Part::Spinners) {
            run.spinners();
        }
    }
    if run.does(Part::Scale) {
        scale::scale(&mut run);
    }
    let environment = json!({"server_processor": run.stage.cores.0, "driver_processor": run.stage.cores.1,
        "rounds": run.arguments.rounds, "seconds": run.arguments.seconds});
    if run.arguments.json {
        report::print_document(&run.report.document(&environment));
    } else {
        run.report.print(&run.arguments.servers);
    }
    // A missed bar is only a figure to look at, but a fault such as a lost message is a bug.
    let has_none = |kind| run.report.faults(kind).is_none();
    if has_none(Kind::Sockhop) && has_none(Kind::Guarded) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
