//! `[log]`: which records the log contains, their format, and the queue of the log.

mod targets;

use std::num::NonZeroUsize;

use serde::{Deserialize, Deserializer, de};
use tracing::level_filters::LevelFilter;

use targets::{PLUGIN, is_target};

/// `[log]`: which records the log contains, and their format.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogConfig {
    /// Which records are shown: a level (`info`), or a level with exceptions, such as
    /// `info,sockhop::http=debug`.
    pub filter: LogFilter,
    /// The format of lines.
    pub format: LogFormat,
    /// Bytes of lines that may wait to be written. Further lines are dropped and counted.
    #[serde(deserialize_with = "queue_bytes")]
    pub queue_bytes: NonZeroUsize,
    /// Whether repeats of a record within a second become one line that has their number.
    pub collapse: bool,
}

/// Some seconds of a busy log, and little compared with the other memory of the host.
const QUEUE_BYTES: NonZeroUsize = match NonZeroUsize::new(1 << 20) {
    Some(bytes) => bytes,
    None => unreachable!(),
};

/// The smallest queue: a smaller one has no space for the longest line of a plugin with its
/// escapes.
const MIN_QUEUE_BYTES: usize = 64 << 10;

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            filter: LogFilter::default(),
            format: LogFormat::Text,
            queue_bytes: QUEUE_BYTES,
            collapse: true,
        }
    }
}

/// The format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// Text for people.
    Text,
    /// One JSON object per line.
    Json,
}

/// Which records are shown: a level for all targets, and other levels for some of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFilter {
    level: LevelFilter,
    targets: Vec<(String, LevelFilter)>,
}

impl Default for LogFilter {
    fn default() -> Self {
        Self { level: LevelFilter::INFO, targets: Vec::new() }
    }
}

impl LogFilter {
    /// Shows only the lines of plugins.
    pub fn plugins() -> Self {
        Self { level: LevelFilter::OFF, targets: vec![(PLUGIN.to_owned(), LevelFilter::DEBUG)] }
    }

    /// The level of every target that has no level of its own.
    pub fn level(&self) -> LevelFilter {
        self.level
    }

    /// The targets that have a level of their own, with it.
    pub fn targets(&self) -> impl Iterator<Item = (&str, LevelFilter)> {
        self.targets.iter().map(|(target, level)| (target.as_str(), *level))
    }

    /// Parses `level,target=level,…`. All records of a target without a level are shown. Returns
    /// `None` if some part can have no effect.
    fn parse(text: &str) -> Option<Self> {
        let mut filter = Self { level: LevelFilter::OFF, targets: Vec::new() };
        for part in text.split(',').map(str::trim) {
            match part.split_once('=') {
                Some((target, level)) => filter.targets.push((known(target)?, parse_level(level)?)),
                None => match parse_level(part) {
                    Some(level) => filter.level = level,
                    None => filter.targets.push((known(part)?, LevelFilter::TRACE)),
                },
            }
        }
        Some(filter)
    }
}

/// Parses the name of a level. `tracing` also accepts digits and an empty text as levels; here they
/// are errors, because something else was meant.
fn parse_level(text: &str) -> Option<LevelFilter> {
    text.chars()
        .all(char::is_alphabetic)
        .then_some(text)
        .filter(|text| !text.is_empty())?
        .parse()
        .ok()
}

/// Returns `target` if the host writes records with such a target.
fn known(target: &str) -> Option<String> {
    is_target(target).then(|| target.to_owned())
}

impl<'de> Deserialize<'de> for LogFilter {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| {
            let expected = "a level (off, error, warn, info, debug or trace), or one with others \
                            for some targets, such as \
                \"info,plugin=debug,sockhop::http=trace\"; the targets are `plugin`, `sockhop`, \
                            `sockhop_socketio`, and those of \
                their modules that write records";
            de::Error::invalid_value(de::Unexpected::Str(&text), &expected)
        })
    }
}

fn queue_bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<NonZeroUsize, D::Error> {
    let bytes = u64::deserialize(deserializer)?;
    let enough = usize::try_from(bytes)
        .ok()
        .filter(|bytes| *bytes >= MIN_QUEUE_BYTES)
        .and_then(NonZeroUsize::new);
    enough.ok_or_else(|| {
        let expected = format!("a number of bytes, at least {MIN_QUEUE_BYTES}");
        de::Error::invalid_value(de::Unexpected::Unsigned(bytes), &expected.as_str())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_a_level_with_exceptions() {
        let filter = LogFilter::parse("warn,sockhop::http=debug, plugin").unwrap();
        assert_eq!(filter.level(), LevelFilter::WARN);
        let targets: Vec<_> = filter.targets().collect();
        assert_eq!(
            targets,
            [("sockhop::http", LevelFilter::DEBUG), ("plugin", LevelFilter::TRACE)]
        );
        assert_eq!(LogFilter::parse("info"), Some(LogFilter::default()));
    }

    #[test]
    fn a_filter_that_would_show_nothing_of_what_it_names_is_refused() {
        for text in [
            "verbose",
            "",
            ",",
            "info,",
            "3",
            "a=b=c",
            "sockhop=loud",
            "hyper=debug",
            "sockhop::",
            "sockhop::nothing=info",
            "sockhop::http::verbose",
            "sockhop::contract=debug",
            "=info",
        ] {
            assert_eq!(LogFilter::parse(text), None, "{text}");
        }
    }
}
