//! Collapses repeated records: the first record of a kind is written at once. After it, at most one
//! per second is written, with the number of records that it stands for.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::{Duration, Instant};

use tracing::callsite::Identifier;

use super::PLUGIN;
use super::record::{LogRecord, Value};

/// The kinds of records that were written recently.
pub(super) struct Repeats {
    kinds: HashMap<u64, Window>,
    /// The kinds of plugins' lines. They have their own table, so that plugins that print many
    /// different lines take no place from the host's records.
    lines: HashMap<u64, Window>,
    hasher: RandomState,
    /// The earliest end of a window.
    next: Option<Instant>,
}

/// The current window of one kind of record.
struct Window {
    /// The end of the window.
    until: Instant,
    /// Number of records held back in this window.
    held: u64,
    /// The last of these records.
    last: Option<LogRecord>,
}

/// How long repeated records are held back.
const WINDOW: Duration = Duration::from_secs(1);

/// Number of kinds in one table. Beyond it, all of the host's records of one call site are one
/// kind: a plugin has few kinds of failures, so only many failing plugins reach this number.
/// Plugins' lines are then written as they come, within their own rate limit.
const MAX_KINDS: usize = 1024;

/// The fields that distinguish kinds of records from one call site: names that an operator has
/// chosen, not values that differ each time. An event's name counts only if a plugin's name is
/// present, because a client can invent names that no plugin handles. A location counts only if it
/// is the host's own, because a plugin can invent the one that it prints.
const KIND_FIELDS: [&str; 9] =
    ["plugin", "event", "code", "command", "key", "file", "dir", "digest", "location"];

impl Repeats {
    pub(super) fn new() -> Self {
        Self {
            kinds: HashMap::new(),
            lines: HashMap::new(),
            hasher: RandomState::new(),
            next: None,
        }
    }

    /// Takes a record of the call site `source`. Returns it if it must be written at once;
    /// otherwise holds it back.
    pub(super) fn take(
        &mut self,
        source: &Identifier,
        record: LogRecord,
        now: Instant,
    ) -> Option<LogRecord> {
        let is_line = record.target == PLUGIN;
        let mut key = self.key(source, Some(&record));
        let table = if is_line { &self.lines } else { &self.kinds };
        if table.len() >= MAX_KINDS && !table.contains_key(&key) {
            if is_line {
                return Some(record);
            }
            key = self.key(source, None);
        }
        let table = if is_line { &mut self.lines } else { &mut self.kinds };
        match table.get_mut(&key) {
            Some(kind) => {
                kind.held += 1;
                kind.last = Some(record);
                None
            }
            None => {
                let until = now + WINDOW;
                table.insert(key, Window { until, held: 0, last: None });
                self.next = Some(self.next.map_or(until, |next| next.min(until)));
                Some(record)
            }
        }
    }

    /// Returns the last record of each kind that was repeated in a window that has ended. The
    /// record says how many records it stands for.
    pub(super) fn take_due(&mut self, now: Instant) -> Vec<LogRecord> {
        if self.next.is_none_or(|next| next > now) {
            return Vec::new();
        }
        let mut due = Vec::new();
        for table in [&mut self.kinds, &mut self.lines] {
            table.retain(|_, kind| {
                if kind.until > now {
                    return true;
                }
                let Some(mut record) = kind.last.take() else { return false };
                if kind.held > 1 {
                    record.fields.push(("repeated", Value::Unsigned(kind.held)));
                }
                due.push(record);
                (kind.until, kind.held) = (now + WINDOW, 0);
                true
            });
        }
        due.sort_by_key(|record| record.at);
        self.next = self.kinds.values().chain(self.lines.values()).map(|kind| kind.until).min();
        due
    }

    /// Returns all records that are held back, at the end of the log.
    pub(super) fn take_all(&mut self) -> Vec<LogRecord> {
        self.next.map(|next| self.take_due(next + WINDOW)).unwrap_or_default()
    }

    /// Returns the earliest end of a window.
    pub(super) fn next(&self) -> Option<Instant> {
        self.next
    }

    fn key(&self, source: &Identifier, record: Option<&LogRecord>) -> u64 {
        use std::hash::Hash;
        let mut hasher = self.hasher.build_hasher();
        source.hash(&mut hasher);
        if let Some(record) = record {
            let counts = |name: &&&str| match **name {
                "event" => record.field("plugin").is_some(),
                // The location of a plugin's panic is taken from its output.
                "location" => record.field("output").is_none(),
                _ => true,
            };
            if record.target == PLUGIN {
                record.message.hash(&mut hasher);
            }
            for name in KIND_FIELDS.iter().filter(counts) {
                if let Some(value) = record.field(name) {
                    name.hash(&mut hasher);
                    value.to_string().hash(&mut hasher);
                }
            }
        }
        hasher.finish()
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use tracing::{Callsite, Level, callsite::DefaultCallsite};

    use super::*;

    fn source() -> Identifier {
        use tracing::metadata::Kind;
        static CALL: DefaultCallsite = DefaultCallsite::new(&META);
        static META: tracing::Metadata<'static> = tracing::metadata! {
            name: "test", target: "sockhop", level: Level::ERROR, fields: &["message"], callsite: &CALL, kind: Kind::EVENT
        };
        CALL.metadata().callsite()
    }

    fn record(fields: &[(&'static str, &str)]) -> LogRecord {
        let fields =
            fields.iter().map(|(name, text)| (*name, Value::Text((*text).to_owned()))).collect();
        LogRecord {
            at: SystemTime::UNIX_EPOCH,
            level: Level::ERROR,
            target: "sockhop",
            message: "event rejected".to_owned(),
            fields,
        }
    }

    fn failed(plugin: &str, id: &str) -> LogRecord {
        record(&[("plugin", plugin), ("event", "trap"), ("id", id)])
    }

    #[test]
    fn the_first_of_a_kind_is_written_at_once_and_the_rest_once_a_second_with_their_number_and_the_last_id()
     {
        let (mut repeats, start) = (Repeats::new(), Instant::now());
        assert!(repeats.take(&source(), failed("lab", "1"), start).is_some());
        assert!(
            repeats.take(&source(), failed("other", "2"), start).is_some(),
            "another plugin is another kind"
        );
        for id in ["3", "4", "5"] {
            assert_eq!(repeats.take(&source(), failed("lab", id), start), None);
        }
        assert_eq!(repeats.take_due(start), []);
        assert_eq!(repeats.next(), Some(start + WINDOW));
        let mut last = failed("lab", "5");
        last.fields.push(("repeated", Value::Unsigned(3)));
        assert_eq!(repeats.take_due(start + WINDOW), [last]);
        assert_eq!(
            repeats.take(&source(), failed("lab", "6"), start + WINDOW),
            None,
            "the next window has begun"
        );
        assert_eq!(
            repeats.take_due(start + 2 * WINDOW),
            [failed("lab", "6")],
            "one is only late, and no repetition"
        );
        assert_eq!(repeats.take_due(start + 3 * WINDOW), []);
        assert_eq!(repeats.next(), None);
        assert!(
            repeats.take(&source(), failed("lab", "7"), start + 3 * WINDOW).is_some(),
            "after a silent window all is as at first"
        );
    }

    #[test]
    fn names_that_clients_invent_make_no_kinds() {
        let (mut repeats, now) = (Repeats::new(), Instant::now());
        assert!(
            repeats
                .take(&source(), record(&[("event", "a"), ("code", "unknown_event")]), now)
                .is_some()
        );
        assert!(
            repeats
                .take(&source(), record(&[("event", "b"), ("code", "unknown_event")]), now)
                .is_none()
        );
        assert!(
            repeats.take(&source(), record(&[("event", "b"), ("code", "busy")]), now).is_some()
        );
    }

    fn said(plugin: &str, message: &str) -> LogRecord {
        LogRecord { target: PLUGIN, message: message.to_owned(), ..record(&[("plugin", plugin)]) }
    }

    #[test]
    fn equal_lines_of_a_plugin_are_repeats_and_different_ones_are_not() {
        let (mut repeats, now) = (Repeats::new(), Instant::now());
        let mut is_written =
            |plugin, message| repeats.take(&source(), said(plugin, message), now).is_some();
        assert!(is_written("lab", "one") && is_written("lab", "two") && is_written("other", "one"));
        assert!(!is_written("lab", "one") && !is_written("lab", "one"));
        let due = repeats.take_due(now + WINDOW);
        assert_eq!(due.len(), 1);
        assert_eq!(due[0].field("repeated"), Some(&Value::Unsigned(2)));
    }

    #[test]
    fn different_lines_of_plugins_are_all_written_and_take_no_place_from_other_records() {
        let (mut repeats, now) = (Repeats::new(), Instant::now());
        let lines = 3 * MAX_KINDS;
        let written = (0..lines)
            .filter(|n| repeats.take(&source(), said("lab", &n.to_string()), now).is_some())
            .count();
        assert_eq!((written, repeats.lines.len()), (lines, MAX_KINDS));
        assert!(repeats.take(&source(), failed("lab", "1"), now).is_some());
        assert!(repeats.take(&source(), failed("other", "2"), now).is_some());
    }

    #[test]
    fn locations_that_a_plugin_prints_make_no_kinds() {
        let (mut repeats, now) = (Repeats::new(), Instant::now());
        let mut is_written = |location, output: &str| {
            let mut record = failed("lab", "1");
            record.fields.push(("location", Value::Text(location)));
            if !output.is_empty() {
                record.fields.push(("output", Value::Text(output.to_owned())));
            }
            repeats.take(&source(), record, now).is_some()
        };
        let written = (0..100).filter(|n| is_written(n.to_string(), "panicked at")).count();
        assert_eq!(written, 1);
        assert!(is_written("a.rs:1:1".to_owned(), "") && is_written("b.rs:1:1".to_owned(), ""));
    }

    #[test]
    fn the_table_of_kinds_is_bounded() {
        let (mut repeats, now) = (Repeats::new(), Instant::now());
        let written = (0..10_000)
            .filter(|n| repeats.take(&source(), failed(&n.to_string(), ""), now).is_some())
            .count();
        assert_eq!((written, repeats.kinds.len()), (MAX_KINDS + 1, MAX_KINDS + 1));
        assert_eq!(repeats.take_all().len(), 1);
    }
}
