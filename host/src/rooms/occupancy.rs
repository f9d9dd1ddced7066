//! Follows which rooms are occupied, for readers that want to know. A reader learns of a change
//! only after the room has stayed occupied, or empty, for some time, and never learns the same
//! twice.
//!
//! What is kept has a bound: the rooms that are occupied, and the rooms of which the reader was
//! told so. A room that comes and goes before the reader learns of it leaves nothing behind. So no
//! change is ever dropped, however long the reader waits.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::ops::Bound;
use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak,
};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// A room of one namespace.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct RoomKey {
    pub(crate) namespace: Arc<str>,
    pub(crate) room: Arc<str>,
}

/// A room that has become occupied or vacated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RoomChange {
    pub(crate) key: RoomKey,
    pub(crate) is_occupied: bool,
}

/// Decides by the name of a room whether a reader wants to know about it.
pub(crate) type IsFollowed = Box<dyn Fn(&str) -> bool + Send + Sync>;

/// The readers of one host.
#[derive(Default)]
pub(super) struct Occupancy {
    followers: RwLock<Vec<Weak<Follower>>>,
    /// Notified when a reader has a change that is due later, and had none before.
    changed: Notify,
}

/// The changes that one reader has not taken yet.
#[derive(Default)]
pub(crate) struct Follower {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// `None` if the reader follows no room.
    is_followed: Option<IsFollowed>,
    /// Time for which a room must stay as it is before the reader learns of it.
    delay: Duration,
    rooms: HashMap<RoomKey, Known>,
    /// The rooms that are not as the reader was told, by the time from which it may learn of it.
    /// The second part is unique.
    due: BTreeMap<(Instant, u64), RoomKey>,
    next: u64,
}

/// What is known about one room.
#[derive(Debug, Default, Clone, Copy)]
struct Known {
    is_occupied: bool,
    /// Whether the reader believes that the room is occupied. It does as soon as it has taken the
    /// change.
    is_told: bool,
    /// Whether the reader has taken a change and not said yet what became of it.
    is_taken: bool,
    due: Option<(Instant, u64)>,
}

impl Occupancy {
    /// Locks the list for reading. It is never half changed, so poisoning is ignored.
    fn followers(&self) -> RwLockReadGuard<'_, Vec<Weak<Follower>>> {
        self.followers.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn followers_mut(&self) -> RwLockWriteGuard<'_, Vec<Weak<Follower>>> {
        self.followers.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records that the first connection has joined a room, or the last one has left it. The caller
    /// holds the lock of the rooms, so that changes come in their order.
    pub(super) fn note(&self, namespace: &Arc<str>, room: &str, is_occupied: bool) {
        for follower in self.followers().iter().filter_map(Weak::upgrade) {
            if follower.note(namespace, room, is_occupied, Instant::now()) {
                self.changed.notify_one();
            }
        }
    }

    /// Adds or removes a reader. The caller holds the lock of the rooms for reading.
    pub(super) fn set(&self, follower: &Arc<Follower>, is_following: bool) {
        let mut followers = self.followers_mut();
        let is_other = |other: &Weak<Follower>| other.as_ptr() != Arc::as_ptr(follower);
        followers.retain(|other| other.strong_count() > 0 && is_other(other));
        if is_following {
            followers.push(Arc::downgrade(follower));
        }
    }

    /// Waits until a reader has a change that is due later ([`Follower::next_due`]), and had none
    /// before. For one task.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }
}

impl Follower {
    /// Locks the state. It is consistent between any two calls, so poisoning is ignored.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces the rooms that the reader follows. `occupied` are those of them that are occupied;
    /// the caller makes sure that they stay so meanwhile. The reader learns at once of the occupied
    /// rooms that it does not know, and forgets the rooms that it no longer follows.
    pub(super) fn follow(&self, is_followed: Option<IsFollowed>, occupied: HashSet<RoomKey>) {
        let (mut state, now) = (self.state(), Instant::now());
        let known: Vec<RoomKey> = state.rooms.keys().cloned().collect();
        for key in known {
            let is_followed = is_followed.as_ref().is_some_and(|follows| follows(&key.room));
            let is_occupied = occupied.contains(&key);
            state.update(&key, now, |known| {
                known.is_occupied = is_occupied;
                known.is_told &= is_followed;
            });
        }
        for key in &occupied {
            state.update(key, now, |known| known.is_occupied = true);
        }
        state.is_followed = is_followed;
    }

    /// Lets a reader follow all rooms, of which these are occupied.
    #[cfg(test)]
    pub(crate) fn follow_all(&self, occupied: &[&str]) {
        let key = |room: &&str| RoomKey { namespace: "/".into(), room: Arc::from(*room) };
        self.follow(Some(Box::new(|_| true)), occupied.iter().map(key).collect());
    }

    /// Sets the time for which a room must stay as it is. It applies to later changes.
    pub(crate) fn set_delay(&self, delay: Duration) {
        self.state().delay = delay;
    }

    /// Records a change of a room. Returns whether this is the only one that is due later.
    fn note(&self, namespace: &Arc<str>, room: &str, is_occupied: bool, now: Instant) -> bool {
        let mut state = self.state();
        if !state.is_followed.as_ref().is_some_and(|follows| follows(room)) {
            return false;
        }
        let (had_later, due) = (state.first_after(now).is_some(), now + state.delay);
        let key = RoomKey { namespace: Arc::clone(namespace), room: room.into() };
        state.update(&key, due, |known| known.is_occupied = is_occupied);
        !had_later && state.first_after(now).is_some()
    }

    /// Takes a change that is due. The changes of one room are taken one after the other: the next
    /// one when [`Follower::done`] or [`Follower::put_back`] was called for this one.
    pub(crate) fn take(&self, now: Instant) -> Option<RoomChange> {
        let mut state = self.state();
        let key = state.first_due(now)?.clone();
        let mut is_occupied = false;
        state.update(&key, now, |known| {
            is_occupied = known.is_occupied;
            (known.is_told, known.is_taken) = (known.is_occupied, true);
        });
        Some(RoomChange { key, is_occupied })
    }

    /// Ends a change that was taken: the reader has learned of it.
    pub(crate) fn done(&self, change: &RoomChange) {
        self.state().update(&change.key, Instant::now(), |known| known.is_taken = false);
    }

    /// Ends a change that was taken: the reader has not learned of it. If the room has not changed
    /// back meanwhile, and the reader still follows it, the change is due again.
    pub(crate) fn put_back(&self, change: &RoomChange) {
        let mut state = self.state();
        let is_followed =
            state.is_followed.as_ref().is_some_and(|follows| follows(&change.key.room));
        state.update(&change.key, Instant::now(), |known| {
            if std::mem::take(&mut known.is_taken) {
                known.is_told = !change.is_occupied && is_followed;
            }
        });
    }

    /// Forgets what the reader was told: it learns at once of all rooms that are occupied.
    pub(crate) fn start_over(&self) {
        let (mut state, now) = (self.state(), Instant::now());
        let known: Vec<RoomKey> = state.rooms.keys().cloned().collect();
        for key in known {
            state.update(&key, now, |known| known.is_told = false);
        }
    }

    /// Number of changes that the reader has not taken.
    pub(crate) fn len(&self) -> usize {
        self.state().due.len()
    }

    /// Whether there is a change to take.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        self.state().first_due(now).is_some()
    }

    /// When the first change after `now` is due.
    pub(crate) fn next_due(&self, now: Instant) -> Option<Instant> {
        self.state().first_after(now)
    }
}

impl State {
    fn first_after(&self, now: Instant) -> Option<Instant> {
        let later = (Bound::Excluded((now, u64::MAX)), Bound::Unbounded);
        self.due.range(later).next().map(|((at, _), _)| *at)
    }

    fn first_due(&self, now: Instant) -> Option<&RoomKey> {
        let due = self.due.range(..=(now, u64::MAX)).map(|(_, key)| key);
        // The reader takes a few changes at once, so few are passed over.
        due.into_iter().find(|key| self.rooms.get(*key).is_some_and(|known| !known.is_taken))
    }

    /// Changes what is known about a room. If the reader must learn of it, it may from `at` on.
    fn update(&mut self, key: &RoomKey, at: Instant, change: impl FnOnce(&mut Known)) {
        let known = self.rooms.entry(key.clone()).or_default();
        change(known);
        match (known.is_occupied != known.is_told, known.due) {
            (true, None) => {
                self.next += 1;
                known.due = Some((at, self.next));
                self.due.insert((at, self.next), key.clone());
            }
            (false, Some(due)) => {
                known.due = None;
                self.due.remove(&due);
            }
            _ => {}
        }
        if !known.is_occupied && !known.is_told && !known.is_taken {
            self.rooms.remove(key);
        }
    }
}

impl fmt::Debug for Follower {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Follower").field("changes", &self.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DELAY: Duration = Duration::from_secs(1);

    fn follower() -> Follower {
        let follower = Follower::default();
        follower.follow(Some(Box::new(|room| !room.starts_with("other"))), HashSet::new());
        follower.set_delay(DELAY);
        follower
    }

    fn key(room: &str) -> RoomKey {
        RoomKey { namespace: "/".into(), room: room.into() }
    }

    #[test]
    fn a_room_that_comes_and_goes_within_the_delay_leaves_nothing_behind() {
        let (follower, now) = (follower(), Instant::now());
        let namespace = "/".into();
        for number in 0..10_000 {
            let room = format!("r{number}");
            follower.note(&namespace, &room, true, now);
            follower.note(&namespace, &room, false, now);
            follower.note(&namespace, &format!("other{number}"), true, now);
        }
        let state = follower.state();
        assert!(state.rooms.is_empty() && state.due.is_empty());
    }

    #[test]
    fn a_change_is_due_after_the_delay_and_only_the_last_state_counts() {
        let (follower, now) = (follower(), Instant::now());
        let namespace = "/".into();
        assert!(follower.note(&namespace, "r", true, now), "the first change");
        assert!(!follower.note(&namespace, "r2", true, now));
        follower.note(&namespace, "r2", false, now);
        assert_eq!(follower.next_due(now), Some(now + DELAY));
        assert_eq!(follower.take(now), None);
        // A room that flaps is due when it stays as it is.
        let later = now + DELAY / 2;
        follower.note(&namespace, "r", false, later);
        follower.note(&namespace, "r", true, later);
        assert!(!follower.is_due(now + DELAY) && follower.is_due(later + DELAY));
        let change = follower.take(later + DELAY).unwrap();
        assert_eq!(change, RoomChange { key: key("r"), is_occupied: true });
        // The next change of the room waits for this one. It is announced, though others are due.
        assert!(follower.note(&namespace, "r", false, later + DELAY));
        assert!(follower.note(&namespace, "r3", true, later + 2 * DELAY), "`r` is due");
        follower.note(&namespace, "r3", false, later + 2 * DELAY);
        let end = later + 3 * DELAY;
        assert_eq!(follower.take(end), None);
        follower.put_back(&change);
        assert_eq!((follower.take(end), follower.len()), (None, 0), "the reader knows it");
    }

    #[test]
    fn who_starts_over_or_follows_other_rooms_learns_of_all_that_are_occupied() {
        let follower = follower();
        let namespace = "/".into();
        let before = Instant::now();
        follower.note(&namespace, "r1", true, before);
        follower.note(&namespace, "r2", true, before);
        let after = before + DELAY;
        while let Some(change) = follower.take(after) {
            follower.done(&change);
        }
        follower.note(&namespace, "r2", false, after);
        follower.start_over();
        let now = Instant::now();
        assert_eq!(follower.take(now), Some(RoomChange { key: key("r1"), is_occupied: true }));
        assert_eq!(follower.take(now + 9 * DELAY), None, "`r2` is empty, and was forgotten");
        follower.done(&RoomChange { key: key("r1"), is_occupied: true });
        let occupied = HashSet::from([key("other1")]);
        follower.follow(Some(Box::new(|room| room == "other1")), occupied);
        let change = follower.take(Instant::now());
        assert_eq!(change, Some(RoomChange { key: key("other1"), is_occupied: true }));
        assert_eq!(follower.len(), 0);
        assert_eq!(follower.state().rooms.len(), 1, "`r1` is forgotten");
    }

    #[test]
    fn a_reader_that_gives_back_a_change_of_a_room_it_lost_does_not_learn_of_it() {
        let (follower, now) = (follower(), Instant::now());
        follower.note(&"/".into(), "r", true, now);
        let occupied = follower.take(now + DELAY).unwrap();
        follower.done(&occupied);
        follower.note(&"/".into(), "r", false, now + DELAY);
        let vacated = follower.take(now + 2 * DELAY).unwrap();
        follower.follow(None, HashSet::new());
        follower.put_back(&vacated);
        assert_eq!(follower.take(now + 9 * DELAY), None);
        assert!(follower.state().rooms.is_empty());
    }

    proptest! {
        /// Whatever happens, the reader learns of each change once, and in the end of the truth.
        #[test]
        fn a_reader_never_learns_the_same_twice_and_learns_the_truth_in_the_end(
            steps in proptest::collection::vec((0..8_u8, 0..4_usize), 0..200),
        ) {
            let (follower, mut now, namespace) = (follower(), Instant::now(), "/".into());
            let (mut truth, mut told) = (HashSet::new(), HashSet::new());
            let mut taken: Vec<RoomChange> = Vec::new();
            let learn = |told: &mut HashSet<RoomKey>, change: &RoomChange| {
                let key = change.key.clone();
                if change.is_occupied { told.insert(key) } else { told.remove(&key) }
            };
            for (step, number) in steps {
                let room = key(&format!("r{number}"));
                match step {
                    0..=2 => {
                        let is_occupied = truth.insert(room.clone()) || !truth.remove(&room);
                        follower.note(&namespace, &room.room, is_occupied, now);
                    }
                    3 => now += DELAY / 2,
                    4 => taken.extend(follower.take(now)),
                    5 if !taken.is_empty() => {
                        let change = taken.swap_remove(number % taken.len());
                        prop_assert!(learn(&mut told, &change), "the same twice: {change:?}");
                        follower.done(&change);
                    }
                    6 if !taken.is_empty() => {
                        follower.put_back(&taken.swap_remove(number % taken.len()));
                    }
                    7 if taken.is_empty() => {
                        told.clear();
                        follower.start_over();
                    }
                    _ => {}
                }
                let bound = truth.union(&told).count() + taken.len();
                prop_assert!(follower.state().rooms.len() <= bound);
            }
            for change in taken {
                follower.put_back(&change);
            }
            let end = now.max(Instant::now()) + DELAY;
            while let Some(change) = follower.take(end) {
                prop_assert!(learn(&mut told, &change), "the same twice: {change:?}");
                follower.done(&change);
            }
            prop_assert_eq!(told, truth);
        }
    }
}
