//! Error messages for wrong values of the configuration. They use the words of TOML, because
//! operators need not know Rust's types.

use figment2::error::{Actual, Kind};

/// Says what is expected of a secret value, without the value.
pub(super) fn of_secret(kind: &Kind) -> String {
    match kind {
        Kind::InvalidType(_, expected) | Kind::InvalidValue(_, expected) => {
            format!("expected {}; the value is secret and not shown", of_expected(expected))
        }
        other => of(other),
    }
}

/// Says what was found and what is expected.
pub(super) fn of(kind: &Kind) -> String {
    match kind {
        Kind::InvalidType(found, expected) | Kind::InvalidValue(found, expected) => {
            format!("found {}, expected {}", value(found), of_expected(expected))
        }
        Kind::InvalidLength(length, expected) => {
            format!("found {length} values, expected {}", of_expected(expected))
        }
        Kind::UnknownVariant(found, allowed) => {
            let allowed: Vec<_> = allowed.iter().map(|name| format!("\"{name}\"")).collect();
            format!("found \"{found}\", expected {}", allowed.join(" or "))
        }
        Kind::MissingField(key) => format!("the key `{key}` is missing"),
        Kind::ISizeOutOfRange(_) | Kind::USizeOutOfRange(_) => {
            "the number is too large or too small".to_owned()
        }
        Kind::Message(message) => without_excerpt(message),
        other => other.to_string(),
    }
}

/// An error of TOML's syntax shows the line of the file, which may have a secret. Returns the error
/// with the number of the line, and without its text.
fn without_excerpt(message: &str) -> String {
    let is_excerpt = |line: &&str| {
        line.trim_start_matches(|of_number: char| of_number.is_ascii_digit() || of_number == ' ')
            .starts_with('|')
    };
    message.lines().filter(|line| !is_excerpt(line)).collect::<Vec<_>>().join(": ")
}

/// Formats a value for an error message, nearly as TOML writes it.
fn value(found: &Actual) -> String {
    match found {
        Actual::Bool(value) => value.to_string(),
        Actual::Unsigned(number) => number.to_string(),
        Actual::Signed(number) => number.to_string(),
        Actual::Float(number) => format!("{number:?}"),
        Actual::Char(text) => format!("{:?}", text.to_string()),
        Actual::Str(text) => format!("{text:?}"),
        Actual::Seq => "a list".to_owned(),
        Actual::Map => "a table".to_owned(),
        other => other.to_string(),
    }
}

/// Translates serde's name of an expected type, such as `usize`. A text that the host itself has
/// written, such as `listen::EXPECTED`, is returned unchanged.
fn of_expected(expected: &str) -> String {
    let whole =
        |from: &str, to: &dyn std::fmt::Display| format!("a whole number from {from} to {to}");
    match expected {
        "a nonzero u64" | "a nonzero usize" => "a whole number of at least 1".to_owned(),
        "a nonzero u32" => whole("1", &u32::MAX),
        "a nonzero u16" => whole("1", &u16::MAX),
        "u64" | "usize" => "a whole number of at least 0".to_owned(),
        "i64" => "a whole number".to_owned(),
        "u32" => whole("0", &u32::MAX),
        "u16" => whole("0", &u16::MAX),
        "f64" | "f32" => "a number".to_owned(),
        "a boolean" => "true or false".to_owned(),
        "a string" | "path string" | "a borrowed string" => "text in quotes".to_owned(),
        "a sequence" => "a list in brackets".to_owned(),
        "a map" => "a table".to_owned(),
        _ if expected.starts_with("struct ") => "a table".to_owned(),
        _ if expected.starts_with("enum ") => "one of the allowed names in quotes".to_owned(),
        _ => expected.to_owned(),
    }
}
