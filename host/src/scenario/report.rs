//! What became of a scenario, as data, as JSON and as lines for people.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use crate::log::Line;

/// What became of one scenario.
#[derive(Debug, Clone)]
pub struct ScenarioReport {
    /// The file.
    pub file: PathBuf,
    /// Its name.
    pub name: String,
    /// The steps that were run, in order. Only the last one can have failed.
    pub steps: Vec<StepReport>,
    /// Number of steps that were not run, because one before them has failed.
    pub not_run: usize,
    /// Why the scenario could not begin, if it could not.
    pub error: Option<String>,
    /// How long it took.
    pub took: Duration,
}

/// What became of one step.
#[derive(Debug, Clone)]
pub struct StepReport {
    /// Its number, from 1.
    pub number: usize,
    /// Its line in the file.
    pub line: u64,
    /// What it does.
    pub title: String,
    /// What is not as expected.
    pub problems: Vec<Problem>,
    /// What the plugins and the host have logged in it.
    pub log: Vec<Line>,
    /// Number of log records that were dropped, because there were too many.
    pub log_dropped: usize,
    /// How long it took.
    pub took: Duration,
}

/// Something that is not as expected.
#[derive(Debug, Clone)]
pub struct Problem {
    /// What was compared.
    pub what: String,
    /// What differs, each with its place.
    pub mismatches: Vec<String>,
    /// The difference by lines.
    pub diff: Vec<String>,
    /// What was expected and what came, if something was compared.
    pub compared: Option<Box<(Value, Value)>>,
}

/// Whether a scenario has passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All is as expected.
    Passed,
    /// A step has failed.
    Failed,
    /// The scenario could not begin.
    Error,
}

impl Outcome {
    /// The name in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::Error => "error",
        }
    }
}

/// The most lines of the log that are shown of a step that has failed.
const MAX_LOG: usize = 50;

impl Problem {
    /// A problem without a comparison.
    pub fn new(what: impl Into<String>, text: impl Into<String>) -> Self {
        Self { what: what.into(), mismatches: vec![text.into()], diff: Vec::new(), compared: None }
    }

    /// Lines for people.
    fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for mismatch in self.mismatches.iter().take(10) {
            let mut parts = mismatch.lines();
            lines.push(format!("{}: {}", self.what, parts.next().unwrap_or_default()));
            lines.extend(parts.map(|part| format!("  {part}")));
        }
        if self.mismatches.len() > 10 {
            lines.push(format!("{}: {} more differences", self.what, self.mismatches.len() - 10));
        }
        lines.extend(self.diff.iter().map(|line| format!("  {line}")));
        lines
    }
}

/// The fields of a record that say what an author looks for first, such as the place of a panic.
const FIRST: [&str; 7] = ["plugin", "event", "code", "reason", "location", "output", "error"];

/// Fields that say nothing in a test.
const NOT_SHOWN: [&str; 6] = ["id", "client", "generation", "version", "digest", "ran_ms"];

/// A log record as lines of text: the message, and the fields that say more.
pub fn log_lines(line: &Line) -> Vec<String> {
    let mut message = line.message.lines();
    let mut lines = vec![format!("{:<5} {}", line.level, message.next().unwrap_or_default())];
    lines.extend(message.map(|text| format!("      {text}")));
    if line.is_of_plugin {
        return lines;
    }
    let first = FIRST.iter().filter_map(|name| Some((*name, line.field(name)?)));
    let others = line.fields.iter().map(|(name, value)| (*name, value.as_str()));
    let others = others.filter(|(name, _)| !FIRST.contains(name) && !NOT_SHOWN.contains(name));
    for (name, value) in first.chain(others) {
        let mut parts = value.lines();
        lines.push(format!("      {name}: {}", parts.next().unwrap_or_default()));
        lines.extend(parts.map(|part| format!("        {part}")));
    }
    lines
}

/// A log record as JSON.
pub fn log_document(line: &Line) -> Value {
    let fields: serde_json::Map<_, _> = line
        .fields
        .iter()
        .map(|(name, value)| ((*name).to_owned(), Value::from(value.as_str())))
        .collect();
    json!({"level": line.level, "message": line.message, "fields": fields})
}

impl StepReport {
    /// Whether all was as expected.
    pub fn is_passed(&self) -> bool {
        self.problems.is_empty()
    }

    /// Lines for people that say what has failed, and what was logged.
    pub fn lines(&self) -> Vec<String> {
        let mut lines: Vec<String> = self.problems.iter().flat_map(Problem::lines).collect();
        if !self.log.is_empty() {
            lines.push("log:".to_owned());
            let shown = self.log.iter().flat_map(log_lines).take(MAX_LOG);
            lines.extend(shown.map(|line| format!("  {line}")));
        }
        if self.log_dropped > 0 {
            lines.push(format!("  … and {} more records", self.log_dropped));
        }
        lines
    }

    fn document(&self) -> Value {
        let problem = |problem: &Problem| {
            let (expected, actual) = problem.compared.as_deref().cloned().unzip();
            json!({
                "what": problem.what, "mismatches": problem.mismatches,
                "expected": expected, "actual": actual,
            })
        };
        json!({
            "step": self.number, "line": self.line, "title": self.title,
            "passed": self.is_passed(), "took_ms": milliseconds(self.took),
            "problems": self.problems.iter().map(problem).collect::<Vec<_>>(),
            "log": self.log.iter().map(log_document).collect::<Vec<_>>(),
        })
    }
}

fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

impl ScenarioReport {
    /// Whether it has passed.
    pub fn outcome(&self) -> Outcome {
        match (&self.error, self.steps.iter().all(StepReport::is_passed)) {
            (Some(_), _) => Outcome::Error,
            (None, true) => Outcome::Passed,
            (None, false) => Outcome::Failed,
        }
    }

    /// Lines for people.
    pub fn lines(&self) -> Vec<String> {
        let (file, name) = (self.file.display(), &self.name);
        let took = self.took.as_millis();
        let mut lines = match self.outcome() {
            Outcome::Passed => {
                return vec![format!(
                    "ok    {file}: {name} ({} steps, {took} ms)",
                    self.steps.len()
                )];
            }
            Outcome::Failed | Outcome::Error => vec![format!("FAIL  {file}: {name}")],
        };
        if let Some(error) = &self.error {
            lines.extend(error.lines().map(|line| format!("  {line}")));
        }
        for step in self.steps.iter().filter(|step| !step.is_passed()) {
            lines.push(format!("  step {} ({file}:{}): {}", step.number, step.line, step.title));
            lines.extend(step.lines().into_iter().map(|line| format!("    {line}")));
        }
        if self.not_run > 0 {
            let steps = if self.not_run == 1 { "step was" } else { "steps were" };
            lines.push(format!("  {} more {steps} not run", self.not_run));
        }
        lines
    }

    /// The JSON document of the scenario.
    pub fn document(&self) -> Value {
        json!({
            "file": self.file.to_string_lossy(), "name": self.name,
            "outcome": self.outcome().name(), "error": self.error,
            "took_ms": milliseconds(self.took), "not_run": self.not_run,
            "steps": self.steps.iter().map(StepReport::document).collect::<Vec<_>>(),
        })
    }
}
