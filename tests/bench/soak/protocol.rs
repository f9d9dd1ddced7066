//! What strangers do to the Socket.IO layer itself: packets that are almost right, and clients that
//! leave, return, upgrade and break off at any moment.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, TcpStream};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use fastrand::Rng;
use socket2::SockRef;

use crate::polling::Polling;
use crate::visitor::{self, Visitor, address};

use super::abuse::Scene;

/// WebSocket frames that are right, and some that never are.
const FRAMES: [&[u8]; 9] = [
    b"\x81\x8f\0\0\0\x0042[\"echo\",\"hi\"]",
    b"\x81\x91\0\0\0\x00420[\"echo\",[1,2]]",
    b"\x01\x84\0\0\0\x0042[\"\x80\x86\0\0\0\0echo\"]",
    b"\x81\xab\0\0\0\x00451-3[\"echo\",{\"_placeholder\":true,\"num\":0}]",
    b"\x82\x84\0\0\0\0abcd",
    b"\x89\x82\0\0\0\0hi",
    b"\x81\x82\0\0\0\x0041\x81\x82\0\0\0\x0040",
    b"\x81\x81\0\0\0\x006\x81\x81\0\0\0\x003",
    b"\x88\x82\0\0\0\0\x03\xe8",
];

/// The bodies of polling requests.
const BODIES: [&[u8]; 6] = [
    b"40",
    b"42[\"echo\",1]",
    b"40\x1e420[\"echo\",1]\x1e3",
    b"451-[\"echo\",{\"_placeholder\":true,\"num\":0}]\x1ebAQIDBA==",
    b"41\x1e40\x1e41",
    b"6\x1e2probe",
];

/// Requests, each whole.
const REQUESTS: [&[u8]; 4] = [
    b"GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nHost: x\r\n\r\n",
    b"POST /socket.io/?EIO=4&transport=polling&sid=AAAAAAAAAAAAAAAAAAAA HTTP/1.1\r\nHost: \
      x\r\nContent-Length: 2\r\n\r\n40",
    b"GET /socket.io/?EIO=3&transport=websocket HTTP/1.1\r\nHost: x\r\nConnection: \
      Upgrade\r\nUpgrade: websocket\r\n\
      Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: c29ja2hvcC1iZW5jaG1rIQ==\r\n\r\n",
    b"OPTIONS /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nHost: x\r\nOrigin: \
      http://x\r\nAccess-Control-Request-Method: POST\r\n\r\n",
];

/// Bytes that mean something to a parser.
const TELLING: &[u8] = b"0123456789-/,?[]{}\"\\:b\x1e\x80\x81\x82\x88\xff\x7e\x7f\r\n";

/// Changes some bytes of one of `seeds`, or none.
fn mutated(random: &mut Rng, seeds: &[&[u8]]) -> Vec<u8> {
    let any = |random: &mut Rng| seeds[random.usize(..seeds.len())];
    let mut bytes = any(random).to_vec();
    for _ in 0..random.usize(..5) {
        let at = random.usize(..=bytes.len());
        match random.u8(..5) {
            0 if at < bytes.len() => bytes[at] ^= random.u8(1..),
            1 => bytes.insert(at, TELLING[random.usize(..TELLING.len())]),
            2 => drop(bytes.drain(part(random, bytes.len()))),
            3 => {
                let range = part(random, bytes.len());
                let repeated = bytes[range.clone()].repeat(random.usize(..4));
                bytes.splice(range, repeated);
            }
            _ => {
                let other = any(random);
                bytes.truncate(at);
                bytes.extend_from_slice(&other[random.usize(..other.len())..]);
            }
        }
    }
    bytes
}

fn part(random: &mut Rng, length: usize) -> Range<usize> {
    let (from, to) = (random.usize(..=length), random.usize(..=length));
    from.min(to)..from.max(to)
}

/// How long a stranger looks whether an answer comes.
const LOOK: Duration = Duration::from_millis(50);

/// How often each of the strangers does something.
const PACE: Duration = Duration::from_millis(50);

/// Addresses of those who send what is almost right, and of the others.
const MUTATORS: IpAddr = address(10);
const WANDERERS: IpAddr = address(11);

/// WebSocket frames that are almost right.
pub(super) fn mutate_frames(scene: &Scene<'_>, count: &AtomicU64) -> Result<(), String> {
    stranger(scene, count, 1, |random| {
        let mut stream = Visitor::connect(scene.host, MUTATORS)?.into_stream();
        for _ in 0..random.usize(1..6) {
            stream.write_all(&mutated(random, &FRAMES))?;
        }
        look(&mut stream);
        Ok(())
    })
}

/// Bodies of polling requests that are almost right.
pub(super) fn mutate_bodies(scene: &Scene<'_>, count: &AtomicU64) -> Result<(), String> {
    stranger(scene, count, 2, |random| {
        let mut session = Polling::open(scene.host, MUTATORS)?;
        let sent = session
            .post(&mutated(random, &BODIES))
            .and_then(|_| session.post(&mutated(random, &BODIES)));
        // The session takes one of the host's slots, so it is closed in any case.
        let _ = sent.and_then(|_| session.post(b"1"));
        Ok(())
    })
}

/// Requests that are almost right.
pub(super) fn mutate_requests(scene: &Scene<'_>, count: &AtomicU64) -> Result<(), String> {
    stranger(scene, count, 3, |random| {
        let mut stream = visitor::tcp(scene.host, MUTATORS)?;
        stream.write_all(&mutated(random, &REQUESTS))?;
        look(&mut stream);
        Ok(())
    })
}

/// Leaves the namespace and returns, with events under way: CONNECT is answered each time.
pub(super) fn leave_and_return(scene: &Scene<'_>, count: &AtomicU64) -> Result<(), String> {
    stranger(scene, count, 4, |_| {
        let mut visitor = Visitor::connect(scene.host, WANDERERS)?;
        let packets = [&b"420[\"echo\",1]"[..], b"41", b"40", b"421[\"echo\",2]", b"41", b"40"];
        let frames: Vec<u8> = packets.into_iter().flat_map(visitor::frame).collect();
        let answered = visitor
            .write(&frames)
            .and_then(|()| visitor.greeting())
            .and_then(|()| visitor.greeting());
        let asked = answered.and_then(|()| visitor.ask("ping", PING).map(drop));
        asked.map_err(|error| {
            Fault::Broken(format!("a client that left and returned is not served: {error}"))
        })
    })
}

/// Leaves and returns, and breaks off before the answer.
pub(super) fn break_off(scene: &Scene<'_>, count: &AtomicU64) -> Result<(), String> {
    stranger(scene, count, 5, |random| {
        let mut visitor = Visitor::connect(scene.host, WANDERERS)?;
        let packets = [&b"41"[..], b"40", b"41"];
        let frames: Vec<u8> =
            packets.into_iter().take(random.usize(1..=3)).flat_map(visitor::frame).collect();
        visitor.write(&frames)?;
        abort(visitor.into_stream(), random);
        Ok(())
    })
}

/// Claims the session of another client on a second TCP connection: the session goes on as it was.
pub(super) fn claim(scene: &Scene<'_>, count: &AtomicU64) -> Result<(), String> {
    stranger(scene, count, 6, |random| {
        let mut session = Polling::open(scene.host, WANDERERS)?;
        session.post(b"40")?;
        let mut thief = Visitor::open(scene.host, WANDERERS, &session.sid)?;
        thief.write(&mutated(random, &FRAMES))?;
        abort(thief.into_stream(), random);
        let status = session.post(b"420[\"echo\",1]")?;
        session.post(b"1")?;
        if status == 200 {
            Ok(())
        } else {
            Err(Fault::Broken(format!(
                "a session that a second connection claimed answers {status}"
            )))
        }
    })
}

/// Goes from polling to WebSocket, and is served there.
pub(super) fn upgrade(scene: &Scene<'_>, count: &AtomicU64) -> Result<(), String> {
    stranger(scene, count, 7, |_| {
        let mut session = Polling::open(scene.host, WANDERERS)?;
        session.post(b"40")?;
        let mut visitor = Visitor::open(scene.host, WANDERERS, &session.sid)?;
        let probed = visitor
            .send(b"2probe")
            .and_then(|()| visitor.probed())
            .and_then(|()| visitor.send(b"5"));
        let asked = probed.and_then(|()| visitor.ask("ping", PING).map(drop));
        asked.map_err(|error| {
            Fault::Broken(format!("a client that was upgraded is not served: {error}"))
        })
    })
}

/// Breaks off on the way from polling to WebSocket.
pub(super) fn break_off_upgrade(scene: &Scene<'_>, count: &AtomicU64) -> Result<(), String> {
    stranger(scene, count, 8, |random| {
        let mut session = Polling::open(scene.host, WANDERERS)?;
        session.post(b"40")?;
        let mut visitor = Visitor::open(scene.host, WANDERERS, &session.sid)?;
        let steps = random.u8(..3);
        if steps > 0 {
            visitor.send(b"2probe")?;
        }
        if steps > 1 {
            visitor.probed()?;
            visitor.send(b"5")?;
        }
        abort(visitor.into_stream(), random);
        // Where the upgrade was complete, the session is gone already.
        let _ = session.post(b"1");
        Ok(())
    })
}

const PING: &str = r#"{"timestamp":1}"#;

/// Why a stranger gave up.
enum Fault {
    /// The host has ended the connection, or refused it: it may.
    Ended,
    /// What the host must not do.
    Broken(String),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => {
                Self::Broken("the host neither answers nor closes the connection".to_owned())
            }
            _ => Self::Ended,
        }
    }
}

/// Does the same again and again.
fn stranger(
    scene: &Scene<'_>,
    count: &AtomicU64,
    seed: u64,
    act: impl Fn(&mut Rng) -> Result<(), Fault>,
) -> Result<(), String> {
    let mut random = Rng::with_seed(seed);
    while scene.goes_on() {
        match act(&mut random) {
            Ok(()) => {
                count.fetch_add(1, Ordering::Relaxed);
            }
            Err(Fault::Ended) => {}
            Err(Fault::Broken(what)) => return Err(what),
        }
        scene.pause(PACE);
    }
    Ok(())
}

/// Reads what comes, for a moment.
fn look(stream: &mut TcpStream) {
    let _ = stream.set_read_timeout(Some(LOOK));
    let _ = stream.read(&mut [0; 4096]);
}

/// Closes a connection: in order, or by a reset.
fn abort(stream: TcpStream, random: &mut Rng) {
    if random.bool() {
        let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
    }
    drop(stream);
}
