//! The timers of the plugin under test, as a host stores them: which are set, in which order they
//! fire, and what becomes of one after an attempt to handle it.

use std::collections::BTreeMap;

use serde_json::Value;
use sockhop_core::schedule::Schedule;
use sockhop_core::timer;

use crate::timer::FiredTimer;

/// A timer that is set, or dead.
#[derive(Debug, Clone, PartialEq)]
pub struct SetTimer {
    /// The name of the timer, or of the schedule.
    pub name: String,
    /// The key. Empty for a schedule, or its deadline if it is dead.
    pub key: String,
    /// The deadline, in milliseconds since 1970.
    pub due: u64,
    /// The data. `null` for a schedule.
    pub data: Value,
    /// The number of attempts that have failed.
    pub attempts: u32,
}

/// Name and key.
pub(super) type Id = (String, String);

/// A change that a handler has made.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) id: Id,
    /// Deadline and data. `None` if the timer was cancelled.
    pub(super) set: Option<(u64, String)>,
    /// Bytes that it counts against the limit of the event's effects.
    pub(super) bytes: usize,
}

/// A stored timer.
#[derive(Debug, Clone)]
struct Entry {
    due: u64,
    data: String,
    /// The number of attempts that have failed.
    attempts: u32,
    /// Its place in the queue.
    place: Place,
}

impl Entry {
    fn show(&self, (name, key): &Id) -> SetTimer {
        let data = serde_json::from_str(&self.data).unwrap_or_default();
        let (name, key) = (name.clone(), key.clone());
        SetTimer { name, key, due: self.due, data, attempts: self.attempts }
    }
}

/// When a timer fires, and how many were set before it: the order of timers that fire at the same
/// time.
type Place = (u64, u64);

/// All timers of a plugin. Those of schedules are among them, with an empty key.
#[derive(Debug, Clone)]
pub(super) struct Timers {
    schedules: BTreeMap<String, Schedule>,
    waiting: BTreeMap<Id, Entry>,
    /// A dead timer stays if another with the same name and key is set.
    dead: Vec<(Id, Entry)>,
    /// The waiting timers in the order in which they fire.
    queue: BTreeMap<Place, Id>,
    /// How many timers were set.
    count: u64,
}

/// A timer that fires.
#[derive(Debug)]
pub(super) struct Due {
    /// When it fires: its deadline, or the time of a further attempt.
    pub(super) at: u64,
    pub(super) timer: FiredTimer,
    pub(super) data: String,
}

impl Timers {
    /// The timers of a host that starts at `now`.
    pub(super) fn new(schedules: &BTreeMap<String, Schedule>, now: u64) -> Self {
        let mut timers = Self {
            schedules: schedules.clone(),
            waiting: BTreeMap::new(),
            dead: Vec::new(),
            queue: BTreeMap::new(),
            count: 0,
        };
        timers.set_schedules(now);
        timers
    }

    /// Sets the timers of all schedules, as a host that starts at `now` or whose clock is set back.
    pub(super) fn set_schedules(&mut self, now: u64) {
        for name in self.schedules.keys().cloned().collect::<Vec<_>>() {
            self.set_next(&name, now);
        }
    }

    /// Takes over the schedules of another version of the plugin, which serves from `now` on. Those
    /// that have not changed keep their times.
    pub(super) fn replace_schedules(&mut self, schedules: &BTreeMap<String, Schedule>, now: u64) {
        let former = std::mem::replace(&mut self.schedules, schedules.clone());
        let is_kept = |name: &String, by: &Schedule| schedules.get(name) == Some(by);
        for (name, _) in former.iter().filter(|(name, by)| !is_kept(name, by)) {
            self.take(&(name.clone(), String::new()));
        }
        for name in schedules.keys() {
            if !self.is_set(&(name.clone(), String::new())) {
                self.set_next(name, now);
            }
        }
    }

    /// The number of timers, dead ones included.
    pub(super) fn len(&self) -> usize {
        self.waiting.len() + self.dead.len()
    }

    /// Whether this timer is set, and not dead.
    pub(super) fn is_set(&self, id: &Id) -> bool {
        self.waiting.contains_key(id)
    }

    /// Returns the next timer that fires, if it does until `end`.
    pub(super) fn next(&self, end: u64) -> Option<Due> {
        let (&(at, _), id) = self.queue.first_key_value()?;
        let entry = self.waiting.get(id).filter(|_| at <= end)?;
        let (name, key) = id.clone();
        let timer = FiredTimer { name, key, due: entry.due, attempt: entry.attempts + 1 };
        Some(Due { at, timer, data: entry.data.clone() })
    }

    /// Removes a timer that was handled at `now`. A schedule sets its next one.
    pub(super) fn handled(&mut self, timer: &FiredTimer, now: u64) {
        self.take(&id_of(timer));
        self.set_next(&timer.name, now);
    }

    /// Keeps a timer that a handler has failed to handle at `now`, for its next attempt or as a
    /// dead one.
    pub(super) fn failed(&mut self, timer: &FiredTimer, now: u64) {
        let id = id_of(timer);
        let Some(mut entry) = self.take(&id) else { return };
        entry.attempts = timer.attempt;
        match timer::retry_delay(entry.attempts) {
            Some(delay) => {
                entry.place = (now.saturating_add(delay), entry.place.1);
                self.wait(id, entry);
            }
            None => {
                let (name, mut key) = id;
                // The next time of a schedule can be dead too.
                if self.schedules.contains_key(&name) {
                    key = entry.due.to_string();
                }
                self.set_next(&name, now);
                self.dead.push(((name, key), entry));
            }
        }
    }

    /// Applies the changes of a handler, in the order in which it has made them.
    pub(super) fn apply(&mut self, changes: Vec<Change>) {
        for Change { id, set, .. } in changes {
            self.take(&id);
            if let Some((due, data)) = set {
                self.set(id, due, data);
            }
        }
    }

    /// The waiting timers, in the order of their deadlines.
    pub(super) fn waiting(&self) -> Vec<SetTimer> {
        in_order(self.waiting.iter())
    }

    /// The dead timers, in the order of their deadlines.
    pub(super) fn dead(&self) -> Vec<SetTimer> {
        in_order(self.dead.iter().map(|(id, entry)| (id, entry)))
    }

    /// Sets the timer of a schedule to its first time after `now`. For the name of another timer,
    /// nothing happens.
    fn set_next(&mut self, name: &str, now: u64) {
        let Some(due) = self.schedules.get(name).and_then(|schedule| schedule.next(now)) else {
            return;
        };
        let id = (name.to_owned(), String::new());
        self.take(&id);
        self.set(id, due, Value::Null.to_string());
    }

    fn set(&mut self, id: Id, due: u64, data: String) {
        self.count += 1;
        self.wait(id, Entry { due, data, attempts: 0, place: (due, self.count) });
    }

    fn wait(&mut self, id: Id, entry: Entry) {
        self.queue.insert(entry.place, id.clone());
        self.waiting.insert(id, entry);
    }

    /// Removes a waiting timer.
    fn take(&mut self, id: &Id) -> Option<Entry> {
        let entry = self.waiting.remove(id)?;
        self.queue.remove(&entry.place);
        Some(entry)
    }
}

fn id_of(timer: &FiredTimer) -> Id {
    (timer.name.clone(), timer.key.clone())
}

fn in_order<'a>(entries: impl Iterator<Item = (&'a Id, &'a Entry)>) -> Vec<SetTimer> {
    let mut entries: Vec<_> = entries.collect();
    entries.sort_by_key(|(_, entry)| (entry.due, entry.place.1));
    entries.into_iter().map(|(id, entry)| entry.show(id)).collect()
}
