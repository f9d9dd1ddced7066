//! The signals that do not stop a running host. Without a handler, each of them would end the
//! process, with all connections, at once.

use std::io;

use sockhop::host::Monitor;

use super::systemd;

/// The text about signals in `serve --help`.
pub(super) const HELP: &str = "\
Signals:
  SIGTERM, SIGINT  stop in steps: report not ready, accept no new clients, finish running events; \
                               a second signal stops at once
  SIGHUP           read the configuration again and apply it, as `sockhop reload` does; scan the \
                               plugin directory now and retry failed plugins
  SIGUSR1          log which plugins serve now
  SIGUSR2          only writes a line to the log
  SIGXFSZ          only writes a line to the log: a write over the limit for file sizes fails, as \
                               on a full disk
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
                    tracing::info!("SIGHUP: reading the configuration again, and scanning the \
                                    plugin directory");
                    systemd::reloading();
                    let is_reloaded = monitor.reload().await;
                    monitor.request_scan();
                    systemd::reloaded(is_reloaded);
                }
                Some(()) = self.user1.recv() => {
                    tracing::info!("SIGUSR1: the plugins that serve now follow");
                    monitor.log_status();
                }
                Some(()) = self.user2.recv() => tracing::info!("SIGUSR2: ignored; stop with \
                                        SIGTERM, reload with SIGHUP"),
                Some(()) = self.file_size.recv() => {
                    tracing::warn!("SIGXFSZ: a write was refused; raise the limit for file sizes \
                                    (`ulimit -f`, LimitFSIZE in systemd)");
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
