//! Scenarios: files that say what virtual clients send to a plugin, and what must come of it. This
//! module reads them, compares what came with what was expected, and reports the difference. It
//! runs nothing.

mod diff;
mod format;
mod junit;
mod pattern;
mod report;

use std::path::{Path, PathBuf};

pub use format::{
    Answer, Answered, ClientSpec, Others, ReceivedEvent, RequestPattern, Scenario, Send, Step,
    Stub, StubError, TimerPattern,
};
pub use junit::junit;
pub use pattern::{Captures, UnknownCapture, absent, bytes_value};
pub use report::{Outcome, Problem, ScenarioReport, StepReport, log_document, log_lines};

use diff::diff;

/// Bytes of a scenario file. The largest that people write have some ten thousand.
const MAX_BYTES: u64 = 1 << 20;

/// The JSON Schema of scenarios, for editors.
pub const SCHEMA: &str = include_str!("../scenario.schema.json");

/// Why a scenario can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    /// The file can't be read.
    #[error("can't read {}", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The file is too large.
    #[error("{} has more than {MAX_BYTES} bytes; split it into several scenarios", .0.display())]
    TooLarge(PathBuf),
    /// The file is no scenario.
    #[error("{} is no scenario: {problem}", file.display())]
    Invalid {
        /// The file.
        file: PathBuf,
        /// What is wrong, and where.
        problem: String,
    },
    /// A part of the scenario makes no sense.
    #[error("{}:{line}: {problem}", file.display())]
    Wrong {
        /// The file.
        file: PathBuf,
        /// The line of the step.
        line: u64,
        /// What is wrong, and what to write instead.
        problem: String,
    },
}

/// Reads a scenario. Blocks.
///
/// # Errors
/// The file can't be read, or is no valid scenario. The error has the line.
pub fn read(file: &Path) -> Result<Scenario, ScenarioError> {
    use std::io::Read;
    let unreadable = |source| ScenarioError::Unreadable { file: file.to_owned(), source };
    let mut bytes = Vec::new();
    let opened = std::fs::File::open(file).map_err(unreadable)?;
    opened.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(ScenarioError::TooLarge(file.to_owned()));
    }
    let invalid = |problem| ScenarioError::Invalid { file: file.to_owned(), problem };
    let text = String::from_utf8(bytes).map_err(|_| invalid("it is not UTF-8".to_owned()))?;
    let parsed = format::parse(&text);
    // The library has no name for what it reads.
    let named = |problem: String| problem.replace("<input>", &file.to_string_lossy());
    let scenario = parsed.map_err(named).map_err(invalid)?;
    let wrong = |(line, problem)| ScenarioError::Wrong { file: file.to_owned(), line, problem };
    scenario.check().map_err(wrong)?;
    Ok(scenario)
}

/// Compares `actual` with `expected`, which may have patterns. `what` says what is compared, such
/// as `ack`. Values that patterns capture are kept only if all is as expected.
///
/// # Errors
/// Returns the difference.
pub fn compare(
    what: &str,
    expected: &serde_json::Value,
    actual: &serde_json::Value,
    captures: &mut Captures,
) -> Result<(), Problem> {
    let mut found = captures.clone();
    let mismatches = pattern::compare(expected, actual, &mut found);
    if mismatches.is_empty() {
        *captures = found;
        return Ok(());
    }
    let shown = pattern::resolved(expected, actual, captures);
    Err(Problem {
        what: what.to_owned(),
        mismatches,
        diff: diff(&shown, actual),
        compared: Some(Box::new((expected.clone(), actual.clone()))),
    })
}
