//! Fan-out of one message to many receivers: measures the cost of a delivery, and checks that each
//! receiver gets each message once and in order.

use std::collections::VecDeque;
use std::io::Write;
use std::time::{Duration, Instant};

use crate::driver::{Driver, PATIENCE};
use crate::question::number_after;
use crate::sequence::{Faults, Sequence};
use crate::servers::{Server, cpu_time};

/// The text of a message beside its number: short, like one that a user would write.
const TEXT: &str = "The quick brown fox jumps over the lazy dog, and the dog does not mind.";

/// The results of one measured time.
#[derive(Debug)]
pub(crate) struct Spread {
    /// Processor time of the server per delivery, in microseconds. The cost of the message itself
    /// is divided among its deliveries.
    pub(crate) cpu: f64,
    /// Deliveries per second.
    pub(crate) rate: f64,
    /// Milliseconds from the send until the last receiver has the message, median.
    pub(crate) last_ms: f64,
    pub(crate) faults: Faults,
}

struct Spreading {
    driver: Driver,
    /// The received messages of each receiver, by the index of its connection.
    received: Vec<Sequence>,
    acks: Sequence,
    /// Messages that have not reached all receivers, from the number `first` on: when each was sent
    /// and how many receivers have it.
    under_way: VecDeque<(Instant, usize)>,
    first: u64,
    done: Vec<f64>,
    deliveries: u64,
    wrong: u64,
}

/// Measures `receivers` connections that all receive the messages of one more connection. That
/// connection always has `in_flight` messages under way.
pub(crate) fn spread(
    server: &Server,
    receivers: usize,
    in_flight: usize,
    warm: Duration,
    time: Duration,
) -> Spread {
    let mut driver = Driver::connect(server.target(), receivers + 1, true);
    for answer in driver.ask_all(0..receivers, "subscribe_event", r#"{"event_type":"memory_logs"}"#)
    {
        assert!(answer.contains("subscribed"), "not subscribed: {answer}");
    }
    let mut spreading = Spreading {
        driver,
        received: (0..receivers).map(|_| Sequence::default()).collect(),
        acks: Sequence::default(),
        under_way: VecDeque::new(),
        first: 0,
        done: Vec::new(),
        deliveries: 0,
        wrong: 0,
    };
    spreading.run(in_flight, warm);
    (spreading.done, spreading.deliveries) = (Vec::new(), 0);
    let (began, before) = (Instant::now(), cpu_time(server.pid()));
    spreading.run(in_flight, time);
    let (took, cpu) = (began.elapsed(), cpu_time(server.pid()).saturating_sub(before));
    spreading.done.sort_unstable_by(f64::total_cmp);
    let mut faults = spreading.acks.faults();
    spreading.received.iter().for_each(|received| faults.add(received.faults()));
    faults.wrong = spreading.wrong;
    faults.closed = spreading.driver.closed();
    let deliveries = spreading.deliveries.max(1) as f64;
    Spread {
        cpu: cpu.as_secs_f64() * 1e6 / deliveries,
        rate: deliveries / took.as_secs_f64(),
        last_ms: spreading.done.get(spreading.done.len() / 2).copied().unwrap_or_default(),
        faults,
    }
}

impl Spreading {
    /// Sends for `time`, then waits until everything has arrived, so that everything that was sent
    /// in the measured time is also received in it.
    fn run(&mut self, in_flight: usize, time: Duration) {
        let began = Instant::now();
        while began.elapsed() < time || (self.is_under_way() && began.elapsed() < time + PATIENCE) {
            if began.elapsed() < time {
                while self.under_way.len().max(self.acks.open()) < in_flight {
                    self.send();
                }
            }
            self.turn();
        }
    }

    fn is_under_way(&self) -> bool {
        !self.under_way.is_empty() || self.acks.open() > 0
    }

    fn send(&mut self) {
        let (now, publisher) = (Instant::now(), self.received.len());
        let number = self.acks.send(now);
        for received in &mut self.received {
            received.send(now);
        }
        self.under_way.push_back((now, 0));
        self.driver.outbox(publisher).frame(|bytes| {
            // Writing into memory can't fail.
            let _ = write!(bytes, "42{number}[\"memory_log_create\",{{\"user_id\":7,\"content\":\"{number} {TEXT}\"}}]");
        });
        self.driver.flush(publisher);
    }

    fn turn(&mut self) {
        let now = Instant::now();
        let (received, acks, under_way, first) =
            (&mut self.received, &mut self.acks, &mut self.under_way, self.first);
        let (deliveries, wrong) = (&mut self.deliveries, &mut self.wrong);
        self.driver.turn(Duration::from_millis(1), |connection, packet, _| {
            if packet.starts_with(b"42[\"memory_log_created\"") {
                let number = number_after(packet, b"\"content\":\"").unwrap_or(u64::MAX);
                match received.get_mut(connection) {
                    Some(received) => {
                        if received.receive(number, now).is_some() {
                            *deliveries += 1;
                            if let Some((_, arrived)) = under_way.get_mut((number - first) as usize)
                            {
                                *arrived += 1;
                            }
                        }
                    }
                    // The sender has not subscribed, so it must not receive the message.
                    None => *wrong += 1,
                }
            } else if let Some(number) =
                packet.strip_prefix(b"43").and_then(|_| number_after(packet, b"43"))
            {
                *wrong += u64::from(packet.windows(9).any(|window| window == b"[{\"error\""));
                acks.receive(number, now);
            }
        });
        while let Some((sent, arrived)) = self.under_way.front()
            && *arrived == self.received.len()
        {
            self.done.push(sent.elapsed().as_secs_f64() * 1e3);
            self.under_way.pop_front();
            self.first += 1;
        }
    }
}
