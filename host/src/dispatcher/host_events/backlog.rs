//! The host events that one plugin has not handled yet, in order and bounded. No I/O: callers
//! report what happened, and ask what to deliver next.
//!
//! - An event that is about no connection, such as `$start`, is delivered alone: after all earlier
//!   events, and before all later ones.
//! - The events of one connection are delivered one at a time, in order. Events of different
//!   connections do not wait for each other.
//! - If too many events wait, all events about connections are dropped. If the plugin listens
//!   for `$resync`, one `$resync` replaces them. It is delivered alone, and covers everything that
//!   happens until its delivery begins.
//! - The changes of rooms wait in a [`Follower`], and not among these events. Those of one room are
//!   delivered one at a time. They have no order relative to events of connections. A `$resync`
//!   that succeeds starts them over: the rooms that are occupied then follow.
//! - A `$resync` that fails is retried with growing delays. Events of connections are delivered
//!   meanwhile.
//! - While the plugin does not serve, the backlog is parked. Events are dropped only above the
//!   bound.
//! - The same applies while the plugin's file is away, until the plugin is forgotten. But if its
//!   last version listens for `$resync`, one `$resync` replaces the events at once, to save memory.

#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sockhop_core::rule::OwnedRooms;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::event::host_event;
use crate::rooms::Follower;

use super::event::{HostEvent, HostEventKind, Recipients};

/// One host event for one plugin.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) event: Arc<HostEvent>,
    /// Held while a task waits for the delivery.
    awaited: Option<TaskTrackerToken>,
}

/// The memory address of a connection. It identifies the connection as long as an event of it
/// exists.
type Address = usize;

impl Pending {
    /// Creates an entry. `awaited` is dropped with it, or when the plugin does not serve.
    pub(super) fn new(event: Arc<HostEvent>, awaited: Option<TaskTrackerToken>) -> Self {
        Self { event, awaited }
    }

    fn address(&self) -> Option<Address> {
        self.event.connection().map(|connection| Arc::as_ptr(connection).addr())
    }
}

/// The first and the longest delay before a failed `$resync` is retried. The delay doubles after
/// each failure. With the default limits, these failures alone come too slowly to open a breaker.
const RESYNC_RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// The host events from which a plugin learns which connections exist.
const OF_CONNECTIONS: [&str; 3] = [host_event::CONNECT, host_event::DISCONNECT, host_event::RESYNC];

/// The result of [`Backlog::attach`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Attached {
    /// Whether the plugin was away until now.
    pub(super) was_away: bool,
    /// Whether this version listens for `$resync`, and for some host event of connections for which
    /// the version before did not. It needs a `$resync`, unless the host has not started.
    pub(super) begins_to_listen: bool,
}

/// The backlogs of plugins, by name.
pub(super) type Backlogs = HashMap<Arc<str>, Backlog>;

/// Returns the backlog whose [`Backlog::plugin`] a task was started with. Returns `None` if the
/// plugin was removed since. If it has come back, it has a new backlog and new tasks: the old ones
/// must not report to it.
pub(super) fn of_task<'backlogs>(
    backlogs: &'backlogs mut Backlogs,
    plugin: &Arc<str>,
) -> Option<&'backlogs mut Backlog> {
    backlogs.get_mut(plugin).filter(|backlog| Arc::ptr_eq(&backlog.plugin, plugin))
}

/// The host events of one plugin.
#[derive(Debug)]
pub(super) struct Backlog {
    plugin: Arc<str>,
    waiting: VecDeque<Pending>,
    /// The connections whose event is being delivered. Each may have one follower: a connection has
    /// two events, `$connect` and `$disconnect`, so never more.
    running: HashMap<Address, Option<Pending>>,
    /// Whether an event that is delivered alone is being delivered.
    exclusive_runs: bool,
    /// The changes of rooms that wait.
    rooms: Arc<Follower>,
    /// The rooms that `rooms` follows.
    owned: OwnedRooms,
    /// The generation in which `owned` was last compared.
    generation: Option<u64>,
    /// Number of changes of rooms that are being delivered.
    running_rooms: usize,
    /// Whether the next event is one about a room, if one is due: they take turns with events of
    /// connections.
    room_is_next: bool,
    /// Whether `$resync` must be delivered.
    needs_resync: bool,
    /// Number of failures of `$resync` since its last success.
    failed_resyncs: u32,
    /// Whether a task waits to retry `$resync`.
    will_retry_resync: bool,
    is_parked: bool,
    /// Whether the plugin's file is away: no version is loaded, and workers end instead of waiting.
    is_away: bool,
    /// The host events for which the plugin's last version listens.
    listens: Vec<&'static str>,
    /// Maximum number of events that may wait while the plugin is away.
    bound_while_away: usize,
    /// Number of tasks that deliver.
    workers: usize,
}

impl Backlog {
    /// Creates an empty backlog for the plugin of this name.
    pub(super) fn new(plugin: Arc<str>) -> Self {
        Self {
            plugin,
            waiting: VecDeque::new(),
            running: HashMap::new(),
            exclusive_runs: false,
            rooms: Arc::default(),
            owned: OwnedRooms::default(),
            generation: None,
            running_rooms: 0,
            room_is_next: false,
            needs_resync: false,
            failed_resyncs: 0,
            will_retry_resync: false,
            is_parked: false,
            is_away: false,
            listens: Vec::new(),
            bound_while_away: 0,
            workers: 0,
        }
    }

    /// The plugin's name. Its allocation identifies the backlog, see [`of_task`].
    pub(super) fn plugin(&self) -> &Arc<str> {
        &self.plugin
    }

    /// The changes of rooms that wait.
    pub(super) fn rooms(&self) -> &Arc<Follower> {
        &self.rooms
    }

    /// Records the generation to which the plugin belongs now. Returns whether it is another one.
    pub(super) fn begin_generation(&mut self, number: u64) -> bool {
        self.generation.replace(number) != Some(number)
    }

    /// Records which rooms belong to the plugin now. Returns whether they are others than before.
    pub(super) fn replace_owned(&mut self, owned: &OwnedRooms) -> bool {
        let is_other = self.owned != *owned;
        if is_other {
            self.owned = owned.clone();
        }
        is_other
    }

    /// Whether nothing is delivered, and nothing waits that can be delivered now.
    pub(super) fn is_settled(&self) -> bool {
        let runs = !self.running.is_empty() || self.exclusive_runs || self.running_rooms > 0;
        let waits = self.needs_resync || self.len() > 0;
        self.is_parked || (!runs && !waits)
    }

    /// Number of events that wait, with the changes of rooms.
    pub(super) fn len(&self) -> usize {
        self.waiting_events() + self.rooms.len()
    }

    /// Number of events that wait, without the changes of rooms.
    fn waiting_events(&self) -> usize {
        self.waiting.len() + self.running.values().flatten().count()
    }

    /// Adds an event. At most `bound` events may wait. Returns the events that will not be
    /// delivered: `$resync` replaces them if the plugin listens for it.
    pub(super) fn push(
        &mut self,
        mut pending: Pending,
        bound: usize,
        listens_for_resync: bool,
    ) -> Vec<Pending> {
        if matches!(pending.event.kind, HostEventKind::Resync) {
            return self.resync();
        }
        if self.is_covered(&pending) {
            return vec![pending];
        }
        if self.is_parked || self.is_away {
            pending.awaited = None;
        }
        self.waiting.push_back(pending);
        // Counting the next events of `running` is worth it only near the bound.
        if self.waiting.len() + self.running.len() > bound && self.waiting_events() > bound {
            self.drop_connection_events(listens_for_resync)
        } else {
            Vec::new()
        }
    }

    /// Whether a `$resync` that has not begun covers the event.
    fn is_covered(&self, pending: &Pending) -> bool {
        self.needs_resync && pending.address().is_some()
    }

    /// Removes and returns the waiting events that are about a connection. None of them will be
    /// delivered. `needs_resync`: whether a `$resync` replaces them.
    pub(super) fn drop_connection_events(&mut self, needs_resync: bool) -> Vec<Pending> {
        self.needs_resync = needs_resync;
        let followers = self.running.values_mut().filter_map(Option::take);
        let (dropped, kept): (VecDeque<_>, _) = self
            .waiting
            .drain(..)
            .chain(followers)
            .partition(|pending| pending.address().is_some());
        self.waiting = kept;
        Vec::from(dropped)
    }

    /// Records that the plugin has missed host events, and must read the connections again. Returns
    /// the events that will not be delivered.
    fn resync(&mut self) -> Vec<Pending> {
        self.drop_connection_events(true)
    }

    /// Takes the next event to deliver. Returns `None` if nothing can be delivered now. At most
    /// `max` deliveries run at once.
    pub(super) fn next(&mut self, max: usize) -> Option<Pending> {
        if self.is_parked || self.is_away || self.exclusive_runs {
            return None;
        }
        while self.running.len() + self.running_rooms < max {
            let is_exclusive =
                self.waiting.front().is_some_and(|pending| pending.address().is_none());
            if is_exclusive || self.needs_resync {
                if self.runs_any() {
                    return None;
                }
                self.exclusive_runs = true;
                if is_exclusive {
                    return self.waiting.pop_front();
                }
                self.needs_resync = false;
                return Some(self.own_event(HostEventKind::Resync));
            }
            if self.waiting.is_empty() || std::mem::take(&mut self.room_is_next) {
                if let Some(change) = self.rooms.take(Instant::now()) {
                    self.running_rooms += 1;
                    return Some(self.own_event(HostEventKind::Room(change)));
                }
            } else {
                self.room_is_next = true;
            }
            let pending = self.waiting.pop_front()?;
            // Never `None`: an event without a connection is exclusive.
            let address = pending.address()?;
            match self.running.get_mut(&address) {
                None => {
                    self.running.insert(address, None);
                    return Some(pending);
                }
                Some(follower) => {
                    debug_assert!(follower.is_none());
                    *follower = Some(pending);
                }
            }
        }
        None
    }

    /// Whether any event is being delivered beside which others may be.
    fn runs_any(&self) -> bool {
        !self.running.is_empty() || self.running_rooms > 0
    }

    /// Returns an event for this plugin alone, for which no task waits.
    fn own_event(&self, kind: HostEventKind) -> Pending {
        let recipient = Recipients::Plugin(Arc::clone(&self.plugin));
        Pending::new(Arc::new(HostEvent::new(kind, recipient)), None)
    }

    /// Records that an event was delivered. For `$resync`, this means a success.
    pub(super) fn done(&mut self, delivered: &Pending) {
        if matches!(delivered.event.kind, HostEventKind::Resync) {
            self.failed_resyncs = 0;
            // Not when it begins: a plugin that fails to handle it keeps what it was told.
            self.rooms.start_over();
        }
        match delivered.event.room() {
            Some(change) => {
                self.running_rooms = self.running_rooms.saturating_sub(1);
                self.rooms.done(change);
            }
            None => self.release(delivered),
        }
    }

    /// Ends a `$resync` that the plugin failed to handle. Returns the delay after which to call
    /// [`Backlog::retry_resync`], or `None` if another task already waits to call it.
    pub(super) fn resync_failed(&mut self) -> Option<Duration> {
        self.exclusive_runs = false;
        let (first, longest) = RESYNC_RETRY;
        let wait = first
            .saturating_mul(1_u32.checked_shl(self.failed_resyncs).unwrap_or(u32::MAX))
            .min(longest);
        self.failed_resyncs = self.failed_resyncs.saturating_add(1);
        (!std::mem::replace(&mut self.will_retry_resync, true)).then_some(wait)
    }

    /// Ends the delay after a failed `$resync`. The `$resync` is due again, unless one has
    /// succeeded meanwhile. Returns the events that will not be delivered.
    pub(super) fn retry_resync(&mut self) -> Vec<Pending> {
        self.will_retry_resync = false;
        if self.failed_resyncs == 0 { Vec::new() } else { self.resync() }
    }

    /// Ends a delivery. The next event of the same connection can then be delivered.
    fn release(&mut self, delivered: &Pending) {
        let Some(address) = delivered.address() else {
            self.exclusive_runs = false;
            return;
        };
        if let Some(Some(follower)) = self.running.remove(&address) {
            self.waiting.push_front(follower);
        }
    }

    /// Parks the backlog, because the plugin does not serve, has no free instance, or its state
    /// can't be used. Nothing is delivered until [`Backlog::resume`], and no task waits for a
    /// delivery. Returns whether the backlog was not parked before, and the events that will not be
    /// delivered.
    pub(super) fn park(&mut self, undelivered: Pending) -> (bool, Vec<Pending>) {
        let dropped = if let Some(change) = undelivered.event.room() {
            self.running_rooms = self.running_rooms.saturating_sub(1);
            self.rooms.put_back(change);
            Vec::new()
        } else if matches!(undelivered.event.kind, HostEventKind::Resync) {
            self.release(&undelivered);
            self.resync()
        } else {
            self.release(&undelivered);
            if self.is_covered(&undelivered) {
                vec![undelivered]
            } else {
                self.waiting.push_front(undelivered);
                Vec::new()
            }
        };
        let followers = self.running.values_mut().flatten();
        self.waiting.iter_mut().chain(followers).for_each(|pending| pending.awaited = None);
        (!std::mem::replace(&mut self.is_parked, true), dropped)
    }

    /// Records that the plugin serves, for which host events it listens, and how many may wait.
    pub(super) fn attach(&mut self, listens: &[&'static str], bound: usize) -> Attached {
        let begins_to_listen = listens.contains(&host_event::RESYNC)
            && OF_CONNECTIONS
                .iter()
                .any(|event| listens.contains(event) && !self.listens.contains(event));
        if self.listens != listens {
            listens.clone_into(&mut self.listens);
        }
        if !listens.contains(&host_event::RESYNC) {
            // If the version before was due a `$resync`, events of connections would count as
            // covered by it.
            self.needs_resync = false;
            self.failed_resyncs = 0;
        }
        self.bound_while_away = bound;
        let was_away = std::mem::replace(&mut self.is_away, false);
        // The worker that waited while it was parked may be gone.
        self.is_parked &= !was_away;
        Attached { was_away, begins_to_listen }
    }

    /// Records that no version of the plugin is loaded now. Nothing is delivered until
    /// [`Backlog::attach`], and no task waits for a delivery. Returns the events that will not be
    /// delivered.
    pub(super) fn detach(&mut self) -> Vec<Pending> {
        if std::mem::replace(&mut self.is_away, true) {
            return Vec::new();
        }
        let followers = self.running.values_mut().flatten();
        self.waiting.iter_mut().chain(followers).for_each(|pending| pending.awaited = None);
        if self.listens.contains(&host_event::RESYNC) { self.resync() } else { Vec::new() }
    }

    /// Adds an event if the plugin is away and its last version listens for it. Returns the events
    /// that will not be delivered, or `None` if this event is not for the plugin, or the next
    /// `$resync` covers it.
    pub(super) fn push_while_away(&mut self, event: &Arc<HostEvent>) -> Option<Vec<Pending>> {
        let pending = Pending::new(Arc::clone(event), None);
        let is_wanted = self.is_away
            && event.is_for_listener(&self.plugin, &self.listens)
            && !self.is_covered(&pending);
        // `false`: a plugin that listens for `$resync` has one due since `detach`, which covers all
        // events of connections.
        is_wanted.then(|| self.push(pending, self.bound_while_away, false))
    }

    /// Unparks the backlog, because the plugin may serve again.
    pub(super) fn resume(&mut self) {
        self.is_parked = false;
    }

    /// Counts one more worker if there is work for it, up to `max`. Returns whether it did.
    pub(super) fn add_worker(&mut self, max: usize) -> bool {
        let can_resync = self.needs_resync && !self.runs_any();
        let may_deliver = !self.is_parked && !self.is_away && !self.exclusive_runs;
        let has_work = may_deliver
            && (can_resync || !self.waiting.is_empty() || self.rooms.is_due(Instant::now()));
        let is_added = has_work && self.workers < max;
        self.workers += usize::from(is_added);
        is_added
    }

    /// Counts one worker less, because a worker has ended.
    pub(super) fn remove_worker(&mut self) {
        self.workers = self.workers.saturating_sub(1);
    }
}
