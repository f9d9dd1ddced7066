//! Tells plugins which of their rooms have become occupied or vacated. `rooms` knows the changes;
//! this module knows which rooms a plugin follows, and when its workers must look for changes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sockhop_core::rule::OwnedRooms;

use crate::event::host_event;
use crate::registry::{ActivePlugin, Generation};
use crate::rooms::IsFollowed;

use super::backlog::Backlog;
use crate::dispatcher::Dispatcher;

/// The host events about rooms.
const OF_ROOMS: [&str; 2] = [host_event::ROOM_OCCUPIED, host_event::ROOM_VACATED];

/// Changes that become due within this time are handled together.
const TOGETHER: Duration = Duration::from_millis(10);

impl Dispatcher {
    /// Lets the backlog follow the rooms that belong to the plugin now, if the version that serves
    /// listens for events of rooms. It keeps what the version before was told.
    pub(super) fn follow_rooms(
        self: &Arc<Self>,
        backlog: &mut Backlog,
        active: &ActivePlugin,
        generation: &Generation,
    ) {
        // This is called for each connection.
        if !backlog.begin_generation(generation.number) {
            return;
        }
        let plugin = active.code.name();
        let listens = &active.code.registration.listens;
        let owned = if OF_ROOMS.iter().any(|event| listens.contains(event)) {
            generation.rooms_of(plugin)
        } else {
            OwnedRooms::default()
        };
        backlog.rooms().set_delay(active.code.limits().room_debounce_ms);
        if backlog.replace_owned(&owned) {
            let is_followed = (!owned.is_empty())
                .then(|| -> IsFollowed { Box::new(move |room| owned.contains(room)) });
            self.rooms.follow(backlog.rooms(), is_followed);
            self.add_worker(backlog, active);
        }
    }

    /// Starts workers for the changes of rooms when they become due, until the host stops.
    pub(super) async fn tell_of_rooms(self: Arc<Self>) {
        loop {
            let next = self.add_workers_for_rooms();
            let changed = async {
                match next {
                    Some(at) => {
                        let changed = self.rooms.occupancy_changed();
                        let _ = tokio::time::timeout_at(at.into(), changed).await;
                    }
                    None => self.rooms.occupancy_changed().await,
                }
            };
            if self.host_events.stopped.run_until_cancelled(changed).await.is_none() {
                return;
            }
        }
    }

    /// Adds workers for the changes that are due. Returns when the next one is due. Changes of a
    /// plugin that does not serve wait: its backlog gets workers when it serves again.
    fn add_workers_for_rooms(self: &Arc<Self>) -> Option<Instant> {
        let now = Instant::now();
        let (mut backlogs, generation) = self.lock_updated_backlogs();
        let mut next: Option<Instant> = None;
        for backlog in backlogs.values_mut() {
            let due = backlog.rooms().next_due(now);
            next = [next, due.map(|at| at.max(now + TOGETHER))].into_iter().flatten().min();
            if backlog.rooms().is_due(now)
                && let Some(active) = generation
                    .plugins
                    .iter()
                    .find(|active| active.code.name() == &**backlog.plugin())
            {
                self.add_worker(backlog, active);
            }
        }
        next
    }
}
