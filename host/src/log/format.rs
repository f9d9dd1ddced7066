//! Formats a record as one line of text or as one JSON object.

use std::fmt::Write;
use std::time::SystemTime;

use serde_json::json;
use tracing::Level;

use crate::config::LogFormat;

use super::escape::{escape_json, push_message, push_value};
use super::record::{LogRecord, Value};

/// The format of lines.
#[derive(Debug, Clone, Copy)]
pub(super) struct Format {
    pub(super) format: LogFormat,
    /// Whether text has colours.
    pub(super) ansi: bool,
    /// Whether text begins with the time.
    pub(super) time: bool,
}

impl Format {
    /// Returns the line with its line break.
    pub(super) fn line(self, record: &LogRecord) -> String {
        match self.format {
            LogFormat::Text => self.text(record),
            LogFormat::Json => json(record),
        }
    }

    /// `TIME LEVEL target: message name=value …`. Only this function writes colours, so text from
    /// other sources has none.
    fn text(self, record: &LogRecord) -> String {
        let (dim, reset) = if self.ansi { ("\x1b[2m", "\x1b[0m") } else { ("", "") };
        let (level, colour) = match record.level {
            Level::ERROR => ("ERROR", "\x1b[31m"),
            Level::WARN => (" WARN", "\x1b[33m"),
            Level::INFO => (" INFO", "\x1b[32m"),
            Level::DEBUG => ("DEBUG", "\x1b[34m"),
            Level::TRACE => ("TRACE", "\x1b[35m"),
        };
        let colour = if self.ansi { colour } else { "" };
        let mut line = String::with_capacity(128 + record.message.len());
        // Writing to a string can't fail.
        if self.time {
            let _ = write!(line, "{dim}{}{reset} ", rfc3339(record.at));
        }
        let _ = write!(line, "{colour}{level}{reset} {dim}{}:{reset} ", record.target);
        push_message(&mut line, &record.message);
        for (name, value) in &record.fields {
            let _ = write!(line, " {dim}{name}={reset}");
            push_value(&mut line, &value.to_string());
        }
        line.push('\n');
        line
    }
}

/// `{"timestamp", "level", "target", "fields": {"message", …}}`, the shape of tracing's own JSON
/// lines.
fn json(record: &LogRecord) -> String {
    let mut fields = serde_json::Map::with_capacity(record.fields.len() + 1);
    fields.insert("message".to_owned(), json!(record.message));
    for (name, value) in &record.fields {
        let value = match value {
            Value::Text(text) => json!(text),
            Value::Bool(value) => json!(value),
            Value::Unsigned(value) => json!(value),
            Value::Signed(value) => json!(value),
            Value::Float(value) => json!(value),
        };
        fields.insert((*name).to_owned(), value);
    }
    let document = json!({
        "timestamp": rfc3339(record.at), "level": record.level.as_str(), "target": record.target, "fields": fields,
    });
    let mut line = escape_json(&document.to_string()).into_owned();
    line.push('\n');
    line
}

/// Formats a time as RFC 3339 in UTC with microseconds.
fn rfc3339(time: SystemTime) -> String {
    jiff::Timestamp::try_from(time).map(|time| format!("{time:.6}")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(message: &str, fields: &[(&'static str, &str)]) -> LogRecord {
        let fields =
            fields.iter().map(|(name, text)| (*name, Value::Text((*text).to_owned()))).collect();
        let (at, level) = (SystemTime::UNIX_EPOCH, Level::WARN);
        LogRecord { at, level, target: "sockhop::http", message: message.to_owned(), fields }
    }

    const TEXT: Format = Format { format: LogFormat::Text, ansi: false, time: true };

    #[test]
    fn a_text_line_tells_its_fields_from_what_was_said() {
        let mut honest = record("event rejected", &[("plugin", "lab"), ("detail", "no record 7")]);
        honest.fields.push(("ran_ms", Value::Float(1.5)));
        assert_eq!(
            TEXT.line(&honest),
            "1970-01-01T00:00:00.000000Z  WARN sockhop::http: event rejected plugin=lab \
             detail=\"no record 7\" ran_ms=1.5\n"
        );
        let forged =
            record("hello plugin=x event=y", &[("detail", "a\n2026 ERROR b=\"c\"\u{202e}")]);
        assert_eq!(
            TEXT.line(&forged),
            "1970-01-01T00:00:00.000000Z  WARN sockhop::http: \"hello plugin=x event=y\" \
             detail=\"a\\n2026 ERROR b=\\\"c\\\"\\u{202e}\"\n"
        );
    }

    #[test]
    fn colours_are_written_only_where_they_are_asked_for() {
        let (plain, coloured) =
            (TEXT.line(&record("x", &[])), Format { ansi: true, ..TEXT }.line(&record("x", &[])));
        assert!(!plain.contains('\x1b') && coloured.contains("\x1b[33m WARN"), "{coloured}");
    }

    #[test]
    fn a_json_line_is_one_object_whatever_it_says() {
        let mut odd = record("line\nbreak \u{2028}\u{202e}", &[("error", "quote \" and \u{85}")]);
        odd.fields.push(("ran_ms", Value::Float(f64::NAN)));
        let line = Format { format: LogFormat::Json, ..TEXT }.line(&odd);
        assert_eq!(
            line.matches(super::super::escape::is_unsafe).count(),
            1,
            "only the line's own end: {line}"
        );
        let document: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(
            document,
            json!({"timestamp": "1970-01-01T00:00:00.000000Z", "level": "WARN", "target": "sockhop::http",
                "fields": {"message": "line\nbreak \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \
                                       \u{2028}\u{202e}", "error": "quote \" and \u{85}", "ran_ms": null}})
        );
    }
}
