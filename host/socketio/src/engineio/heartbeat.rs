//! The deadlines of one session: pings and pongs, the connect timeout, unfinished packets.
//!
//! Pure: the session passes the time and executes the returned [`Beat`].
use std::time::Duration;

use tokio::time::Instant;

use super::config::Config;
use super::end::End;

/// The least time until the next check. Without it, settings of zero would make the caller loop.
const LEAST: Duration = Duration::from_millis(1);

/// The longest wait: as good as for ever, and it can be added to any instant without an overflow.
const LONGEST: Duration = Duration::from_secs(86_400 * 365);

/// The instant after `wait`, which may be any setting.
pub(crate) fn after(now: Instant, wait: Duration) -> Instant {
    now + wait.min(LONGEST)
}

#[derive(Debug)]
pub(crate) struct Heartbeat {
    /// The deadline of the pong if `pinged` and no handler runs, otherwise the time of the next
    /// ping.
    due: Instant,
    pinged: bool,
    /// A handler is running: nothing is read, so a missing pong means nothing.
    suspended: bool,
    connect_by: Option<Instant>,
    packet_by: Option<Instant>,
}

/// The next action, and the time of the next check.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Beat {
    Wait(Instant),
    Ping(Instant),
    End(End),
}

impl Heartbeat {
    pub(crate) fn new(now: Instant, config: &Config) -> Self {
        Self {
            due: after(now, config.ping_interval),
            pinged: false,
            suspended: false,
            connect_by: Some(after(now, config.connect_timeout)),
            packet_by: None,
        }
    }

    /// Whether a ping is due or a deadline has passed.
    ///
    /// `alive`: bytes of the client have just been read, and the pong may be among them. So a
    /// missing pong does not end the session: its timeout begins again.
    pub(crate) fn check(&mut self, now: Instant, config: &Config, alive: bool) -> Beat {
        let passed = |by: Option<Instant>| by.is_some_and(|by| by <= now);
        if !self.suspended {
            if passed(self.connect_by) {
                return Beat::End(End::ConnectTimeout);
            }
            if passed(self.packet_by) {
                return Beat::End(End::ReceiveTimeout);
            }
            if self.pinged && self.due <= now {
                if !alive {
                    return Beat::End(End::PingTimeout);
                }
                self.due = after(now, config.ping_timeout);
            }
        }
        if self.due > now {
            return Beat::Wait(self.next());
        }
        // While a handler runs, the client still needs pings, or it would leave.
        let wait = if self.suspended { config.ping_interval } else { config.ping_timeout };
        (self.due, self.pinged) = (after(now, wait.max(LEAST)), true);
        Beat::Ping(self.next())
    }

    fn next(&self) -> Instant {
        let others = [self.connect_by, self.packet_by].into_iter().flatten();
        others.filter(|_| !self.suspended).fold(self.due, Instant::min)
    }

    /// A pong has arrived. It is ignored if no ping is pending. Returns whether the next check is
    /// due earlier than before.
    pub(crate) fn pong(&mut self, now: Instant, config: &Config) -> bool {
        if !self.pinged {
            return false;
        }
        let before = std::mem::replace(&mut self.due, after(now, config.ping_interval));
        self.pinged = false;
        self.due < before
    }

    pub(crate) fn suspend(&mut self) {
        self.suspended = true;
    }

    /// The handler is done: a pong that waits to be read has the whole timeout from now on.
    pub(crate) fn resume(&mut self, now: Instant, config: &Config) {
        self.suspended = false;
        if self.pinged {
            self.due = after(now, config.ping_timeout);
        }
    }

    pub(crate) fn connected(&mut self) {
        self.connect_by = None;
    }

    pub(crate) fn begin_packet(&mut self, now: Instant, config: &Config) {
        self.packet_by = Some(after(now, config.receive_timeout));
    }

    pub(crate) fn finish_packet(&mut self) {
        self.packet_by = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        Config {
            ping_interval: Duration::from_secs(25),
            ping_timeout: Duration::from_secs(20),
            connect_timeout: Duration::from_secs(45),
            receive_timeout: Duration::from_secs(30),
            ..Config::default()
        }
    }

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    /// A heartbeat of a connected client, and the time at which it began.
    fn connected() -> (Heartbeat, Instant) {
        let start = Instant::now();
        let mut heart = Heartbeat::new(start, &config());
        heart.connected();
        (heart, start)
    }

    #[test]
    fn pings_follow_pongs_and_a_missing_pong_ends_the_session() {
        let (mut heart, start) = connected();
        let config = config();
        assert_eq!(heart.check(start + secs(24), &config, false), Beat::Wait(start + secs(25)));
        assert_eq!(heart.check(start + secs(25), &config, false), Beat::Ping(start + secs(45)));
        heart.pong(start + secs(26), &config);
        assert_eq!(heart.check(start + secs(30), &config, false), Beat::Wait(start + secs(51)));
        assert_eq!(heart.check(start + secs(51), &config, false), Beat::Ping(start + secs(71)));
        let end = Beat::End(End::PingTimeout);
        assert_eq!(heart.check(start + secs(71), &config, false), end);
    }

    #[test]
    fn a_client_that_was_just_read_from_has_more_time_for_its_pong() {
        let (mut heart, start) = connected();
        let config = config();
        heart.check(start + secs(25), &config, false);
        assert_eq!(heart.check(start + secs(45), &config, true), Beat::Wait(start + secs(65)));
        let end = Beat::End(End::PingTimeout);
        assert_eq!(heart.check(start + secs(65), &config, false), end);
    }

    #[test]
    fn a_client_that_never_connects_is_ended() {
        let start = Instant::now();
        let mut heart = Heartbeat::new(start, &config());
        heart.check(start + secs(25), &config(), false);
        heart.pong(start + secs(25), &config());
        assert_eq!(heart.check(start + secs(30), &config(), false), Beat::Wait(start + secs(45)));
        let end = Beat::End(End::ConnectTimeout);
        assert_eq!(heart.check(start + secs(45), &config(), true), end);
    }

    #[test]
    fn a_packet_must_be_finished_in_time() {
        let (mut heart, start) = connected();
        heart.begin_packet(start, &config());
        assert_eq!(heart.check(start + secs(25), &config(), true), Beat::Ping(start + secs(30)));
        heart.pong(start + secs(25), &config());
        assert_eq!(heart.check(start + secs(26), &config(), true), Beat::Wait(start + secs(30)));
        let end = Beat::End(End::ReceiveTimeout);
        assert_eq!(heart.check(start + secs(30), &config(), true), end);
        heart.finish_packet();
        assert_eq!(heart.check(start + secs(30), &config(), true), Beat::Wait(start + secs(50)));
    }

    #[test]
    fn a_pong_that_was_not_asked_for_does_not_postpone_the_ping() {
        let (mut heart, start) = connected();
        let config = config();
        assert!(!heart.pong(start + secs(24), &config));
        assert_eq!(heart.check(start + secs(25), &config, false), Beat::Ping(start + secs(45)));
    }

    #[test]
    fn a_pong_brings_the_next_ping_nearer_than_its_own_deadline() {
        let (mut heart, start) = connected();
        let config = Config { ping_timeout: secs(60), ..config() };
        assert_eq!(heart.check(start + secs(25), &config, false), Beat::Ping(start + secs(85)));
        assert!(heart.pong(start + secs(26), &config), "the caller must ask earlier");
        assert_eq!(heart.check(start + secs(51), &config, false), Beat::Ping(start + secs(111)));
    }

    #[test]
    fn settings_may_be_for_ever() {
        let ever = Duration::MAX;
        let config = Config {
            ping_interval: ever,
            connect_timeout: ever,
            receive_timeout: ever,
            ..config()
        };
        let start = Instant::now();
        let mut heart = Heartbeat::new(start, &config);
        heart.begin_packet(start, &config);
        assert_eq!(heart.check(start, &config, false), Beat::Wait(start + LONGEST));
    }

    #[test]
    fn no_setting_makes_a_loop() {
        let zero = Duration::ZERO;
        let config = Config { ping_interval: zero, ping_timeout: zero, ..config() };
        let (mut heart, start) = connected();
        heart.suspend();
        let now = start + secs(25);
        for _ in 0..3 {
            let next = now + LEAST;
            let beat = heart.check(now, &config, true);
            assert!(beat == Beat::Ping(next) || beat == Beat::Wait(next), "{beat:?}");
        }
    }

    #[test]
    fn while_a_handler_runs_pings_go_out_and_nothing_is_missed() {
        let (mut heart, start) = connected();
        let config = config();
        heart.begin_packet(start, &config);
        heart.suspend();
        assert_eq!(heart.check(start + secs(25), &config, false), Beat::Ping(start + secs(50)));
        assert_eq!(heart.check(start + secs(50), &config, false), Beat::Ping(start + secs(75)));
        heart.finish_packet();
        heart.resume(start + secs(60), &config);
        assert_eq!(heart.check(start + secs(60), &config, false), Beat::Wait(start + secs(80)));
        let end = Beat::End(End::PingTimeout);
        assert_eq!(heart.check(start + secs(80), &config, false), end);
    }
}
