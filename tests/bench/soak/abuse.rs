//! What strangers, faulty plugins and careless operators do to the host during a soak. Each abuse
//! runs in its own thread at a fixed pace, so that the soak shows containment, not which side has
//! more processor time.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::api::Api;
use crate::visitor::{self, Visitor, address};

use super::protocol;

/// What an abuse needs to know about the host and the soak.
pub(super) struct Scene<'a> {
    pub(super) host: SocketAddr,
    pub(super) api: &'a Api,
    /// The plugin directory.
    pub(super) plugins: &'a Path,
    /// A directory outside the plugin directory, on the same file system.
    pub(super) aside: &'a Path,
    /// Versions of `chameleon` that replace each other.
    pub(super) versions: &'a [Vec<u8>; 2],
    /// The factor by which everything is slower than usual.
    pub(super) slowness: u32,
    pub(super) is_over: &'a AtomicBool,
}

/// One kind of abuse.
pub(super) struct Abuse {
    /// Describes what is done.
    pub(super) name: &'static str,
    /// Runs until the scene is over, and counts its actions. An error describes a promise that the
    /// host broke.
    pub(super) run: fn(&Scene<'_>, &AtomicU64) -> Result<(), String>,
}

/// Abuses of the whole host, by strangers, plugins and operators.
pub(super) const HOST: [Abuse; 10] = [
    Abuse { name: "events of two addresses trap, and the host logs each", run: fail },
    Abuse {
        name: "an event of each new connection of 1, 3 and 10 addresses traps",
        run: fail_once,
    },
    Abuse { name: "clients subscribe and never read", run: never_read },
    Abuse { name: "one client updates one record", run: update },
    Abuse { name: "overlapping readers hold a snapshot for 4 s", run: read_slowly },
    Abuse { name: "connect, send 256 events of 7 KB, close", run: flood },
    Abuse { name: "connections that send nothing, or too little", run: stay_silent },
    Abuse { name: "clients connect while a plugin sleeps in $connect", run: come_and_go },
    Abuse { name: "the file of a disabled plugin is absent for 0.3 s", run: remove_for_a_moment },
    Abuse { name: RELOADS, run: reload },
];

/// Abuses of the Socket.IO layer alone, by strangers.
pub(super) const PROTOCOL: [Abuse; 8] = [
    Abuse { name: "WebSocket frames that are almost right", run: protocol::mutate_frames },
    Abuse { name: "polling bodies that are almost right", run: protocol::mutate_bodies },
    Abuse { name: "requests that are almost right", run: protocol::mutate_requests },
    Abuse {
        name: "clients leave and return with events under way",
        run: protocol::leave_and_return,
    },
    Abuse { name: "clients break off while they leave and return", run: protocol::break_off },
    Abuse { name: "a second connection claims a session", run: protocol::claim },
    Abuse { name: "clients go from polling to WebSocket", run: protocol::upgrade },
    Abuse {
        name: "clients break off on the way from polling to WebSocket",
        run: protocol::break_off_upgrade,
    },
];

/// The name of the abuse that replaces a plugin.
pub(super) const RELOADS: &str = "reloads";

/// The name of the plugin that [`remove_for_a_moment`] removes, and of its file.
pub(super) const ABSENT: &str = "absentee";

impl Scene<'_> {
    pub(super) fn goes_on(&self) -> bool {
        !self.is_over.load(Ordering::Relaxed)
    }

    /// Waits for `time` at the pace of the scene, or until the scene is over.
    pub(super) fn pause(&self, time: Duration) {
        let time = time * self.slowness;
        let until = Instant::now() + time;
        while self.goes_on() && Instant::now() < until {
            thread::sleep(time.min(Duration::from_millis(20)));
        }
    }

    /// Sends events with an interval of `pace`, and reconnects after every failure.
    fn ask_often(
        &self,
        from: IpAddr,
        pace: Duration,
        count: &AtomicU64,
        ask: impl Fn(&mut Visitor) -> std::io::Result<String>,
    ) {
        while self.goes_on() {
            let Ok(mut visitor) = Visitor::connect(self.host, from) else {
                self.pause(Duration::from_millis(200));
                continue;
            };
            // The client reconnects now and then. The host must remember an offender beyond its
            // connection.
            for _ in 0..200 {
                if !self.goes_on() || ask(&mut visitor).is_err() {
                    break;
                }
                count.fetch_add(1, Ordering::Relaxed);
                thread::sleep(pace * self.slowness);
            }
        }
    }
}

fn fail(scene: &Scene<'_>, count: &AtomicU64) -> Result<(), String> {
    thread::scope(|scope| {
        for from in [address(2), address(3)] {
            scope.spawn(move || {
                scene.ask_often(from, Duration::from_millis(50), count, |visitor| {
                    visitor.ask("trap", "null")
                })
            });
        }
    });
    Ok(())
}

/// The addresses of the clients that connect again after each event that traps, and whether another
/// event of them is answered first. The honest clients have the first address too.
const RECONNECTING: [(&[u8], bool); 3] =
    [(&[1], true), (&[11, 12, 13], true), (&[21, 22, 23, 24, 25, 26, 27, 28, 29, 30], false)];

fn fail_once(scene: &Scene<'_>, count: &AtomicU64) -> Result<(), String> {
    thread::scope(|scope| {
        for (addresses, is_answered_first) in RECONNECTING {
            scope.spawn(move || {
                for from in addresses.iter().cycle().take_while(|_| scene.goes_on()) {
                    if let Ok(mut visitor) = Visitor::connect(scene.host, address(*from))
                        && (!is_answered_first || visitor.ask("echo", "null").is_ok())
                        && visitor.ask("trap", "null").is_ok()
                    {
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                    scene.pause(Duration::from_millis(50));
                }
            });
        }
    });
    Ok(())
}

fn never_read(scene: &Scene<'_>, count: &AtomicU64) -> Result<(), String> {
    while scene.goes_on() {
        let mut deaf = Vec::new();
        for _ in 0..5 {
            if let Ok(mut visitor) = Visitor::connect(scene.host, address(4))
                && visitor.ask("subscribe_event", r#"{"event_type":"memory_logs"}"#).is_ok()
            {
                count.fetch_add(1, Ordering::Relaxed);
                deaf.push(visitor);
            }
        }
        scene.pause(Duration::from_secs(30));
    }
    Ok(())
}

fn update(scene: &Scene<'_>, count: &AtomicU64) -> Result<(), String> {
    scene.ask_often(address(5), Duration::from_micros(500), count, |visitor| {
        visitor.ask("increment", "null")
    });
    Ok(())
}

fn read_slowly(scene: &Scene<'_>, count: &AtomicU64) -> Result<(), String> {
    thread::scope(|scope| {
        for offset in [0, 2] {
            scope.spawn(move || {
                scene.pause(Duration::from_secs(offset));
                scene.ask_often(address(6), Duration::from_millis(1), count, |visitor| {
                    visitor.ask("slow_read", "4000")
                });
            });
        }
    });
    Ok(())
}

/// Number of clients that flood at the same time.
const FLOODERS: usize = 4;

fn flood(scene: &Scene<'_>, count: &AtomicU64) -> Result<(), String> {
    let event = visitor::frame(format!("420[\"echo\",\"{}\"]", "x".repeat(7 << 10)).as_bytes());
    let burst = event.repeat(256);
    let flood = || {
        while scene.goes_on() {
            if let Ok(visitor) = Visitor::connect(scene.host, address(7)) {
                let mut stream = visitor.into_stream();
                // The host may close the connection during the write.
                if stream.write_all(&burst).is_ok() {
                    count.fetch_add(1, Ordering::Relaxed);
                }
            }
            scene.pause(Duration::from_millis(500));
        }
    };
    thread::scope(|scope| {
        for _ in 0..FLOODERS {
            scope.spawn(flood);
        }
    });
    Ok(())
}

/// The first bytes of a silent connection.
const BEGINNINGS: [&[u8]; 5] = [
    b"",
    b"P",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Slow: ",
    b"POST /socket.io/?EIO=4&transport=polling&sid=none HTTP/1.1\r\nHost: x\r\nContent-Length: \
      100000\r\n\r\n4",
];

/// Number of silent connections at the same time.
const SILENT: usize = 50;

/// How long the host may keep a silent connection: twice its longest deadline.
const MAX_SILENCE: Duration = Duration::from_secs(180);

fn stay_silent(scene: &Scene<'_>, count: &AtomicU64) -> Result<(), String> {
    let mut held: Vec<Option<(Instant, TcpStream)>> = Vec::new();
    held.resize_with(SILENT, || None);
    while scene.goes_on() {
        for (place, slot) in held.iter_mut().enumerate() {
            if let Some((since, stream)) = slot {
                // Adds one byte to the incomplete request for as long as the host accepts it.
                let is_open = !is_closed(stream)
                    && (place % BEGINNINGS.len() < 3 || stream.write_all(b"x").is_ok());
                if is_open && since.elapsed() > MAX_SILENCE {
                    return Err(format!(
                        "a connection that began with {:?} is open for {} s",
                        BEGINNINGS[place % BEGINNINGS.len()],
                        since.elapsed().as_secs()
                    ));
                }
                if is_open {
                    continue;
                }
            }
            *slot = visitor::tcp(scene.host, address(8)).ok().and_then(|mut stream| {
                stream.write_all(BEGINNINGS[place % BEGINNINGS.len()]).ok()?;
                stream.set_nonblocking(true).ok()?;
                count.fetch_add(1, Ordering::Relaxed);
                Some((Instant::now(), stream))
            });
        }
        scene.pause(Duration::from_secs(2));
    }
    Ok(())
}

/// Whether the host has closed a non-blocking connection.
fn is_closed(stream: &mut TcpStream) -> bool {
    match stream.read(&mut [0; 4096]) {
        Ok(0) => true,
        Ok(_) => false,
        Err(error) => error.kind() != ErrorKind::WouldBlock,
    }
}

fn come_and_go(scene: &Scene<'_>, count: &AtomicU64) -> Result<(), String> {
    while scene.goes_on() {
        // Answers of other plugins must not wait for the sleeping plugin.
        if let Ok(mut visitor) = Visitor::connect(scene.host, address(9)) {
            let began = Instant::now();
            let answer = visitor.ask("ping", r#"{"timestamp":1}"#);
            if answer.is_ok_and(|answer| answer.starts_with(r#"{"timestamp""#)) {
                count.fetch_add(1, Ordering::Relaxed);
            }
            if began.elapsed() > FIRST_ANSWER {
                return Err(format!(
                    "the first answer of a new connection took {} ms",
                    began.elapsed().as_millis()
                ));
            }
        }
        scene.pause(Duration::from_millis(100));
    }
    Ok(())
}

/// How long the first answer to a new connection may take: less than the plugin sleeps in
/// `$connect`.
const FIRST_ANSWER: Duration = Duration::from_secs(4);

fn remove_for_a_moment(scene: &Scene<'_>, count: &AtomicU64) -> Result<(), String> {
    let file = format!("{ABSENT}.wasm");
    let (there, away) = (scene.plugins.join(&file), scene.aside.join(&file));
    scene.api.post(&format!("/api/plugins/{ABSENT}/disable"))?;
    while scene.goes_on() {
        std::fs::rename(&there, &away).map_err(|error| format!("{file}: {error}"))?;
        thread::sleep(Duration::from_millis(300));
        std::fs::rename(&away, &there).map_err(|error| format!("{file}: {error}"))?;
        let until = Instant::now() + Duration::from_secs(10);
        let mut state = String::new();
        while state != "disabled" && Instant::now() < until {
            thread::sleep(Duration::from_millis(100));
            state = scene.api.state_of(ABSENT)?;
        }
        if state != "disabled" {
            return Err(format!(
                "the operator disabled `{ABSENT}`; after its file came back it was `{state}`"
            ));
        }
        count.fetch_add(1, Ordering::Relaxed);
        scene.pause(Duration::from_secs(5));
    }
    scene.api.post(&format!("/api/plugins/{ABSENT}/enable"))
}

/// How often a version is awaited before it is replaced all the same.
const MOST_LOOKS: usize = 10;

/// Replaces a plugin once a second, or less often if the host serves a version only later: a busy
/// host compiles slowly, and gives up what is replaced meanwhile. Counts the versions that the host
/// has begun to serve, not the files.
fn reload(scene: &Scene<'_>, count: &AtomicU64) -> Result<(), String> {
    let mut served = scene.api.digest_of("chameleon")?;
    while scene.goes_on() {
        for version in scene.versions {
            let staged = scene.aside.join("chameleon");
            let placed = std::fs::write(&staged, version)
                .and_then(|()| std::fs::rename(&staged, scene.plugins.join("chameleon.wasm")));
            placed.map_err(|error| format!("chameleon.wasm: {error}"))?;
            for _ in 0..MOST_LOOKS {
                scene.pause(Duration::from_secs(1));
                let serving = scene.api.digest_of("chameleon")?;
                if serving != served {
                    count.fetch_add(1, Ordering::Relaxed);
                    served = serving;
                    break;
                }
                if !scene.goes_on() {
                    break;
                }
            }
        }
    }
    Ok(())
}
