//! The host events that one plugin has not handled yet, in order and bounded. No I/O: callers
//! report what happened, and ask what to deliver next.
//!
//! - `$start` is delivered first, and alone.
//! - The events of one connection are delivered one at a time, in order. Events of different
//!   connections do not wait for each other.
//! - If too many events wait, all of them except `$start` are dropped. If the plugin listens for
//!   `$resync`, one `$resync` replaces them. It is delivered alone, and covers everything that
//!   happens until its delivery begins.
//! - A `$resync` that fails is retried with growing delays. Events of connections are delivered
//!   meanwhile.
//! - While the plugin does not serve, the backlog is parked. Only the bound drops events.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::event::{Connection, host_event};

/// The kind of a host event, except `$resync`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Start,
    Connect,
    Disconnect,
}

impl Kind {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Start => host_event::START,
            Self::Connect => host_event::CONNECT,
            Self::Disconnect => host_event::DISCONNECT,
        }
    }
}

/// One host event for one plugin.
#[derive(Debug)]
pub(super) struct HostEvent {
    pub(super) kind: Kind,
    /// `None` for `$start`.
    pub(super) connection: Option<Arc<Connection>>,
    pub(super) at: SystemTime,
    /// Held while a task waits for the delivery.
    pub(super) awaited: Option<TaskTrackerToken>,
}

/// The memory address of a connection: its identity while an event holds it.
type Address = usize;

impl HostEvent {
    fn address(&self) -> Option<Address> {
        self.connection.as_ref().map(|connection| Arc::as_ptr(connection).addr())
    }
}

/// The next delivery.
#[derive(Debug)]
pub(super) enum Delivery {
    Event(HostEvent),
    Resync,
}

/// The first and the longest delay before a failed `$resync` is retried. The delay doubles after
/// each failure. Failures at this rate are too few to open a breaker with the default limits by
/// themselves.
const RESYNC_RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// The host events of one plugin.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    waiting: VecDeque<HostEvent>,
    /// The connections whose event is being delivered, each with its next event.
    running: HashMap<Address, Option<HostEvent>>,
    /// Whether `$start` or `$resync` is being delivered.
    is_alone: bool,
    /// Whether `$resync` must be delivered.
    needs_resync: bool,
    /// Number of failures of `$resync` since its last success.
    failed_resyncs: u32,
    /// Whether a task waits to retry `$resync`.
    will_retry_resync: bool,
    is_parked: bool,
    /// Number of tasks that deliver.
    workers: usize,
}

impl Backlog {
    /// Number of events that wait.
    pub(super) fn len(&self) -> usize {
        self.waiting.len() + self.running.values().flatten().count()
    }

    /// Adds an event. At most `bound` events may wait. Returns the events that will not be
    /// delivered: `$resync` replaces them if the plugin listens for it.
    pub(super) fn push(
        &mut self,
        mut event: HostEvent,
        bound: usize,
        listens_for_resync: bool,
    ) -> Vec<HostEvent> {
        if self.needs_resync && event.kind != Kind::Start {
            return vec![event];
        }
        if self.is_parked {
            event.awaited = None;
        }
        self.waiting.push_back(event);
        // Counting the next events of `running` is worth it only near the bound.
        if self.waiting.len() + self.running.len() > bound && self.len() > bound {
            self.overflow(listens_for_resync)
        } else {
            Vec::new()
        }
    }

    fn overflow(&mut self, listens_for_resync: bool) -> Vec<HostEvent> {
        self.needs_resync = listens_for_resync;
        let followers = self.running.values_mut().filter_map(Option::take);
        let (start, dropped) =
            self.waiting.drain(..).chain(followers).partition(|event| event.kind == Kind::Start);
        self.waiting = start;
        Vec::from(dropped)
    }

    /// Records that the plugin has missed host events, and must read the connections again. Returns
    /// the events that will not be delivered.
    pub(super) fn resync(&mut self) -> Vec<HostEvent> {
        self.overflow(true)
    }

    /// Returns the next delivery, or `None` if nothing can be delivered now. At most `most`
    /// deliveries run at once.
    pub(super) fn next(&mut self, most: usize) -> Option<Delivery> {
        if self.is_parked || self.is_alone {
            return None;
        }
        while self.running.len() < most {
            let is_start = self.waiting.front().is_some_and(|event| event.kind == Kind::Start);
            if is_start || self.needs_resync {
                if !self.running.is_empty() {
                    return None;
                }
                self.is_alone = true;
                if is_start {
                    return self.waiting.pop_front().map(Delivery::Event);
                }
                self.needs_resync = false;
                return Some(Delivery::Resync);
            }
            let event = self.waiting.pop_front()?;
            let address = event.address()?;
            match self.running.get_mut(&address) {
                None => {
                    self.running.insert(address, None);
                    return Some(Delivery::Event(event));
                }
                Some(follower) => *follower = Some(event),
            }
        }
        None
    }

    /// Ends a delivery. For `$resync`, this means a success.
    pub(super) fn done(&mut self, delivery: &Delivery) {
        if matches!(delivery, Delivery::Resync) {
            self.failed_resyncs = 0;
        }
        self.release(delivery);
    }

    /// Ends a `$resync` that the plugin failed to handle. Returns the delay after which to call
    /// [`Backlog::retry_resync`], or `None` if another task already waits to call it.
    pub(super) fn resync_failed(&mut self) -> Option<Duration> {
        self.release(&Delivery::Resync);
        let (first, longest) = RESYNC_RETRY;
        let wait = first
            .saturating_mul(1_u32.checked_shl(self.failed_resyncs).unwrap_or(u32::MAX))
            .min(longest);
        self.failed_resyncs = self.failed_resyncs.saturating_add(1);
        (!std::mem::replace(&mut self.will_retry_resync, true)).then_some(wait)
    }

    /// Ends the delay after a failed `$resync`. The `$resync` is due again, unless one has
    /// succeeded meanwhile. Returns the events that will not be delivered.
    pub(super) fn retry_resync(&mut self) -> Vec<HostEvent> {
        self.will_retry_resync = false;
        if self.failed_resyncs == 0 { Vec::new() } else { self.resync() }
    }

    fn release(&mut self, delivery: &Delivery) {
        match delivery {
            Delivery::Event(event) => match event.address() {
                None => self.is_alone = false,
                Some(address) => {
                    if let Some(Some(follower)) = self.running.remove(&address) {
                        self.waiting.push_front(follower);
                    }
                }
            },
            Delivery::Resync => self.is_alone = false,
        }
    }

    /// Parks the backlog, because the plugin does not serve. Nothing is delivered until
    /// [`Backlog::resume`], and no task waits for a delivery. Returns whether the backlog was not
    /// parked before, and the events that will not be delivered.
    pub(super) fn park(&mut self, delivery: Delivery) -> (bool, Vec<HostEvent>) {
        self.release(&delivery);
        let dropped = match delivery {
            Delivery::Resync => self.resync(),
            Delivery::Event(event) if self.needs_resync && event.kind != Kind::Start => vec![event],
            Delivery::Event(event) => {
                self.waiting.push_front(event);
                Vec::new()
            }
        };
        let followers = self.running.values_mut().flatten();
        self.waiting.iter_mut().chain(followers).for_each(|event| event.awaited = None);
        (!std::mem::replace(&mut self.is_parked, true), dropped)
    }

    /// Unparks the backlog, because the plugin may serve again.
    pub(super) fn resume(&mut self) {
        self.is_parked = false;
    }

    /// Counts one more worker if there is work for it, up to `most`. Returns whether it did.
    pub(super) fn hire(&mut self, most: usize) -> bool {
        let can_resync = self.needs_resync && self.running.is_empty();
        let has_work =
            !self.is_parked && !self.is_alone && (can_resync || !self.waiting.is_empty());
        let hires = has_work && self.workers < most;
        self.workers += usize::from(hires);
        hires
    }

    /// Counts one worker less, because a worker has ended.
    pub(super) fn leave(&mut self) {
        self.workers = self.workers.saturating_sub(1);
    }

    /// Returns all waiting events except `$start`. None of them will be delivered.
    pub(super) fn into_dropped(mut self) -> Vec<HostEvent> {
        self.overflow(false)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;
    use crate::event::Identity;

    const BOUND: usize = 12;
    const MOST: usize = 3;

    fn connection(number: usize) -> Arc<Connection> {
        Arc::new(Connection::new(
            String::new(),
            number.to_string(),
            "/".into(),
            Arc::new(Identity::default()),
            None,
        ))
    }

    fn event(kind: Kind, connection: &Arc<Connection>) -> HostEvent {
        HostEvent {
            kind,
            connection: Some(Arc::clone(connection)),
            at: SystemTime::UNIX_EPOCH,
            awaited: None,
        }
    }

    /// The connections that a plugin believes to be open, from the events that it was told.
    #[derive(Default)]
    struct Told {
        connected: HashMap<String, bool>,
    }

    impl Told {
        fn handle(&mut self, event: &HostEvent) {
            let id = event.connection.as_ref().unwrap().public_id.clone();
            match event.kind {
                Kind::Connect => {
                    assert_eq!(self.connected.insert(id, true), None, "connected once")
                }
                Kind::Disconnect => assert_eq!(
                    self.connected.insert(id, false),
                    Some(true),
                    "disconnected once, after it was connected"
                ),
                Kind::Start => {}
            }
        }
    }

    #[test]
    fn what_waits_for_a_connection_does_not_keep_others_waiting() {
        let mut backlog = Backlog::default();
        let (slow, quick) = (connection(1), connection(2));
        for (kind, connection) in
            [(Kind::Connect, &slow), (Kind::Disconnect, &slow), (Kind::Connect, &quick)]
        {
            assert!(backlog.push(event(kind, connection), BOUND, true).is_empty());
        }
        let first = backlog.next(MOST).unwrap();
        let second = backlog.next(MOST).unwrap();
        assert!(matches!((&first, &second), (Delivery::Event(first), Delivery::Event(second))
            if first.kind == Kind::Connect && second.connection.as_ref().unwrap().public_id == "2"));
        assert!(backlog.next(MOST).is_none(), "the end of a connection waits for its begin");
        backlog.done(&first);
        assert!(
            matches!(backlog.next(MOST), Some(Delivery::Event(event)) if event.kind == Kind::Disconnect)
        );
    }

    #[test]
    fn start_is_delivered_first_and_alone() {
        let mut backlog = Backlog::default();
        backlog.push(
            HostEvent {
                kind: Kind::Start,
                connection: None,
                at: SystemTime::UNIX_EPOCH,
                awaited: None,
            },
            BOUND,
            true,
        );
        for number in 0..=BOUND {
            backlog.push(event(Kind::Connect, &connection(number)), BOUND, true);
        }
        let start = backlog.next(MOST).unwrap();
        assert!(matches!(&start, Delivery::Event(event) if event.kind == Kind::Start));
        assert!(backlog.next(MOST).is_none());
        backlog.done(&start);
        assert!(matches!(backlog.next(MOST), Some(Delivery::Resync)));
    }

    #[test]
    fn a_resync_that_fails_is_tried_again_after_growing_waits_until_it_succeeds() {
        let mut backlog = Backlog::default();
        backlog.resync();
        let mut waits = Vec::new();
        for _ in 0..40 {
            assert!(matches!(backlog.next(MOST), Some(Delivery::Resync)));
            waits.push(backlog.resync_failed().unwrap().as_secs());
            assert!(
                backlog.push(event(Kind::Connect, &connection(1)), BOUND, true).is_empty(),
                "it is told meanwhile"
            );
            let connect = backlog.next(MOST).unwrap();
            assert!(matches!(&connect, Delivery::Event(_)));
            backlog.done(&connect);
            backlog.push(event(Kind::Connect, &connection(2)), BOUND, true);
            assert_eq!(
                backlog.retry_resync().len(),
                1,
                "the connections that are read stand for it"
            );
        }
        assert_eq!(waits[..8], [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(waits[39], 60);
        // A failure while another retry is pending has no delay of its own.
        assert!(backlog.next(MOST).is_some() && backlog.resync_failed().is_some());
        backlog.resync();
        assert!(backlog.next(MOST).is_some() && backlog.resync_failed().is_none());
        // A `$resync` that was parked because the plugin does not serve is not a success.
        backlog.resync();
        let delivery = backlog.next(MOST).unwrap();
        backlog.park(delivery);
        backlog.resume();
        let delivery = backlog.next(MOST).unwrap();
        backlog.done(&delivery);
        assert!(
            backlog.retry_resync().is_empty() && backlog.next(MOST).is_none(),
            "it has succeeded"
        );
        backlog.resync();
        assert!(backlog.next(MOST).is_some());
        assert_eq!(backlog.resync_failed(), Some(RESYNC_RETRY.0));
    }

    proptest! {
        /// In the end, a plugin always knows which connections are open: it was told in order, or
        /// it was told to read them again.
        #[test]
        fn a_plugin_knows_in_the_end_who_is_connected(steps in proptest::collection::vec((0_u8..10, 0_usize..8), 1..300)) {
            let mut backlog = Backlog::default();
            let mut told = Told::default();
            let mut live: Vec<Arc<Connection>> = Vec::new();
            let mut running: Vec<(Delivery, Vec<String>)> = Vec::new();
            let mut made = 0;
            let read = |live: &[Arc<Connection>]| live.iter().map(|connection| connection.public_id.clone()).collect::<Vec<_>>();
            for (step, choice) in steps {
                match step {
                    0..3 => {
                        made += 1;
                        let new = connection(made);
                        live.push(Arc::clone(&new));
                        backlog.push(event(Kind::Connect, &new), BOUND, true);
                    }
                    3..5 if !live.is_empty() => {
                        let gone = live.remove(choice % live.len());
                        backlog.push(event(Kind::Disconnect, &gone), BOUND, true);
                    }
                    5..7 => running.extend(backlog.next(MOST).map(|delivery| (delivery, read(&live)))),
                    7 if !running.is_empty() => {
                        let (delivery, _) = running.remove(choice % running.len());
                        backlog.park(delivery);
                    }
                    8 => backlog.resume(),
                    _ if !running.is_empty() => {
                        let (delivery, seen) = running.remove(choice % running.len());
                        deliver(&mut told, &delivery, seen);
                        backlog.done(&delivery);
                    }
                    _ => {}
                }
                prop_assert!(backlog.len() <= BOUND + MOST && running.len() <= MOST);
            }
            backlog.resume();
            loop {
                while let Some(delivery) = backlog.next(MOST) {
                    let seen = read(&live);
                    running.push((delivery, seen));
                }
                let Some((delivery, seen)) = running.pop() else { break };
                deliver(&mut told, &delivery, seen);
                backlog.done(&delivery);
            }
            let mut known: Vec<_> = told.connected.iter().filter(|(_, is_connected)| **is_connected).map(|(id, _)| id.clone()).collect();
            let mut expected = read(&live);
            known.sort();
            expected.sort();
            prop_assert_eq!(known, expected);
        }
    }

    fn deliver(told: &mut Told, delivery: &Delivery, seen: Vec<String>) {
        match delivery {
            Delivery::Event(event) => told.handle(event),
            Delivery::Resync => told.connected = seen.into_iter().map(|id| (id, true)).collect(),
        }
    }
}
