//! The signals that do not stop a running host. Without a handler, each of them would end the
//! process, with all connections, at once.

use std::io;

use sockhop::host::Monitor;

/// The text about signals in `serve --help`.
pub(super) const HELP: &str = "\
Signals:
  SIGTERM, SIGINT  stop in order: not ready, then no new clients, then what was begun is ended; a second one stops at once
  SIGHUP           look at the plugin directory now, and try again what failed (the configuration is read at the start only)
  SIGUSR1          write to the log what is active now
  SIGUSR2          nothing but a line in the log
  SIGXFSZ          nothing but a line in the log: the write that meets the limit for file sizes fails, as on a full disk
  SIGPIPE          ignored";

/// The streams of the signals. A signal that arrives before [`follow`](Signals::follow) is handled
/// by it.
#[cfg(unix)]
pub(super) struct Signals {
    hangup: tokio::signal::unix::Signal,
    user1: tokio::signal::unix::Signal,
    user2: tokio::signal::unix::Signal,
    file_size: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    /// Registers the handlers of the signals.
    pub(super) fn take() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let take = |kind: SignalKind| signal(kind);
        Ok(Self {
            hangup: take(SignalKind::hangup())?,
            user1: take(SignalKind::user_defined1())?,
            user2: take(SignalKind::user_defined2())?,
            file_size: take(SignalKind::from_raw(libc::SIGXFSZ))?,
        })
    }

    /// Handles the signals until the host ends.
    pub(super) async fn follow(mut self, monitor: Monitor) {
        loop {
            tokio::select! {
                Some(()) = self.hangup.recv() => {
                    tracing::info!("SIGHUP: looking at the plugin directory now; the configuration is read at the start only");
                    monitor.request_scan();
                }
                Some(()) = self.user1.recv() => {
                    tracing::info!("SIGUSR1: what is served now follows");
                    monitor.log_status();
                }
                Some(()) = self.user2.recv() => tracing::info!("SIGUSR2: ignored; stop with SIGTERM, look at the plugin directory with SIGHUP"),
                Some(()) = self.file_size.recv() => {
                    tracing::warn!("SIGXFSZ: a write was refused; raise the limit for file sizes (`ulimit -f`, LimitFSIZE in systemd)");
                }
                else => return,
            }
        }
    }
}

/// Other systems have none of these signals.
#[cfg(not(unix))]
pub(super) struct Signals;

#[cfg(not(unix))]
impl Signals {
    pub(super) fn take() -> io::Result<Self> {
        Ok(Self)
    }

    pub(super) async fn follow(self, _: Monitor) {}
}
