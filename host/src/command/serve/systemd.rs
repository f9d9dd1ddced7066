//! Tells systemd (`Type=notify`) that the host is ready, is alive and stops. Without systemd,
//! nothing happens.

use std::time::Duration;

use sd_notify::NotifyState;

/// How long systemd waits for a stop, in addition to the limits of the host.
const STOP_MARGIN: Duration = Duration::from_secs(10);

/// Tells systemd that the host serves.
pub(super) fn ready(connections: usize) {
    notify(&[
        NotifyState::Ready,
        NotifyState::Status(&format!("serves up to {connections} connections")),
    ]);
}

/// Tells systemd (`Type=notify-reload`) that the host reads its configuration again.
pub(super) fn reloading() {
    // Without the time, systemd would take the reload for failed.
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!(%error, "systemd is not told of the reload"),
    }
}

/// Tells systemd that the reload has ended. systemd takes every reload for done, so the status says
/// if nothing has changed.
pub(super) fn reloaded(is_reloaded: bool) {
    let status = if is_reloaded {
        "configuration reloaded"
    } else {
        "configuration refused, see the log; the one before stays in use"
    };
    notify(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// Tells systemd that the host stops, and how long that may take.
pub(super) fn stopping(at_most: Duration) {
    let micros = (at_most + STOP_MARGIN).as_micros();
    let micros = u32::try_from(micros).unwrap_or(u32::MAX);
    notify(&[NotifyState::Stopping, NotifyState::ExtendTimeoutUsec(micros)]);
}

/// Tells systemd that the host is alive, twice in the time of the watchdog (`WatchdogSec`). If the
/// runtime hangs, this task does not run, and systemd restarts the host. Returns at once if there
/// is no watchdog.
pub(super) async fn watchdog() {
    let mut micros = 0;
    if !sd_notify::watchdog_enabled(false, &mut micros) {
        return;
    }
    let period = Duration::from_micros(micros / 2).max(Duration::from_millis(10));
    let mut interval = tokio::time::interval(period);
    loop {
        interval.tick().await;
        notify(&[NotifyState::Watchdog]);
    }
}

fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(false, state) {
        tracing::warn!(%error, "systemd is not told of the host's state");
    }
}
