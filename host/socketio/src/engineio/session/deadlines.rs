//! The deadlines of a session: it passes events to its heartbeat, and executes what is due.
use std::sync::atomic::Ordering;

use tokio::time::Instant;

use super::Session;
use crate::engineio::end::End;
use crate::engineio::heartbeat::Beat;

/// For applications: the deadlines of the client.
impl Session {
    /// Stops the connect timeout.
    pub fn connected(&self) {
        self.state().heart.connected();
    }

    /// Starts the receive timeout for a packet whose attachments are still to come: unless
    /// [`finish_packet`](Self::finish_packet) is called within [`Config::receive_timeout`], the
    /// session ends with [`End::ReceiveTimeout`].
    ///
    /// [`Config::receive_timeout`]: crate::engineio::Config::receive_timeout
    pub fn begin_packet(&self) {
        self.state().heart.begin_packet(Instant::now(), &self.config);
        self.rearm();
    }

    /// Stops the timeout of [`begin_packet`](Self::begin_packet).
    pub fn finish_packet(&self) {
        self.state().heart.finish_packet();
    }
}

/// For the engine.
impl Session {
    fn rearm(&self) {
        self.rearm.store(true, Ordering::Relaxed);
        self.keeper_wakeup.notify_one();
    }

    /// Whether a deadline may have come nearer since this was last called.
    pub(crate) fn take_rearm(&self) -> bool {
        self.rearm.load(Ordering::Relaxed) && self.rearm.swap(false, Ordering::Relaxed)
    }

    /// Sends a ping if it is due. Returns when to ask again. `alive`: something has just been read
    /// from the client.
    ///
    /// # Errors
    ///
    /// The session's end, also if a deadline has just passed.
    pub(crate) fn beat(&self, alive: bool) -> Result<Instant, End> {
        let mut state = self.state();
        if let Some(end) = state.end {
            return Err(end);
        }
        let next = match state.heart.check(Instant::now(), &self.config, alive) {
            Beat::Wait(next) => return Ok(next),
            Beat::Ping(next) => next,
            Beat::End(end) => {
                self.end_with(&mut state, end);
                return Err(end);
            }
        };
        drop(state);
        self.packet(b'2', b"");
        self.flush();
        Ok(next)
    }

    pub(crate) fn pong(&self) {
        let nearer = self.state().heart.pong(Instant::now(), &self.config);
        if nearer {
            self.rearm();
        }
    }

    /// A handler takes longer than a moment: nothing is read until [`resume`](Self::resume).
    pub(crate) fn suspend(&self) {
        self.state().heart.suspend();
    }

    pub(crate) fn resume(&self) {
        self.state().heart.resume(Instant::now(), &self.config);
        self.rearm();
    }
}
